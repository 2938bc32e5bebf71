"""Windows out of the cache are those that would have been cut, and nothing that happens to it costs a run."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers.normalizers import BertNormalizer
from transformers import AutoTokenizer

from layoutner.corpus import cache as cache_module
from layoutner.corpus.cache import WindowCache, cache_key
from layoutner.corpus.windows import WindowSplitter
from layoutner.errors import SettingsError
from layoutner.files.image import PageImage
from layoutner.pages.labels import LabelSet
from layoutner.settings.tree import load
from layoutner.training.plan import cut_windows, make_plan
from tests.builders.disk import small_files
from tests.builders.forks import fork
from tests.builders.imports import imports
from tests.builders.processes import HANGS_S, ROOT, free_port
from tests.builders.windows import LABELS, Call, change_tokenizer, pages, settings_of


@pytest.fixture
def call(checkpoints: dict[str, Path]) -> Call:
    return WindowSplitter(AutoTokenizer.from_pretrained(checkpoints["bert"]), 32, 8), pages(), LABELS, True


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("windows-*.safetensors"))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(("max_length", "stride", "level"), [(32, 0, "word"), (32, 8, "segment"), (256, 40, "word")])
@pytest.mark.parametrize("all_subwords", [False, True])
def test_windows_from_the_cache_are_those_that_are_cut(
    family: str,
    max_length: int,
    stride: int,
    level: str,
    all_subwords: bool,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    splitter = WindowSplitter(AutoTokenizer.from_pretrained(checkpoints[family]), max_length, stride, level)
    documents = pages()
    fresh = splitter.split(documents, LABELS, all_subwords)
    assert len(fresh) > len(documents) - 1 or max_length == 256
    assert {window.image for window in fresh} == {PageImage(Path(f"page-{n}.png")) for n in (150, 1, 37)} | {None}
    first, second = WindowCache(tmp_path / "cache"), WindowCache(tmp_path / "cache")
    assert first.windows(splitter, documents, LABELS, all_subwords) == fresh
    assert second.windows(splitter, documents, LABELS, all_subwords) == fresh
    assert first.notes == (f"cache: {len(fresh)} windows cut and kept in {tmp_path / 'cache'}",)
    assert second.notes == (f"cache: {len(fresh)} windows read from {tmp_path / 'cache'}",)


def test_without_a_folder_or_a_document_nothing_is_kept(call: Call, tmp_path: Path) -> None:
    splitter, documents, labels, everywhere = call
    assert WindowCache(None).windows(*call) == splitter.split(documents, labels, everywhere)
    kept = WindowCache(tmp_path / "cache")
    assert kept.windows(splitter, [], labels) == []
    assert (WindowCache(None).notes, kept.notes, (tmp_path / "cache").exists()) == ((), (), False)


def change_document(**values: Any) -> Callable[[Call], Call]:
    return lambda call: (call[0], [replace(call[1][0], **values), *call[1][1:]], *call[2:])


def change_windower(**values: Any) -> Callable[[Call], Call]:
    return lambda call: (replace(call[0], **values), *call[1:])


def keep_capitals(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)


def of_segments(call: Call) -> Call:
    return replace(call[0], box_level="segment"), *call[1:]


BOX = ((1, 2, 3, 4),) * 150
CHANGES: dict[str, Callable[[Call], Call]] = {
    "words": change_document(words=("other",) * 150),
    "boxes": change_document(boxes=BOX),
    "tags": change_document(tags=("B-A",) * 150),
    "no tags": change_document(tags=None),
    "order": lambda call: (call[0], call[1][::-1], *call[2:]),
    "fewer": lambda call: (call[0], call[1][1:], *call[2:]),
    "segments": lambda call: of_segments(change_document(segments=(0,) * 150)(call)),
    "labels": lambda call: (*call[:2], LabelSet("BIO", ("B", "A")), call[3]),
    "scheme": lambda call: (*call[:2], LabelSet("BIOES", ("A", "B")), call[3]),
    "no labels": lambda call: (*call[:2], None, call[3]),
    "first sub-words": lambda call: (*call[:3], False),
    "max_length": change_windower(max_length=33),
    "stride": change_windower(stride=9),
    "box_level": change_windower(box_level="segment"),
    "special boxes": change_windower(special_boxes=((0, 0, 0, 0), (0, 0, 0, 0))),
    "capitals": change_tokenizer(keep_capitals),
    "a word more": change_tokenizer(lambda tokenizer: tokenizer.add_tokens([AddedToken("Größe", normalized=False)])),
    "unknown": change_tokenizer(lambda tokenizer: setattr(tokenizer, "unk_token", "[MASK]")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_windows_changes_the_key(what: str, call: Call, tmp_path: Path) -> None:
    if what == "segments":
        call = of_segments(call)
    kept = WindowCache(tmp_path)
    before = kept.windows(*call)
    changed = CHANGES[what](call)
    splitter, *rest = changed
    fresh = splitter.split(*rest)
    assert fresh != before  # so that a stale entry would be seen
    assert kept.windows(*changed) == fresh
    assert cache_key(*changed) != cache_key(*call)
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("what", ["FORMAT", "__version__", "tokenizers", "code"])
def test_another_version_is_another_key(what: str, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = cache_key(*call)
    if what == "tokenizers":
        monkeypatch.setattr(cache_module, "version", lambda name: "0.0.1")
    elif what == "code":
        monkeypatch.setattr(cache_module, "CUTTERS", ("pages/document.py", "pages/labels.py", "corpus/batches.py"))
    else:
        monkeypatch.setattr(cache_module, what, "another")
    assert cache_key(*call) != before


# What windows.py imports of layoutner, and why its text need not be in the key all the same.
NO_CUTTERS = {
    "errors.py": "says what is wrong",
    "files/text.py": "reads the file of labels for labels.py; the labels are in the key themselves",
    "files/encodings.py": "of which files/text.py takes the letters",
    "files/image.py": "says where the picture of a page is, which no window holds",
    "files/rgb.py": "of which files/image.py takes the colours",
}


def imported(start: str, folder: Path) -> set[str]:
    """The files of layoutner that one of them imports, itself and those of its imports among them."""
    found, left = set(), [start]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            parts = [module.split(".")[1:] for module in imports(folder / name) if module.startswith("layoutner.")]
            files = ["/".join(part) + end for part in parts for end in (".py", "/__init__.py")]
            left += [file for file in files if (folder / file).is_file()]
    return found


def test_the_code_that_cuts_is_all_that_windows_imports(tmp_path: Path) -> None:
    folder = Path(cache_module.__file__).parents[1]
    assert imported("corpus/windows.py", folder) - {"__init__.py"} == {*cache_module.CUTTERS, *NO_CUTTERS}
    # So that it is seen that a new import would be, of one of its imports too.
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "copy" / "pages" / "labels.py").open("a") as labels:
        labels.write("from layoutner.documents import duplicates\n")
    assert imported("corpus/windows.py", tmp_path / "copy") >= {*cache_module.CUTTERS, "documents/duplicates.py"}


@pytest.mark.parametrize(
    "change",
    [
        change_document(name="another"),
        change_document(image=PageImage(Path("elsewhere/page-150.png"))),
        change_document(image=None),
        change_document(page_size=(7, 7)),
        change_document(segments=None),
        change_tokenizer(lambda tokenizer: tokenizer.backend_tokenizer.enable_truncation(9)),
        change_tokenizer(lambda tokenizer: tokenizer.backend_tokenizer.enable_padding(length=99)),
    ],
    ids=["name", "moved image", "no image", "page size", "segments", "truncation", "padding"],
)
def test_what_no_kept_number_follows_from_keeps_the_key(
    change: Callable[[Call], Call], call: Call, tmp_path: Path
) -> None:
    kept = WindowCache(tmp_path)
    kept.windows(*call)
    changed = change(call)
    assert cache_key(*changed) == cache_key(*call)
    splitter, *rest = changed
    assert kept.windows(*changed) == splitter.split(*rest)  # images are those of now
    assert len(entries(tmp_path)) == 1


def flip(place: int) -> Callable[[Path], object]:
    def flipped(entry: Path) -> None:
        content = bytearray(entry.read_bytes())
        content[place] ^= 1
        entry.write_bytes(content)

    return flipped


DAMAGES: dict[str, Callable[[Path], object]] = {
    "last byte": flip(-1),
    "a byte in the middle": flip(-5000),
    "header": flip(3),
    "name of an array": flip(12),
    "cut": lambda entry: os.truncate(entry, entry.stat().st_size - 100),
    "empty": lambda entry: os.truncate(entry, 0),
    "text": lambda entry: entry.write_text("windows"),
    "longer": lambda entry: entry.write_bytes(entry.read_bytes() + b"more"),
    "of another key": lambda entry: shutil.copy(sorted({*entries(entry.parent)} - {entry})[0], entry),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_entry_is_noticed_and_made_anew(
    what: str, call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = WindowCache(tmp_path).windows(*call)
    (entry,) = entries(tmp_path)
    WindowCache(tmp_path).windows(*change_windower(stride=3)(call))
    whole = entry.read_bytes()
    DAMAGES[what](entry)
    assert entry.read_bytes() != whole
    again = WindowCache(tmp_path)
    assert again.windows(*call) == fresh
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{entry}: is damaged: " in caplog.text
    assert again.notes == (f"cache: {len(fresh)} windows cut and kept in {tmp_path}",)
    assert entry.read_bytes() == whole


def test_a_full_disk_costs_a_warning(call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splitter, *rest = call
    kept = WindowCache(tmp_path)
    with small_files(4096):
        assert kept.windows(*call) == splitter.split(*rest)
        assert kept.windows(*call) == splitter.split(*rest)
    assert caplog.text.count("cannot be written: [Errno 27] File too large; this run writes no more") == 1
    assert kept.notes == ()
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("what", ["under a file", "a folder for an entry", "read-only"])
def test_a_folder_that_cannot_be_written_costs_a_warning(
    what: str, call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splitter, *rest = call
    folder = tmp_path / "cache"
    if what == "under a file":
        folder.write_text("")
        folder = folder / "cache"
    else:
        folder.mkdir()
    if what == "a folder for an entry":
        (folder / f"windows-{cache_key(*call)}.safetensors").mkdir()
    if what == "read-only":
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
    assert WindowCache(folder).windows(*call) == splitter.split(*rest)
    assert caplog.text.count("this run writes no more windows to the cache") == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"data.cache = .*file: not a folder"):
        cut_windows(load(None, {"data": {"cache": str(tmp_path / "file")}}))  # said before anything is read


def test_a_file_system_without_locks(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    torn = tmp_path / f".windows-{cache_key(*call)}.safetensors.12345678.partial"
    torn.write_text("another process writes it")
    fresh = WindowCache(tmp_path).windows(*call)
    second = WindowCache(tmp_path)
    assert second.windows(*call) == fresh
    assert second.notes == (f"cache: {len(fresh)} windows read from {tmp_path}",)
    assert torn.exists()


def test_a_lock_that_is_never_given_back(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "SAID_AFTER_S", 0.2)
    monkeypatch.setattr(cache_module, "LONGEST_WAIT_S", 0.6)
    with (tmp_path / f"windows-{cache_key(*call)}.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start = time.monotonic()
        fresh = WindowCache(tmp_path).windows(*call)
        assert time.monotonic() - start >= 0.6
    assert caplog.text.count("locked by another process, which computes the same windows; waiting for it") == 1
    splitter, *rest = call
    assert fresh == splitter.split(*rest)
    assert len(entries(tmp_path)) == 1


CUTTER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer
from layoutner.corpus.cache import WindowCache
from layoutner.pages.document import Document
from layoutner.files.image import PageImage
from layoutner.corpus.windows import WindowSplitter

folder, gate, model = map(Path, sys.argv[1:])

class Gated(WindowSplitter):
    def split(self, *arguments):
        print("cutting", flush=True)
        while not gate.exists():
            time.sleep(0.02)
        return super().split(*arguments)

tokenizer = SimpleNamespace(
    backend_tokenizer=Tokenizer.from_file(str(model / "tokenizer.json")),
    unk_token_id=1, pad_token_id=0, cls_token_id=2, sep_token_id=3, mask_token_id=4,
    bos_token_id=None, eos_token_id=None,
)
page = Document("d", ("brass",) * 90, ((1, 2, 3, 4),) * 90, None, (9, 9))
print("ready", flush=True)
cache = WindowCache(folder)
cache.windows(Gated(tokenizer, 32, 0), [page], None)
print(*cache.notes, flush=True)
"""


