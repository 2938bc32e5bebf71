"""Find page images that cannot be read, on all ranks together, before training needs them."""

from collections.abc import Sequence

from layoutner.corpus.pixels import PageImages
from layoutner.distributed.ranks import Ranks
from layoutner.errors import DataError, raise_gathered
from layoutner.pages.document import Document
from layoutner.pages.page import Problem
from layoutner.progress import counted


def require_images(documents: Sequence[Document], pages: PageImages, ranks: Ranks) -> None:
    """Decode every page image once. A damaged one found during a step would stop one rank while the others wait.

    All ranks call it, and each reads a part of the images. `PageImages` caches what it reads.

    Raises:
        DataError: images are missing or unreadable; the message names their pages, and is the same on every rank.
    """
    problems = image_problems(documents, pages, ranks)
    what = f"{len(problems)} of {len(documents)} documents have a page image that cannot be read"
    raise_gathered(DataError, what, [str(problem) for problem in problems.values()])


def image_problems(documents: Sequence[Document], pages: PageImages, ranks: Ranks) -> dict[int, Problem]:
    """Index of a document -> problem with its page image. All ranks call it, and each checks a part of them."""
    found: dict[int, Problem] = {}
    own = range(ranks.rank, len(documents), ranks.size)
    for index in counted(own, "reading page images", len(own), "pages"):
        if what := _problem(documents[index], pages):
            found[index] = Problem(documents[index].name, "no page image", what)
    shares = ranks.gather_object(found) or []
    merged = {index: problem for share in shares for index, problem in share.items()}
    result: dict[int, Problem] = ranks.broadcast_object(dict(sorted(merged.items())))
    return result


def _problem(document: Document, pages: PageImages) -> str | None:
    if document.image is None:
        return "has no page image"
    try:
        pages.pixels([document.image])
    except DataError as error:
        return str(error)
    return None
