"""Entity scores, computed with seqeval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from layoutner.pages.labels import Span, to_spans, to_tags


@dataclass(frozen=True)
class Scores:
    """Entity-level scores over whole documents. An entity is correct if its type, first word and last word match."""

    precision: float
    recall: float
    f1: float
    by_entity: dict[str, dict[str, float]]  # type -> precision, recall, f1, entities
    loss: float  # mean cross-entropy over the labelled words
    counts: dict[str, int]  # documents, windows, words, entities, predicted_entities
    scheme: str
    split: str
    box_level: str  # "word", or "segment": boxes of lines or fields, which may come from the ground truth

    def to_dict(self) -> dict[str, Any]:
        """The scores as a dict, as in scores.json."""
        return asdict(self)

    @property
    def note(self) -> str | None:
        """A warning if the model was trained on some of the scored pages; else None."""
        trained_on, count = self.counts.get("documents_trained_on", 0), self.counts["documents"]
        if not trained_on:
            return None
        return f"note: the model was trained on {trained_on} of these {count} pages, which inflates the score"

    def __str__(self) -> str:
        rows = [(kind, s["precision"], s["recall"], s["f1"], int(s["entities"])) for kind, s in self.by_entity.items()]
        rows.append(("all types", self.precision, self.recall, self.f1, self.counts["entities"]))
        lines = [f"{self.split}: {self.counts['documents']} documents, {self.counts['words']} words, {self.scheme}"]
        width = max(12, *(len(kind) for kind, *_ in rows))
        lines.append(f"  {'':{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'entities':>9}")
        lines += [f"  {kind:{width}} {p:9.4f} {r:9.4f} {f:9.4f} {n:9d}" for kind, p, r, f, n in rows]
        lines.insert(-1, "  " + "-" * (width + 40))  # a type may be called "all types" too
        return "\n".join(lines)


def score(
    truth: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    *,
    scheme: str,
    split: str,
    box_level: str,
    loss: float,
    windows: int,
) -> Scores:
    """Score tag sequences, one per document, by the entities that `to_spans` reads from them.

    `predict` writes the same entities. A tag sequence that is not valid in the scheme has entities too. All sequences
    are rewritten as valid ones first, because seqeval in strict mode would not count those entities otherwise.
    """
    # Imported here because it takes two seconds, and prediction does not need it.
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2, IOBES

    true_spans, predicted_spans = ([to_spans(tags) for tags in side] for side in (truth, predicted))
    types = sorted({span.type for page in (*true_spans, *predicted_spans) for span in page})
    # Pass seqeval numbered types: a type's name may equal one of seqeval's averages, or contain a dash, where it cuts.
    number = {kind: f"T{index}" for index, kind in enumerate(types)}

    def written(pages: Sequence[Sequence[Span]]) -> list[list[str]]:
        return [
            to_tags([span._replace(type=number[span.type]) for span in page], len(tags), scheme)
            for page, tags in zip(pages, truth, strict=True)
        ]

    report: dict[str, dict[str, float]] = {}
    if types:
        report = classification_report(
            written(true_spans),
            written(predicted_spans),
            mode="strict",
            scheme={"BIO": IOB2, "BIOES": IOBES}[scheme],
            output_dict=True,
            zero_division=0,
        )
    total = report.get("micro avg", {"precision": 0.0, "recall": 0.0, "f1-score": 0.0})
    return Scores(
        precision=float(total["precision"]),
        recall=float(total["recall"]),
        f1=float(total["f1-score"]),
        by_entity={
            kind: {
                "precision": float(row["precision"]),
                "recall": float(row["recall"]),
                "f1": float(row["f1-score"]),
                "entities": int(row["support"]),
            }
            for kind, row in ((kind, report[number[kind]]) for kind in types)
        },
        loss=loss,
        counts={
            "documents": len(truth),
            "windows": windows,
            "words": sum(map(len, truth)),
            "entities": sum(map(len, true_spans)),
            "predicted_entities": sum(map(len, predicted_spans)),
        },
        scheme=scheme,
        split=split,
        box_level=box_level,
    )