class Cutters:
    """Processes that want the same windows; one that cuts says so, and waits until the gate is there."""

    def __init__(self, number: int, folder: Path, model: Path) -> None:
        self.gate = folder / "gate"
        command = [sys.executable, "-c", CUTTER, str(folder / "cache"), str(self.gate), str(model)]
        self.outputs = [folder / f"output-{one}" for one in range(number)]
        self.processes = []
        for output in self.outputs:
            with output.open("w") as file:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, stdout=file))

    def said(self) -> list[list[str]]:
        return [output.read_text().splitlines() for output in self.outputs]

    def wait_for(self, line: str, times: int) -> None:
        until = time.monotonic() + HANGS_S
        while sum(lines.count(line) for lines in self.said()) < times:
            assert any(process.poll() is None for process in self.processes), f"all ended: {self.said()}"
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cutters(checkpoints: dict[str, Path], tmp_path: Path) -> Iterator[Cutters]:
    started = Cutters(3, tmp_path, checkpoints["bert"])
    yield started
    started.end()


def test_one_process_cuts_what_others_wait_for_and_read_and_may_be_killed(cutters: Cutters, tmp_path: Path) -> None:
    cutters.wait_for("ready", 3)
    cutters.wait_for("cutting", 1)
    time.sleep(0.5)  # for the others, which by now would cut too
    first = [lines[-1] for lines in cutters.said()].index("cutting")
    assert sorted(map(len, cutters.said())) == [1, 1, 2]
    (lock,) = (tmp_path / "cache").iterdir()
    torn = lock.with_name(f".{lock.stem}.safetensors.12345678.partial")
    young = lock.with_name(f".{lock.stem}.safetensors.87654321.partial")
    for partial in (torn, young):
        partial.write_text("half of it")
    os.utime(torn, (0, time.time() - 2 * cache_module.LONGEST_WAIT_S))

    os.kill(cutters.processes[first].pid, signal.SIGKILL)
    cutters.wait_for("cutting", 2)
    time.sleep(0.3)
    assert sorted(map(len, cutters.said())) == [1, 2, 2]
    cutters.gate.touch()
    for number in {0, 1, 2} - {first}:
        assert cutters.processes[number].wait(HANGS_S) == 0
    # 90 words are 3 windows of 30.
    told = sorted(lines[1:] for number, lines in enumerate(cutters.said()) if number != first)
    cache = tmp_path / "cache"
    assert told == [
        [f"cache: 3 windows read from {cache}"],
        ["cutting", f"cache: 3 windows cut and kept in {cache}"],
    ]
    assert sorted(cache.iterdir()) == sorted([lock, young, *entries(cache)])
    assert len(entries(cache)) == 1


