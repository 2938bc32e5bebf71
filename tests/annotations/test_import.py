"""Exports of Label Studio and PPOCRLabel become labelled pages, and the counts say what became of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.annotations import label_studio, ppocrlabel, region
from layoutner.annotations.importing import Imported, label_pages, pages_of_regions, write_pages
from layoutner.annotations.label_studio import Choice
from layoutner.documents.roles import read_documents
from layoutner.errors import DataError
from layoutner.pages.document import Document
from layoutner.pages.labels import to_spans
from layoutner.settings.data import DataSettings
from tests.builders.annotations import AMOUNT, NAME, invoice, ocr_template, rectangle, task
from tests.builders.mutations import mutated_bytes, mutated_values
from tests.builders.processes import call

ALL = ("O", "B-AMOUNT", "I-AMOUNT", "B-NAME", "I-NAME")


def put(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def imported(tmp_path: Path, tasks: Any, *pages: Document, by_order: bool = False, **choice: Any) -> Imported:
    export = label_studio.read_export(put(tmp_path / "export.json", tasks), Choice(**choice))
    return label_pages(export, pages or [invoice("a")], by_order, tmp_path)


def refusal(tmp_path: Path, tasks: Any, **choice: Any) -> str:
    with pytest.raises(DataError) as caught:
        imported(tmp_path, tasks, **choice)
    return str(caught.value)


def test_rectangles_become_labels_and_everything_is_counted(tmp_path: Path) -> None:
    relation = {"type": "relation", "from_id": "1", "to_id": "2", "labels": ["has"]}
    brush = rectangle("NAME", 0, 0, 9, 9, type="brushlabels")
    tasks = [
        task("/data/upload/1/0a1b2c3d-a.png", AMOUNT, NAME, rectangle("NAME", 80, 80, 9, 9), relation, relation, brush),
        task("c.png"),
        task("b.png"),
        task("b-p1.png", AMOUNT),
    ]
    found = imported(tmp_path, tasks, invoice("a"), invoice("b"), invoice("d"))
    assert [(page.name, page.tags) for page in found.documents] == [("a", ALL), ("b", ("O",) * 5)]
    assert found.lines() == [
        "pages: 2 with an annotation, 1 without",
        "words: 10, of which 4 in a region and 6 in none",
        "regions: 2 with words, 1 without",
        "entities: 2 (AMOUNT 1, NAME 1)",
        "1 page(s) without an annotation left out:",
        "  d",
        "1 annotation(s) without a page:",
        "  task 1 (c.png)",
        "1 annotation(s) of a page that has one already, left out:",
        "  task 1 (b-p1.png): b has task 1",
        "1 region(s) without a word:",
        "  a: NAME",
        "results of other kinds ignored: brushlabels (1)",
        "relations ignored: has (2)",
    ]


def test_turned_rectangles_polygons_and_labels_of_the_ocr_template(tmp_path: Path) -> None:
    # 50 % of the width at 800 x 1000 is 400 pixels; turned by 90 degrees they are 40 % of the height.
    word = invoice("a", group=None)
    tall = rectangle("AMOUNT", 42, 5, 50, 18, rotation=90)  # x from 19.5 % to 42 %, y from 5 % to 45 %
    (page,) = imported(tmp_path, [task("a.png", tall)], word).documents
    assert page.tags == ("O", "B-AMOUNT", "O", "O", "B-AMOUNT")
    corners = {"points": [[29, 9], [47, 9], [47, 13], [29, 13]], "polygonlabels": ["AMOUNT"]}
    polygon = {**AMOUNT, "type": "polygonlabels", "value": corners}
    (page,) = imported(tmp_path, [task("a.png", polygon, *ocr_template("NAME", "x", 9, 19, 16, 4, "r"))]).documents
    assert page.tags == ALL
    for points in ([[1, 2]], [[1, 2]] * 1001):
        corners["points"] = points
        assert f"a polygon of {len(points)} points; expected 3 to 1000" in refusal(tmp_path, [task("a.png", polygon)])


def test_the_latest_annotation_or_that_of_an_annotator(tmp_path: Path) -> None:
    def by(who: Any, when: str, *results: Any, cancelled: bool = False) -> dict[str, Any]:
        return {"completed_by": who, "updated_at": when, "result": list(results), "was_cancelled": cancelled}

    annotations = [
        by({"id": 7, "email": "b@x.org"}, "2026-02-01", AMOUNT),
        by({"id": 5, "email": "a@x.org"}, "2026-01-01", NAME),
        by(9, "2026-03-01", AMOUNT, NAME, cancelled=True),
    ]
    tasks = [{**task("a.png"), "annotations": annotations}]
    found = imported(tmp_path, tasks)
    assert found.documents[0].tags == ("O", "B-AMOUNT", "I-AMOUNT", "O", "O")
    assert "1 task(s) with several annotations: the latest taken; --annotator chooses another" in found.notes
    assert "1 cancelled annotation(s) not read" in found.notes
    for who in ("a@x.org", "5"):
        assert imported(tmp_path, tasks, annotator=who).documents[0].tags == ("O", "O", "O", "B-NAME", "I-NAME")
    assert "no task has an annotation by 9" in refusal(tmp_path, tasks, annotator="9")


def test_predictions_only_if_asked(tmp_path: Path) -> None:
    tasks = [{"data": {"image": "a.png"}, "predictions": [{"model_version": "m", "result": [AMOUNT]}]}]
    assert refusal(tmp_path, tasks).endswith(
        "no task has an annotation, but 1 have predictions: --predictions imports these"
    )
    found = imported(tmp_path, [*tasks, task("b.png", NAME)], invoice("a"), invoice("b"), predictions=True)
    assert [page.tags and page.tags[1] for page in found.documents] == ["B-AMOUNT", "O"]
    assert "1 task(s) by the predictions of 'm'" in found.notes


def test_json_min(tmp_path: Path) -> None:
    def row(label: str, text: str, x: float, y: float, width: float, height: float) -> Any:
        bbox, labelled, _ = ocr_template(label, text, x, y, width, height, "r")
        size = {"original_width": 800, "original_height": 1000}
        return {**bbox["value"], **size}, {**labelled["value"], **size}, text

    parts = [row("AMOUNT", "9.00 EUR", 29, 9, 18, 4), row("NAME", "Acme Ltd", 9, 19, 16, 4)]
    boxes, labels, texts = map(list, zip(*parts, strict=True))
    rows = [{"ocr": "/data/upload/1/0a1b2c3d-a.png", "id": 3, "bbox": boxes, "label": labels, "transcription": texts}]
    assert imported(tmp_path, rows).documents[0].tags == ALL
    (page,) = pages_of_regions(label_studio.read_export(tmp_path / "export.json", Choice()), tmp_path).documents
    assert (page.name, page.words) == ("a", ("9.00", "EUR", "Acme", "Ltd"))
    assert page.tags == ALL[1:]
    rows = [{**rows[0], "bbox": boxes[:1], "label": labels[:1], "transcription": "9.00 EUR"}]
    export = label_studio.read_export(put(tmp_path / "export.json", rows), Choice())
    assert pages_of_regions(export, tmp_path).documents[0].words == ("9.00", "EUR")


def test_documents_of_several_pages(tmp_path: Path) -> None:
    name = {**NAME, "item_index": 1}
    tasks = [{**task("", AMOUNT, name), "data": {"pages": ["/x/a.png", "/x/b.png", "/x/c.png"]}}]
    found = imported(tmp_path, tasks, invoice("a"), invoice("b"))
    assert [page.tags for page in found.documents] == [(*ALL[:3], "O", "O"), ("O", "O", "O", *ALL[3:])]
    assert found.unmatched == ["task 1 page 3 (/x/c.png)"]


def test_by_order_and_names_that_fit_nothing(tmp_path: Path) -> None:
    tasks = [task("x.png", AMOUNT), task("y.png", NAME)]
    assert "no annotation has the name of a page: the first is of 'x.png', and the first page is 'a'" in refusal(
        tmp_path, tasks
    )
    found = imported(tmp_path, tasks, invoice("a"), invoice("b"), by_order=True)
    assert [page.tags and page.tags[1] for page in found.documents] == ["B-AMOUNT", "O"]
    with pytest.raises(DataError, match="2 annotated pages and 1 pages: they can be matched by order only if"):
        imported(tmp_path, tasks, by_order=True)


def test_an_image_turned_in_the_tool_is_left_out_and_said(tmp_path: Path) -> None:
    turned = {**AMOUNT, "image_rotation": 90}
    found = imported(tmp_path, [task("a.png", turned), task("b.png", NAME)], invoice("a"), invoice("b"))
    assert [page.name for page in found.documents] == ["b"]
    left = "  task 1: drawn on an image turned by 90 degrees: turn the image itself, and draw again"
    assert found.lines()[-2:] == ["1 annotated page(s) left out:", left]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "expected a list of tasks; export as JSON or JSON-MIN"),
        ([{"a": 1}], "it has no regions; export as JSON or JSON-MIN"),
        ([task("a.png", rectangle("", 1, 1, 1, 1))], "the label '' is not the name of an entity type"),
        ([task("a.png", rectangle("A\nB", 1, 1, 1, 1))], "is not the name of an entity type"),
        ([task("a.png", rectangle("A", 1, 1, 1, 1e9))], "is not on the page"),
        ([task("a.png", {"type": "rectanglelabels", "value": {}})], "not a Label Studio task: KeyError: 'x'"),
        ([task("a.png", {**AMOUNT, "type": "brushlabels"})], "only regions of the kinds brushlabels: draw rectangles"),
    ],
)
def test_what_is_no_export_is_refused(tasks: Any, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, tasks)


def test_too_many_regions_on_a_page_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio, "MOST_REGIONS", 2)
    assert "task 1: 3 regions on one page, more than 2" in refusal(tmp_path, [task("a.png", *[AMOUNT] * 3)])


# Without pages


def test_transcriptions_are_words_in_reading_order(tmp_path: Path) -> None:
    results = [
        *ocr_template("NAME", "Acme  Ltd", 10, 50, 20, 2, "c"),
        *ocr_template("TOTAL", "9.00", 60, 10.5, 10, 2, "b"),
        *ocr_template("DATE", "1 May", 10, 10, 10, 2, "a"),
        *ocr_template("X", "no label", 10, 80, 10, 2, "d")[::2],
    ]
    Image.new("L", (80, 100)).save(tmp_path / "p.png")
    export = label_studio.read_export(put(tmp_path / "e.json", [task("0a1b2c3d-p.png", *results)]), Choice())
    found = pages_of_regions(export, tmp_path)
    (page,) = found.documents
    assert page.words == ("1", "May", "9.00", "Acme", "Ltd", "no", "label")
    assert page.tags == ("B-DATE", "I-DATE", "B-TOTAL", "B-NAME", "I-NAME", "O", "O")
    assert page.boxes[:3] == ((100, 100, 120, 120), (140, 100, 200, 120), (600, 105, 700, 125))
    assert page.image is not None
    assert (page.image.path, page.page_size, page.segments) == (tmp_path / "p.png", (80, 100), (0, 0, 1, 2, 2, 3, 3))
    assert write_pages(found.documents, tmp_path / "out.jsonl") == 0
    (again,) = read_documents(DataSettings(format="jsonl"), tmp_path / "out.jsonl", "train")
    assert (again.words, again.tags, again.boxes, again.image) == (page.words, page.tags, page.boxes, page.image)
    bare = label_studio.read_export(put(tmp_path / "e.json", [task("p.png", AMOUNT)]), Choice())
    with pytest.raises(DataError, match="none of the 1 regions has a transcription, .*: give --pages"):
        pages_of_regions(bare, tmp_path)


# PPOCRLabel


def test_ppocrlabel(tmp_path: Path) -> None:
    def box(x0: int, y0: int, x1: int, y1: int, text: str, **more: Any) -> dict[str, Any]:
        points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
        return {"transcription": text, "points": points, "difficult": False, **more}

    Image.new("L", (400, 500)).save(tmp_path / "a.png")  # the page says 800 x 1000
    regions = [
        box(116, 45, 188, 65, "9.00 EUR", key_cls="AMOUNT"),
        box(36, 95, 100, 115, "Acme Ltd", key_cls="NAME"),
        box(40, 50, 80, 60, "Total", key_cls="None"),
    ]
    put(tmp_path / "Label.txt", f"data/a.png\t{json.dumps(regions)}\n\n")
    export = ppocrlabel.read_export(tmp_path)
    found = label_pages(export, [invoice("a")], False, tmp_path)
    assert found.documents[0].tags == ALL
    assert found.counts.unlabelled == 1
    (page,) = pages_of_regions(export, tmp_path).documents
    assert page.words == ("Total", "9.00", "EUR", "Acme", "Ltd")
    assert page.tags == ALL
    assert page.page_size == (400, 500)
    put(tmp_path / "Label.txt", f"data/a.png\t{json.dumps(regions)}\n".replace("key_cls", "label"))
    assert pages_of_regions(ppocrlabel.read_export(tmp_path), tmp_path).documents[0].tags == ALL
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="the size of a is not known: put its image next to the export"):
        pages_of_regions(export, tmp_path)
    for text, message in (
        ("a.png [1]", "line 1: expected a path, a tab and a JSON list"),
        ("a.png\t[1]", "line 1: not of PPOCRLabel: TypeError"),
        ("a.png\t[{", "line 1: not of PPOCRLabel: JSONDecodeError"),
        ('a.png\t[{"points": [[1, 2]]}]', "line 1: points .* are not a region"),
        ('a.png\t[{"points": [[1, 2], [1, 2], [1e99, 2]]}]', "line 1: points .* are not a region"),
        (f"a.png\t{json.dumps(regions[2:])}", "no region has a key_cls: start PPOCRLabel with --kie True"),
    ):
        with pytest.raises(DataError, match=message):
            ppocrlabel.read_export(put(tmp_path / "Label.txt", text))


# The command


def write_jsonl(file: Path, *pages: Document) -> Path:
    write_pages(pages, file)
    return file


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = write_jsonl(tmp_path / "pages.jsonl", invoice("a"), invoice("b"))
    export = put(tmp_path / "export.json", [task("a.png", AMOUNT, NAME)])
    out = tmp_path / "new" / "train.jsonl"
    arguments = ("data", "import", export, "--from", "label-studio", "--pages", pages, "--out", out)
    code, said, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    assert said.startswith(f"{out}: 1 pages\npages: 1 with an annotation, 1 without\nwords: 5, of which 4 in a region")
    (page,) = read_documents(DataSettings(format="jsonl"), out, "train")
    assert page.tags == ALL
    before = out.read_bytes()
    for more, message in (
        ((*arguments, "--annotator", "x"), "no task has an annotation by x"),
        ((*arguments[:5], "--out", out), "none of the 2 regions has a transcription"),
        ((*arguments[:5], "--out", out, "--by-order"), "--by-order without --pages"),
        ((*arguments[:4], "ppocrlabel", "--out", out, "--predictions"), "--annotator and --predictions are for"),
        ((*arguments[:4], "ppocrlabel", "--out", out), "is a Label Studio export; --from label-studio reads it)"),
    ):
        code, said, err = call(capsys, *more)
        assert (code, said, len(err.splitlines())) == (2, "", 1)
        assert message in err
    assert out.read_bytes() == before
    assert [file.name for file in out.parent.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", {"images": [], "annotations": [], "categories": []}, "a COCO file"),
        ("a.csv", "image,label\na.png,[]\n", "a CSV table"),
        ("a.zip", "PK\3\4", "an archive"),
        ("a.xml", "<annotation/>", "a Pascal VOC file"),
    ],
)
def test_other_exports_of_label_studio_are_named(
    name: str, content: Any, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = put(tmp_path / name, content)
    code, _, err = call(capsys, "data", "import", export, "--from", "label-studio", "--out", tmp_path / "out")
    assert code == 2
    assert err.endswith(f"({export} is {what}; export it from Label Studio as JSON or JSON-MIN)\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", ["label-studio", "ppocrlabel"])
@pytest.mark.parametrize("with_pages", [True, False])
def test_damaged_exports_give_pages_or_one_error(tool: str, with_pages: bool, tmp_path: Path) -> None:
    regions = [*ocr_template("NAME", "Acme Ltd", 9, 19, 16, 4, "a"), {**AMOUNT, "id": "b"}]
    line = [{"transcription": "Acme", "points": [[9, 9], [99, 9], [99, 30]], "key_cls": "NAME"}]
    sound: Any = [task("a.png", *regions)] if tool == "label-studio" else line
    prefix = b"" if tool == "label-studio" else b"a.png\t"
    Image.new("L", (400, 500)).save(tmp_path / "a.png")
    damaged = [prefix + json.dumps(value).encode() for value in mutated_values(sound, 200, seed=3)]
    damaged += mutated_bytes(prefix + json.dumps(sound).encode(), 100, seed=4)
    made, errors = 0, []
    for content in damaged:
        (tmp_path / "export").write_bytes(content)
        try:
            if tool == "label-studio":
                export: region.Export = label_studio.read_export(tmp_path / "export", Choice())
            else:
                export = ppocrlabel.read_export(tmp_path / "export")
            pages = [invoice("a")]
            found = label_pages(export, pages, False, tmp_path) if with_pages else pages_of_regions(export, tmp_path)
            write_pages(found.documents, tmp_path / "out.jsonl")
            found.lines()
            made += 1
        except DataError as error:
            errors.append(str(error))
        else:
            read = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
            assert all(word["label"] for page in read for word in page["words"])
    assert made > 10
    assert len(errors) > 20
    assert all(len(error) < 2000 for error in errors)


# Real exports


def test_regions_of_funsd_give_its_own_labels_again(real_data: Path) -> None:
    file = real_data / "formats" / "label-studio-funsd-4-pages.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    pages = read_documents(DataSettings(format="funsd"), real_data / "funsd" / "testing_data", "test")
    found = label_pages(label_studio.read_export(file, Choice(predictions=True)), pages, False, file.parent)
    own = {page.name: page.tags for page in pages}
    words = 0
    for page in found.documents:
        assert page.tags is not None
        spans = [(span.type.upper(), span.start, span.end) for span in to_spans(page.tags) if span.type != "other"]
        assert spans == to_spans(own[page.name] or ())
        words += len(page.words)
    assert (len(found.documents), words, found.counts.matched, len(found.counts.empty)) == (4, 826, 163, 7)
