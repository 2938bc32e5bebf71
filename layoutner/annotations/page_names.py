"""Find the page that an annotation is of, by the names that both have."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from layoutner.annotations.region import AnnotatedPage
from layoutner.files.image import SUFFIXES
from layoutner.pages.document import Document

_UPLOADED = re.compile(
    r"[0-9a-f]{6,8}-(.+)"
)  # Label Studio puts a part of a random number before an uploaded file's name
_NUMBERED = re.compile(r"(.+?)[-_ .]+(?:page|seite|pg|p)?[-_ .]*0*(\d{1,5})")

Key = tuple[str, int | None]  # name in lower case; number of the page, if the name has one


class PageNames:
    """The pages of a run by their names."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._places: dict[Key, set[int]] = {}
        seen: dict[str, int] = {}  # group -> number of its pages so far
        for index, document in enumerate(documents):
            names = {document.name, stem(document.name)}
            image = document.image
            if image is not None and image.frame is None:
                names |= {image.path.stem, f"{image.path.parent.name}/{image.path.stem}"}
            elif image is not None and image.frame is not None:
                self._add((image.path.stem, image.frame + 1), index)
            for name in names:
                self._add((name, None), index)
                if numbered := _number(name):
                    self._add(numbered, index)
            if document.group is None:
                self._add((document.name, 1), index)
                continue
            seen[document.group] = seen.get(document.group, 0) + 1
            group, numbered = stem(document.group), _number(document.name)
            is_of_group = numbered is not None and numbered[0].casefold() == group.casefold()
            number = numbered[1] if numbered and is_of_group else seen[document.group]
            self._add((group, number), index)

    def _add(self, key: Key, index: int) -> None:
        self._places.setdefault((key[0].casefold(), key[1]), set()).add(index)

    def find(self, page: AnnotatedPage) -> list[int]:
        """Indices of the pages that an annotation may be of: one if it is clear, several if it is not, or none.

        The folder and the name are compared first, then the name, then the name without what Label Studio puts before
        it, then the name and the number of the page, such as "invoice-p2" with page 2 of "invoice.pdf".
        """
        names = [stem(name) for name in page.names]
        folders = [f"{_path(name).parent.name}/{stem(name)}" for name in page.names]
        short = [found[1] for name in names if (found := _UPLOADED.fullmatch(name))]
        levels: list[list[Key]]
        if page.number is not None:
            levels = [[(name, page.number) for name in group] for group in (names, short)]
        else:
            levels = [[(name, None) for name in group] for group in (folders, names, short)]
            levels += [[numbered for name in group if (numbered := _number(name))] for group in (names, short)]
            levels += [[(name, 1) for name in group] for group in (names, short)]
        for level in levels:
            by_name = [self._places.get((name.casefold(), number), set()) for name, number in level]
            if clear := next((places for places in by_name if len(places) == 1), None):
                return sorted(clear)
            if any(by_name):
                return sorted(set().union(*by_name))
        return []


def stem(name: str) -> str:
    """The name of a file without folder and suffix, from a path or a URL such as /data/local-files/?d=a%2Fb.png."""
    found = _path(name)
    return found.stem if found.suffix.lower() in (*SUFFIXES, ".pdf") else found.name or name


def _path(name: str) -> PurePosixPath:
    """The path in a path or a URL."""
    try:
        parts = urlsplit(name)
        given = parse_qs(parts.query).get("d")
        if given:
            name = given[0]
        elif parts.scheme or name.startswith("/data/"):
            name = unquote(parts.path)
    except ValueError:
        pass  # not a URL
    return PurePosixPath(name.replace("\\", "/"))


def without_upload_prefix(name: str) -> str:
    """The name that an uploaded file had before Label Studio changed it."""
    found = _UPLOADED.fullmatch(name)
    return found[1] if found else name


def _number(name: str) -> tuple[str, int] | None:
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2])) if found else None
