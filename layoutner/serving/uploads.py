"""Receiving a document: a form or a bare body, within a size and a time, and what kind of file it is."""

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from layoutner.serving.refusal import Refused, one_sentence

PDF_WITHIN = 1024  # bytes before a PDF's header, which other programs may have put there
LONGEST_NAME = 100  # characters of a file name that are kept
KNOWN = "a PDF, an image (PNG, JPEG, TIFF, BMP, GIF, WebP, PPM, JPEG 2000) or the JSON of a page"


async def receive(request: Request, folder: Path, max_bytes: int, until: float) -> Path:
    """Write the document of a request into a folder of its own.

    Args:
        request: a form with one file, or a body that is the document itself.
        folder: an empty folder.
        max_bytes: of the body.
        until: on the clock of the event loop.

    Returns:
        The file. Its name is that of the upload, made harmless, and its suffix that of its kind.

    Raises:
        Refused: 400 = no document in it; 408 = it takes too long; 413 = too large; 415 = of an unknown kind.
    """
    received = folder / "upload"
    body = _body(request, max_bytes, until)
    name = request.query_params.get("name", "document")
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        name = await _form(request, body, received) or name
    else:
        with received.open("wb") as file:
            async for part in body:
                await run_in_threadpool(file.write, part)
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    with received.open("rb") as file:
        start = file.read(PDF_WITHIN + 8)
    return received.replace(folder / f"{_harmless(name)}{kind_of(start, declared)}")


async def _form(request: Request, body: AsyncGenerator[bytes, None], received: Path) -> str | None:
    """Write the one file of a form; returns its name."""
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=16)
    try:
        form = await parser.parse()
    except Refused:
        raise
    except (MultiPartException, ValueError, KeyError) as error:
        raise Refused(400, one_sentence(f"the form cannot be read: {error}")) from None
    try:
        found = [value for value in form.values() if isinstance(value, UploadFile)]
        if not found:
            raise Refused(400, "the form holds no file")
        with received.open("wb") as file:
            await run_in_threadpool(shutil.copyfileobj, found[0].file, file)
        return found[0].filename
    finally:
        await form.close()


async def _body(request: Request, max_bytes: int, until: float) -> AsyncGenerator[bytes, None]:
    """The parts of a body, counted while they arrive."""
    too_large = Refused(413, f"the body is larger than {max_bytes / 2**20:g} MiB, the most that this server takes")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    size = 0
    parts = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(until):
                part = await anext(parts, None)
        except TimeoutError:
            raise Refused(408, "the body did not arrive within the time that this server allows") from None
        if part is None:
            break
        size += len(part)
        if size > max_bytes:
            raise too_large
        yield part
    if not size:
        raise Refused(400, f"the body is empty; expected {KNOWN}")


async def read_body(request: Request, max_bytes: int, until: float) -> bytes:
    """A whole body in memory, for requests that are JSON themselves. See `receive` for arguments and errors."""
    return b"".join([part async for part in _body(request, max_bytes, until)])


def kind_of(start: bytes, declared: str = "") -> str:
    """The suffix of a file, from its first bytes. What a client declares counts only for JSON.

    Raises:
        Refused: 415 = of an unknown kind.
    """
    if declared in ("application/json", "text/json"):
        return ".json"
    signatures = (
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
        (b"II+\0", ".tif"),
        (b"MM\0+", ".tif"),
        (b"BM", ".bmp"),
        (b"GIF8", ".gif"),
        (b"\0\0\0\x0cjP", ".jp2"),
        (b"\xff\x4f\xff\x51", ".j2k"),
    )
    for signature, suffix in signatures:
        if start.startswith(signature):
            return suffix
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return ".webp"
    if re.match(rb"P[1-6Ff]\s", start):
        return ".ppm"
    if b"%PDF-" in start:
        return ".pdf"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return ".json"
    raise Refused(415, f"the file is of an unknown kind; expected {KNOWN}")


def _harmless(name: str) -> str:
    """The stem of a file name without folders, and with nothing in it but letters, digits, dots, dashes and _."""
    stem = Path(name.replace("\\", "/").rpartition("/")[2][:1000]).stem
    stem = re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII).strip(".")[:LONGEST_NAME]
    return stem or "document"
