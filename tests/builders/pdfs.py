"""Small PDFs, written byte by byte: text in Courier at known places, turned and cut pages, scans, forms, encryption."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ADVANCE = 0.6  # of the font's size: every letter of Courier is so wide
CAPITALS = 0.57  # of the font's size: the height of its capital letters
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


@dataclass(frozen=True)
class Sheet:
    """A page. Coordinates are those of PDF: points, with the origin at the bottom left."""

    content: bytes
    size: tuple[float, float] = (612, 792)
    rotate: int = 0
    crop: tuple[float, float, float, float] | None = None
    image: Image.Image | None = None  # "/Im Do" draws it into the unit square
    field: tuple[str, tuple[float, float, float, float]] | None = None  # value and place of a form field
    unicode: dict[int, str] | None = None  # what /F2 says its codes mean, four hexadecimal digits per unit


def text(x: float, y: float, words: str, size: float = 12, font: str = "F1", matrix: str = "1 0 0 1") -> bytes:
    """Draw text whose first letter begins at (x, y), on the baseline."""
    escaped = words.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
    return f"BT /{font} {size} Tf {matrix} {x} {y} Tm (".encode() + escaped + b") Tj ET\n"


def box_of(x: float, y: float, word: str, size: float, height: float) -> tuple[float, float, float, float]:
    """The box of a word of capitals of `text` on an upright page of this height: left, top, right, bottom."""
    return x, height - y - CAPITALS * size, x + len(word) * ADVANCE * size, height - y


def scan(*lines: str, size: tuple[float, float] = (612, 792), letters: int = 46) -> Sheet:
    """A page that is a picture at 200 dpi. Line n has its top left corner at (120, 120 + 100 n) pixels."""
    picture = Image.new("L", (round(size[0] / 72 * 200), round(size[1] / 72 * 200)), 255)
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text((120, 120 + 100 * number), line, 0, ImageFont.load_default(letters))
    return Sheet(f"q {size[0]} 0 0 {size[1]} 0 0 cm /Im Do Q\n".encode(), size, image=picture)


def pdf(*sheets: Sheet, password: str | None = None) -> bytes:
    """The bytes of a PDF.

    Args:
        password: encrypts it, with 40 bits of RC4.
    """
    bodies: list[bytes] = [b"", b""]  # the catalog and the table of pages come last
    streams: set[int] = set()

    def add(body: bytes, stream: bytes | None = None) -> int:
        if stream is not None:
            body = body[:-2] + f"/Length {len(stream)} >>\nstream\n".encode() + stream + b"\nendstream"
            streams.add(len(bodies) + 1)
        bodies.append(body)
        return len(bodies)

    font = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>")
    pages, fields = [], []
    for sheet in sheets:
        content = add(b"<< >>", sheet.content)
        fonts, images, extra = f"/F1 {font} 0 R", "", ""
        if sheet.unicode is not None:
            mapping = add(b"<< >>", _unicode_map(sheet.unicode))
            second = f"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /ToUnicode {mapping} 0 R >>"
            fonts += f" /F2 {add(second.encode())} 0 R"
        if sheet.image is not None:
            width, height = sheet.image.size
            header = (
                f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray "
                "/BitsPerComponent 8 /Filter /FlateDecode >>"
            )
            images = f"/XObject << /Im {add(header.encode(), zlib.compress(sheet.image.tobytes()))} 0 R >>"
        if sheet.field is not None:
            fields.append(_field(add, font, *sheet.field))
            extra += f" /Annots [{fields[-1]} 0 R]"
        if sheet.crop is not None:
            extra += f" /CropBox [{' '.join(map(str, sheet.crop))}]"
        pages.append(
            add(
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {sheet.size[0]} {sheet.size[1]}] /Rotate {sheet.rotate} "
                f"/Resources << /Font << {fonts} >> {images} >> /Contents {content} 0 R{extra} >>".encode()
            )
        )
    form = f" /AcroForm << /Fields [{' '.join(f'{field} 0 R' for field in fields)}] >>" if fields else ""
    bodies[0] = f"<< /Type /Catalog /Pages 2 0 R{form} >>".encode()
    bodies[1] = f"<< /Type /Pages /Kids [{' '.join(f'{page} 0 R' for page in pages)}] /Count {len(pages)} >>".encode()
    trailer = f"/Size {len(bodies) + (2 if password else 1)} /Root 1 0 R"
    if password is not None:
        bodies = _encrypted(bodies, streams, password)
        trailer += f" /Encrypt {len(bodies)} 0 R /ID [<{'00' * 16}> <{'00' * 16}>]"
    return _file(bodies, trailer)


def write_pdf(path: Path, *sheets: Sheet, password: str | None = None) -> Path:
    """Write a PDF, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pdf(*sheets, password=password))
    return path


def _file(bodies: list[bytes], trailer: str) -> bytes:
    content, places = b"%PDF-1.6\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    xref = f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}trailer\n<< {trailer} >>\n"
    return content + f"{xref}startxref\n{len(content)}\n%%EOF\n".encode()


def _field(add, font: int, value: str, place: tuple[float, float, float, float]) -> int:  # type: ignore[no-untyped-def]
    """A text field that shows its value at the left of its baseline, 3 points above its lower side."""
    width, height = place[2] - place[0], place[3] - place[1]
    look = (
        f"<< /Type /XObject /Subtype /Form /BBox [0 0 {width} {height}] /Resources << /Font << /F1 {font} 0 R >> >> >>"
    )
    shown = add(look.encode(), b"/Tx BMC\n" + text(2, 3, value) + b"EMC\n")
    widget = (
        f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (field) /F 4 /Rect [{' '.join(map(str, place))}] "
        f"/V ({value}) /DA (/F1 12 Tf) /AP << /N {shown} 0 R >> >>"
    )
    return int(add(widget.encode()))


def _unicode_map(meanings: dict[int, str]) -> bytes:
    lines = "\n".join(f"<{code:02x}> <{meaning}>" for code, meaning in meanings.items())
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /M def /CMapType 2 def\n"
        f"1 begincodespacerange <00> <ff> endcodespacerange\n{len(meanings)} beginbfchar\n{lines}\nendbfchar\n"
        "endcmap CMapName currentdict /CMap defineresource pop end end"
    ).encode()


def _encrypted(bodies: list[bytes], streams: set[int], password: str) -> list[bytes]:
    """Encrypt streams by algorithms 1 to 4 of PDF 1.7, section 7.6.3 (revision 2, keys of 40 bits)."""
    padded = (password.encode() + PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + (-4 & 0xFFFFFFFF).to_bytes(4, "little") + bytes(16)).digest()[:5]
    made = list(bodies)
    for number in streams:
        head, _, rest = made[number - 1].partition(b"stream\n")
        own = hashlib.md5(key + number.to_bytes(3, "little") + bytes(2)).digest()[:10]
        made[number - 1] = head + b"stream\n" + _rc4(own, rest.removesuffix(b"\nendstream")) + b"\nendstream"
    user = _rc4(key, PADDING)
    entry = f"<< /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> /P -4 >>".encode()
    return [*made, entry]


def _rc4(key: bytes, content: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    made, i, j = bytearray(), 0, 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        made.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(made)
