"""What run_seq_labeling.py's users look for after a run: its text files, scores of all checkpoints, overwriting."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.cli import main
from layoutner.errors import CheckpointError, LayoutnerError, SettingsError
from layoutner.inference.output import results, to_unilm
from layoutner.pages.labels import LabelSet
from layoutner.pages.page import Page, ReadStats, Word, to_document
from layoutner.readers.unilm import read
from layoutner.settings.tree import load
from layoutner.training.folder import lock, require_folder
from layoutner.training.plan import make_plan
from layoutner.training.step import seed_generators
from tests.builders.forks import fork
from tests.builders.processes import ROOT, call
from tests.builders.scores import score_tags

pytestmark = pytest.mark.usefixtures("folders_let_go")

Arguments = Callable[..., list[str]]
WORDS = ("brass", "wheel", "12", "Feb", "R. J.")
TAGS = ("O", "S-ITEM", "S-DATE")
RECORD = ("ds_config.json", "layoutner.json")


def write_split(folder: Path, split: str, pages: list[tuple[str, list[int]]]) -> None:
    """Pages in the format of run_seq_labeling.py: (image name, words in each piece), an empty line behind a piece."""
    rng = random.Random(split)
    lines: dict[str, list[str]] = {"": [], "_box": [], "_image": []}
    for image, pieces in pages:
        for length in pieces:
            for _ in range(length):
                number = rng.randrange(len(WORDS))
                x, y = rng.randrange(900), rng.randrange(900)
                lines[""].append(f"{WORDS[number]}\t{TAGS[number % len(TAGS)]}")
                lines["_box"].append(f"{WORDS[number]}\t{x} {y} {x + 50} {y + 20}")
                lines["_image"].append(f"{WORDS[number]}\t{x} {y} {x + 50} {y + 20}\t1000 1000\t{image}.png")
            for rows in lines.values():
                rows.append("")
    for suffix, rows in lines.items():
        (folder / f"{split}{suffix}.txt").write_text("\n".join([*rows, ""]), encoding="utf-8")


@pytest.fixture(scope="module")
def old_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    write_split(folder, "train", [(f"page{number}", [6]) for number in range(12)])
    # Not in the order of their names, and two of them cut.
    write_split(folder, "test", [("z", [4, 3]), ("m", [5]), ("a", [2, 1, 2])])
    return folder


@pytest.fixture(scope="module")
def run(old_folder: Path, train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = train_arguments(
        folder,
        data__format="unilm",
        data__train=old_folder,
        data__test=old_folder,
        data__scheme="BIOES",
        schedule__max_steps=4,
        run__save_every=2,
        run__predictions="unilm",
    )
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"predictions for data.test written to {folder / 'test_predictions.txt'}" in done.stdout
    return folder


def predicted(run: Path, old_folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The labels that `layoutner predict` gives, in the order of the file."""
    capsys.readouterr()
    main(["predict", str(old_folder), "--data.format", "unilm", "--model", str(run / "export")])
    return [word["label"] for line in capsys.readouterr().out.splitlines() for word in json.loads(line)["words"]]


