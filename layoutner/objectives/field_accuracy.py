"""Field accuracy: in how many fields of the documents a model finds what is there, and nothing else."""

from collections.abc import Sequence

from layoutner.files.arrays import Array
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, Span, to_spans


class FieldCounter:
    """Counts the fields of scored documents. Only rank 0 uses it.

    A field is what a document has of one entity type: the texts of these entities, in reading order. It is right if the
    predicted texts are the true ones. Fields that a document does not have count if one is predicted. Pages with the
    same group are one document; their fields are kept in memory.
    """

    def __init__(self) -> None:
        self._pages, self._right_pages = 0, 0  # fields of documents of one page
        self._grouped: dict[tuple[str, str], bool] = {}  # document and type -> whether it is right so far

    def add(self, documents: Sequence[Document], starts: Array, predicted: Array, labels: LabelSet) -> None:
        """Take pages.

        Args:
            starts: where the words of each page begin in `predicted`, and where the last one's end.
            predicted: ids of the predicted labels, one per word.
        """
        for document, start, end in zip(documents, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            truth = _texts(document, to_spans(document.tags or ()))
            found = _texts(document, to_spans([labels.tags[number] for number in predicted[start:end].tolist()]))
            for kind in truth.keys() | found.keys():
                right = truth.get(kind) == found.get(kind)
                if document.group is None:
                    self._pages += 1
                    self._right_pages += right
                else:
                    key = document.group, kind
                    self._grouped[key] = right and self._grouped.get(key, True)

    @property
    def count(self) -> int:
        """Number of fields."""
        return self._pages + len(self._grouped)

    @property
    def right(self) -> int:
        """Number of those that are right."""
        return self._right_pages + sum(self._grouped.values())

    def to_dict(self) -> dict[str, float]:
        """The counts and the accuracy; 0 if there is no field."""
        return {"fields": self.count, "right": self.right, "accuracy": self.right / (self.count or 1)}


def _texts(document: Document, spans: Sequence[Span]) -> dict[str, list[str]]:
    """Entity type -> the texts of its entities."""
    texts: dict[str, list[str]] = {}
    for kind, start, end in spans:
        texts.setdefault(kind, []).append(" ".join(document.words[start:end]))
    return texts