def test_a_plan_says_what_it_took_from_the_cache(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    plain, _, fresh = cut_windows(settings_of(forms, checkpoints["layoutlm"], None))
    settings = settings_of(forms, checkpoints["layoutlm"], tmp_path)
    count = sum(map(len, fresh.values()))
    assert plain.notes == ()
    for done in ("cut and kept in", "read from"):
        plan = make_plan(
            settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"epochs": 1})}), 1
        )
        assert plan.windows == fresh
        assert f"\ncache: {count} windows {done} {tmp_path}\n" in plan.describe()
    assert len(entries(tmp_path)) == 3
    everywhere, *_ = cut_windows(settings_of(forms, checkpoints["layoutlm"], tmp_path, label_all_subwords=True))
    train = len(fresh["train"])  # alone: scores read first sub-words
    assert everywhere.notes == (
        f"cache: {count - train} windows read from {tmp_path}",
        f"cache: {train} windows cut and kept in {tmp_path}",
    )


RANK = """
import sys
from tests.builders.windows import settings_of
from pathlib import Path
from layoutner.training.plan import cut_windows
from layoutner.distributed.ranks import Ranks

forms, model, cache, watched = sys.argv[1:]
with Ranks.join(2.0) as ranks:
    settings = settings_of(Path(forms), Path(model), Path(cache.format(rank=ranks.rank)))
    with ranks.activity("local", "reading"):
        arguments = (ranks.activity,) if watched == "watched" else ()
        corpus = ranks.run_on_all_ranks(lambda: cut_windows(settings, *arguments)[0])
    print(ranks.rank, corpus.notes, flush=True)
"""


