"""The text files of run_seq_labeling.py: {split}.txt, {split}_box.txt, {split}_image.txt, in step line by line."""

from itertools import zip_longest
from pathlib import Path

from layoutner.config.errors import UserError, raise_gathered
from layoutner.data.document import Box, Document, box_problem, read_text

SPLITS = {"train": "train", "eval": "dev", "test": "test"}


def read(path: Path, role: str) -> list[Document]:
    """Read one split.

    The preprocessing cut long pages into pieces; consecutive pieces of one page become one document again.

    Args:
        path: the folder (the role picks train, dev or test), or a file {split}.txt in it.
        role: "train", "eval" or "test".

    Raises:
        UserError: a file is missing, or all problems, each with file and line.
    """
    if path.suffix == ".txt":
        folder, split = path.parent, path.stem
    else:
        folder, split = path, SPLITS[role]
    if not (folder / f"{split}.txt").is_file():
        there = [name for name in SPLITS.values() if (folder / f"{name}.txt").is_file()]
        hint = f"it holds {', '.join(there)}" if there else "expected {train,dev,test}.txt with _box and _image beside"
        if role == "eval" and there:
            hint += "; data.eval also takes a fraction of the training documents such as 0.1"
        raise UserError(f"{folder / f'{split}.txt'}: no such file; {hint}")
    names = [f"{split}.txt", f"{split}_box.txt", f"{split}_image.txt"]
    rows = zip_longest(
        *([line.rstrip() for line in read_text(folder / name).split("\n")] for name in names), fillvalue=""
    )

    pages: list[_Page] = []
    problems: list[str] = []
    for number, (text_row, box_row, image_row) in enumerate(rows, 1):
        if not text_row and not box_row and not image_row:
            continue
        try:
            word, tag, box, size, image = _parse(text_row, box_row, image_row)
        except UserError as error:
            problems.append(f"{split}.txt line {number}: {error}")
            continue
        if not pages or pages[-1].image != image:
            pages.append(_Page(image, size))
        pages[-1].words.append(word)
        pages[-1].boxes.append(box)
        pages[-1].tags.append(tag)
    labelled = {tag is not None for page in pages for tag in page.tags}
    if len(labelled) > 1:
        problems.append(f"{split}.txt: some words have a label and some have none")
    raise_gathered(f"{len(problems)} problem(s) in {folder}", problems)
    return [page.document() for page in pages]


class _Page:
    def __init__(self, image: str, size: tuple[int, int]) -> None:
        self.image, self.size = image, size
        self.words: list[str] = []
        self.boxes: list[Box] = []
        self.tags: list[str | None] = []

    def document(self) -> Document:
        tags = tuple(tag for tag in self.tags if tag is not None)
        return Document(Path(self.image).stem, tuple(self.words), tuple(self.boxes), tags or None, self.size)


def _parse(text_row: str, box_row: str, image_row: str) -> tuple[str, str | None, Box, tuple[int, int], str]:
    word, *tag = text_row.split("\t")
    try:
        box_word, box_text = box_row.split("\t")
        image_word, _, size_text, image = image_row.split("\t")
        x0, y0, x1, y1 = (int(side) for side in box_text.split())
        width, height = (int(side) for side in size_text.split())
    except ValueError:
        raise UserError(
            f"word {word!r}: _box.txt says {box_row!r} and _image.txt {image_row!r}; expected "
            "'word<TAB>x0 y0 x1 y1' and 'word<TAB>x0 y0 x1 y1<TAB>width height<TAB>file'"
        ) from None
    if min(width, height) < 1:
        raise UserError(f"word {word!r}: a page of {width} x {height} pixels")
    if not word == box_word == image_word:
        raise UserError(f"the three files are out of step: {word!r}, {box_word!r}, {image_word!r}")
    if not word.strip():
        raise UserError("a blank word")
    if len(tag) > 1:
        raise UserError(f"word {word!r}: more than one label: {tag}")
    if tag and tag[0] != "O" and tag[0][:2] not in ("B-", "I-", "E-", "S-"):
        raise UserError(f"word {word!r}: label {tag[0]!r} is neither O nor B-, I-, E- or S- and a type")
    if problem := box_problem((x0, y0, x1, y1)):
        raise UserError(f"word {word!r}: {problem}")
    return word, tag[0] if tag else None, (x0, y0, x1, y1), (width, height), image
