"""ALTO 2, 3 and 4: strings in lines, in pixels, tenths of a millimetre or 1/1200 inch."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from layoutner.errors import DataError
from layoutner.ocr_results.result_files import ResultPage, read_results
from layoutner.ocr_results.xml_tree import read_xml
from layoutner.pages.page import Page, PageSize, Problem, Word
from layoutner.pages.text_lines import LineBox, cut_line

SUFFIXES = (".alto.xml", ".alto", ".xml")


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read an ALTO file or a folder of them. Lines are segments, in the order of the file.

    A hyphen at the end of a line (HYP) belongs to the word before it. The parts of a divided word are two words, as
    they are printed. The unit of length is that of the page size, so MeasurementUnit makes no difference.

    Args:
        path: a file, or a folder of .xml files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, SUFFIXES, "an ALTO file", _parse)


def _parse(file: Path, _notes: list[str]) -> list[ResultPage]:
    root = read_xml(file)
    if root.tag.lower() != "alto":
        raise DataError(f"{file}: not an ALTO file: its root element is {root.tag[:40]}")
    pages = list(root.iter("Page"))
    name = root.findtext(".//sourceImageInformation/fileName", "").strip()
    return [ResultPage(_words(page), _size(page), image=name if len(pages) == 1 else None) for page in pages]


def _size(page: Element) -> PageSize | None:
    """Width and height; those of the printed space, which starts at its corner, if the page has none."""
    if "WIDTH" in page.attrib and "HEIGHT" in page.attrib:
        return float(page.attrib["WIDTH"]), float(page.attrib["HEIGHT"])
    space = page.find("PrintSpace")
    if space is None or not {"WIDTH", "HEIGHT"} <= space.attrib.keys():
        return None
    x0, y0 = float(space.get("HPOS", 0)), float(space.get("VPOS", 0))
    return x0 + float(space.attrib["WIDTH"]), y0 + float(space.attrib["HEIGHT"])


def _words(page: Element) -> list[Word]:
    words: list[Word] = []
    for number, line in enumerate(page.iter("TextLine")):
        found: list[tuple[str, LineBox | None]] = []
        for part in line:
            if part.tag == "String":
                found.append((part.attrib["CONTENT"].strip(), _box(part)))
            elif part.tag == "HYP" and found:
                text, box = found[-1]
                found[-1] = text + part.get("CONTENT", "-"), _union(box, _box(part))
        found = [(text, box) for text, box in found if text]
        boxes = [box for _, box in found if box is not None]
        if len(boxes) == len(found):
            words += [Word(text, box, None, number) for (text, _), box in zip(found, boxes, strict=True)]
        elif (around := _box(line)) is not None:  # positions of strings may be left out
            text = " ".join(text for text, _ in found)
            words += [Word(word, box, None, number) for word, box in cut_line(text, around)]
        else:
            raise DataError(f"the line {found[0][0][:40]!r} has neither HPOS, VPOS, WIDTH and HEIGHT nor its strings")
    return words


def _box(part: Element) -> LineBox | None:
    try:
        x, y, width, height = (float(part.attrib[side]) for side in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
    except KeyError:
        return None
    return x, y, x + width, y + height


def _union(one: LineBox | None, other: LineBox | None) -> LineBox | None:
    if one is None or other is None:
        return one
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
