"""Scores of tag sequences: ours, and seqeval's as the oracle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2, IOBES

from layoutner.corpus.windows import ends_of
from layoutner.objectives.entities import count_entities
from layoutner.objectives.metrics import Scores, score
from layoutner.pages.labels import LabelSet, Span, to_spans, to_tags

Pages = Sequence[Sequence[str]]


def score_tags(truth: Pages, predicted: Pages, labels: LabelSet, split: str = "test", loss: float = 0.0) -> Scores:
    """Score the tag sequences of some pages."""
    ids = labels.ids
    flat = [np.array([ids[tag] for page in side for tag in page], np.int64) for side in (truth, predicted)]
    counted = count_entities(*flat, ends_of(map(len, truth)), labels)
    counts = {"documents": len(truth), "windows": len(truth), "words": len(flat[0])}
    return score(counted, labels, counts, split=split, box_level="word", loss=loss)


def seqeval_scores(truth: Pages, predicted: Pages, scheme: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(all types, type -> scores), in the keys of `Scores`, by seqeval in strict mode.

    All sequences are rewritten as valid ones first, because seqeval would not count the other entities. Types get
    numbers for names, because one may be called as an average of seqeval's, or hold a dash, where it cuts.
    """
    spans = [[to_spans(tags) for tags in side] for side in (truth, predicted)]
    types = sorted({span.type for side in spans for page in side for span in page})
    number = {kind: f"T{index}" for index, kind in enumerate(types)}

    def written(pages: Sequence[Sequence[Span]]) -> list[list[str]]:
        return [
            to_tags([span._replace(type=number[span.type]) for span in page], len(tags), scheme)
            for page, tags in zip(pages, truth, strict=True)
        ]

    def renamed(row: dict[str, Any]) -> dict[str, float]:
        return {
            **{key: float(row[key]) for key in ("precision", "recall")},
            "f1": float(row["f1-score"]),
            "entities": int(row["support"]),
        }

    if not types:
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 0}, {}
    report = classification_report(
        *map(written, spans),
        mode="strict",
        scheme={"BIO": IOB2, "BIOES": IOBES}[scheme],
        output_dict=True,
        zero_division=0,
    )
    return renamed(report["micro avg"]), {kind: renamed(report[number[kind]]) for kind in types}
