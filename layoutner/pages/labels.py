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
    """Entities of a BIO or BIOES tag sequence; the scheme need not be given. Every word that is not O is in an entity.

    All tag sequences, of data and of models, are read by this function: for training, scoring, prediction and drawing.
    A model may predict a sequence that is not valid in the scheme. It is read as conlleval does:

    - B- and S- start an entity, whatever comes before. I- and E- continue an open entity of the same type; if there is
      none (after O, another type, E- or S-), they start one.
    - An entity ends before O, before a tag that does not continue it, after E- or S-, and at the end of the page. So in
      BIOES an entity without E- still ends where its type ends.
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
    """Rewrite a tag sequence, valid or not, as the valid sequence in the scheme "BIO" or "BIOES"."""
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

    def ids_of(self, tags: Sequence[str]) -> list[int]:
        """The label ids of a tag sequence. One with tags that the set lacks is rewritten, with the same entities."""
        ids = self.ids
        return [ids[tag] for tag in (tags if ids.keys() >= set(tags) else rewrite(tags, self.scheme))]

    @property
    def continued(self) -> list[int]:
        """Id of a word's tag -> label id of its later sub-words, if all sub-words are trained on.

        It is O for O, else I- of the type, whatever the word's prefix. transformers' run_ner.py does the same for B-
        and I- (its `b_to_i_label`), but repeats E- and S-, as if each sub-word ended the entity. The first sub-word
        keeps the word's tag, because predictions are read there; so after E- or S- the sub-word labels are not valid
        BIOES.
        """
        ids = self.ids
        return [0 if tag == "O" else ids[f"I-{tag.partition('-')[2]}"] for tag in self.tags]

    @classmethod
    def from_tags(cls, tags: Sequence[str]) -> "LabelSet":
        """The label set with these tags, in any order, such as those of a model's id2label."""
        scheme = "BIOES" if any(tag.startswith(("E-", "S-")) for tag in tags) else "BIO"
        return cls(scheme, _types(tags))


def _types(tags: Iterable[str]) -> tuple[str, ...]:
    """Entity types in order of first occurrence. A tag without a prefix is taken as a type."""
    parts = [(tag, *tag.partition("-")) for tag in tags if tag != "O"]
    return tuple(
        dict.fromkeys(kind if dash and prefix in ("B", "I", "E", "S") else tag for tag, prefix, dash, kind in parts)
    )


def read_labels(path: Path, scheme: str) -> LabelSet:
    """Read a label set from a file with one tag or entity type per line; "O" may be missing.

    Raises:
        DataError: the file cannot be read or names no entity type.
    """
    types = _types(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not all(types):
        raise DataError(f"{path}: a label without a type, such as 'B-'; write B-QUESTION")
    if not types:
        raise DataError(f"{path}: lists no labels; write one per line, such as B-QUESTION")
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


# Names that annotation tools use for words outside any entity.
# fmt: off
NO_ENTITY = frozenset((
    "background", "bg", "ignore", "ignored", "na", "nolabel", "none", "nothing", "null", "o", "other", "others",
    "outside", "unlabeled", "unlabelled",
))
# fmt: on


def types_like_no_entity(types: Iterable[str]) -> list[str]:
    """Entity types whose names mean "no entity", such as OTHERS or no-label."""
    return sorted(kind for kind in types if "".join(filter(str.isalnum, kind)).casefold() in NO_ENTITY)
