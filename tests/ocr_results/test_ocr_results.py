"""Files of OCR engines and services: what each format has is read, and what it lacks is said."""

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.errors import DataError
from layoutner.inference.input import guess_format
from layoutner.ocr_results import xml_tree
from layoutner.pages.page import Page, Problem
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings, OcrResultName
from tests.builders import ocr_results
from tests.builders.families import make_export
from tests.builders.mutations import mutated_bytes, mutated_values
from tests.builders.processes import call

FORMATS = list(ocr_results.CONTENTS)


def pages(format: str, path: Path) -> list[Page]:
    found = list(READERS[format](path, "test"))
    assert all(isinstance(page, Page) for page in found), found
    return [page for page in found if isinstance(page, Page)]


def problem(format: str, path: Path) -> str:
    (found,) = READERS[format](path, "test")
    assert isinstance(found, Problem)
    return found.what


def put(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_every_format_is_here() -> None:
    assert sorted(FORMATS) == sorted(get_args(OcrResultName))


@pytest.mark.parametrize("format", FORMATS)
def test_words_boxes_lines_and_image(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (200, 400)).save(tmp_path / "f.png")
    file = ocr_results.write(tmp_path, format)
    for path in (file, tmp_path):
        (document,) = read_documents(DataSettings(format=format), path, "test")  # type: ignore[arg-type]
        assert document.name == "f"
        assert document.words == ("Total", "9.00")
        assert document.boxes == ((100, 100, 300, 150), (750, 100, 950, 150))
        assert document.tags is None
        assert document.segments is not None
        assert document.segments[0] == document.segments[1]
        assert document.image is not None
        assert document.image.path.name == "f.png"
        width, height = document.page_size
        assert width / height == 0.5
    assert guess_format(file) == format
    code, out, err = call(capsys, "data", "check", file, "--data.format", format)
    assert (code, err) == (0, "")
    assert "0 problem(s) that stop a run" in out


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_another_format_names_its_own(format: str, tmp_path: Path) -> None:
    file = ocr_results.write(tmp_path, format)
    for other in ("funsd", *FORMATS):
        if other != format:
            with pytest.raises(DataError, match=rf"is an? .*: data\.format = {format}\b"):
                read_documents(DataSettings(format=other), file, "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_give_pages_or_one_problem(format: str, tmp_path: Path) -> None:
    file = ocr_results.write(tmp_path, format)
    content = file.read_bytes()
    if format in ("hocr", "alto", "page-xml"):
        damaged = list(mutated_bytes(content, 300, seed=5))
    else:
        values = mutated_values(json.loads(content), 250, seed=5)
        damaged = [json.dumps(value).encode() for value in values] + list(mutated_bytes(content, 50, seed=6))
    read, errors = 0, []
    for one in damaged:
        file.write_bytes(one)
        try:
            documents = read_documents(DataSettings(format=format), file, "test")  # type: ignore[arg-type]
            read += 1
            assert all(0 <= side <= 1000 for document in documents for box in document.boxes for side in box)
        except DataError as error:
            errors.append(str(error))
    assert min(read, len(errors)) > 20, (read, errors)
    assert all("f." in error and len(error) < 2000 for error in errors)


@pytest.mark.parametrize("format", ["hocr", "textract"])
def test_predict_knows_a_single_file(
    format: str, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_export(checkpoints["layoutlm"], tmp_path / "models", ["O", "B-KEY", "I-KEY"])
    file = ocr_results.write(tmp_path, format)
    code, out, _ = call(capsys, "predict", file, "--model", model, "--device", "cpu")
    assert code == 0
    assert [word["text"] for word in json.loads(out)["words"]] == ["Total", "9.00"]


# Pages and images


def test_pages_of_a_file_are_a_group_and_frames_of_its_image(tmp_path: Path) -> None:
    response = ocr_results.doctr()
    response["pages"] *= 3
    file = put(tmp_path / "scan.json", response)
    frames = [Image.new("L", (200, 400)) for _ in range(3)]
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:])
    found = pages("doctr", file)
    assert [(page.name, page.group) for page in found] == [(f"scan-{n}", "scan") for n in (1, 2, 3)]
    assert [page.image and page.image.frame for page in found] == [0, 1, 2]
    (tmp_path / "scan.tif").unlink()
    Image.new("L", (200, 400)).save(tmp_path / "scan.png")  # of which page?
    Image.new("L", (200, 400)).save(tmp_path / "scan-2.png")
    assert [page.image and page.image.path.name for page in pages("doctr", file)] == [None, "scan-2.png", None]


def test_the_image_of_a_result_that_is_named_after_it(tmp_path: Path) -> None:
    put(tmp_path / "a.png.json", ocr_results.textract())
    Image.new("L", (50, 60)).save(tmp_path / "a.png")
    (page,) = pages("textract", tmp_path / "a.png.json")
    assert page.image is not None
    assert page.page_size == (50, 60)


def test_an_image_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "f.png").write_text("no image")
    for name in ("../f.png", str(tmp_path / "f.png"), "..\\f.png"):
        text = ocr_results.PAGE_XML.replace('"f.png"', f'"{name}"')
        (page,) = pages("page-xml", put(tmp_path / "in" / "f.xml", text))
        assert page.image is None


