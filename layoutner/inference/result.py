"""The result for a document: its fields, its labelled pages, and drawings of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.errors import DataError
from layoutner.fields.field import Field, FieldWord
from layoutner.fields.record import FieldPage, Record, Rules, group_pages, make_record
from layoutner.files.atomic import atomic_file
from layoutner.inference.draw import drawing
from layoutner.inference.labelled_page import LabelledPage, LabelledWord
from layoutner.pages.labels import Span


class Fields(Mapping[str, Field]):
    """The most confident field of each entity type that the document has; of equals the first."""

    def __init__(self, all_fields: Mapping[str, Sequence[Field]]) -> None:
        self._best = {
            kind: max(fields, key=lambda field: field.confidence) for kind, fields in all_fields.items() if fields
        }

    def __getitem__(self, kind: str) -> Field:
        """The field of a type.

        Raises:
            KeyError: the document has none.
        """
        if kind not in self._best:
            raise KeyError(f"no field {kind!r}; there are: {', '.join(self._best) or 'none'}")
        return self._best[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._best)

    def __len__(self) -> int:
        return len(self._best)


class Result:
    """A document with its fields and its labelled pages. It cannot be changed."""

    def __init__(self, record: Record, pages: Sequence[LabelledPage], types: tuple[str, ...]) -> None:
        self._record, self._types = record, types
        self.pages = tuple(pages)  # in their order

    @property
    def document(self) -> str:
        """The name of the document."""
        return self._record.document

    @property
    def all_fields(self) -> Mapping[str, tuple[Field, ...]]:
        """Every entity type of the model, with its fields in reading order."""
        return self._record.fields

    @cached_property
    def fields(self) -> Fields:
        """Entity type -> its most confident field. A type that the document lacks is a KeyError; `get` gives None."""
        return Fields(self._record.fields)

    @property
    def words(self) -> tuple[LabelledWord, ...]:
        """The words of all pages with their labels. `pages` has them by page."""
        return tuple(word for page in self.pages for word in page.words)

    def to_dict(self) -> dict[str, Any]:
        """The document as a JSON object, as `layoutner predict --output-format fields` writes it."""
        return self._record.to_dict()

    def draw(self, path: Path | str | None = None) -> list[Image.Image]:
        """Draw the entities on the pages.

        Args:
            path: a PNG file to write, too. The pages of a document of several get numbers: NAME-1.png, NAME-2.png.

        Returns:
            One picture per page.

        Raises:
            DataError: the file cannot be written.
        """
        pictures = [drawing(page.to_dict(), page.document.image, self._types) for page in self.pages]
        for number, picture in enumerate(pictures, 1) if path is not None else ():
            whole = Path(str(path))
            out = whole if len(pictures) == 1 else whole.with_stem(f"{whole.stem}-{number}")
            try:
                with atomic_file(out) as file:
                    picture.save(file, format="PNG")
            except OSError as error:
                raise DataError(f"{out}: cannot be written: {error}") from None
        return pictures

    def __repr__(self) -> str:
        found = ", ".join(f"{kind}={field.text!r}" for kind, field in self.fields.items())
        return f"<Result {self.document!r}, {len(self.pages)} page(s): {found or 'no fields'}>"


def field_page(page: LabelledPage) -> FieldPage:
    """What fields need of a labelled page."""
    return FieldPage(
        page.document.name,
        page.document.group,
        page.document.page_size,
        [FieldWord(word.text, word.box, word.probability) for word in page.words],
        [Span(one.type, one.start, one.end) for one in page.entities],
    )


def make_results(pages: Sequence[LabelledPage], types: tuple[str, ...], rules: Rules) -> list[Result]:
    """One result per document, in the order of their first pages. Pages with the same group are one document.

    Args:
        types: all entity types of the model.
    """
    fields = [field_page(page) for page in pages]
    return [
        Result(make_record([fields[n] for n in numbers], types, rules), [pages[n] for n in numbers], types)
        for numbers in group_pages(fields)
    ]
