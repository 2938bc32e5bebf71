"""Write predictions and scores as JSON, or as the text files of run_seq_labeling.py."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from layoutner.errors import DataError
from layoutner.files.atomic import AtomicFile
from layoutner.objectives.metrics import Scores


class Output:
    """An output file that gets its name only when it is complete, or standard output. Only rank 0 opens it."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._writing: AtomicFile | None = None  # None for standard output, and for what has no content, such as a pipe

    def open(self) -> None:
        """Open the temporary file or standard output.

        Raises:
            DataError: it cannot be written.
        """
        if self.path is None:
            if sys.stdout is None:
                raise DataError("standard output is closed; use --output FILE")
            self._file = sys.stdout.buffer
            return
        if self.path.is_dir():
            raise DataError(f"{self.path}: is a folder; name a file in it")
        try:
            if self.path.exists() and not self.path.is_file():
                self._file = self.path.open("wb")
                return
            whole = self.path.resolve()  # keep a symbolic link, and replace its target
            whole.parent.mkdir(parents=True, exist_ok=True)
            self._writing = AtomicFile(whole)
            self._file = self._writing.file
        except OSError as error:
            raise self._failed(error) from None

    def write(self, text: str) -> None:
        """Write and flush.

        Raises:
            DataError: it cannot be written, for example because the disk is full.
            BrokenPipeError: the reader of standard output has closed the pipe.
        """
        assert self._file is not None, "written before it was opened"
        try:
            # A lone surrogate (from a file name) is not valid UTF-8; its escape is valid JSON.
            self._file.write(text.encode("utf-8", "backslashreplace"))
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from None

    def finish(self) -> None:
        """Close the file and give it its final name.

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
        """Remove the temporary file, if the output was not finished."""
        if self._writing is not None:
            self._writing.discard()
        elif self._file is not None and self.path is not None:
            with suppress(OSError):  # closing writes the rest of the buffer, which fails again on a full disk
                self._file.close()

    def _failed(self, error: OSError) -> DataError:
        if self.path is None:
            close_stdout()
        return DataError(f"{self.path or 'standard output'}: cannot be written: {error}")


def close_stdout() -> None:
    """Redirect standard output to /dev/null, so that Python does not try to flush it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def to_unilm(page: dict[str, Any]) -> str:
    """A page in the format of run_seq_labeling.py's test_predictions.txt: one line per word, "WORD LABEL".

    Empty lines are written where the input has them (where preprocess.py cut a page). For other input formats, one
    empty line follows each page. Of a word that contains white space, only the part before it is written, so that every
    line has two fields.
    """
    words = page["words"]
    empty = Counter(page.get("breaks", [len(words)]))
    lines = [f"{word['text'].split()[0]} {word['label']}\n" for word in words]
    return "".join("\n" * empty[index] + line for index, line in enumerate([*lines, ""]))


def results(scores: Mapping[str, Scores]) -> str:
    """Scores in the format of run_seq_labeling.py's test_results.txt and eval_results.txt: lines "f1 = 0.78", sorted.

    Args:
        scores: scores by checkpoint name. With several checkpoints, each line begins with "NAME_".
    """
    named = {
        f"{name}_{key}" if len(scores) > 1 else key: getattr(its, key)
        for name, its in scores.items()
        for key in ("loss", "precision", "recall", "f1")
    }
    return "".join(f"{key} = {named[key]}\n" for key in sorted(named))