def test_two_ranks_cut_once(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = checkpoints["layoutlm"]
    count = sum(map(len, cut_windows(settings_of(forms, model, None))[2].values()))
    (tmp_path / "rank.py").write_text(RANK)
    done = fork([tmp_path / "rank.py", forms, model, tmp_path / "cache", "watched"], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("cut and kept in", "read from"):
        # Together, whichever rank came first to which role: each window once.
        assert sum(int(number) for number in re.findall(rf"(\d+) windows {what}", done.stdout)) == count, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("watched", ["watched", "unwatched"])
def test_a_rank_that_waits_for_a_lock_does_not_hang(
    watched: str, forms: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Rank 0 has all windows kept, as on another node; rank 1 waits for the lock, far longer than run.rank_timeout."""
    model, cache = checkpoints["layoutlm"], tmp_path / "cache"
    cut_windows(settings_of(forms, model, tmp_path / "cache-0"))
    (tmp_path / "cache-1").mkdir()
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    locks = []
    for entry in entries(tmp_path / "cache-0"):
        locks.append((tmp_path / "cache-1" / f"{entry.stem}.lock").open("ab"))
        fcntl.flock(locks[-1], fcntl.LOCK_EX)
    command = [Path(sys.executable).parent / "torchrun", "--nproc-per-node", "2", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [*command, script, forms, model, f"{cache}-{{rank}}", watched]
    with (tmp_path / "out").open("w") as out:
        job = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            time.sleep(15)
            if watched == "watched":
                assert job.poll() is None, (tmp_path / "out").read_text()
                for lock in locks:
                    lock.close()
            code = job.wait(HANGS_S)
        finally:
            job.kill()
            job.wait()
            for lock in locks:
                lock.close()
    said = (tmp_path / "out").read_text()
    assert (code == 0) == (watched == "watched"), said
    if watched == "watched":
        assert f"1 ('cache: 32 windows cut and kept in {cache}-1',)" in said
    else:
        assert "has been reading for" in said
        assert "it hangs, or it needs a larger run.rank_timeout" in said
