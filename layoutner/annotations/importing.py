"""Import an export of an annotation tool: match its pages, label their words, and write them as jsonl."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from layoutner.annotations.labelling import LabelCounts, label_words
from layoutner.annotations.page_names import PageNames, stem, without_upload_prefix
from layoutner.annotations.region import AnnotatedPage, Export, Region
from layoutner.errors import DataError
from layoutner.files.atomic import atomic_file
from layoutner.files.image import find_page
from layoutner.pages.document import Document
from layoutner.pages.image_lookup import ImageLookup
from layoutner.pages.labels import types_like_no_entity
from layoutner.pages.page import Page, ReadStats, Word, to_document
from layoutner.pages.page_object import json_line, page_object
from layoutner.pages.text_lines import cut_line, reading_order

IMAGES = ("images", "image", "img")
SHOWN = 10  # number of items of a list that are printed


@dataclass
class Imported:
    """Labelled pages, and what became of the export."""

    documents: list[Document] = field(default_factory=list)
    counts: LabelCounts = field(default_factory=LabelCounts)
    unannotated: list[str] = field(default_factory=list)  # names of pages without an annotation
    unmatched: list[str] = field(default_factory=list)  # annotations without a page, or with several
    repeated: list[str] = field(default_factory=list)  # annotations of a page that has one already
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The counts as lines of text."""
        counts = self.counts
        words = counts.inside + counts.outside
        types = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.types.items())) or "none"
        lines = [
            f"pages: {len(self.documents)} with an annotation, {len(self.unannotated)} without",
            f"words: {words}, of which {counts.inside} in a region and {counts.outside} in none",
            f"regions: {counts.matched} with words, {len(counts.empty)} without",
            f"entities: {sum(counts.types.values())} ({types})",
        ]
        lines += _listed("page(s) without an annotation left out", self.unannotated)
        lines += _listed("annotation(s) without a page", self.unmatched)
        lines += _listed("annotation(s) of a page that has one already, left out", self.repeated)
        lines += _listed("region(s) without a word", counts.empty)
        cut = [f"{page}: {text!r} {share:.0%} in {kind}" for page, text, kind, share in counts.cut]
        lines += _listed("word(s) cut by the edge of a region", cut)
        if counts.contested:
            lines.append(
                f"{counts.contested} word(s) in several regions: the one that covers most has them, or the smaller"
            )
        if counts.interrupted:
            lines.append(f"{counts.interrupted} region(s) became several entities: words of others come between theirs")
        if counts.unlabelled:
            lines.append(f"{counts.unlabelled} region(s) without a label ignored")
        if found := types_like_no_entity(counts.types):
            lines.append(f"{', '.join(found)}: looks like a label for no entity; data.ignore_types reads it as O")
        return lines + self.notes


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  ... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return [f"{len(items)} {what}:", *(f"  {item}" for item in items[:SHOWN]), *more]


def label_pages(export: Export, documents: Sequence[Document], by_order: bool, folder: Path) -> Imported:
    """Label the words of pages by the regions of an export.

    Args:
        documents: the pages, with their words; labels that they have are replaced.
        by_order: match by the order of pages and annotations instead of by their names.
        folder: of the export, for the images of annotations whose points are in pixels.

    Raises:
        DataError: no annotation has a page; or by_order, and their numbers differ.
    """
    result = Imported(notes=[*export.notes, *_listed("annotated page(s) left out", export.left_out)])
    taken: dict[int, AnnotatedPage] = {}
    if by_order:
        if len(export.pages) != len(documents):
            raise DataError(
                f"{len(export.pages)} annotated pages and {len(documents)} pages: they can be matched by order only if "
                "there are as many of each"
            )
        taken = dict(enumerate(export.pages))
    else:
        names = PageNames(documents)
        for page in export.pages:
            found = names.find(page)
            said = f"{page.source} ({page.names[0][:100] if page.names else 'without a name'})"
            if len(found) != 1:
                several = f": may be {', '.join(documents[index].name for index in found[:3])}" if found else ""
                result.unmatched.append(said + several)
            elif found[0] in taken:
                result.repeated.append(f"{said}: {documents[found[0]].name} has {taken[found[0]].source}")
            else:
                taken[found[0]] = page
        if export.pages and not taken:
            raise DataError(
                f"no annotation has the name of a page: the first is of {_first(export.pages[0].names)}, and the first "
                f"page is {_first([document.name for document in documents])}; --by-order matches them by their order"
            )
    for index, document in enumerate(documents):
        if index not in taken:
            result.unannotated.append(document.name)
            continue
        regions = _in_fractions(taken[index], document, folder)
        tags = label_words(document, regions, result.counts)
        result.documents.append(replace(document, tags=tags))
    return result


