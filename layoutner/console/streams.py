"""Standard output and standard error: printing never raises UnicodeEncodeError, whatever the locale."""

import io
import sys


def take_any_character() -> None:
    """Print characters that the stream's encoding lacks, and lone surrogates, as escapes ("\\xe9", "\\udcff").

    The encoding does not change. Streams that are closed or have been replaced are left alone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_file(text: str) -> None:
    """Print the text of a file whose format is UTF-8 in any locale, such as TOML, so that `> FILE` makes that file."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    else:
        print(text, end="")


def flush() -> None:
    """Flush both streams; either may be closed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
