"""Files of another kind than the format they are read in: said what they are, and the way in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner import readers
from layoutner.documents.roles import read_documents, stream
from layoutner.errors import DataError
from layoutner.inference.input import documents
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import MOST_HELD, foreign, read_pages
from layoutner.readers.foreign import BEGINNING, DEEPEST, recognise
from layoutner.settings.data import DataSettings
from tests.builders import inputs, jsonl
from tests.builders.processes import call

JSONL = ", which layoutner does not read; write its pages as jsonl, one per line (README, Your own forms)"
IMPORT = ", which layoutner does not read; `layoutner data import --from {}` makes jsonl of it"
HOW = {  # what is read, in another way than by writing jsonl
    "a Label Studio export": IMPORT.format("label-studio"),
    "a PaddleOCR label file": IMPORT.format("ppocrlabel"),
    "an Amazon Textract response": ": data.format = textract",
    "an Azure Document Intelligence response": ": data.format = azure",
    "a Google Document AI response": ": data.format = google",
    "a docTR result, which DocILE has too": ": data.format = doctr",
    "an ALTO file": ": data.format = alto",
    "a PAGE-XML file": ": data.format = page-xml",
    "an hOCR file": ": data.format = hocr",
}
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"ocr": "/data/upload/1/a.png"},
        "annotations": [{"result": [{"original_width": 1654, "value": {"x": 8.4, "labels": ["SUPPLIER"]}}]}],
    }
]
TEXTRACT = {"DocumentMetadata": {"Pages": 1}, "Blocks": [{"BlockType": "PAGE", "Geometry": {"BoundingBox": {}}}]}
DOCTR = {"pages": [{"page_idx": 0, "dimensions": [842, 595], "blocks": [{"geometry": [[0, 0], [1, 1]]}]}]}
AZURE_PAGE = {"pageNumber": 1, "width": 8.5, "unit": "inch", "words": [{"content": "Total"}]}
XML = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- a > comment -->\n'
BOXES = [[[1, 2], [3, 2], [3, 4], [1, 4]], ["Total", 0.98]]

KINDS: list[tuple[str, Any, str]] = [
    ("export.json", LABEL_STUDIO, "a Label Studio export"),
    ("task.json", {"id": 1, "data": {}, "predictions": []}, "a Label Studio export"),
    ("a.json", TEXTRACT, "an Amazon Textract response"),
    ("a.json", {"DocumentMetadata": {}, "ExpenseDocuments": []}, "an Amazon Textract response"),
    ("a.json", {"field_extractions": [{"bbox": [0, 0, 1, 1], "fieldtype": "date_issue"}]}, "a DocILE annotation"),
    ("a.json", DOCTR, "a docTR result, which DocILE has too"),
    ("a.json", {"status": "succeeded", "analyzeResult": {}}, "an Azure Document Intelligence response"),
    ("a.json", {"content": "Total", "pages": [AZURE_PAGE]}, "an Azure Document Intelligence response"),
    ("a.json", {"text": "T", "pages": [{"pageNumber": 1, "tokens": []}]}, "a Google Document AI response"),
    ("a.json", {"document": {"pages": [{"pageNumber": 1, "layout": {}}]}}, "a Google Document AI response"),
    ("a.json", {"entities": [{"textAnchor": {}}]}, "a Google Document AI response"),
    ("a.json", {"version": "2.1.0", "readResults": []}, "an Azure Document Intelligence response"),
    ("a.json", {"responses": [{"fullTextAnnotation": {}}]}, "a Google Vision response"),
    ("a.json", {"images": [{"file_name": "a.png"}], "annotations": [], "categories": []}, "a COCO file"),
    ("a.json", [[BOXES]], "a PaddleOCR result"),
    ("a.json", {"res": {"rec_texts": ["Total"], "rec_scores": [0.9]}}, "a PaddleOCR result"),
    ("Label.txt", 'a/b.jpg\t[{"transcription": "Total", "points": [[1, 2]]}]\n', "a PaddleOCR label file"),
    ("a.json", {"version": "5", "shapes": [], "imagePath": "a.png"}, "a labelme file"),
    ("a.xml", f'{XML}<alto xmlns="http://www.loc.gov/standards/alto/ns-v3#"><Layout/></alto>', "an ALTO file"),
    ("a.xml", f"{XML}<pc:PcGts xmlns:pc='x'><pc:Page/></pc:PcGts>", "a PAGE-XML file"),
    ("a.xml", f"{XML}<annotation><folder/></annotation>", "a Pascal VOC file"),
    ("a.xml", '<document xmlns="http://www.abbyy.com/FineReader_xml/10"/>', "an ABBYY FineReader file"),
    ("a.xml", "<things/>", "an XML file with the root element things"),
    (
        "a.hocr",
        '<!DOCTYPE html PUBLIC "-//W3C//DTD">\n<html><head><meta name="ocr-system" content="x"/></head></html>',
        "an hOCR file",
    ),
    ("words.csv", "page,text,x0,y0,x1,y1\n1,Total,1,2,3,4\n", "a CSV table"),
]


def put(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return file


@pytest.mark.parametrize("format", ["funsd", "cord", "xfund", "sroie", "unilm", "jsonl"])
@pytest.mark.parametrize(("name", "content", "what"), KINDS)
def test_a_file_of_another_kind_is_named_with_the_way_in(
    name: str, content: Any, what: str, format: str, tmp_path: Path
) -> None:
    file = put(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        list(read_pages(DataSettings(format=format), file, "train"))
    assert f"{file} is {what}{HOW.get(what, JSONL)}" in str(caught.value)
    # So is the folder of it, if the format does not find its own files there.
    with pytest.raises(DataError) as caught:
        list(read_pages(DataSettings(format=format), tmp_path, "train"))
    assert f"{file} is {what}{HOW.get(what, JSONL)}" in str(caught.value)


@pytest.mark.parametrize("made", ["funsd", "cord", "xfund", "sroie", "unilm", "jsonl"])
@pytest.mark.parametrize("asked", ["funsd", "cord", "xfund", "sroie", "unilm", "jsonl"])
def test_another_of_our_own_formats_is_named(made: str, asked: str, tmp_path: Path) -> None:
    case = inputs.MAKERS[made](tmp_path)
    for path in {case.path, case.files[0], tmp_path}:
        if made == asked:
            assert not isinstance(recognise(path), type(None))
            continue
        with pytest.raises(DataError, match=f" is an? .*: data.format = {made}"):
            list(read_pages(DataSettings(format=asked), path, "test"))


def test_images_pdfs_tables_and_archives_have_their_own_advice(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    assert str(recognise(tmp_path / "a.png")).endswith("a.png is an image: data.format = ocr")
    for name, content, what in (
        ("a.pdf", b"%PDF-1.7\n", "a PDF: data.format = pdf"),
        ("a.parquet", b"PAR1\x15", "a Parquet file: data.format = hub"),
        ("a.zip", b"PK\3\4\x14", "an archive, which layoutner does not read; unpack it"),
    ):
        (tmp_path / name).write_bytes(content)
        assert f"{name} is {what}" in str(recognise(tmp_path / name))


def test_every_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = put(tmp_path / "export.json", LABEL_STUDIO)
    said = f"{file} is a Label Studio export{HOW['a Label Studio export']}"
    with pytest.raises(DataError) as train:
        read_documents(DataSettings(), file, "train")
    for labels in ("ignore", "require"):  # predict and evaluate
        with pytest.raises(DataError) as caught:
            list(documents(DataSettings(), file, "test", ReadStats(), labels))  # type: ignore[arg-type]
        assert str(caught.value) == str(train.value)
    assert str(train.value).startswith(f"{said} (read as funsd: export.json: page image ")
    # It is no page to be left out.
    with pytest.raises(DataError, match="is a Label Studio export"):
        list(stream(DataSettings(bad_pages="skip"), file, "train", ReadStats()))
    code, out, err = call(capsys, "data", "check", file)
    assert (code, out) == (2, "")
    assert said in err


def test_a_page_of_the_format_that_cannot_be_read_is_that_page_s_problem(tmp_path: Path) -> None:
    """With images, tables and a broken file beside it, which are no reason to take the folder for another kind."""
    case = inputs.funsd_input(tmp_path)
    (tmp_path / "words.csv").write_text("a,b\n")
    case.files[0].write_bytes(b"\0\0")
    (problem,) = read_pages(DataSettings(format="funsd"), tmp_path, "train")
    assert isinstance(problem, Problem)
    assert "not JSON" in problem.what
    (tmp_path / "other").mkdir()
    inputs.funsd_input(tmp_path / "other")
    (tmp_path / "other" / "images" / "f.png").unlink()
    (problem,) = read_pages(DataSettings(format="funsd"), tmp_path / "other", "train")
    assert "page image" in str(problem)
    # One of them that can be read is enough: the other is a problem, whatever it is.
    put(tmp_path / "annotations" / "a.json", LABEL_STUDIO)
    case.files[0].write_text('{"form": []}')
    shutil.copy(tmp_path / "images" / "f.png", tmp_path / "images" / "a.png")
    first, second = read_pages(DataSettings(format="funsd"), tmp_path, "train")
    assert isinstance(first, Problem)
    assert isinstance(second, Page)


def test_of_a_file_of_another_kind_only_the_first_problems_are_kept(tmp_path: Path) -> None:
    lines = json.dumps(LABEL_STUDIO * 100, indent=1)
    assert lines.count("\n") > 10 * MOST_HELD
    file = put(tmp_path / "export.jsonl", lines)
    read = read_pages(DataSettings(format="jsonl"), file, "train")
    with pytest.raises(DataError, match="is a Label Studio export"):
        next(read)
    # If they are not known, all of them are said.
    put(file, "x\n" * (MOST_HELD + 5))
    assert len(list(read_pages(DataSettings(format="jsonl"), file, "train"))) == MOST_HELD + 5
    put(file, "x\n" * (MOST_HELD + 5) + json.dumps(jsonl.page()))
    assert isinstance(list(read_pages(DataSettings(format="jsonl"), file, "train"))[-1], Page)


def test_what_is_read_is_not_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "recognise", lambda path: pytest.fail("nothing is wrong with it"))
    for name in ("funsd", "cord", "jsonl"):
        (tmp_path / name).mkdir()
        inputs.MAKERS[name](tmp_path / name)
        assert all(isinstance(page, Page) for page in read_pages(DataSettings(format=name), tmp_path / name, "train"))


def test_a_large_file_is_known_by_its_beginning(tmp_path: Path) -> None:
    many = LABEL_STUDIO * (2 * BEGINNING // len(json.dumps(LABEL_STUDIO)))
    text = json.dumps(many)
    assert len(text) > BEGINNING
    assert "a Label Studio export" in str(recognise(put(tmp_path / "a.json", text)))
    for end in range(150, len(json.dumps(LABEL_STUDIO)), 7):  # wherever it breaks off
        assert "a Label Studio export" in str(recognise(put(tmp_path / "a.json", text[:end]))), text[:end]
    assert "a Google Document AI" not in str(recognise(put(tmp_path / "a.json", '{"text": "' + "{[," * BEGINNING)))


def test_a_file_that_is_nothing_known_is_not_taken_for_anything(tmp_path: Path) -> None:
    for content in (
        "",
        "{",
        "[" * (DEEPEST + 1),
        "]",
        '{"a": }',
        "hello",
        "[1, 2]",
        '{"pages": 3}',
        "<",
        '[[1, ["a", 1]]]',
    ):
        assert recognise(put(tmp_path / "a.json", content)) is None, content
    assert recognise(tmp_path / "nowhere") is None
    (tmp_path / "a.png").write_bytes(b"no image")
    assert recognise(tmp_path / "a.png") is None


def test_the_first_files_of_a_large_folder_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(tmp_path / f"{number}.md", "notes")
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    put(tmp_path / "deep" / "deeper" / "a.json", LABEL_STUDIO)
    put(tmp_path / "deep" / "._a.json", "x")
    assert "a Label Studio export" in str(recognise(tmp_path))
    monkeypatch.setattr(foreign, "MOST_FILES", 5)
    assert recognise(tmp_path) is None


def test_real_files_of_other_formats(real_data: Path) -> None:
    found = {file.name: recognise(file) for file in (real_data / "formats").rglob("*.*") if file.suffix != ".tsv"}
    assert {name: kind and kind.what for name, kind in found.items()} == {
        "label-studio-funsd-4-pages.json": "a Label Studio export",
        "invoice-expense-response.json": "an Amazon Textract response",
        "table-example-response.json": "an Amazon Textract response",
        "lorem-ipsum-scan.alto.xml": "an ALTO file",
        "00000139.page.xml": "a PAGE-XML file",
        "tess.hocr": "an hOCR file",
    }