def _first(names: Sequence[str]) -> str:
    return repr(names[0][:100]) if names else "none"


def _in_fractions(page: AnnotatedPage, document: Document, folder: Path) -> tuple[Region, ...]:
    """The regions in fractions of the page.

    Points in pixels are of the image next to the export, else of the page's own image, else of the page size.
    """
    if not page.in_pixels:
        return page.regions
    size: tuple[float, float] = document.page_size
    if (place := _image(page, folder)) is not None:
        size = find_page(place)[1]
    elif document.image is not None:
        size = find_page(document.image.path, document.image.frame)[1]
    return tuple(_scaled(region, size) for region in page.regions)


def _scaled(region: Region, size: tuple[float, float]) -> Region:
    return replace(region, points=tuple((x / size[0], y / size[1]) for x, y in region.points))


def _image(page: AnnotatedPage, folder: Path) -> Path | None:
    """The image of an annotated page, next to the export or in a folder of images."""
    lookup = ImageLookup(folder)
    names = [stem(name) for name in page.names]
    names += [without_upload_prefix(name) for name in names]
    folders = [folder, *(folder / name for name in IMAGES)]
    return next((place for name in names if (place := lookup.find(name, folders)) is not None), None)


def pages_of_regions(export: Export, folder: Path) -> Imported:
    """Pages whose words are those of the transcriptions of the regions; a region is an entity, or no entity.

    The words of a region share its box, in proportion to their characters. Regions are put into reading order.

    Args:
        folder: of the export, where images are searched.

    Raises:
        DataError: no region has a transcription, or a page cannot be used.
    """
    regions = [region for page in export.pages for region in page.regions]
    if not any(region.text.strip() for region in regions):
        raise DataError(
            f"none of the {len(regions)} regions has a transcription, so their words are not known: give --pages, the "
            "pages with their words"
        )
    result = Imported(notes=[*export.notes, *_listed("annotated page(s) left out", export.left_out)])
    stats = ReadStats()
    for page in export.pages:
        document = _page_of_regions(page, folder, result.counts, stats)
        result.documents.append(document)
    result.notes += [f"{count} {what}" for what, count in sorted(stats.repaired.items())]
    return result


def _page_of_regions(page: AnnotatedPage, folder: Path, counts: LabelCounts, stats: ReadStats) -> Document:
    name = without_upload_prefix(stem(page.names[0])) if page.names else page.source
    place = _image(page, folder)
    image, seen = (None, None) if place is None else find_page(place)
    size = seen or page.size
    if size is None:
        if page.in_pixels:
            raise DataError(f"{page.source}: the size of {name} is not known: put its image next to the export")
        size = (1000, 1000)
    regions = [_scaled(region, size) if page.in_pixels else region for region in page.regions]
    words: list[Word] = []
    for number, index in enumerate(reading_order([region.box for region in regions])):
        region = regions[index]
        found = list(cut_line(region.text, region.box))
        counts.unlabelled += region.type is None
        if not found:
            counts.empty.append(f"{name}: {region.type or 'region'} without a transcription")
            continue
        counts.matched += 1
        counts.inside += len(found) if region.type else 0
        counts.outside += 0 if region.type else len(found)
        counts.types.update([region.type] if region.type else [])
        for position, (text, box) in enumerate(found):
            tag = f"{'I' if position else 'B'}-{region.type}" if region.type else "O"
            words.append(Word(text, box, tag, number))
    made = Page(page.source, name, words, size, image, unit="fractions", image_size=seen)
    document, problems = to_document(made, "clamp", stats)
    if document is None:
        raise DataError(str(next(problem for problem in problems if problem.fatal)))
    return document


def write_pages(documents: Sequence[Document], out: Path) -> int:
    """Write pages as jsonl, one per line. The file appears under its name when it is whole.

    Returns:
        The number of pages whose image is not inside the folder of the file, so that the file cannot name it.

    Raises:
        DataError: the file cannot be written.
    """
    if out.is_dir():
        raise DataError(f"--out {out}: is a folder; name a file in it")
    lost = 0
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out.resolve()) as file:
            for document in documents:
                page = page_object(document, out.parent)
                lost += document.image is not None and "image" not in page
                # A lone surrogate (from a file name) is not valid UTF-8; its escape is valid JSON.
                file.write(json_line(page).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error}") from None
    return lost
