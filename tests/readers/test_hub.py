"""Hugging Face datasets, made here, to documents."""

import json
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.settings.data import DataSettings
from tests.builders.hub import datasets, parquet, row, table


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def read(path: Path, role: str = "train") -> list[Document]:
    return read_documents(DataSettings(format="hub"), path, role)


def picture(width: int = 30, height: int = 60, shade: int = 9) -> dict[str, Any]:
    content = BytesIO()
    Image.new("L", (width, height), shade).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": "p.png"}


def save_split(folder: Path) -> Path:
    splits = {"train": table(row("a"), row("b")), "validation": table(row("c")), "test": table(row("d"))}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def save_parquet(folder: Path) -> Path:
    parquet(folder / "data" / "train-00000-of-00001.parquet", row("a"), row("b"))
    parquet(folder / "data" / "validation-00000-of-00001.parquet", row("c"))
    parquet(folder / "data" / "test-00000-of-00001.parquet", row("d"))
    return folder


def test_a_row_becomes_a_document(tmp_path: Path) -> None:
    (document,) = read(parquet(tmp_path / "x.parquet", row()))
    assert document == Document(
        "f0",
        ("Order", "date", "3.50"),
        ((10, 20, 30, 40), (30, 20, 50, 40), (500, 500, 1000, 1000)),
        ("B-HEADER", "I-HEADER", "B-ANSWER"),
        (1000, 1000),
    )


@pytest.mark.parametrize("save", [save_split, save_parquet])
def test_a_role_is_a_split(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    folder = save(tmp_path / "forms")
    names = {role: [document.name for document in read(folder, role)] for role in ("train", "eval", "test")}
    assert names == {"train": ["a", "b"], "eval": ["c"], "test": ["d"]}


def test_what_has_no_splits_is_read_whole_in_every_role(tmp_path: Path) -> None:
    table(row("a"), row("b")).save_to_disk(tmp_path / "one")
    file = parquet(tmp_path / "x.parquet", row("a"), row("b"))
    for path in (tmp_path / "one", file):
        for role in ("train", "eval", "test"):
            assert [document.name for document in read(path, role)] == ["a", "b"]


def test_a_missing_split_is_said_with_those_there_are(tmp_path: Path) -> None:
    parquet(tmp_path / "forms" / "train.parquet", row())
    with pytest.raises(
        DataError, match=r"forms: holds the splits train, none of them for data.eval .*validation or .*a"
    ):
        read(tmp_path / "forms", "eval")
    with pytest.raises(NoSplitError, match=r"holds the splits train, none of them for data.test \(test\)$"):
        read(tmp_path / "forms", "test")


def test_other_names_of_columns_text_tags_and_no_tags(tmp_path: Path) -> None:
    lines = [
        {"tokens": ["a", "b"], "bbox": [[0, 0, 1, 1], [1, 1, 2, 2]], "labels": ["O", "B-X"]},
        {"tokens": ["c"], "bbox": [[0, 0, 1, 1]], "labels": ["I-X"], "extra": None},
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = read(tmp_path / "one")
    assert (first.name, first.words, first.tags) == ("train-0", ("a", "b"), ("O", "B-X"))
    assert (second.name, second.tags) == ("train-1", ("I-X",))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "test.jsonl").write_text(json.dumps({"tokens": ["a"], "boxes": [[0, 0, 1, 1]]}))
    (bare,) = read(tmp_path / "two", "test")
    assert bare.tags is None
    assert bare.boxes == ((0, 0, 1, 1),)


def test_embedded_images_are_laid_out_once_and_give_the_page_size(tmp_path: Path) -> None:
    rows = [row("a", image=picture()), row("b", image=picture()), row("c", image=picture(50, 70)), row("d", image=None)]
    documents = read(parquet(tmp_path / "x.parquet", *rows, image=datasets.Image()))
    assert [document.page_size for document in documents] == [(30, 60), (30, 60), (50, 70), (1000, 1000)]
    first, second, third, none = (document.image for document in documents)
    assert first == second != third
    assert none is None
    assert first is not None
    assert first.path.read_bytes() == picture()["bytes"]
    assert third is not None
    laid_out = sorted((tmp_path / "cache" / "layoutner" / "images").iterdir())
    assert laid_out == sorted({first.path, third.path})


def test_an_image_beside_the_data_is_taken_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for image in (folder / "p.png", tmp_path / "secret.png"):
        Image.new("L", (30, 60)).save(image)
    paths = [str(folder / "p.png"), "p.png", "../secret.png", str(tmp_path / "secret.png")]
    rows = [row(str(index), image={"bytes": None, "path": path}) for index, path in enumerate(paths)]
    with monkeypatch.context() as there:
        there.chdir(folder)  # the library looks at them while it writes
        good = parquet(folder / "good.parquet", *rows[:2], image=datasets.Image())
        bad = parquet(folder / "bad.parquet", *rows, image=datasets.Image())
    assert [(document.image, document.page_size) for document in read(good)] == [
        (PageImage(folder / "p.png"), (30, 60))
    ] * 2
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match=r"2 problem\(s\).*\n.*bad.parquet train row 2: '../secret.png' leads out of"):
        read(bad)


