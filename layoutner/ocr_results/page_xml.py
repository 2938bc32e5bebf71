"""PAGE-XML (PRImA, Transkribus, OCR-D, eScriptorium): words as polygons, or lines whose boxes are divided."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from layoutner.errors import DataError
from layoutner.ocr_results.result_files import ResultPage, read_results
from layoutner.ocr_results.xml_tree import read_xml
from layoutner.pages.page import Page, Problem, Word
from layoutner.pages.text_lines import LineBox, around, cut_line

SUFFIXES = (".page.xml", ".xml")


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a PAGE-XML file or a folder of them. Lines are segments; regions come in the ReadingOrder.

    Of several readings (TextEquiv) the one with the lowest index is used. The box of a line without words is divided
    among the words of its text in proportion to their characters. Regions with a text but without lines are left out,
    and a note counts them.

    Args:
        path: a file, or a folder of .xml files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, SUFFIXES, "a PAGE-XML file", _parse)


def _parse(file: Path, _notes: list[str]) -> list[ResultPage]:
    root = read_xml(file)
    if root.tag.lower() != "pcgts":
        raise DataError(f"{file}: not a PAGE-XML file: its root element is {root.tag[:40]}")
    return [_page(page) for page in root.iter("Page")]


def _page(page: Element) -> ResultPage:
    words: list[Word] = []
    lines = without_lines = 0
    for region in _ordered_regions(page):
        own_lines = region.findall("TextLine")
        without_lines += not own_lines and region.find("TextRegion") is None and bool(_text(region))
        for line in own_lines:
            words += [Word(text, box, None, lines) for text, box in _line_words(line)]
            lines += 1
    size = float(page.attrib["imageWidth"]), float(page.attrib["imageHeight"])
    note = f"{without_lines} text region(s) have a text, but no lines" if without_lines else ""
    return ResultPage(words, size, image=page.get("imageFilename"), note=note)


def _ordered_regions(page: Element) -> list[Element]:
    """Text regions, also those inside other regions, in the reading order; those that it does not name come last."""
    order: dict[str, int] = {}
    reading_order = page.find("ReadingOrder")
    for group in () if reading_order is None else reading_order:
        _add_references(group, order)
    regions = list(page.iter("TextRegion"))
    return sorted(regions, key=lambda region: order.get(region.get("id", ""), len(order)))


def _add_references(group: Element, order: dict[str, int]) -> None:
    for part in sorted(group, key=lambda part: int(part.get("index", 0))):
        if reference := part.get("regionRef"):
            order.setdefault(reference, len(order))
        _add_references(part, order)


def _line_words(line: Element) -> Iterator[tuple[str, LineBox]]:
    words = [(text, word) for word in line.findall("Word") if (text := _text(word))]
    if words:
        for text, word in words:
            yield text, _box(word)
    elif text := _text(line):
        yield from cut_line(text, _box(line))


def _text(part: Element) -> str:
    """The text of the reading with the lowest index; "" if there is none."""
    readings = part.findall("TextEquiv")
    if not readings:
        return ""
    best = min(readings, key=lambda reading: int(reading.get("index", 0)))
    return (best.findtext("Unicode") or best.findtext("PlainText") or "").strip()


def _box(part: Element) -> LineBox:
    coords = part.find("Coords")
    if coords is None:
        raise DataError(f"the {part.tag} {part.get('id', '')[:40]} has no Coords")
    if (text := coords.get("points")) is not None:
        pairs = [pair.split(",") for pair in text.split()]
    else:  # before 2013
        pairs = [[point.attrib["x"], point.attrib["y"]] for point in coords.findall("Point")]
    if not pairs:
        raise DataError(f"the Coords of the {part.tag} {part.get('id', '')[:40]} have no points")
    return around([(float(x), float(y)) for x, y in pairs])
