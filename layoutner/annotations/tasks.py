"""Tasks of Label Studio with predictions, for people to correct, and the labelling interface that shows them."""

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from layoutner.annotations.label_studio import PARTS
from layoutner.annotations.labelling import LabelCounts, label_words, with_area
from layoutner.annotations.region import Region, rectangle
from layoutner.inference.labelled_page import LabelledPage, LabelledWord
from layoutner.pages.document import Box, union

LABEL, IMAGE, TEXT = "label", "image", "transcription"  # names in the labelling interface


def make_task(page: LabelledPage, url: str, version: str) -> dict[str, Any]:
    """A task with one prediction: a rectangle for every line of every entity, with its words as text.

    A region's score is the lowest probability of its words, and the task's the mean probability of all words. Where
    rectangles around lines would not give the predicted labels again, every word has a rectangle of its own.

    Args:
        url: where Label Studio finds the page image.
        version: of the model.
    """
    parts = [_lines(page.words[entity.start : entity.end]) for entity in page.entities]
    predicted = tuple(word.label[:1].replace("E", "I").replace("S", "B") + word.label[1:] for word in page.words)
    if label_words(page.document, _regions(page, parts), LabelCounts()) != predicted:
        parts = [[[word] for word in page.words[entity.start : entity.end]] for entity in page.entities]
    document = page.document
    width, height = document.page_size
    results = []
    for number, (entity, lines) in enumerate(zip(page.entities, parts, strict=True)):
        for part, words in enumerate(lines):
            x0, y0, x1, y1 = _around(words)
            place = {"x": x0 / 10, "y": y0 / 10, "width": (x1 - x0) / 10, "height": (y1 - y0) / 10, "rotation": 0}
            both = {
                "id": f"{PARTS}{number}-{part}",
                "to_name": IMAGE,
                "original_width": round(width),
                "original_height": round(height),
                "image_rotation": 0,
            }
            text = " ".join(word.text for word in words)
            score = round(min(word.probability for word in words), 6)
            label = {"from_name": LABEL, "type": "rectanglelabels", "score": score}
            results.append({**both, **label, "value": {**place, "rectanglelabels": [entity.type]}})
            results.append({**both, "from_name": TEXT, "type": "textarea", "value": {**place, "text": [text]}})
    prediction = {"model_version": version, "score": round(certainty(page), 6), "result": results}
    return {"data": {IMAGE: url, "document": document.name}, "predictions": [prediction]}


def certainty(page: LabelledPage) -> float:
    """The mean probability of the labels of a page's words; 1 for a page without words."""
    return sum(word.probability for word in page.words) / len(page.words) if page.words else 1.0


def _regions(page: LabelledPage, parts: Sequence[Sequence[Sequence[LabelledWord]]]) -> list[Region]:
    """The regions as an import would have them."""
    found = []
    for number, (entity, lines) in enumerate(zip(page.entities, parts, strict=True)):
        for words in lines:
            x0, y0, x1, y1 = (side / 1000 for side in _around(words))
            found.append(Region(entity.type, rectangle(x0, y0, x1 - x0, y1 - y0), entity=f"{PARTS}{number}"))
    return found


def _lines(words: Sequence[LabelledWord]) -> list[list[LabelledWord]]:
    """The words of an entity by line: a word that is not beside the one before it, and right of it, begins another."""
    lines: list[list[LabelledWord]] = []
    for word in words:
        if lines and _goes_on(lines[-1][-1].box, word.box):
            lines[-1].append(word)
        else:
            lines.append([word])
    return lines


def _goes_on(before: Box, box: Box) -> bool:
    common = min(before[3], box[3]) - max(before[1], box[1])
    return box[0] >= before[0] and 2 * common >= min(before[3] - before[1], box[3] - box[1])


def _around(words: Sequence[LabelledWord]) -> Box:
    box = with_area(words[0].box)
    for word in words[1:]:
        box = union(box, with_area(word.box))
    return box


def labelling_interface(types: Sequence[str]) -> str:
    """The labelling interface (XML) that tasks with predictions need."""
    labels = "".join(f"    <Label value={quoteattr(kind)}/>\n" for kind in types)
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <RectangleLabels name="{LABEL}" toName="{IMAGE}">\n{labels}  </RectangleLabels>\n'
        f'  <TextArea name="{TEXT}" toName="{IMAGE}" editable="true" perRegion="true" displayMode="region-list"/>\n'
        "</View>\n"
    )
