"""A store holds what its files held, is checked where it is read, and its build goes on where it was killed."""

import fcntl
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from layoutner.corpus import build as builder
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.store import CUTTERS, StoredWindows
from layoutner.corpus.windows import IGNORED
from layoutner.documents.check import check
from layoutner.documents.roles import read_documents
from layoutner.documents.store import Store, StoredDocuments
from layoutner.errors import DataError, LayoutnerError, SettingsError
from layoutner.files.image import PageImage
from layoutner.models.families import window_splitter
from layoutner.pages.document import Document
from layoutner.runs.readiness import require_ready
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import RunSettings
from layoutner.training.plan import cut_windows, make_plan
from tests.builders.disk import small_files
from tests.builders.forks import fork
from tests.builders.imports import imports
from tests.builders.windows import LABELS, change_tokenizer, plain, settings_of

WORDS = ["brass", "wheel", "order", "date", "total", "invoice", "12", "3.50", "street", "steel-frame", "x", "y"]


def write_pages(folder: Path, count: int = 23, types: tuple[str, ...] = ("TOTAL", "DATE"), seed: int = 1) -> Path:
    """Pages in jsonl, whose names are in another order than the lines; some are copies, some of one document."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for number in range(count):
        words = [
            {
                "text": rng.choice(WORDS),
                "box": [10 * at % 900, 40, 10 * at % 900 + 9, 50],
                "label": rng.choice(["O", "O", *(f"B-{kind}" for kind in types)]),
                "segment": at // 3,
            }
            for at in range(0 if number == 5 else rng.randrange(1, 60))
        ]
        if number == 0:
            words[0]["label"] = f"B-{types[0]}"  # so that types do not first occur in the order of their names
        page: dict[str, Any] = {"document": f"{rng.randrange(1000):03d}-{number}", "page_size": [1000, 1000]}
        Image.new("L", (50, 50), number).save(folder / f"{number}.png")
        page |= {"words": words, "image": f"{number}.png"} | ({"group": f"g{number // 4}"} if number % 4 < 2 else {})
        lines.append(page)
    lines.append({**lines[3], "document": "zz copy", "image": None})
    file = folder / "pages.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_pages(tmp_path / "data")


@pytest.fixture
def model(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["layoutlm"]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "SHARD_DOCUMENTS", 5)


CUT = {"format": "jsonl", "max_length": 32, "stride": 8}


def data_of(**values: object) -> DataSettings:
    return settings_of(Path("x"), Path("x"), **{**CUT, **values}).data


def store_of(file: Path, model: Path, out: Path, processes: int = 1, **values: object) -> Path:
    settings = data_of(**values)
    splitter = window_splitter("layoutlm", AutoTokenizer.from_pretrained(model), settings)
    builder.build(settings, splitter, file, "train", out, processes)
    return out


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != ".lock"}


PARTS: list[dict[str, object]] = [
    {"eval": 0.3},
    {"eval": 0.3, "label_all_subwords": True, "scheme": "BIOES", "box_level": "segment"},
    {"eval": None, "folds": 3, "fold": 2},
    {"eval": 0.2, "max_length": 200, "stride": 40},
]


@pytest.mark.parametrize("values", PARTS, ids=str)
def test_documents_and_windows_of_a_store_are_those_of_its_files(
    values: dict[str, object], file: Path, model: Path, tmp_path: Path
) -> None:
    made_with = {key: value for key, value in values.items() if key not in ("eval", "folds", "fold")}
    store = store_of(file, model, tmp_path / "store", **made_with)
    assert len(list(store.glob("shard-*"))) == 5
    runs = [cut_windows(settings_of(train, model, **{**CUT, **values})) for train in (file, store)]
    (corpus, _, windows), (stored, _, stored_windows) = runs
    assert isinstance(stored_windows["train"], StoredWindows)
    assert stored.labels == corpus.labels
    assert Store(store).manifest.numbered_types != Store(store).manifest.types  # so that ids are translated
    for role in ("train", "eval"):
        ours, theirs = getattr(stored, role), getattr(corpus, role)
        assert list(ours) == [_absolute(document) for document in theirs]
        assert len(ours) > 3
        assert plain(stored_windows[role]) == [_absolute(window) for window in plain(windows[role])]
        for name in ("lengths", "labelled", "documents"):
            assert getattr(stored_windows[role], name).tolist() == getattr(windows[role], name).tolist()
        tags = len(corpus.labels.tags)
        assert stored_windows[role].label_counts(tags) == windows[role].label_counts(tags)
        assert stored_windows[role].label_counts(tags, [0, 2]) == windows[role].label_counts(tags, [0, 2])
        assert stored_windows[role].tokens == windows[role].tokens
    assert sum(stored_windows["train"].labelled) > 100


def _absolute(one: Any) -> Any:
    return replace(one, image=one.image and PageImage(one.image.path.absolute(), one.image.frame))


def with_epochs(settings: Any) -> Any:
    return settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"epochs": 1})})


def test_a_whole_store_has_the_identity_of_its_files(file: Path, model: Path, tmp_path: Path) -> None:
    store = store_of(file, model, tmp_path / "store")
    plans = []
    for train in (file, store):
        settings = settings_of(train, model, **CUT)
        plans.append(make_plan(with_epochs(settings), 1))
    files, stored = plans
    assert stored.identity.must_match == files.identity.must_match
    assert stored.training_pages.tolist() == files.training_pages.tolist()
    assert stored.describe() == files.describe()
    whole = Store(store)
    assert StoredWindows(StoredDocuments(whole), files.corpus.labels, False).label_counts(5) == [
        sum(counts) for counts in zip(*(files.windows[role].label_counts(5) for role in ("train", "eval")), strict=True)
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_build_goes_on_with_its_complete_shards(
    processes: int, file: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = content(store_of(file, model, tmp_path / "fresh"))
    out = tmp_path / "store"
    cut: list[int] = []
    real = builder._cut

    def killed(task: Any, splitter: WindowSplitter) -> Any:
        if len(cut) == 3:
            (out / f".{task.file.name}.partial").write_bytes(b"half of it")
            raise KeyboardInterrupt
        cut.append(task.number)
        return real(task, splitter)

    with monkeypatch.context() as patched:
        patched.setattr(builder, "_cut", killed)
        with pytest.raises(KeyboardInterrupt):
            store_of(file, model, out)
    assert (sorted(cut), (out / "build.json").exists(), (out / "store.json").exists()) == ([0, 1, 2], True, False)
    with pytest.raises(DataError, match="a store whose build was not finished"):
        cut_windows(settings_of(out, model, **CUT))
    # A shard that is not as it was written is made again, too.
    damage(out / "shard-00001.safetensors", -3)
    monkeypatch.setattr(builder, "_cut", lambda task, splitter: cut.append(task.number) or real(task, splitter))
    store_of(file, model, out, processes)
    if processes == 1:
        assert cut == [0, 1, 2, 1, 3, 4]
    assert content(out) == fresh
    again = list(cut)
    store_of(file, model, out, processes)  # complete: nothing is cut
    assert (cut, content(out)) == (again, fresh)


def test_a_store_of_other_documents_or_settings_is_not_gone_on_with(file: Path, model: Path, tmp_path: Path) -> None:
    out = store_of(file, model, tmp_path / "store")
    with pytest.raises(DataError, match="made in another way: data.stride = 8 there, 4 here: remove it"):
        store_of(file, model, out, stride=4)
    with pytest.raises(DataError, match="made in another way: path = .*pages.jsonl there, .*other.jsonl here"):
        store_of(file.rename(file.with_name("other.jsonl")), model, out)
    file.with_name("other.jsonl").rename(file)
    before = content(out)
    text = file.read_text()
    file.write_text(text.replace("invoice", "voucher"))
    with pytest.raises(DataError, match="a complete store of other documents"):
        store_of(file, model, out)
    file.write_text("".join(text.splitlines(True)[:10]))
    with pytest.raises(DataError, match="a complete store of more documents"):
        store_of(file, model, out)
    assert content(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    for path in (tmp_path / "mine", file):
        with pytest.raises(DataError, match="holds other files"):
            store_of(file, model, path)


def test_one_process_builds_a_store_at_a_time(file: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / ".lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is building it"):
            store_of(file, model, tmp_path / "store")


def test_a_full_disk_and_bad_pages_stop_a_build(file: Path, model: Path, tmp_path: Path) -> None:
    with small_files(4096), pytest.raises(DataError, match="cannot be written: .* free disk space, then start again"):
        store_of(file, model, tmp_path / "store")
    assert not (tmp_path / "store" / "store.json").exists()
    good = file.read_text()
    file.write_text(good + "{\n[]\n")
    with pytest.raises(DataError, match=r"2 problem\(s\) in .*pages.jsonl"):
        store_of(file, model, tmp_path / "other")
    store = store_of(file, model, tmp_path / "skipped", bad_pages="skip")
    corpus, *_ = cut_windows(settings_of(store, model, **CUT, bad_pages="skip"))
    assert any(note.startswith("train: 2 page(s) left out (data.bad_pages = skip)") for note in corpus.notes)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "stride": ({"stride": 4}, "data.stride = 8 there, 4 here"),
    "max_length": ({"max_length": 40}, "data.max_length = 32 there, 40 here"),
    "scheme": ({"scheme": "BIOES"}, "data.scheme = BIO there, BIOES here"),
    "box_level": ({"box_level": "segment"}, "data.box_level = word there, segment here"),
    "all sub-words": ({"label_all_subwords": True}, "data.label_all_subwords = False there, True here"),
    "boxes": ({"invalid_boxes": "clamp"}, "data.invalid_boxes = none there, clamp here"),
    "types": ({"ignore_types": "date"}, r"data.ignore_types = \[\] there, \['date'\] here"),
    "two": ({"stride": 4, "max_length": 40}, "data.max_length = 32 there, 40 here; data.stride = 8 there, 4 here"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_store_that_does_not_fit_is_refused_with_what_differs(
    what: str, file: Path, model: Path, tmp_path: Path
) -> None:
    store = store_of(file, model, tmp_path / "store")
    values, said = REFUSED[what]
    with pytest.raises(SettingsError, match=f"data.train = .*store: .*: {said}"):
        cut_windows(settings_of(store, model, **{**CUT, **values}))


def test_a_store_that_cannot_be_trained_on_is_refused_before_the_ranks_meet(
    file: Path, model: Path, tmp_path: Path
) -> None:
    store = store_of(file, model, tmp_path / "store")
    settings = settings_of(store, model, **{**CUT, "invalid_boxes": "drop", "eval": store})
    (tmp_path / "store" / "index.safetensors").unlink()
    with pytest.raises(LayoutnerError, match="a damaged store: .*index.safetensors") as refused:
        require_ready(with_epochs(settings).model_copy(update={"run": RunSettings(output_dir=tmp_path / "run")}))
    assert str(refused.value).count("a damaged store: ") == 1  # said once, though both roles name it


def test_another_tokenizer_family_or_code_is_refused(
    file: Path, model: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(file, model, tmp_path / "store")
    with pytest.raises(SettingsError, match="boxes of special tokens = .* there, .* here; tokenizer = "):
        cut_windows(settings_of(store, checkpoints["lilt"], **CUT))
    splitter = window_splitter("layoutlm", AutoTokenizer.from_pretrained(model), data_of())
    change = change_tokenizer(lambda tokenizer: setattr(tokenizer, "unk_token", "[MASK]"))
    changed, *_ = change((splitter, [], None, False))
    with pytest.raises(DataError, match="made in another way: tokenizer = "):
        builder.build(data_of(), changed, file, "train", store, 1)
    monkeypatch.setattr("layoutner.corpus.store.CUTTERS", CUTTERS[1:])
    with pytest.raises(SettingsError, match="code that cuts windows = "):
        cut_windows(settings_of(store, model, **CUT))


# What splitter.py imports of layoutner, and why its text is not recorded all the same.
NO_CUTTERS = {
    "corpus/windows.py": "holds what was cut, which a digest of each window tells",
    "errors.py": "says what is wrong",
    "files/text.py": "reads the file of labels for labels.py; the labels are recorded themselves",
    "files/encodings.py": "of which files/text.py takes the letters",
    "files/image.py": "says where the picture of a page is, which no window holds",
    "files/rgb.py": "of which files/image.py takes the colours",
    "files/pdf.py": "of which files/image.py takes the pages of PDFs",
    "files/text_layer.py": "makes words of the text of a PDF, and the words are in the digests of windows",
}


def test_the_code_that_cuts_is_all_that_the_splitter_imports() -> None:
    folder = Path(builder.__file__).parents[1]
    found, left = set(), ["corpus/splitter.py"]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            parts = [module.split(".")[1:] for module in imports(folder / name) if module.startswith("layoutner.")]
            files = ["/".join(part) + end for part in parts for end in (".py", "/__init__.py")]
            left += [file for file in files if (folder / file).is_file()]
    assert found - {"__init__.py"} == {*CUTTERS, *NO_CUTTERS}


def damage(path: Path, place: int) -> None:
    changed = bytearray(path.read_bytes())
    changed[place] ^= 1
    path.write_bytes(changed)


def test_a_changed_byte_is_found_where_its_window_is_read(file: Path, model: Path, tmp_path: Path) -> None:
    store = store_of(file, model, tmp_path / "store")
    path = store / "shard-00001.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little")
    tree = json.loads(path.read_bytes()[8 : 8 + header])
    for name, what in (("input_ids", "window"), ("labels", "window"), ("boxes", "window"), ("documents", "document")):
        whole = path.read_bytes()
        damage(path, 8 + header + tree[name]["data_offsets"][0] + 8)
        documents = StoredDocuments(Store(store))
        windows = StoredWindows(documents, labels_of_store(store), False)
        with pytest.raises(DataError, match=f"a damaged store: {what} .* of shard-00001"):
            list(windows if what == "window" else documents)
        with pytest.raises(DataError, match="shard-00001.safetensors has changed since it was written"):
            check(data_of(), store, None, None)
        path.write_bytes(whole)
    check(data_of(), store, None, None)


def labels_of_store(store: Path) -> Any:
    return replace(LABELS, types=Store(store).manifest.types)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda store: os.truncate(store / "shard-00001.safetensors", 100), "has 100 bytes instead of"),
    "index": (lambda store: damage(store / "index.safetensors", -1), "index.safetensors has changed since it was"),
    "gone": (lambda store: (store / "index.safetensors").unlink(), "No such file"),
    "manifest": (lambda store: (store / "store.json").write_text("{}"), "made_from: Field required"),
    "newer": (
        lambda store: (store / "store.json").write_text('{"format_version": 99}'),
        "has format_version 99, this layoutner reads up to 1",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_store_is_refused(what: str, file: Path, model: Path, tmp_path: Path) -> None:
    store = store_of(file, model, tmp_path / "store")
    DAMAGES[what][0](store)
    with pytest.raises(DataError, match=DAMAGES[what][1]):
        cut_windows(settings_of(store, model, **CUT))


def test_a_store_for_evaluation_may_have_fewer_labels_but_no_others(file: Path, model: Path, tmp_path: Path) -> None:
    fewer = write_pages(tmp_path / "fewer", types=("DATE",), seed=2)
    other = write_pages(tmp_path / "other", types=("DATE", "SELLER"), seed=2)
    train, stored = (store_of(one, model, tmp_path / name) for one, name in ((file, "train"), (fewer, "few")))
    corpora = [cut_windows(settings_of(train, model, **{**CUT, "eval": path})) for path in (fewer, stored)]
    assert corpora[0][0].labels == corpora[1][0].labels
    assert corpora[0][0].notes == corpora[1][0].notes
    assert plain(corpora[1][2]["eval"]) == [_absolute(window) for window in plain(corpora[0][2]["eval"])]
    assert max(max(window.labels) for window in plain(corpora[1][2]["eval"])) == 1  # B-DATE, before TOTAL's
    unfit = store_of(other, model, tmp_path / "unfit")
    with pytest.raises(DataError, match=r"data.eval: SELLER is not one of the labels"):
        cut_windows(settings_of(train, model, **{**CUT, "eval": unfit}))


def test_a_store_labels_first_sub_words_where_only_these_are_scored(file: Path, model: Path, tmp_path: Path) -> None:
    store = store_of(file, model, tmp_path / "store", label_all_subwords=True)
    *_, windows = cut_windows(settings_of(store, model, **{**CUT, "label_all_subwords": True, "eval": store}))
    for window in windows["eval"]:
        labelled = [token for token, label in enumerate(window.labels.tolist()) if label != IGNORED]
        assert labelled == window.owned_words[:, 0].tolist()
    assert windows["eval"].labelled.sum() < windows["train"].labelled.sum()


def test_a_store_can_be_read_wherever_documents_are(file: Path, model: Path, tmp_path: Path) -> None:
    store = store_of(file, model, tmp_path / "store")
    from_files, stored = (read_documents(data_of(), path, "test") for path in (file, store))
    assert stored == list(map(_absolute, from_files))  # in the order of the file
    assert all(document.tags is None for document in read_documents(data_of(), store, "test", labels="ignore"))
    reports = [check(data_of(), path, None, None).to_dict() for path in (file, store)]
    counts = [report["splits"]["all"] for report in reports]
    assert {**counts[1], "windows": None, "tokens": None} == counts[0]
    assert counts[1]["windows"] == len(StoredWindows(StoredDocuments(Store(store)), labels_of_store(store), False))
    assert len(reports[0]["duplicates"]) == len(reports[1]["duplicates"]) == 1


def test_more_shards_than_may_be_open(file: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layoutner.documents.store.OPEN_SHARDS", 2)
    monkeypatch.setattr("layoutner.documents.store.RELEASED_AFTER", 3)
    store = Store(store_of(file, model, tmp_path / "store"))
    windows = StoredWindows(StoredDocuments(store), labels_of_store(store.path), False)
    first = plain(windows)
    order = random.Random(0).sample(range(len(windows)), len(windows))
    held = [windows[index] for index in order]  # what was read stays what it was, though memory was released
    assert plain(held) == [first[index] for index in order]
    assert len(store._shards) == 2


@pytest.fixture
def commands() -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        done = fork(["layoutner", *map(str, arguments)])
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.mark.slow
def test_training_on_a_store_is_bit_for_bit_training_on_its_files(
    commands: Callable[..., Any], file: Path, model: Path, tmp_path: Path
) -> None:
    read = ("--data.format=jsonl", "--data.max_length=32", "--data.stride=8")
    made = commands(
        "data", "build", file, *read, f"--model.name_or_path={model}", "--out", tmp_path / "store", "--processes=1"
    )
    assert "24 documents" in made.stdout
    found = []
    for train in (file, tmp_path / "store"):
        run = tmp_path / f"run-{train.name}"
        commands(
            "train", *read, f"--data.train={train}", "--data.eval=0.3", f"--model.name_or_path={model}",
            "--precision.dtype=fp32", "--schedule.max_steps=4", "--batch.global_batch_size=4", "--run.log_every=1",
            "--run.eval_every=2", f"--run.output_dir={run}", "--loss.class_weights=balanced",
        )  # fmt: skip
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        keys = ("train/loss", "train/grad_norm", "eval/loss", "eval/f1")
        numbers = [[line.get(key) for key in keys] for line in lines]
        scores = json.loads((run / "scores.json").read_text())
        found.append((numbers, scores, (run / "training_pages.txt").read_text()))
    assert len(found[0][0]) == 4
    assert found[0] == found[1]
    scored = commands("evaluate", tmp_path / "store", "--model", run / "export")
    assert json.loads(scored.stdout)["counts"]["documents"] == 24


def test_columns_of_documents_are_those_of_documents_in_memory(file: Path, model: Path, tmp_path: Path) -> None:
    from layoutner.documents import columns, duplicates, splits

    stored = StoredDocuments(Store(store_of(file, model, tmp_path / "store")))
    documents: list[Document] = list(stored)
    for column in (columns.word_counts, columns.page_digests, columns.group_hashes, splits.unit_roots):
        assert column(stored).tolist() == column(documents).tolist()
    assert len(set(splits.unit_roots(stored).tolist())) < len(documents) - 4
    assert columns.digest(stored) == columns.digest(documents)
    assert columns.without_image(stored) == columns.without_image(documents) == ["zz copy"]
    for ours, theirs in zip(duplicates.sketches(stored), duplicates.sketches(documents), strict=True):
        assert [ours.digest, ours.image, ours.grams.tolist(), ours.numbers.tolist()] == [
            theirs.digest, theirs.image, theirs.grams.tolist(), theirs.numbers.tolist()
        ]  # fmt: skip
    half = stored.select(columns.word_counts(stored).nonzero()[0][::2])
    assert list(half) == [document for document in documents if document.words][::2]


def test_only_labelled_documents_make_a_store(tmp_path: Path, model: Path) -> None:
    page = {"document": "a", "page_size": [9, 9], "words": [{"text": "x", "box": [0, 0, 1, 1]}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(page) + "\n")
    with pytest.raises(LayoutnerError, match="its words have no labels"):
        store_of(tmp_path / "in.jsonl", model, tmp_path / "store")
    page["words"][0]["label"] = "O"  # type: ignore[index]
    (tmp_path / "in.jsonl").write_text(json.dumps(page) + "\n")
    with pytest.raises(DataError, match="no document holds an entity"):
        store_of(tmp_path / "in.jsonl", model, tmp_path / "other")
