"""Why a request is refused: an HTTP status and one sentence."""

import math


class Refused(Exception):
    """A request that gets an error instead of its fields. The message is one sentence, for the client."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: when to try again; None = trying again does not help."""
        super().__init__(message)
        self.status, self.message, self._retry_after_s = status, message, retry_after_s
        self.headers = {} if retry_after_s is None else {"Retry-After": str(math.ceil(retry_after_s))}

    def __reduce__(self) -> tuple[type["Refused"], tuple[int, str, float | None]]:
        # Readers send it to the server; an exception is pickled by its message alone.
        return Refused, (self.status, self.message, self._retry_after_s)


def one_sentence(message: str, folder: str = "") -> str:
    """A message without the paths of this machine, control characters and line ends.

    Args:
        folder: folder whose path is left out, so that only the names of files in it remain.
    """
    text = message.replace(f"{folder}/", "").replace(folder, "the upload") if folder else message
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= 1000 else f"{text[:1000]} ..."
