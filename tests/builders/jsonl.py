"""Pages with labels, as lines of JSON."""

import json
from pathlib import Path
from typing import Any


def page(name: str = "a", **more: Any) -> dict[str, Any]:
    words = [
        {"text": "Total", "box": [10, 20, 110, 40], "label": "B-KEY", "segment": 4},
        {"text": "9.00", "box": [900, 20, 1000, 40], "label": "O", "segment": 5},
    ]
    return {"document": name, "page_size": [200, 400], "words": words, **more}


def write(path: Path, *pages: Any) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in pages), encoding="utf-8")
    return path