def test_predictions_are_the_lines_of_the_test_file(
    run: Path, old_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (old_folder / "test.txt").read_text().splitlines()
    labels = iter(predicted(run, old_folder, capsys))
    # The first part of a word: two fields a line, as the old script writes them.
    expected = [f"{line.split()[0]} {next(labels)}" if line else "" for line in given]
    assert "R." in {line.split(" ")[0] for line in expected if line}
    assert given.count("") == 6
    assert (run / "test_predictions.txt").read_text().splitlines() == expected


def test_predict_writes_the_same_file(run: Path, old_folder: Path, tmp_path: Path) -> None:
    command = ["predict", str(old_folder), "--data.format", "unilm", "--model", str(run / "export")]
    main([*command, "--output-format", "unilm", "--output", str(tmp_path / "test_predictions.txt")])
    assert (tmp_path / "test_predictions.txt").read_bytes() == (run / "test_predictions.txt").read_bytes()


@pytest.mark.parametrize("ranks", [1, 2])
def test_predictions_stay_in_step_with_odd_empty_lines(ranks: int, run: Path, tmp_path: Path) -> None:
    given = ["-DOCSTART-\tO", "", "z", "z", "", "", "z", "m", "", "", "a", "", "k", "", ""]
    for suffix, rest in (("", "\tO"), ("_box", "\t0 0 1 1"), ("_image", "\t0 0 1 1\t10 10\t")):
        pages = [line and line + rest + (f"{line}.png" if suffix == "_image" else "") for line in given[1:]]
        (tmp_path / f"test{suffix}.txt").write_text("\n".join([given[0], *pages, ""]))
    out = tmp_path / "test_predictions.txt"
    command = ["predict", str(tmp_path), "--data.format", "unilm", "--model", str(run / "export"), "--batch", "1"]
    command += ["--output-format", "unilm", "--output", str(out)]
    if ranks == 1:
        main(command)
    else:
        done = fork(["layoutner", *command], ranks=ranks)
        assert done.returncode == 0, done.stderr
    words = [line.split(" ")[0] for line in out.read_text().splitlines()]
    assert words == ["", *given[1:]]  # an empty line in the place of -DOCSTART-


def test_results_are_those_of_the_scores(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    lines = [f"{key} = {scores[key]}" for key in ("f1", "loss", "precision", "recall")]
    assert (run / "test_results.txt").read_text() == "\n".join(lines) + "\n"


def test_every_checkpoint_is_scored(
    run: Path, old_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(old_folder), "--data.format", "unilm", "--checkpoints", str(run), "--batch", "2"]
    main([*command, "--output", str(tmp_path / "all.json")])
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found) == ["2", "4"]
    assert found["2"]["loss"] != found["4"]["loss"]
    last = json.loads((run / "scores.json").read_text())
    assert found["4"]["field_accuracy"]["fields"] > 0
    assert {**found["4"], "checkpoint": last["checkpoint"], "format_version": 1} == last
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["step", "2", "4"]
    assert table[1].split()[4] == f"{found['2']['loss']:.4f}"
    assert table[3].endswith("means choosing on these test documents")
    assert sorted(path.name for path in run.iterdir() if path.name.startswith((".", "tmp"))) == [".lock"]


def test_scores_of_all_checkpoints_as_the_old_script_wrote_them(run: Path, old_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(old_folder), "--data.format", "unilm", "--checkpoints", str(run)]
    main([*command, "--output-format", "unilm", "--output", str(tmp_path / "eval_results.txt")])
    keys = [line.split(" = ")[0] for line in (tmp_path / "eval_results.txt").read_text().splitlines()]
    assert keys == sorted(f"{step}_{key}" for step in (2, 4) for key in ("f1", "loss", "precision", "recall"))


def test_one_model_or_the_checkpoints_of_one_run(
    run: Path, old_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(old_folder), "--data.format", "unilm", "--checkpoints"]
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(run), "--model", str(run / "export")])
    assert "give one of --model FOLDER and --checkpoints RUN, not both" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(tmp_path)])
    told = capsys.readouterr().err
    assert (told.count("\n"), f"{tmp_path}: holds no complete checkpoint; give the run folder" in told) == (1, True)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_is_overwritten_when_that_is_asked_for(
    run: Path, old_folder: Path, checkpoints: dict[str, Path], train_arguments: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    arguments = train_arguments(
        folder,
        data__format="unilm",
        data__train=old_folder,
        data__test=old_folder,
        schedule__max_steps=3,
        run__overwrite="true",
        run__predictions="jsonl",
    )
    # A run that cannot start takes nothing away.
    broken = tmp_path / "broken"
    shutil.copytree(checkpoints["layoutlm"], broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    done = fork(["layoutner", "train", *arguments, "--model.name_or_path", broken])
    assert done.returncode == 2
    assert contents(folder) == before
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in sorted((folder / "checkpoints").glob("step-*"))] == ["step-000003"]
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "test_results.txt").exists()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    pages = [json.loads(line) for line in (folder / "test_predictions.jsonl").read_text().splitlines()]
    assert [page["document"] for page in pages] == ["z", "m", "a"]
    assert [page.get("breaks") for page in pages] == [[4, 7], [5], [2, 3, 5]]


