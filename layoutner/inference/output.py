"""Predictions and scores as files: JSON, or the text files of run_seq_labeling.py."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from layoutner.errors import DataError
from layoutner.files.atomic import AtomicFile
from layoutner.objectives.metrics import Scores


class Output:
    """A file that appears under its name only when it is whole, or standard output. Rank 0 alone opens it."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._writing: AtomicFile | None = None  # None for standard output, and for what has no content, such as a pipe

    def open(self) -> None:
        """Begin.

        Raises:
            DataError: it cannot be written.
        """
        if self.path is None:
            if sys.stdout is None:
                raise DataError("standard output is closed; --output FILE writes to a file")
            self._file = sys.stdout.buffer
            return
        if self.path.is_dir():
            raise DataError(f"{self.path}: is a folder; name a file in it")
        try:
            if self.path.exists() and not self.path.is_file():
                self._file = self.path.open("wb")
                return
            whole = self.path.resolve()  # a link stays a link
            whole.parent.mkdir(parents=True, exist_ok=True)
            self._writing = AtomicFile(whole)
            self._file = self._writing.file
        except OSError as error:
            raise self._failed(error) from None

    def write(self, text: str) -> None:
        """Write, and hand on to whoever reads at the other end.

        Raises:
            DataError: it cannot be written, for instance for a full disk.
            BrokenPipeError: nobody reads standard output any more.
        """
        assert self._file is not None, "written before it was opened"
        try:
            # Half a character in a file's name is no UTF-8; escaped it still is JSON.
            self._file.write(text.encode("utf-8", "backslashreplace"))
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from None

    def finish(self) -> None:
        """Everything is written: the file gets its name.

        Raises:
            DataError: as `write`.
        """
        assert self._file is not None, "finished before it was opened"
        if self.path is None:
            return
        try:
            if self._writing is not None:
                self._writing.commit()
            self._file.close()
        except OSError as error:
            raise self._failed(error) from None

    def discard(self) -> None:
        """Leave nothing of what was not finished."""
        if self._writing is not None:
            self._writing.discard()
        elif self._file is not None and self.path is not None:
            with suppress(OSError):  # what a full disk did not take is tried once more
                self._file.close()

    def _failed(self, error: OSError) -> DataError:
        if self.path is None:
            close_stdout()
        return DataError(f"{self.path or 'standard output'}: cannot be written: {error}")


def close_stdout() -> None:
    """What could not be written to standard output is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def to_jsonl(page: dict[str, Any]) -> str:
    """One line, as the reader "jsonl" takes it, for those too who count more characters than a line feed as its end."""
    line = json.dumps(page, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"


def to_unilm(page: dict[str, Any]) -> str:
    """As test_predictions.txt of run_seq_labeling.py: a word, a space and its label a line.

    Empty lines stand where the input has them, as where preprocess.py cut a page, and one behind a page of a format
    whose lines are no words. Of a word with white space inside, the part before it is written: a line has two fields,
    whatever the input.
    """
    words = page["words"]
    empty = Counter(page.get("breaks", [len(words)]))
    lines = [f"{word['text'].split()[0]} {word['label']}\n" for word in words]
    return "".join("\n" * empty[index] + line for index, line in enumerate([*lines, ""]))


PREDICTIONS: dict[str, Callable[[dict[str, Any]], str]] = {"jsonl": to_jsonl, "unilm": to_unilm}


def results(scores: Mapping[str, Scores]) -> str:
    """As test_results.txt and eval_results.txt of run_seq_labeling.py: a line "f1 = 0.78" a number, sorted by name.

    Args:
        scores: by name of the checkpoint; where there are several, their lines begin with the name and "_".
    """
    named = {
        f"{name}_{key}" if len(scores) > 1 else key: getattr(its, key)
        for name, its in scores.items()
        for key in ("loss", "precision", "recall", "f1")
    }
    return "".join(f"{key} = {named[key]}\n" for key in sorted(named))
