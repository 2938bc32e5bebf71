"""A sound input of every format."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from tests.builders import cord, jsonl, sroie, xfund


class Case(NamedTuple):
    """A sound input, of which one file at a time is damaged."""

    path: Path  # what the command is given
    files: list[Path]  # the first of them is JSON, if any is


def funsd_input(folder: Path) -> Case:
    words = [{"text": "Total", "box": [10, 20, 60, 40]}, {"text": "9.00", "box": [65, 20, 90, 40]}]
    entities = [{"label": "key", "words": words, "id": 0}, {"label": "other", "words": words[:1], "id": 1}]
    for name, content in (("annotations/f.json", json.dumps({"form": entities}).encode()), ("images/f.png", png())):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
    return Case(folder, [folder / "annotations" / "f.json"])


def image_input(folder: Path) -> Case:
    funsd_input(folder)
    return Case(folder, [folder / "images" / "f.png"])


def unilm_input(folder: Path) -> Case:
    rows = [(f"w{n}\tB-KEY", f"w{n}\t{n} 2 {n} 4", f"w{n}\t1 2 3 4\t90 60\tp{n // 4}.png") for n in range(12)]
    files = [folder / f"test{suffix}.txt" for suffix in ("", "_box", "_image")]
    for file, lines in zip(files, zip(*rows, strict=True), strict=True):
        file.write_text("\n".join(lines) + "\n")
    return Case(files[0], files)


def sroie_input(folder: Path) -> Case:
    sroie.receipt(folder, name="f", image=False)
    (folder / "page_sizes.tsv").write_text("key\twidth_px\theight_px\nf\t500\t600\n")
    return Case(folder, [folder / "entities" / "f.json", folder / "box" / "f.csv", folder / "page_sizes.tsv"])


def cord_input(folder: Path) -> Case:
    cord.write(folder, cord.receipt(), "f")
    return Case(folder, [folder / "json" / "f.json"])


def xfund_input(folder: Path) -> Case:
    file = xfund.write(folder, "zh.train.json", xfund.form("a"), xfund.form("b"))
    return Case(file, [file])


def jsonl_input(folder: Path) -> Case:
    Image.new("L", (20, 40)).save(folder / "p.png")
    file = jsonl.write(folder / "f.jsonl", jsonl.page(image="p.png", unit="thousandths"))
    return Case(file, [file])


def hub_input(folder: Path) -> Case:
    from tests.builders import hub  # skips the test without datasets

    file = hub.parquet(folder / "f.parquet", hub.row("a"), hub.row("b"))
    return Case(file, [file])


def ocr_input(folder: Path) -> Case:
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract: apt-get install tesseract-ocr")
    (folder / "f.png").write_bytes(png())
    return Case(folder / "f.png", [folder / "f.png"])


def png(width: int = 90, height: int = 60) -> bytes:
    content = BytesIO()
    Image.effect_noise((width, height), 60).save(content, "PNG")
    return content.getvalue()


MAKERS: dict[str, Callable[[Path], Case]] = {
    "funsd": funsd_input,
    "image": image_input,
    "unilm": unilm_input,
    "sroie": sroie_input,
    "cord": cord_input,
    "xfund": xfund_input,
    "jsonl": jsonl_input,
    "hub": hub_input,
    "ocr": ocr_input,
}