def test_an_earlier_run_stays_where_one_rank_of_the_new_one_fails(
    run: Path, old_folder: Path, train_arguments: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = contents(folder)
    more = {"data__format": "unilm", "data__train": old_folder, "run__overwrite": "true"}
    worker = ROOT / "tests" / "workers" / "failing.py"
    done = fork([worker, "build", "train", *train_arguments(folder, **more)], ranks=2)
    assert done.returncode != 0
    assert "no such layer" in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("there", "more", "message"),
    [
        (["model/mine.bin"], {}, "holds model, but it is no run folder of layoutner"),
        (["test_predictions.txt"], {"run.overwrite": "false"}, "holds test_predictions.txt, but it is no run folder"),
        (
            ["checkpoints/mine"],
            {"run.overwrite": "false", "run.predictions": "none"},
            "holds checkpoints, but it is no",
        ),
        (
            ["test_results.txt", "scores.json"],
            {"run.overwrite": "false", "run.predictions": "none", "run.resume": "auto"},
            "holds scores.json, test_results.txt, but it is no run folder of layoutner",
        ),
        (["export/mine.txt", *RECORD], {}, "would remove what layoutner did not write: export;"),
        (["export/config.json", *RECORD], {}, "would remove what layoutner did not write: export;"),
        (
            ["model/x", "export/layoutner.json", "export/README.md", "export/notes.md", *RECORD],
            {"run.overwrite": "false", "run.resume": "auto"},
            "would remove what layoutner did not write: export/notes.md;",
        ),
        (["checkpoints/mine/a", *RECORD], {}, "would remove what layoutner did not write: checkpoints/mine;"),
        (
            ["model/config.json"],
            {"run.overwrite": "false", "run.resume": "auto"},
            "holds model, but it is no run folder",
        ),
        (["ds_config.json"], {"run.overwrite": "false"}, "holds ds_config.json, but it is no run folder"),
        (
            ["settings.toml", "metrics.jsonl", "environment.json"],
            {"run.overwrite": "false"},
            "holds metrics.jsonl, settings.toml, environment.json, but it is no run folder",
        ),
        (["checkpoints/step-000001/mine", *RECORD], {"model.name_or_path": "checkpoints/start"}, "checkpoints/start"),
        (["model/x", *RECORD], {"data.train": "model/forms"}, "would remove what this run uses"),
        (
            ["model/x", *RECORD],
            {"tensorboard.dir": "model/tb", "tensorboard.enabled": "true"},
            "would remove what this run uses",
        ),
        (["model/x", *RECORD], {"environment": "TORCHELASTIC_RESTART_COUNT"}, "TORCHELASTIC_RESTART_COUNT = 1"),
        (["model/x", *RECORD], {"environment": "SLURM_RESTART_COUNT"}, "SLURM_RESTART_COUNT = 1"),
        (
            ["export/layoutner.json", "scores.json", *RECORD],
            {"run.overwrite": "false", "run.predictions": "none"},
            "holds export, scores.json of a run whose checkpoints are missing",
        ),
        (
            ["test_results.txt", *RECORD],
            {"run.overwrite": "false", "run.resume": "auto"},
            "holds test_results.txt of a run whose checkpoints are missing",
        ),
        (
            ["pytorch_model.bin", "config.json"],
            {},
            "a model that layoutner did not make (config.json, pytorch_model.bin)",
        ),
    ],
)
def test_what_is_not_its_own_is_not_taken_by_a_run(
    there: list[str], more: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    given = {"run.overwrite": "true", "run.output_dir": str(tmp_path), "run.predictions": "unilm"}
    for name, value in more.items():
        if name == "environment":
            monkeypatch.setenv(value, "1")
        else:
            given[name] = value if name.startswith("run.") or value == "true" else str(tmp_path / value)
    tree: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    with pytest.raises(LayoutnerError, match=re.escape(message)):
        require_folder(load(None, tree))
    assert contents(tmp_path) == before


def test_what_an_unfinished_run_left_is_no_obstacle(tmp_path: Path) -> None:
    """A run that failed before its first checkpoint is started again; so are checkpoints that were copied alone."""
    given = {"output_dir": str(tmp_path)}
    for name in ("model/config.json", "metrics.jsonl", *RECORD):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    require_folder(load(None, {"run": given}))
    for name in RECORD:
        (tmp_path / name).unlink()
    (tmp_path / "model").rename(tmp_path / "checkpoints")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}')
    with pytest.raises(CheckpointError, match=r"holds metrics.jsonl, checkpoints, but it is no run folder"):
        require_folder(load(None, {"run": {**given, "resume": "auto"}}))
    (tmp_path / "checkpoints" / "step-000001").mkdir()
    (tmp_path / "checkpoints" / "step-000001" / "manifest.json").write_text('{"files": {}}')
    require_folder(load(None, {"run": {**given, "resume": "auto"}}))


