"""Label documents and write predictions and drawings."""

from collections.abc import Callable, Iterable
from pathlib import Path

from layoutner.inference.draw import Drawings
from layoutner.inference.input import refuse
from layoutner.inference.labelled_page import label_page
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.inference.output import PREDICTIONS, Output
from layoutner.pages.document import Document
from layoutner.pages.page import Problem
from layoutner.planning.batch_plan import MicroBatchLimit


def predict(
    labeller: Labeller,
    documents: Iterable[Document],
    limit: MicroBatchLimit,
    output: Output,
    output_format: str,
    draw: Path | None = None,
    lost: Callable[[list[Problem]], None] = refuse,
) -> None:
    """Label documents and write the predictions, chunk by chunk. All ranks call it; rank 0 reads, writes and draws.

    Args:
        documents, limit, lost: see `Labeller.label`.
        output: already open on rank 0; `predict` finishes it.
        output_format: a key of `PREDICTIONS`.
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
        pages = [label_page(document, answers, labels).to_dict(folder) for document, answers in labelled]
        output.write("".join(map(PREDICTIONS[output_format], pages)))
        if drawings is not None:
            for page, (document, _) in zip(pages, labelled, strict=True):
                drawings.add(page, document.image)

    labeller.label(documents, limit, take, lost)
    ranks.run_on_rank_zero(output.finish)
