"""Label documents and write predictions and drawings."""

from collections.abc import Callable, Iterable
from pathlib import Path

from layoutner.inference.draw import Drawings
from layoutner.inference.input import refuse
from layoutner.inference.labelled_page import label_page
from layoutner.inference.labeller import HasNext, Labelled, Labeller, always
from layoutner.inference.output import Output
from layoutner.inference.prediction_text import DocumentText, PageText
from layoutner.pages.document import Document
from layoutner.pages.page import Problem
from layoutner.planning.batch_plan import MicroBatchLimit


def predict(
    labeller: Labeller,
    documents: Iterable[Document | None],
    limit: MicroBatchLimit,
    output: Output,
    text: PageText | DocumentText,
    draw: Path | None = None,
    lost: Callable[[list[Problem]], None] = refuse,
    has_next: HasNext = always,
) -> None:
    """Label documents and write the predictions, chunk by chunk. All ranks call it; rank 0 reads, writes and draws.

    Args:
        documents, limit, lost, has_next: see `Labeller.label`.
        output: already open on rank 0; `predict` finishes it.
        text: makes the text to write.
        draw: folder for drawings of the pages with their entities; None = no drawings.

    Raises:
        DataError: on every rank: a document cannot be read or labelled, or the output cannot be written.
    """
    ranks, labels = labeller.ranks, labeller.labels
    drawings = (
        ranks.run_on_rank_zero(lambda: Drawings(draw, labels.types, labeller.max_image_mib))
        if draw is not None
        else None
    )
    folder = None if output.path is None else output.path.parent

    def take(labelled: Labelled) -> None:
        pages = [label_page(document, answers, labels) for document, answers in labelled]
        dicts = [page.to_dict(folder) for page in pages]
        output.write(text.add(pages, dicts))
        if drawings is not None:
            for page, (document, _) in zip(dicts, labelled, strict=True):
                drawings.add(page, document.image)

    def end() -> None:
        output.write(text.end())
        output.finish()

    ranks.run_on_rank_zero(lambda: output.write(text.begin()))
    labeller.label(documents, limit, take, lost, has_next)
    ranks.run_on_rank_zero(end)
