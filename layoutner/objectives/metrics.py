"""Entity scores: precision, recall and F1."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from layoutner.objectives.entities import EntityCounts
from layoutner.pages.labels import LabelSet

NORMAL_95 = 1.96  # a normal variable is within this many standard deviations of its mean with probability 0.95


@dataclass(frozen=True)
class Scores:
    """Entity-level scores over whole documents. An entity is correct if its type, first word and last word match."""

    precision: float
    recall: float
    f1: float
    f1_interval: float | None  # half width of the 95% confidence interval of f1, see `f1_interval`
    by_entity: dict[str, dict[str, float]]  # type -> precision, recall, f1, entities
    loss: float  # mean cross-entropy over the labelled words
    counts: dict[str, int]  # documents, windows, words, entities, predicted_entities
    scheme: str
    split: str
    box_level: str  # "word", or "segment": boxes of lines or fields, which may come from the ground truth
    field_accuracy: dict[str, float] | None  # see `FieldCounter.to_dict`; None if nobody has counted

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
        if self.f1_interval:  # 0: the pages do not differ, so they say nothing about others
            lines.append(f"  f1 {self.f1:.4f} +- {self.f1_interval:.4f} (95%, over pages)")
        if fields := self.field_accuracy:
            lines.append(f"  fields: {fields['right']} of {fields['fields']} right ({fields['accuracy']:.4f})")
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
        f1_interval=f1_interval(counted),
        by_entity=dict(sorted(by_entity.items())),
        loss=loss,
        counts={**counts, "entities": truth, "predicted_entities": predicted},
        scheme=labels.scheme,
        split=split,
        box_level=box_level,
        field_accuracy=None,
    )


def f1_interval(counted: EntityCounts) -> float | None:
    """Half width of the 95% confidence interval of F1 over all types, if other pages like these were scored.

    F1 = sum 2 c_i / sum (t_i + p_i) is a ratio of two sums over n pages, page i with c_i correct, t_i true and p_i
    predicted entities. Linearised, as a ratio of means is (Cochran, Sampling Techniques, 3rd edition, section 6.3), it
    has the standard error

        sqrt(n / (n - 1) * sum (2 c_i - F1 (t_i + p_i))^2) / sum (t_i + p_i)

    and the half width is 1.96 of these. The unit is the page: pages of one document (`Document.group`) count as
    independent, so if they resemble each other the interval is too narrow. So it may be for fewer than about 30 pages,
    and for an F1 near 0 or 1. It is 0 if all pages have the same F1: they do not show how much others would differ.

    Returns:
        None for fewer than two pages, or if there is no entity, neither true nor predicted.
    """
    pages, both = counted.documents, int(counted.truth.sum() + counted.predicted.sum())
    if pages < 2 or not both:
        return None
    twice = 2 * int(counted.correct.sum())
    # The sum of squares times both^2. All of it are integers, so that no digit cancels.
    first, second, third = counted.squares
    residual = first * both**2 - 2 * second * twice * both + third * twice**2
    return NORMAL_95 * math.sqrt(pages * residual / (pages - 1)) / both**2


def _ratios(truth: int, predicted: int, correct: int) -> dict[str, float]:
    precision, recall = correct / (predicted or 1), correct / (truth or 1)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall or 1)}
