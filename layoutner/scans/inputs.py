"""Which files are read: PDFs and images, from files, folders and patterns; and the names of their documents."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from layoutner.errors import DataError
from layoutner.files.image import SUFFIXES
from layoutner.files.pdf import SUFFIX as PDF_SUFFIX
from layoutner.files.text import is_hidden

KINDS = (PDF_SUFFIX, *SUFFIXES)


def find_files(inputs: Sequence[Path | str], hidden: list[Path], leave_out: Path | None = None) -> list[Path]:
    """PDFs and images in the order of the inputs, sorted within each folder and pattern; each file once.

    Args:
        inputs: files; folders, which are searched with all folders in them; patterns such as "scans/*.pdf", which the
            shell has not replaced.
        hidden: files for which `is_hidden` is true are left out and appended to this list.
        leave_out: a folder that is not searched.

    Raises:
        DataError: an input does not exist, or has no such file.
    """
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            files = _files_below(given, hidden, leave_out)
        elif given.exists():
            files = [given]
        elif any(sign in str(given) for sign in "*?["):
            files = []
            for match in sorted(map(Path, glob.glob(str(given), recursive=True))):
                files += _files_below(match, hidden, leave_out) if match.is_dir() else [match]
        else:
            raise DataError(f"{given}: no such file or folder")
        if not files:
            what = "holds" if given.is_dir() else "matches"
            raise DataError(f"{given}: {what} no PDF and no image ({', '.join(KINDS)})")
        found += files
    once = {os.path.realpath(file): file for file in reversed(found)}  # of several, the first
    return [file for file in dict.fromkeys(found) if once[os.path.realpath(file)] == file]


def _files_below(folder: Path, hidden: list[Path], leave_out: Path | None) -> list[Path]:
    found = []
    left_out = None if leave_out is None else os.path.realpath(leave_out)
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden(Path(name)) and os.path.realpath(os.path.join(place, name)) != left_out
        )
        files = [Path(place, name) for name in names if name.lower().endswith(KINDS)]
        hidden += [file for file in files if is_hidden(file)]
        found += [file for file in files if not is_hidden(file) and file.is_file()]
    return sorted(found)


def document_names(files: Sequence[Path]) -> list[str]:
    """A name for the document of each file, unlike all others: its name without suffix, as long as no other has it.

    Of those with the same name, each has the folders before it that tell them apart, then its suffix, then a number.
    """
    above = os.path.commonpath([file.absolute().parent for file in files]) if files else ""
    longer = [
        [file.stem for file in files],
        ["-".join(file.absolute().relative_to(above).with_suffix("").parts) for file in files],
        ["-".join(file.absolute().relative_to(above).parts) for file in files],
    ]
    names = list(longer[0])
    for others in longer[1:]:
        counts = Counter(names)
        names = [other if counts[name] > 1 else name for name, other in zip(names, others, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(names):
        unique = name = "".join(letter if letter.isprintable() else "_" for letter in name)
        number = 1
        while unique in taken:
            number += 1
            unique = f"{name}~{number}"
        taken.add(unique)
        names[index] = unique
    return names
