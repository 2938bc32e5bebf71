"""Entity scores: precision, recall and F1."""

from dataclasses import asdict, dataclass
from typing import Any

from layoutner.objectives.entities import EntityCounts
from layoutner.pages.labels import LabelSet


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

    def metrics(self) -> dict[str, float]:
        """The scores as metrics, such as "eval/f1" and, for each type, "eval/by_entity/DATE/f1"."""
        whole = {name: getattr(self, name) for name in ("f1", "precision", "recall", "loss")}
        by_entity = {f"by_entity/{kind}/f1": scores["f1"] for kind, scores in self.by_entity.items()}
        return {f"{self.split}/{name}": value for name, value in (whole | by_entity).items()}

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
    counted: EntityCounts,
    labels: LabelSet,
    counts: dict[str, int],
    *,
    split: str,
    box_level: str,
    loss: float,
) -> Scores:
    """The scores of counted entities: the numbers of seqeval's strict mode, with 0 for a division by 0.

    Types without an entity, in the data or predicted, are left out.

    Args:
        counts: "documents", "windows" and "words".
    """
    by_entity = {}
    for kind, *numbers in zip(labels.types, counted.truth, counted.predicted, counted.correct, strict=True):
        truth, predicted, correct = map(int, numbers)
        if truth or predicted:
            by_entity[kind] = {**_ratios(truth, predicted, correct), "entities": truth}
    truth, predicted, correct = (int(one.sum()) for one in (counted.truth, counted.predicted, counted.correct))
    return Scores(
        **_ratios(truth, predicted, correct),
        by_entity=dict(sorted(by_entity.items())),
        loss=loss,
        counts={**counts, "entities": truth, "predicted_entities": predicted},
        scheme=labels.scheme,
        split=split,
        box_level=box_level,
    )


def _ratios(truth: int, predicted: int, correct: int) -> dict[str, float]:
    precision, recall = correct / (predicted or 1), correct / (truth or 1)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall or 1)}
