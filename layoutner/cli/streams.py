"""Standard output and standard error: what is printed cannot fail for its characters, whatever the locale."""

import io
import sys


def take_any_character() -> None:
    """Escape what the encoding of the terminal lacks, or what is half a character, as in "\\xe9" and "\\udcff".

    The encoding stays. Streams that are closed, or that somebody has put in their place, stay as they are.
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
    """Hand on what is printed; one of the streams may be closed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