def test_a_folder_of_images_with_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "forms" / "train"
    folder.mkdir(parents=True)
    for name, width in (("a.png", 30), ("b.png", 50)):
        Image.new("L", (width, 60)).save(folder / name)
    lines = [{"file_name": name, "words": ["x"], "bboxes": [[0, 0, 1, 1]]} for name in ("a.png", "b.png")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [(document.image, document.page_size) for document in read(tmp_path / "forms")]
    assert found == [(PageImage(folder / "a.png"), (30, 60)), (PageImage(folder / "b.png"), (50, 60))]


def test_bad_rows_are_problems_and_the_others_go_on(tmp_path: Path) -> None:
    bad = [
        row(words=["a"]),
        row(bboxes=[[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]),
        row(bboxes=[[1, 2, 3, 1001]] * 3),
        row(ner_tags=[1, 2, -1]),
        row(words=None),
        row(image={"bytes": b"no image", "path": None}),
        row(words=["a", None, "c"]),
        row("a\0b", ner_tags=[1, None, 0]),
    ]
    path = parquet(tmp_path / "x.parquet", row("a"), *bad, row("z"), image=datasets.Image())
    settings = DataSettings(format="hub", bad_pages="skip")
    assert [document.name for document in read_documents(settings, path, "train")] == ["a", "z"]
    with pytest.raises(DataError) as caught:
        read(path)
    _, *lines = str(caught.value).splitlines()
    said = [line.partition("x.parquet train ")[2] for line in lines]
    assert said[0] == "row 1: 1 words, 3 boxes, 3 tags: expected one of each per word"
    assert said[1] == "row 2: word 0: box [1, 2, 3]; expected four numbers"
    assert said[2].startswith("row 3: word 0 'Order': box [1, 2, 3, 1001] leaves the page")
    assert said[5] == "row 4: word 2: tag -1 is not one of the dataset's 4 classes"
    assert said[6].startswith("row 5: words None, boxes [[10, ")
    assert "cannot identify image file" in said[7]
    assert said[8] == "row 7: word 1 None: a word must be text, not NoneType"
    assert said[9] == "row 8: some words have a label and some have none"
    assert len(said) == 10


def test_numbers_without_names_and_missing_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", row(), tags=datasets.List(datasets.Value("int64")))
    with pytest.raises(DataError, match=r"word 0: tag 1 is a number, but the dataset has no class names"):
        read(path)
    datasets.Dataset.from_dict({"text": ["a"], "words": [["a"]]}).to_parquet(path)
    with pytest.raises(DataError, match=r"has no column bboxes or bbox or boxes; its columns: text, words$"):
        read(path)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, what in (
        (tmp_path / "x.parquet", "x.parquet: cannot be read as a dataset: "),
        (tmp_path / "x.json", "x.json: expected a .parquet file, a folder, or the name of a dataset of the hub"),
        (tmp_path / "empty", "empty: cannot be read as a dataset: "),
        (tmp_path / "none", "none: no such file or folder"),
        (Path("none.parquet"), "none.parquet: no such file or folder"),
    ):
        with pytest.raises(DataError) as caught:
            read(path)
        assert what in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_hub_that_cannot_be_reached() -> None:
    with pytest.raises(DataError) as caught:  # HF_HUB_OFFLINE is set
        read(Path("nielsr/funsd"))
    assert str(caught.value).startswith("nielsr/funsd: cannot be read as a dataset: Couldn't reach 'nielsr/funsd'")
    assert str(caught.value).endswith("; without a network, name a local folder or .parquet file")


def test_configurations_and_revisions_are_named_after_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, revision: str | None = None) -> Any:  # the hub is out of reach
        asked.append((name, config, revision))
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found funsd.py")
        return datasets.DatasetDict({"train": table(row())})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"; use the copy that the hub has converted: a/b:c@refs/convert/parquet$"):
        read(Path("a/b:c"))
    assert len(read(Path("a/b:c@refs/convert/parquet"))) == 1
    assert asked == [("a/b", "c", None), ("a/b", "c", "refs/convert/parquet")]


def test_a_local_folder_with_two_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    parquet(folder / "old" / "train.parquet", row("old"))
    parquet(folder / "new" / "train.parquet", row("new"))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("old", "new"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert [document.name for document in read(Path(f"{folder}:new"))] == ["new"]
    with pytest.raises(DataError, match=r"onfig name is missing.*choose one with .*:NAME"):
        read(folder)


def test_without_the_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from pathlib import Path; from layoutner.readers import hub; from layoutner.errors import SettingsError\n"
        "try: next(hub.read(Path('x'), 'train'))\n"
        "except SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "data.format = hub needs the package datasets: pip install 'layoutner[hub]'\n"


def test_a_row_whose_image_holds_several_pages_is_a_problem(tmp_path: Path) -> None:
    content = BytesIO()
    Image.new("L", (30, 60)).save(content, "TIFF", save_all=True, append_images=[Image.new("L", (30, 60))])
    path = parquet(
        tmp_path / "x.parquet", row(image={"bytes": content.getvalue(), "path": None}), image=datasets.Image()
    )
    with pytest.raises(DataError, match="x.parquet train row 0: page image .*: holds 2 pages"):
        read(path)
