"""How well the confidence of entities is calibrated, for several ways to compute it from the probabilities of words.

    python benchmarks/confidence.py MODEL DATA [--format sroie] [--split test]

MODEL is an export or run folder, DATA are labelled documents that it was not trained on. An entity is right if its
type, first word and last word are. "around" counts the word before the entity and the one after it, too.
"""

import argparse
from pathlib import Path

import numpy as np

from layoutner import load_model, read_documents
from layoutner.objectives.calibration import calibration_error
from layoutner.objectives.errors import probability_bins
from layoutner.pages.labels import Span, to_spans

WAYS = {
    "minimum": np.min,
    "product": np.prod,
    "arithmetic mean": np.mean,
    "geometric mean": lambda probabilities: np.exp(np.log(probabilities).mean()),
}


def main() -> None:
    """Print one line per way: expected calibration error, Brier score, and area under the ROC curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="funsd")
    parser.add_argument("--split", default="test", choices=["train", "eval", "test"])
    options = parser.parse_args()
    data = {"format": options.format, "bad_pages": "skip"}
    documents = read_documents(options.data, split=options.split, labels="require", **data)
    found: dict[str, list[float]] = {f"{way}{around}": [] for way in WAYS for around in ("", " around")}
    right = []
    for page in load_model(options.model).predict(documents):
        truth = set(to_spans(page.document.tags or ()))
        probabilities = np.array([word.probability for word in page.words])
        for one in page.entities:
            right.append(Span(one.type, one.start, one.end) in truth)
            for way, compute in WAYS.items():
                found[way].append(float(compute(probabilities[one.start : one.end])))
                found[f"{way} around"].append(float(compute(probabilities[max(0, one.start - 1) : one.end + 1])))
    are_right = np.array(right)
    print(f"{len(right)} entities, {are_right.mean():.3f} of them right")
    print(f"{'confidence':24} {'mean':>7} {'ECE':>7} {'Brier':>7} {'ROC':>7}")
    for way, values in found.items():
        confidence = np.array(values)
        error = calibration_error(probability_bins(confidence, are_right))
        brier = ((confidence - are_right) ** 2).mean()
        area = roc_area(confidence, are_right)
        print(f"{way:24} {confidence.mean():7.4f} {error:7.4f} {brier:7.4f} {area:7.4f}")


def roc_area(confidence: np.ndarray, right: np.ndarray) -> float:
    """The probability that a right entity is more confident than a wrong one; nan if all are right, or all wrong."""
    yes, no = confidence[right][:, None], confidence[~right][None]
    return float(((yes > no) + 0.5 * (yes == no)).mean()) if yes.size and no.size else float("nan")


if __name__ == "__main__":
    main()
