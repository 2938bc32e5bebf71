"""Word labels of documents: as JSON objects, one a page, and from there into files and drawings."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from layoutner.files.image import PageImage
from layoutner.inference.draw import Drawings
from layoutner.inference.input import refuse
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.inference.output import PREDICTIONS, Output
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Box, Document, union
from layoutner.pages.labels import LabelSet, rewrite, to_spans
from layoutner.pages.page import Problem


def predict(
    labeller: Labeller,
    documents: Iterable[Document],
    batch_size: int,
    output: Output,
    output_format: str,
    draw: Path | None = None,
    lost: Callable[[list[Problem]], None] = refuse,
) -> None:
    """Label documents and write them, chunk by chunk. All ranks call it; rank 0 reads, writes and draws.

    Args:
        documents, batch_size, lost: as of `Labeller.label`.
        output: open on rank 0; finished here.
        output_format: one of `PREDICTIONS`.
        draw: folder for the pages with their entities drawn on them.

    Raises:
        UserError: on every rank: what cannot be read, labelled or written.
    """
    ranks, labels = labeller.ranks, labeller.labels
    drawings = (
        ranks.run_on_rank_zero(lambda: Drawings(draw, labels.types, labeller.max_image_mib))
        if draw is not None
        else None
    )
    folder = None if output.path is None else output.path.parent

    def take(labelled: Labelled) -> None:
        pages = [to_page(document, answers, labels, folder) for document, answers in labelled]
        output.write("".join(map(PREDICTIONS[output_format], pages)))
        if drawings is not None:
            for page, (document, _) in zip(pages, labelled, strict=True):
                drawings.add(page, document.image)

    labeller.label(documents, batch_size, take, lost)
    ranks.run_on_rank_zero(output.finish)


def to_page(
    document: Document, answers: Sequence[WordPrediction], labels: LabelSet, folder: Path | None
) -> dict[str, Any]:
    """The object of a labelled page: every word with its label and probability, and the entities they make.

    The entities are those of `to_spans`, and a word's label is its place in its entity. So it is the model's answer,
    but for answers that are no legal sequence: of a lone I-TOTAL, B-TOTAL is written. The probability is the answer's.

    Args:
        document: the page.
        answers: one a word.
        labels: what the answers' ids mean.
        folder: where the object will lie; an image in it is named, relative to it. None: no image is named.
    """
    tags = labels.tags
    names = rewrite([tags[answer.label] for answer in answers], labels.scheme)
    entities = [
        {
            "type": kind,
            "text": " ".join(document.words[start:end]),
            "box": list(_around(document.boxes[start:end])),
            "words": [start, end],
        }
        for kind, start, end in to_spans(names)
    ]
    given = document.segments
    segments: list[dict[str, int]] = [{}] * len(names) if given is None else [{"segment": number} for number in given]
    return {
        "document": document.name,
        "page_size": list(document.page_size),
        **_image(document.image, folder),
        **({} if document.group is None else {"group": document.group}),
        **({} if document.breaks is None else {"breaks": list(document.breaks)}),
        "words": [
            {"text": word, "box": list(box), **segment, "label": name, "probability": round(answer.probability, 6)}
            for word, box, segment, name, answer in zip(
                document.words, document.boxes, segments, names, answers, strict=True
            )
        ],
        "entities": entities,
    }


def _around(boxes: Sequence[Box]) -> Box:
    return reduce(union, boxes)


def _image(image: PageImage | None, folder: Path | None) -> dict[str, str | int]:
    """{"image": name}, and "frame" in a file of several, where a reader of the folder may open it."""
    if image is None or folder is None:
        return {}
    frame = {} if image.frame is None else {"frame": image.frame}
    # As it was named, which may be by a link in the folder; else as it is without links.
    for path, root in ((image.path.absolute(), folder.absolute()), (image.path.resolve(), folder.resolve())):
        if path.is_relative_to(root) and ".." not in path.parts:
            return {"image": path.relative_to(root).as_posix(), **frame}
    return {}
