"""Entity scores, and the only place that imports seqeval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqeval.metrics import classification_report
from seqeval.scheme import IOB2, IOBES

from layoutner.data.labels import to_spans

SCHEMES = {"BIO": IOB2, "BIOES": IOBES}


@dataclass(frozen=True)
class Scores:
    """Entity-level scores over whole documents: an entity counts when its type and both ends are right."""

    precision: float
    recall: float
    f1: float
    by_entity: dict[str, dict[str, float]]  # type -> precision, recall, f1, entities
    loss: float  # mean cross-entropy over the labelled words
    counts: dict[str, int]  # documents, windows, words, entities, predicted_entities
    scheme: str
    split: str
    box_level: str  # "word", or "segment": boxes of whole lines or fields, which may come from the ground truth

    def to_dict(self) -> dict[str, Any]:
        """As written to scores.json."""
        return asdict(self)

    @property
    def note(self) -> str | None:
        """What limits the worth of the scores."""
        trained_on, count = self.counts.get("documents_trained_on", 0), self.counts["documents"]
        if not trained_on:
            return None
        return f"note: the model was trained on {trained_on} of these {count} pages, which flatters the score"

    def __str__(self) -> str:
        rows = [(kind, s["precision"], s["recall"], s["f1"], int(s["entities"])) for kind, s in self.by_entity.items()]
        rows.append(("all", self.precision, self.recall, self.f1, self.counts["entities"]))
        lines = [f"{self.split}: {self.counts['documents']} documents, {self.counts['words']} words, {self.scheme}"]
        width = max(12, *(len(kind) for kind, *_ in rows))
        lines.append(f"  {'':{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'entities':>9}")
        lines += [f"  {kind:{width}} {p:9.4f} {r:9.4f} {f:9.4f} {n:9d}" for kind, p, r, f, n in rows]
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
    """Score tag sequences, one a document, with seqeval in strict mode and an explicit scheme."""
    true_entities = sum(len(to_spans(tags)) for tags in truth)
    # In strict mode a tag sequence that breaks the scheme holds no entity there.
    if true_entities or any(tag != "O" for tags in predicted for tag in tags):
        report = classification_report(
            [list(tags) for tags in truth],
            [list(tags) for tags in predicted],
            mode="strict",
            scheme=SCHEMES[scheme],
            output_dict=True,
            zero_division=0,
        )
    else:
        report = {}
    rows = {
        kind: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "entities": int(row["support"]),
        }
        for kind, row in report.items()
    }
    everything = rows.get("micro avg", {"precision": 0.0, "recall": 0.0, "f1": 0.0})
    return Scores(
        precision=everything["precision"],
        recall=everything["recall"],
        f1=everything["f1"],
        by_entity={kind: row for kind, row in rows.items() if not kind.endswith(" avg")},
        loss=loss,
        counts={
            "documents": len(truth),
            "windows": windows,
            "words": sum(len(tags) for tags in truth),
            "entities": true_entities,
            "predicted_entities": sum(len(to_spans(tags)) for tags in predicted),
        },
        scheme=scheme,
        split=split,
        box_level=box_level,
    )
