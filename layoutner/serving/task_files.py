"""The files that tasks of Label Studio name: in an allowed folder, in the task itself, or at allowed addresses."""

import base64
import binascii
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

from layoutner.errors import DataError, SettingsError
from layoutner.files.text import inside
from layoutner.serving.refusal import Refused, one_sentence

# Addresses by which Label Studio itself serves local files: those of a storage, and those that were uploaded.
LOCAL_FILES, UPLOADED = "/data/local-files/", "/data/upload/"
PART = 65_536  # bytes read at once


@dataclass(frozen=True)
class TaskFiles:
    """What tasks may name."""

    documents: Path | None = None  # folder; None = no local files
    allowed_urls: tuple[str, ...] = ()  # prefixes of addresses

    def require(self) -> None:
        """Check what was allowed.

        Raises:
            SettingsError: no such folder, or a prefix that does not name a whole host.
        """
        if self.documents is not None and not self.documents.is_dir():
            raise SettingsError(f"--documents {self.documents}: no such folder")
        for prefix in self.allowed_urls:
            parts = urlsplit(prefix)
            # Without the slash, "http://images" would allow http://images.example.com too.
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in prefix or prefix[-1:] != "/":
                raise SettingsError(
                    f"--allow-url {prefix}: give scheme and host and end with /, as in https://host/images/"
                )

    def read(self, reference: str, max_bytes: int, until: float) -> bytes:
        """The content of the file that a task names. It may block.

        Args:
            reference: value of the task's data: a data URI, an address, or a path.
            max_bytes: of the file.
            until: on the clock of `time.monotonic`.

        Raises:
            Refused: 403 = not allowed; 413 = too large; 422 = not there; 504 = takes too long.
        """
        if reference.startswith("data:"):
            return _of_data_uri(reference)
        if "://" in reference[:20]:
            return b"".join(self._download(reference, max_bytes, until))
        path = self._local(reference)
        try:
            if path.is_file() and path.stat().st_size > max_bytes:
                raise Refused(413, f"{path.name}: is larger than {max_bytes / 2**20:g} MiB")
            return path.read_bytes()
        except OSError as error:
            raise Refused(422, f"{path.name}: cannot be read: {error.strerror}") from None

    def _local(self, reference: str) -> Path:
        if self.documents is None:
            raise Refused(403, "the task names a local file; start the server with --documents FOLDER to allow that")
        parts = urlsplit(reference)
        if parts.path.startswith(LOCAL_FILES):
            name = parse_qs(parts.query).get("d", [""])[0]
        else:
            name = unquote(parts.path.removeprefix(UPLOADED))
        try:
            return inside(self.documents, name)
        except DataError:
            raise Refused(403, f"{one_sentence(name)}: is not in the folder that the server may read") from None

    def _download(self, url: str, max_bytes: int, until: float) -> Iterator[bytes]:
        if not any(url.startswith(prefix) for prefix in self.allowed_urls) or ".." in unquote(url) or "\\" in url:
            shown = one_sentence(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"[:100])
            raise Refused(403, f"{shown}: not an allowed address; --allow-url PREFIX allows one")
        size = 0
        try:
            opener = urllib.request.build_opener(_NoRedirects)
            with opener.open(url, timeout=max(0.1, until - time.monotonic())) as file:
                while part := file.read1(PART):
                    size += len(part)
                    if size > max_bytes:
                        raise Refused(413, f"the file of the task is larger than {max_bytes / 2**20:g} MiB")
                    if time.monotonic() > until:
                        raise TimeoutError
                    yield part
        except TimeoutError:
            raise Refused(504, "the file of the task takes longer to load than this server allows") from None
        except urllib.error.HTTPError as error:
            with error:  # it holds the connection
                raise Refused(422, f"the file of the task cannot be loaded: HTTP status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Refused(422, one_sentence(f"the file of the task cannot be loaded: {error}")) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which could lead to an address that is not allowed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _of_data_uri(reference: str) -> bytes:
    head, comma, content = reference.partition(",")
    if not comma or not head.endswith(";base64"):
        raise Refused(422, "the task has a data URI that is not base64")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(422, f"the task has a data URI that is not base64: {error}") from None
