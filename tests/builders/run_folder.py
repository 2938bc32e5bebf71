"""Folders of runs that nobody trained: their settings, metrics and scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from layoutner.objectives.errors import Errors
from layoutner.objectives.metrics import Scores
from layoutner.pages.labels import LabelSet
from layoutner.settings.tree import load
from tests.builders.errors import errors_of, tagged_page
from tests.builders.scores import score_tags


def run_folder(
    folder: Path,
    rows: Sequence[Mapping[str, float | None]],
    scores: Scores | None = None,
    errors: Errors | None = None,
    **optimizer: str,
) -> Path:
    """Write the files that are looked at after a run.

    Args:
        rows: of metrics.jsonl.
    """
    folder.mkdir()
    settings = load(None, {"run": {"output_dir": str(folder)}, "optimizer": optimizer})
    (folder / "settings.toml").write_text(settings.to_toml())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if scores is not None:
        tree = {"format_version": 1, **scores.to_dict(), "checkpoint": {"step": 2, "by": "eval f1"}}
        (folder / "scores.json").write_text(json.dumps(tree))
    if errors is not None:
        errors.write(folder / "errors.json")
    return folder


HOSTILE = [
    "<script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 2">',
    "</svg></title><script>window.ran = 3</script>",
    "{{ 7 * 191 }}",
    "'-alert(1)-'\x00\x1b[31m\u202e",
]


def hostile_run(folder: Path) -> Path:
    """A run in whose types, words and names somebody has put markup."""
    labels = LabelSet("BIO", (HOSTILE[0], HOSTILE[1]))
    truth = ["O", f"B-{HOSTILE[0]}", f"B-{HOSTILE[1]}", "O", "O"]
    predicted = [f"B-{HOSTILE[1]}", "O", f"B-{HOSTILE[0]}", "O", f"B-{HOSTILE[0]}"]
    errors = errors_of([(tagged_page(HOSTILE[2], HOSTILE, truth), predicted)], labels)
    return run_folder(folder, [{"step": 1}], score_tags([truth], [predicted], labels), errors)
