"""The text files of run_seq_labeling.py: {split}.txt, {split}_box.txt and {split}_image.txt, parallel line by line."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from layoutner.errors import DataError, NoSplitError
from layoutner.files.text import read_lines
from layoutner.pages.page import Page, PageSize, Problem, Word, page_size_problem, written_size

SPLITS = {"train": "train", "eval": "dev", "test": "test"}


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read one split.

    The preprocessing of run_seq_labeling.py cut long pages into pieces. Consecutive pieces with the same file name and
    page size are joined to one page. A different size under the same name is another page of that file, so page names
    may repeat. Consecutive pages of one file with the same size cannot be distinguished from pieces of one page; such
    pages need different names. The breaks of a page are the empty lines from its first word to the first word of the
    next page; the first page also has the empty lines before it. A line that begins with -DOCSTART- counts as empty, as
    in run_seq_labeling.py.

    Args:
        path: the folder (the role selects train, dev or test), or a file {split}.txt in it.
        role: "train", "eval" or "test".

    Raises:
        DataError: a file is missing or not UTF-8. One file contains all pages, so a single page cannot be skipped.
    """
    if path.suffix == ".txt":
        folder, split = path.parent, path.stem
    else:
        folder, split = path, SPLITS[role]
    if not (folder / f"{split}.txt").is_file():
        there = [name for name in SPLITS.values() if (folder / f"{name}.txt").is_file()]
        hint = f"it holds {', '.join(there)}" if there else "expected {train,dev,test}{,_box,_image}.txt"
        if role == "eval" and there:
            hint += "; data.eval also takes a fraction of the training documents such as 0.1"
        problem = f"{folder / f'{split}.txt'}: no such file; {hint}"
        raise NoSplitError(problem) if there else DataError(problem)
    files = [folder / f"{split}{suffix}.txt" for suffix in ("", "_box", "_image")]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise DataError(
            f"{' and '.join(missing)}: no such file; {split}.txt is read with {split}_box.txt and _image.txt"
        )
    yield from _pages(split, zip_longest(*map(read_lines, files), fillvalue=""))


def _pages(split: str, rows: Iterator[tuple[str, ...]]) -> Iterator[Page | Problem]:
    """Yield pages in the order of the files. A page with an unreadable line becomes a Problem."""
    image, start = "", 1
    size: PageSize | None = None
    words: list[Word] = []
    breaks: list[int] = []  # number of words before each empty line
    broken: list[str] = []  # problems of the page's unreadable lines
    nameless: list[str] = []  # the last of these, if their lines name no file: they may belong to the next page
    for number, (text_row, box_row, image_row) in enumerate(rows, 1):
        lines = text_row.rstrip(), box_row.rstrip(), image_row.rstrip()
        if not any(lines) or text_row.startswith("-DOCSTART-"):
            if text_row:  # else {split}.txt has ended, and another file still has empty lines
                breaks.append(len(words))
            continue
        its_image, its_size = _named(lines[2])
        # A line with an unreadable size belongs to the same page as the lines before it, if it names the same file.
        if its_image is not None and (its_image != image or (size and its_size and its_size != size)):
            if image:
                yield _page(split, start, image, words, size, breaks, broken)
                breaks = []
            image, size, start, words, broken = its_image, None, number, [], nameless
        size = size or its_size
        try:
            word = _parse(*lines)
        except DataError as error:
            broken.append(f"line {number}: {error}")
            nameless = [*nameless, broken[-1]] if its_image is None else []
        else:
            words.append(word)
            nameless = []
    if words or broken:
        yield _page(split, start, image, words, size, breaks, broken)


def _page(
    split: str,
    start: int,
    image: str,
    words: list[Word],
    size: PageSize | None,
    breaks: list[int],
    broken: list[str],
) -> Page | Problem:
    if broken:
        more = f" (and {len(broken) - 1} more lines of this page)" if len(broken) > 1 else ""
        return Problem(f"{split}.txt", "unreadable", broken[0] + more)
    assert size is not None, "its lines could be read"
    source = f"{split}.txt line {start}, {image}"
    return Page(source, Path(image).stem, words, size, unit="thousandths", breaks=tuple(breaks), group=image)


def _named(image_row: str) -> tuple[str | None, PageSize | None]:
    """File name and page size in a line of {split}_image.txt; each is None if it is missing or unreadable."""
    columns = image_row.split("\t")
    if len(columns) != 4 or not columns[3]:
        return None, None
    try:
        size = written_size(columns[2])
    except ValueError:
        return columns[3], None
    return columns[3], None if page_size_problem(size) else size


def _parse(text_row: str, box_row: str, image_row: str) -> Word:
    """Parse a word from its line in each of the three files."""
    text, *tag = text_row.split("\t")
    try:
        box_word, box_text = box_row.split("\t")
        image_word, _, size_text, _ = image_row.split("\t")
        x0, y0, x1, y1 = (int(side) for side in box_text.split())
        size = written_size(size_text)
    except ValueError:
        raise DataError(
            f"word {text!r}: _box.txt says {box_row!r} and _image.txt {image_row!r}; expected "
            "'word<TAB>x0 y0 x1 y1' and 'word<TAB>x0 y0 x1 y1<TAB>width height<TAB>file'"
        ) from None
    if problem := page_size_problem(size):
        raise DataError(f"word {text!r}: {problem}")
    if not text == box_word == image_word:
        raise DataError(f"the three files do not match line by line: {text!r}, {box_word!r}, {image_word!r}")
    if len(tag) > 1:
        raise DataError(f"word {text!r}: more than one label: {tag}")
    return Word(text, (x0, y0, x1, y1), tag[0] if tag else None)
