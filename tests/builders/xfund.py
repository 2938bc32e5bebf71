"""XFUND forms."""

import json
from pathlib import Path
from typing import Any


def entity(label: str, text: str, boxes: list[list[int]], number: int = 0) -> dict[str, Any]:
    words = [{"box": box, "text": word} for box, word in zip(boxes, text.split(), strict=True)]
    return {"box": boxes[0], "text": text, "label": label, "words": words, "linking": [[0, 1]], "id": number}


def form(name: str = "zh_train_0", *entities: dict[str, Any]) -> dict[str, Any]:
    entities = entities or (
        entity("header", "申 请", [[100, 40, 150, 80], [150, 40, 200, 80]]),
        entity("question", "姓 名 :", [[10, 100, 30, 120], [30, 100, 50, 120], [50, 100, 60, 120]], 1),
        entity("answer", "王", [[70, 100, 90, 120]], 2),
        entity("other", "第1页", [[0, 380, 200, 400]], 3),
    )
    image = {"fname": f"{name}.jpg", "width": 200, "height": 400}
    return {"id": name, "uid": "0ac1", "document": list(entities), "img": image}


def write(folder: Path, name: str, *documents: Any) -> Path:
    lang, split, _ = name.split(".")
    content = {"lang": lang, "version": "0.1", "split": split, "documents": list(documents)}
    (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder / name
