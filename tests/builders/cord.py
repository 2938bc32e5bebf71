"""CORD receipts."""

import json
from pathlib import Path
from typing import Any


def word(text: object, x0: int = 10, y0: int = 20, x1: int = 60, y1: int = 40) -> dict[str, Any]:
    quad = {"x1": x0, "y1": y0 + 2, "x2": x1, "y2": y0, "x3": x1, "y3": y1, "x4": x0 + 1, "y4": y1}
    return {"quad": quad, "is_key": 0, "row_id": 1, "text": text}


def receipt() -> dict[str, Any]:
    return {
        "gt_parse": {"menu": []},
        "meta": {"version": "2.0.0", "split": "train", "image_id": 0, "image_size": {"width": 200, "height": 400}},
        "valid_line": [
            {"words": [word("Nasi"), word(" "), word("Goreng", 70, 20, 120, 40)], "category": "menu.nm", "group_id": 3},
            {"words": [word("x"), word("thanks")], "category": "Other", "group_id": 4},
            {"words": [word("Tea")], "category": "menu.nm", "group_id": 5},
            {"words": [], "category": "menu.price", "group_id": 5},
            {"words": [word("75,000")], "category": "total.total_price", "group_id": 6},
        ],
    }


def write(folder: Path, content: object, name: str = "a") -> Path:
    (folder / "json").mkdir(parents=True, exist_ok=True)
    (folder / "json" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
