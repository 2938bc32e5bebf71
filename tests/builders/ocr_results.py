"""Small files of OCR results, of the shape that engines and services give them: the words Total and 9.00 in a line."""

import json
from pathlib import Path
from typing import Any

HOCR = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title></title>
<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/><meta name='ocr-system' content='x'/></head><body>
 <div class='ocr_page' id='page_1' title='image "f.png"; bbox 0 0 200 400; ppageno 0; scan_res 96 96'>
  <!-- a > comment --><p class='ocr_par' title="bbox 20 40 190 80">
   <span class='ocr_line' title="bbox 20 40 190 80; baseline 0 -5">
    <span class='ocrx_word' title='bbox 20 40 60 60; x_wconf 96' lang='eng'>To<em>tal</em></span>
    <span class='ocrx_word' title='x_wconf 3; bbox 150 40 190 60'>9.00</span>
   </span></p></div></body></html>
"""

ALTO = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v3#"><Description><MeasurementUnit>pixel</MeasurementUnit>
<sourceImageInformation><fileName>f.png</fileName></sourceImageInformation></Description><Layout>
<Page WIDTH="200" HEIGHT="400" ID="p0"><PrintSpace HPOS="0" VPOS="0" WIDTH="200" HEIGHT="400"><TextBlock ID="b0">
<TextLine HPOS="20" VPOS="40" WIDTH="170" HEIGHT="20"><String HPOS="20" VPOS="40" WIDTH="40" HEIGHT="20" CONTENT="Total"
WC="0.9"/><SP WIDTH="90" VPOS="40" HPOS="60"/><String HPOS="150" VPOS="40" WIDTH="40" HEIGHT="20" CONTENT="9.00"/>
</TextLine></TextBlock></PrintSpace></Page></Layout></alto>
"""

PAGE_XML = """<?xml version="1.0" encoding="UTF-8"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">
<Page imageFilename="f.png" imageWidth="200" imageHeight="400">
<TextRegion id="r0"><Coords points="20,40 190,40 190,60 20,60"/>
<TextLine id="l0"><Coords points="20,40 190,40 190,60 20,60"/>
<Word id="w0"><Coords points="20,40 60,41 60,60 20,60"/><TextEquiv><Unicode>Total</Unicode></TextEquiv></Word>
<Word id="w1"><Coords points="150,40 190,40 190,60 150,60"/><TextEquiv index="1"><Unicode>9,00</Unicode></TextEquiv>
<TextEquiv index="0"><Unicode>9.00</Unicode></TextEquiv></Word></TextLine></TextRegion></Page></PcGts>
"""


def polygon(x0: float, y0: float, x1: float, y1: float, names: str = "XY") -> list[dict[str, float]]:
    """The corners of a box in fractions of the page, as objects."""
    return [{names[0]: x, names[1]: y} for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]


TOTAL, AMOUNT = (0.1, 0.1, 0.3, 0.15), (0.75, 0.1, 0.95, 0.15)  # boxes of the words, in fractions of the page


def textract() -> dict[str, Any]:
    def block(kind: str, name: str, box: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
        return {"BlockType": kind, "Id": name, "Page": 1, "Geometry": {"Polygon": polygon(*box)}, **more}

    words = [block("WORD", "a", TOTAL, Text="Total"), block("WORD", "b", AMOUNT, Text="9.00")]
    children = [{"Type": "CHILD", "Ids": ["a", "b"]}]
    page = block("PAGE", "p", (0.0, 0.0, 1.0, 1.0))
    line = block("LINE", "l", (0.1, 0.1, 0.95, 0.15), Text="Total 9.00", Relationships=children)
    return {"DocumentMetadata": {"Pages": 1}, "Blocks": [page, line, *words]}


def azure() -> dict[str, Any]:
    def at(box: tuple[float, float, float, float]) -> list[float]:
        x0, y0, x1, y1 = (round(side * size, 4) for side, size in zip(box, (8, 16, 8, 16), strict=True))
        return [x0, y0, x1, y0, x1, y1, x0, y1]

    words = [
        {"content": "Total", "polygon": at(TOTAL), "confidence": 0.9, "span": {"offset": 0, "length": 5}},
        {"content": "9.00", "polygon": at(AMOUNT), "confidence": 0.9, "span": {"offset": 6, "length": 4}},
    ]
    line = {"content": "Total 9.00", "polygon": at(TOTAL), "spans": [{"offset": 0, "length": 10}]}
    page = {"pageNumber": 1, "angle": 0, "width": 8, "height": 16, "unit": "inch", "words": words, "lines": [line]}
    result = {"apiVersion": "2024-11-30", "modelId": "prebuilt-read", "content": "Total 9.00", "pages": [page]}
    return {"status": "succeeded", "analyzeResult": result}


def google() -> dict[str, Any]:
    def layout(box: tuple[float, float, float, float], start: int, end: int) -> dict[str, Any]:
        segment = {"endIndex": str(end), **({"startIndex": str(start)} if start else {})}
        corners = {"normalizedVertices": polygon(*box, "xy")}
        return {"layout": {"textAnchor": {"textSegments": [segment]}, "boundingPoly": corners}}

    page = {
        "pageNumber": "1",
        "dimension": {"width": 200, "height": 400, "unit": "pixels"},
        "lines": [layout((0.1, 0.1, 0.95, 0.15), 0, 11)],
        "tokens": [layout(TOTAL, 0, 6), layout(AMOUNT, 6, 11)],
    }
    return {"mimeType": "image/png", "text": "Total 9.00\n", "pages": [page]}


def doctr() -> dict[str, Any]:
    def word(text: str, box: tuple[float, float, float, float]) -> dict[str, Any]:
        return {"value": text, "confidence": 0.9, "geometry": [[box[0], box[1]], [box[2], box[3]]]}

    line = {"geometry": [[0.1, 0.1], [0.95, 0.15]], "words": [word("Total", TOTAL), word("9.00", AMOUNT)]}
    block = {"geometry": line["geometry"], "lines": [line], "artefacts": []}
    return {"pages": [{"page_idx": 0, "dimensions": [400, 200], "blocks": [block]}]}


CONTENTS: dict[str, tuple[str, str]] = {  # format -> name of the file and its content
    "hocr": ("f.hocr", HOCR),
    "alto": ("f.alto.xml", ALTO),
    "page-xml": ("f.page.xml", PAGE_XML),
    "textract": ("f.json", json.dumps(textract())),
    "azure": ("f.json", json.dumps(azure())),
    "google": ("f.json", json.dumps(google())),
    "doctr": ("f.json", json.dumps(doctr())),
}


def write(folder: Path, format: str) -> Path:
    name, content = CONTENTS[format]
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name