def test_an_export_that_is_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "layoutner.json").touch()
    (tmp_path / "run" / "export").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="would remove what layoutner did not write: export; move it elsewhere"):
        require_folder(load(None, {"run": {"output_dir": str(tmp_path / "run"), "resume": "auto"}}))


def test_a_folder_prepared_for_a_first_run(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "scratch")
    require_folder(load(None, {"run": {"output_dir": str(tmp_path / "run"), "resume": "auto"}}))


def test_what_a_start_that_was_killed_left_of_an_earlier_run_is_no_obstacle(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    settings = load(None, {"run": {"output_dir": str(tmp_path / "run"), "overwrite": "true"}})
    for name in ("export", "scores.json", "model", "checkpoints"):  # as they are removed
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
        require_folder(settings)


def test_a_lock_that_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(CheckpointError, match=r"\.lock: cannot be written: .*directory"):
        require_folder(load(None, {"run": {"output_dir": str(tmp_path)}}))


def test_a_folder_that_is_made_anew_is_held_anew(tmp_path: Path) -> None:
    settings = load(None, {"run": {"output_dir": str(tmp_path / "run")}})
    require_folder(settings)
    shutil.rmtree(tmp_path / "run")
    require_folder(settings)
    with pytest.raises(CheckpointError, match="another run is writing there"):
        lock(tmp_path / "run")


def test_a_run_folder_has_one_run_at_a_time(train_arguments: Arguments, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    require_folder(load(None, {"run": {"output_dir": str(folder)}}))  # held by this process from now on
    before = contents(folder)
    for more in ({"run__overwrite": "true"}, {"run__resume": "auto"}, {}):
        done = fork(["layoutner", "train", *train_arguments(folder, **more)])
        assert done.returncode == 2
        assert f"another run is writing there (process {os.getpid()} on " in done.stderr
        assert contents(folder) == before
    require_folder(load(None, {"run": {"output_dir": str(folder)}}))  # the same process may, as for a second training


def test_the_model_of_a_run_is_its_export(
    run: Path, old_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(old_folder), "--data.format", "unilm", "--model"]
    code, out, said = call(capsys, *command, run)
    assert (code, said) == (0, f"--model {run} is a run folder: using its exported model {run / 'export'}\n")
    assert (out, code) == (call(capsys, *command, run / "export")[1], 0)
    # Another trainer's config.json, as in a folder that two have written to: its outputs mean other labels.
    shutil.copytree(run / "export", tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    config["id2label"] = {number: f"LABEL_{number}" for number in config["id2label"]}
    (tmp_path / "mixed" / "config.json").write_text(json.dumps({**config, "label2id": {}}))
    code, _, said = call(capsys, *command, tmp_path / "mixed")
    assert (code, "its config.json has the labels ['LABEL_0', " in said) == (2, True)


@pytest.mark.parametrize("missing", ["model", "layoutner.json"])
def test_checkpoints_without_what_makes_them_models(
    missing: str, run: Path, old_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in {"checkpoints", "model", "layoutner.json"} - {missing}:
        (tmp_path / name).symlink_to(run / name)
    command = ["evaluate", str(old_folder), "--data.format", "unilm", "--checkpoints", tmp_path]
    code, _, said = call(capsys, *command)
    assert (code, f"{tmp_path}: {missing} missing, so its checkpoints cannot be exported" in said) == (2, True)


def test_two_ranks_score_all_checkpoints_as_one_does(run: Path, old_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(old_folder), "--data.format", "unilm", "--checkpoints", str(run), "--output"]
    main([*command, str(tmp_path / "one.json")])
    done = fork(["layoutner", *command, tmp_path / "two.json"], ranks=2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_overwriting_and_resuming_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="overwrite = true and resume = auto: remove the earlier run, or resume it"):
        load(None, {"run": {"overwrite": "true", "resume": "auto"}})


def test_predictions_need_documents() -> None:
    with pytest.raises(SettingsError, match="run.predictions = unilm needs data.test"):
        make_plan(load(None, {"run": {"predictions": "unilm"}}), 1)


def test_the_largest_seed_there_is() -> None:
    seed_generators(((2**32 - 1) * 1_000_003 + 10**7) * 4099)


def test_empty_lines_of_a_page_are_kept_where_words_are_dropped(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("z", [4, 3])])
    page = next(iter(read(tmp_path, "test")))
    assert isinstance(page, Page)
    assert page.breaks == (4, 7)
    words = [Word(" ", word.box, "O") if index in (1, 4) else word for index, word in enumerate(page.words)]
    document, _ = to_document(
        Page("s", "z", words, (10, 10), unit="thousandths", breaks=page.breaks), "none", ReadStats()
    )
    assert document is not None
    assert (len(document.words), document.breaks) == (5, (3, 5))
    labelled = {"words": [{"text": text, "label": "O"} for text in document.words], "breaks": [3, 5]}
    assert [line == "" for line in to_unilm(labelled).splitlines()] == [False] * 3 + [True] + [False] * 2 + [True]


@pytest.mark.parametrize(
    "lines",
    [
        ["z a", "", "z b", "m a", ""],  # no empty line between pages
        ["", "", "z a", "", "", "z b", "", "", "m a"],  # before the first, two in a row, none at the end
        ["-DOCSTART-\tO", "", "z a", "-DOCSTART-", "m b", ""],
    ],
)
def test_empty_lines_are_those_of_the_file(lines: list[str], tmp_path: Path) -> None:
    for suffix, rest in (("", "\tO"), ("_box", "\t0 0 1 1"), ("_image", "\t0 0 1 1\t10 10\t")):
        rows = []
        for line in lines:
            page, _, word = line.partition(" ")
            row = f"{word}{rest}{page if suffix == '_image' else ''}"
            rows.append(row if word else line if suffix == "" else "")
        (tmp_path / f"test{suffix}.txt").write_text("\n".join([*rows, ""]))
    written = ""
    for page in read(tmp_path, "test"):
        assert isinstance(page, Page)
        document, _ = to_document(page, "none", ReadStats())
        assert document is not None
        words = [{"text": text, "label": "O"} for text in document.words]
        written += to_unilm({"words": words, "breaks": list(document.breaks or ())})
    assert written.splitlines() == [f"{line[2:]} O" if " " in line else "" for line in lines]


def test_results_name_the_checkpoint_where_there_are_several() -> None:
    scores = score_tags([["B-A"]], [["B-A"]], LabelSet("BIO", ("A",)), loss=0.5)
    assert results({"": scores}) == "f1 = 1.0\nloss = 0.5\nprecision = 1.0\nrecall = 1.0\n"
    assert results({"10": scores, "20": scores}).splitlines()[0] == "10_f1 = 1.0"