# hOCR


def test_hocr_that_is_no_xml(tmp_path: Path) -> None:
    text = """<html><meta charset=iso-8859-1><body><br>
    <div class=ocr_page title='bbox 0 0 100 100'><span class="ocr_line" title="bbox 10 10 90 20">
    Stra&szlig;e 5 &lt; 6 &nbsp;\xe9
    </span><p><span class=ocr_line title='bbox 10 30 90 40'><span class=ocrx_word title='bbox 10 30 50 40'> </span>
    <span class="ocrx_word" title="bbox 10.5 30 50 40">x<br>y</span></div>"""
    (tmp_path / "a.html").write_bytes(text.encode("latin-1"))
    (page,) = pages("hocr", tmp_path / "a.html")
    assert [(word.text, word.segment) for word in page.words] == [
        *(("Straße", 1), ("5", 1), ("<", 1), ("6", 1), ("é", 1), ("xy", 2)),
    ]
    assert page.words[0].box == (10, 10, 10 + 80 * 6 / 14, 20)
    assert page.words[-1].box == (10.5, 30, 50, 40)


def test_hocr_of_two_pages_and_of_none(tmp_path: Path) -> None:
    body = ocr_results.HOCR.partition("<body>")[2].partition("</body>")[0]
    file = put(tmp_path / "a.hocr", f"<html>{body}{body.replace('f.png', 'g.png')}</html>")
    Image.new("L", (200, 400)).save(tmp_path / "g.png")
    assert [page.image and page.image.path.name for page in pages("hocr", file)] == [None, "g.png"]
    assert "it has no element of class ocr_page" in problem("hocr", put(file, "<html></html>"))
    assert "'Total' has no bbox" in problem("hocr", put(file, ocr_results.HOCR.replace("bbox 20 40 60 60", "x")))
    early = "<p class='ocr_page' title='bbox 0 0 9 9'/>".replace("ocr_page", "ocr_line")
    assert "comes before the first element of class ocr_page" in problem("hocr", put(file, early))
    declared = ocr_results.HOCR.replace("UTF-8", "punycode").encode()
    file.write_bytes(declared)
    assert "it declares the encoding punycode" in problem("hocr", file)


