"""Entity types, tags and ids. "O" always has id 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from layoutner.errors import DataError
from layoutner.files.text import read_text
from layoutner.pages.document import Document

PREFIXES = {"BIO": ("B", "I"), "BIOES": ("B", "I", "E", "S")}


class Span(NamedTuple):
    """An entity: words start..end-1 of a document."""

    type: str
    start: int
    end: int


def to_spans(tags: Sequence[str]) -> list[Span]:
    """Entities of a tag sequence in BIO or BIOES, which need not be told apart. Every word that is not O is in one.

    This is the one reading of a tag sequence, of the data's and of a model's: what is trained on, scored, written by
    `predict` and drawn. A model may answer with a sequence that breaks the scheme. It is read as conlleval reads it:

    - B- and S- begin an entity, whatever is before them. I- and E- continue the entity of their type that is open
      just before them; where there is none (after O, after another type, after E- or S-), they begin one.
    - An entity ends before O, before a tag that does not continue it, after E- or S-, and with the page. So in BIOES
      a B- or I- that no E- follows still ends where its type does.
    """
    spans: list[Span] = []
    open_span: Span | None = None
    for position, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        continues = prefix in ("I", "E") and open_span is not None and open_span.type == kind
        if open_span is not None and not continues:
            spans.append(open_span)
            open_span = None
        if prefix == "O":
            continue
        start = open_span.start if open_span is not None else position
        open_span = Span(kind, start, position + 1)
        if prefix in ("E", "S"):
            spans.append(open_span)
            open_span = None
    return spans if open_span is None else [*spans, open_span]


def to_tags(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Tags of `length` words in the scheme "BIO" or "BIOES"."""
    tags = ["O"] * length
    for kind, start, end in spans:
        tags[start:end] = [f"I-{kind}"] * (end - start)
        tags[start] = f"B-{kind}"
        if scheme == "BIOES":
            tags[end - 1] = f"E-{kind}" if end - start > 1 else f"S-{kind}"
    return tags


def rewrite(tags: Sequence[str], scheme: str) -> list[str]:
    """The entities of a tag sequence, legal or not, as the legal sequence of the scheme "BIO" or "BIOES"."""
    return to_tags(to_spans(tags), len(tags), scheme)


@dataclass(frozen=True)
class LabelSet:
    """All tags of a scheme over some entity types, "O" first."""

    scheme: str
    types: tuple[str, ...]

    @property
    def tags(self) -> list[str]:
        """Id -> tag."""
        return ["O", *(f"{prefix}-{kind}" for kind in self.types for prefix in PREFIXES[self.scheme])]

    @property
    def ids(self) -> dict[str, int]:
        """Tag -> id."""
        return {tag: index for index, tag in enumerate(self.tags)}

    @property
    def continued(self) -> list[int]:
        """Id of a word's tag -> id that the word's later sub-words carry where all of them are trained on.

        O for O, else the I- of the type, whatever the word's prefix. transformers' run_ner.py does so after B- and
        I- (its `b_to_i_label`) and repeats E- and S-, as if each sub-word ended the entity anew. Sub-words after an
        E- or S- cannot make a legal BIOES sequence: the first one keeps the word's tag, because there it is read.
        """
        ids = self.ids
        return [0 if tag == "O" else ids[f"I-{tag.partition('-')[2]}"] for tag in self.tags]

    @classmethod
    def from_tags(cls, tags: Sequence[str]) -> "LabelSet":
        """The label set whose `tags` these are, in any order (as a checkpoint's id-to-label map holds them)."""
        scheme = "BIOES" if any(tag.startswith(("E-", "S-")) for tag in tags) else "BIO"
        return cls(scheme, _types(tags))


def _types(tags: Iterable[str]) -> tuple[str, ...]:
    """Entity types in the order of their first tag; a tag without prefix is a type."""
    parts = [(tag, *tag.partition("-")) for tag in tags if tag != "O"]
    return tuple(
        dict.fromkeys(kind if dash and prefix in ("B", "I", "E", "S") else tag for tag, prefix, dash, kind in parts)
    )


def read_labels(path: Path, scheme: str) -> LabelSet:
    """The label set of a file with one tag (or entity type) a line; "O" may be missing.

    Raises:
        DataError: the file cannot be read or names no entity type.
    """
    types = _types(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not all(types):
        raise DataError(f"{path}: a label without a type, such as 'B-'; write B-QUESTION")
    if not types:
        raise DataError(f"{path}: names no label; one a line, such as B-QUESTION")
    return LabelSet(scheme, types)


def labels_of(documents: Iterable[Document], scheme: str) -> LabelSet:
    """The label set of labelled documents, types sorted by name.

    Raises:
        DataError: no document has an entity.
    """
    types = _types(tag for document in documents for tag in document.tags or ())
    if not types:
        raise DataError("the training documents hold no entity: every word is O, so there is nothing to learn")
    return LabelSet(scheme, tuple(sorted(types)))


# What annotation tools call a word that is of no entity.
# fmt: off
NO_ENTITY = frozenset((
    "background", "bg", "ignore", "ignored", "na", "nolabel", "none", "nothing", "null", "o", "other", "others",
    "outside", "unlabeled", "unlabelled",
))
# fmt: on


def types_like_no_entity(types: Iterable[str]) -> list[str]:
    """Entity types whose names say that they are none, such as OTHERS or no-label."""
    return sorted(kind for kind in types if "".join(filter(str.isalnum, kind)).casefold() in NO_ENTITY)
