"""Entity types that are no entity: noted by name, and read as O where data.ignore_types says so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from layoutner.documents.roles import Corpus, read_corpus
from layoutner.errors import DataError, SettingsError
from layoutner.pages.labels import types_like_no_entity
from layoutner.settings.tree import load
from layoutner.training.plan import make_plan
from tests.builders.families import make_export
from tests.builders.processes import call

TAGS = ["B-OTHERS", "I-OTHERS", "B-TOTAL", "O", "B-OTHERS", "B-DATE"]


def write(path: Path, tags: list[str] = TAGS, pages: int = 3) -> Path:
    lines = []
    for number in range(pages):
        words = [
            {"text": f"w{number}x{at}", "box": [50 + 90 * at, 100, 130 + 90 * at, 112], "label": tag}
            for at, tag in enumerate(tags)
        ]
        lines.append(json.dumps({"document": f"page {number}", "page_size": [800, 1000], "words": words}))
    path.write_text("\n".join(lines))
    return path


def corpus(**data: Any) -> Corpus:
    return read_corpus(load(None, {"data": {"format": "jsonl", **{k: str(v) for k, v in data.items()}}}).data, 1)


def test_which_types_look_like_no_entity() -> None:
    types = ["OTHERS", "other", "None", "no-label", "Background", "TOTAL", "NOTE", "OTHER_TAX", "menu.etc"]
    assert types_like_no_entity(types) == ["Background", "None", "OTHERS", "no-label", "other"]


def test_training_notes_a_type_that_looks_like_no_entity(tmp_path: Path) -> None:
    found = corpus(train=write(tmp_path / "a"))
    assert found.labels.types == ("DATE", "OTHERS", "TOTAL")
    assert found.notes == (
        "note: OTHERS (6 of 12 entities) looks like a label for words outside entities, but is trained and scored as "
        "an entity type; data.ignore_types = OTHERS reads it as O",
    )


def test_ignored_types_are_read_as_o(tmp_path: Path) -> None:
    found = corpus(train=write(tmp_path / "a"), test=write(tmp_path / "b", pages=1), ignore_types="others,DATE")
    assert found.labels.types == ("TOTAL",)
    assert [document.tags for document in (*found.train, *found.test)] == [("O", "O", "B-TOTAL", "O", "O", "O")] * 4
    assert found.notes[:2] == ("train: 3 word(s) of DATE read as O", "train: 9 word(s) of OTHERS read as O")


def test_a_list_of_labels_loses_the_ignored_ones(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("OTHERS\nTOTAL\nDATE\n")
    train = write(tmp_path / "a")
    assert corpus(train=train, labels=tmp_path / "labels.txt", ignore_types="OTHERS").labels.types == ("TOTAL", "DATE")
    with pytest.raises(SettingsError, match="data.ignore_types = OTHERS,TOTAL,DATE removes all of its labels"):
        corpus(train=train, labels=tmp_path / "labels.txt", ignore_types="OTHERS,TOTAL,DATE")


def test_a_type_that_no_page_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="data.ignore_types = OTHER: no page has a word of that type"):
        corpus(train=write(tmp_path / "a"), ignore_types="OTHERS,OTHER")


def test_a_label_that_training_lacks_is_told_once_with_the_remedy(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a"), write(tmp_path / "b", [*TAGS[:-1], "B-TAX"])
    with pytest.raises(DataError) as caught:
        corpus(train=train, test=test)
    assert str(caught.value) == (
        "1 label problem(s); the labels are those of the training documents, DATE, OTHERS, TOTAL; data.labels = FILE "
        "can list more, which are scored though the training data has none of them, or read types as O with "
        "data.ignore_types: data.test: "
        "TAX is not one of the labels; 3 word(s) have it, the first: page 0: word 5 'w0x5'"
    )
    (tmp_path / "labels.txt").write_text("DATE\nOTHERS\nTOTAL\nTAX\n")
    assert corpus(train=train, test=test, labels=tmp_path / "labels.txt").labels.types[-1] == "TAX"
    assert corpus(train=train, test=test, ignore_types="TAX").labels.types == ("DATE", "OTHERS", "TOTAL")


def test_data_check_counts_types_and_names_those_that_look_like_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl")
    code, out, _ = call(capsys, "data", "check", file, "--data.format", "jsonl")
    assert code == 0
    assert re.search(r"^  OTHERS +6$", out, re.M)
    assert "note: OTHERS (6 of 12 entities) looks like a label for words outside entities" in out
    code, out, _ = call(capsys, "data", "check", file, "--data.format", "jsonl", "--data.ignore_types", "OTHERS")
    assert (code, "looks like" in out, "all: 9 word(s) of OTHERS read as O" in out) == (0, False, True)


def test_a_model_remembers_what_it_was_told_to_ignore(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "a.jsonl")
    data = {"format": "jsonl", "train": str(train), "ignore_types": "OTHERS", "max_length": "64", "stride": "8"}
    settings = load(
        None,
        {"data": data, "model": {"name_or_path": str(checkpoints["layoutlm"])}, "schedule": {"max_steps": "1"}},
    )
    preprocessing = make_plan(settings, world_size=1).preprocessing
    assert preprocessing.ignore_types == ("OTHERS",)
    model = make_export(checkpoints["layoutlm"], tmp_path / "models", list(preprocessing.labels))
    preprocessing.write(model / "layoutner.json")
    code, out, err = call(capsys, "evaluate", train, "--model", model)
    assert code == 0, err
    assert json.loads(out)["counts"]["entities"] == 6
    assert "input: 9 word(s) of OTHERS read as O" in err
