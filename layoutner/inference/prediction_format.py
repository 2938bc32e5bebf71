"""The formats of predictions, and which of them a file has. Does not import torch."""

from pathlib import Path

from layoutner.errors import SettingsError

PAGES = ("jsonl", "unilm")  # page by page
DOCUMENTS = ("fields", "csv")  # document by document
BY_ENDING = {".jsonl": ("jsonl", "fields"), ".csv": ("csv",), ".txt": ("unilm",)}  # the first is the default


def choose_format(path: Path | None, given: str | None) -> str:
    """The format of predictions: the given one, else that of the file's ending, else jsonl.

    Raises:
        SettingsError: the ending is that of another format; or it is unknown, and no format is given.
    """
    ending = "" if path is None else path.suffix.lower()
    if ending in BY_ENDING:
        if given is not None and given not in BY_ENDING[ending]:
            raise SettingsError(
                f"--output {path} with --output-format {given}: {ending} is for {' and '.join(BY_ENDING[ending])}"
            )
        return given or BY_ENDING[ending][0]
    if ending and given is None:
        known = ", ".join(f"{suffix} ({' or '.join(formats)})" for suffix, formats in BY_ENDING.items())
        raise SettingsError(f"--output {path}: unknown ending {ending}; known: {known}; or give --output-format")
    return given or "jsonl"