@pytest.mark.parametrize(
    "part", ["<!--", "<", "<a ", "<a b='", "<a b=\"'", "&", "<p>", "<b class=ocr_line>", "<br ", "<?", "</p>", "<!"]
)
def test_hostile_hocr_takes_no_minute(part: str, tmp_path: Path) -> None:
    file = put(tmp_path / "a.hocr", "<div class='ocr_page' title='bbox 0 0 9 9'>" + part * (2**20 // len(part)))
    start = time.process_time()
    list(READERS["hocr"](file, "test"))
    assert time.process_time() - start < 20  # what searched to the end for every tag would take hours


# ALTO


def test_alto_in_millimetres_with_hyphens_and_without_positions(tmp_path: Path) -> None:
    lines = """<TextLine HPOS="200" VPOS="400" WIDTH="400" HEIGHT="100">
    <String HPOS="200" VPOS="400" WIDTH="300" HEIGHT="100" CONTENT="Rech" SUBS_TYPE="HypPart1" SUBS_CONTENT="Rechnung"/>
    <HYP CONTENT="-" HPOS="500" VPOS="400" WIDTH="100" HEIGHT="100"/></TextLine>
    <TextLine HPOS="200" VPOS="600" WIDTH="900" HEIGHT="100"><String CONTENT="nung"/><SP/><String CONTENT="9.00"/>
    </TextLine>"""
    start, _, rest = ocr_results.ALTO.partition("<TextLine")
    text = start + lines + rest.partition("</TextLine>")[2]
    text = text.replace("pixel", "mm10").replace('WIDTH="200" HEIGHT="400"', 'WIDTH="2000" HEIGHT="4000"')
    (page,) = pages("alto", put(tmp_path / "a.xml", text))
    assert page.page_size == (2000, 4000)
    assert [(word.text, word.box, word.segment) for word in page.words] == [
        ("Rech-", (200, 400, 600, 500), 0),
        ("nung", (200, 600, 600, 700), 1),
        ("9.00", (700, 600, 1100, 700), 1),
    ]
    del_size = text.replace('<Page WIDTH="2000" HEIGHT="4000"', "<Page").replace('HPOS="0"', 'HPOS="10"', 1)
    (page,) = pages("alto", put(tmp_path / "a.xml", del_size))
    assert page.page_size == (2010, 4000)


def test_xml_is_bounded_and_has_no_entities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    for entity in ('x "ha"', f'x SYSTEM "file://{tmp_path}/secret"', '% x "ha"'):
        text = ocr_results.ALTO.replace("<alto", f"<!DOCTYPE alto [<!ENTITY {entity}>]><alto").replace("Total", "&x;")
        assert "declares the entity 'x'" in problem("alto", put(tmp_path / "a.xml", text))
    assert "nested more than 100 deep" in problem("alto", put(tmp_path / "a.xml", "<a>" * 200))
    for encoding in ("iso-8859-1", "utf-16", "windows-1250"):
        text = ocr_results.ALTO.replace("UTF-8", encoding).replace("Total", "Beträge")
        (tmp_path / "a.xml").write_bytes(text.encode(encoding))
        assert pages("alto", tmp_path / "a.xml")[0].words[0].text == "Beträge"
    monkeypatch.setattr(xml_tree, "MOST_ELEMENTS", 3)
    assert "holds more than 3 elements" in problem("alto", tmp_path / "a.xml")


# PAGE-XML


def test_page_xml_lines_without_words_in_reading_order(tmp_path: Path) -> None:
    def region(name: str, top: int, text: str, line: bool = True) -> str:
        coords = f'<Coords><Point x="10" y="{top}"/><Point x="90" y="{top}"/><Point x="90" y="{top + 9}"/></Coords>'
        equiv = f"<TextEquiv><Unicode>{text}</Unicode></TextEquiv>"
        inner = f"<TextLine>{coords}{equiv}</TextLine>" if line else equiv
        return f'<pc:TextRegion id="{name}">{coords}{inner}</pc:TextRegion>'

    order = """<ReadingOrder><OrderedGroup><RegionRefIndexed index="1" regionRef="a"/>
    <RegionRefIndexed index="0" regionRef="b"/></OrderedGroup></ReadingOrder>"""
    parts = (
        region("c", 80, "last") + region("a", 10, "two words") + region("b", 40, "first") + region("d", 60, "x", False)
    )
    text = f'<pc:PcGts xmlns:pc="x"><pc:Page imageWidth="100" imageHeight="100">{order}{parts}</pc:Page></pc:PcGts>'
    (page,) = pages("page-xml", put(tmp_path / "a.xml", text))
    assert [(word.text, word.box, word.segment) for word in page.words] == [
        ("first", (10, 40, 90, 49), 0),
        ("two", (10, 10, 10 + 80 * 3 / 9, 19), 1),
        ("words", (10 + 80 * 4 / 9, 10, 90, 19), 1),
        ("last", (10, 80, 90, 89), 2),
    ]
    assert [note.what for note in page.notes] == ["1 text region(s) have a text, but no lines"]


# Textract


def test_textract_in_parts_with_several_pages(tmp_path: Path) -> None:
    first, second = ocr_results.textract(), ocr_results.textract()
    for block in second["Blocks"]:
        block["Page"], block["Id"] = 2, f"{block['Id']}2"
    second["Blocks"][1]["Relationships"][0]["Ids"] = ["b2"]  # the word a2 is in no line
    first["NextToken"] = "more"
    found = pages("textract", put(tmp_path / "a.json", [first, second]))
    assert [[word.text for word in page.words] for page in found] == [["Total", "9.00"], ["9.00", "Total"]]
    assert "the response goes on (NextToken)" in problem("textract", put(tmp_path / "a.json", first))
    waiting = {"JobStatus": "IN_PROGRESS", "DocumentMetadata": {}}
    assert "without blocks (JobStatus IN_PROGRESS)" in problem("textract", put(tmp_path / "a.json", waiting))


def test_textract_expenses_without_blocks(tmp_path: Path) -> None:
    def part(text: str, box: tuple[float, float, float, float]) -> dict[str, Any]:
        return {"Text": text, "Geometry": {"Polygon": ocr_results.polygon(*box)}}

    amount = part("9.00", (0.8, 0.5, 0.9, 0.52))
    row = {"Type": {"Text": "EXPENSE_ROW"}, "ValueDetection": part("Tea 9.00", (0.1, 0.5, 0.9, 0.52)), "PageNumber": 1}
    price = {"Type": {"Text": "PRICE"}, "LabelDetection": part("Sum", (0.8, 0.4, 0.9, 0.42)), "ValueDetection": amount}
    vendor = {"Type": {"Text": "VENDOR"}, "ValueDetection": part("A B\nStreet", (0.1, 0.1, 0.4, 0.2)), "PageNumber": 1}
    expense = {
        "SummaryFields": [{"Type": {"Text": "TOTAL"}, "ValueDetection": amount}, vendor],
        "LineItemGroups": [{"LineItems": [{"LineItemExpenseFields": [row, price]}]}],
    }
    (page,) = pages("textract", put(tmp_path / "a.json", {"ExpenseDocuments": [expense]}))
    assert [word.text for word in page.words] == ["A", "B", "Street", "Sum", "9.00"]
    assert page.words[2].box == pytest.approx((0.1, 0.15, 0.4, 0.2))
    expense["Blocks"] = ocr_results.textract()["Blocks"]
    (page,) = pages("textract", put(tmp_path / "a.json", {"ExpenseDocuments": [expense]}))
    assert [word.text for word in page.words] == ["Total", "9.00"]
    (page,) = pages("textract", put(tmp_path / "a.json", {"IdentityDocuments": [ocr_results.textract()]}))
    assert [word.text for word in page.words] == ["Total", "9.00"]


def test_turned_text_gets_the_upright_box_around_it(tmp_path: Path) -> None:
    response = ocr_results.textract()
    corners = [{"X": 0.5, "Y": 0.1}, {"X": 0.6, "Y": 0.3}, {"X": 0.5, "Y": 0.4}, {"X": 0.4, "Y": 0.2}]
    response["Blocks"][2]["Geometry"]["Polygon"] = corners
    (page,) = pages("textract", put(tmp_path / "a.json", response))
    assert page.words[0].box == (0.4, 0.1, 0.6, 0.4)
    box = {"Left": 0.1, "Top": 0.2, "Width": 0.3, "Height": 0.1}
    response["Blocks"][2]["Geometry"] = {"BoundingBox": box}
    (page,) = pages("textract", put(tmp_path / "a.json", response))
    assert page.words[0].box == pytest.approx((0.1, 0.2, 0.4, 0.3))


# Azure and Google


def test_azure_version_2_and_the_keys_of_python(tmp_path: Path) -> None:
    words = [{"text": "Total", "boundingBox": [0.8, 1.6, 2.4, 1.6, 2.4, 2.4, 0.8, 2.4]}]
    page = {"page": 1, "width": 8, "height": 16, "unit": "inch", "lines": [{"text": "Total", "words": words}]}
    old = {"status": "succeeded", "analyzeResult": {"version": "2.1.0", "readResults": [page]}}
    (found,) = pages("azure", put(tmp_path / "a.json", old))
    assert found.words[0].box == pytest.approx((0.1, 0.1, 0.3, 0.15))
    del page["lines"]
    assert "ask for them with includeTextDetails=true" in problem("azure", put(tmp_path / "a.json", old))
    result = ocr_results.azure()["analyzeResult"]
    for word in result["pages"][0]["words"]:
        corners = word["polygon"]
        word["polygon"] = [{"x": x, "y": y} for x, y in zip(corners[::2], corners[1::2], strict=True)]
    result["pages"][0]["page_number"] = result["pages"][0].pop("pageNumber")
    result["pages"][0]["lines"] = None
    (found,) = pages("azure", put(tmp_path / "a.json", {"pages": result["pages"]}))
    assert [(word.text, word.segment) for word in found.words] == [("Total", None), ("9.00", None)]
    assert "status running" in problem("azure", put(tmp_path / "a.json", {"status": "running"}))


def test_google_vertices_in_pixels_and_the_keys_of_python(tmp_path: Path) -> None:
    document = ocr_results.google()
    layout = document["pages"][0]["tokens"][0]["layout"]
    layout["boundingPoly"] = {"vertices": [{}, {"x": 40}, {"x": 40, "y": 20}, {"y": 20}]}
    (page,) = pages("google", put(tmp_path / "a.json", {"document": document}))
    assert page.words[0].box == (0, 0, 0.2, 0.05)
    text = json.dumps(document)
    for name in ("textAnchor", "textSegments", "startIndex", "endIndex", "boundingPoly", "normalizedVertices"):
        text = text.replace(name, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))
    assert pages("google", put(tmp_path / "a.json", text))[0].words == page.words
    del document["pages"][0]["dimension"]
    assert "the page has no dimension" in problem("google", put(tmp_path / "a.json", document))
    del document["pages"][0]["tokens"]
    assert "page 1 has no tokens" in problem("google", put(tmp_path / "a.json", document))


# Real files of other tools


@pytest.mark.parametrize(
    ("format", "name", "words", "lines"),
    [
        ("alto", "alto/lorem-ipsum-scan.alto.xml", 100, 7),
        ("page-xml", "pagexml/00000139.page.xml", 244, 32),
        ("hocr", "tess.hocr", 503, 37),
        ("textract", "textract/table-example-response.json", 27, 20),
        ("textract", "textract/invoice-expense-response.json", 108, 58),
    ],
)
def test_real_files(format: str, name: str, words: int, lines: int, real_data: Path) -> None:
    file = real_data / "formats" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    (document,) = read_documents(DataSettings(format=format), file, "test")  # type: ignore[arg-type]
    assert (len(document.words), len(set(document.segments or ()))) == (words, lines)
