"""Decode text of unknown encoding: as Unicode, or as another encoding if it is the only plausible one.

A wrong guess would silently put wrong words into the training data, so text that is plausible in several encodings is
refused. (charset-normalizer 3.5 always guesses: of 37 short receipts in 13 encodings it decoded 27 wrongly.)
"""

import codecs
import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

# This module needs characters that look like others.
# ruff: noqa: RUF001

LARGEST_GUESSED = 2**20  # bytes; a page has thousands of bytes, and this many take a few seconds
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotUnicode(ValueError):
    """Bytes that are not Unicode text, with no or several plausible encodings. The message names the first bad byte."""


class Text(NamedTuple):
    """Decoded text."""

    text: str
    note: str = ""  # if the text is not Unicode: the encoding used, and the first byte that is not Unicode


def decode(content: bytes) -> Text:
    """Decode UTF-8, UTF-16 with a byte order mark, or the only other plausible encoding.

    The other encodings considered are GB2312, EUC-KR, Big5, Shift JIS, EUC-JP, the Windows code pages of Western
    Europe, Central Europe and Turkey, DOS code page 850 and Mac Roman. Encodings that give the same text count as one.

    Raises:
        NotUnicode: no encoding or several are plausible, the bytes are damaged Unicode, or more than `LARGEST_GUESSED`.
    """
    try:
        return Text(decode_unicode(content))
    except NotUnicode as error:
        if len(content) > LARGEST_GUESSED or is_utf_16(content) or _is_damaged_utf_8(content):
            raise
        not_unicode = str(error)
        found: dict[str, str] = {}  # text -> the first encoding that gives it
        sure = False
        for encoding in _ENCODINGS:
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if _may_be(text, encoding):
                found.setdefault(text, encoding)
                sure = _ENCODINGS[encoding].script == "Latin" or _is_likely(text, encoding)
        if len(found) != 1 or not sure:
            raise
    ((text, encoding),) = found.items()
    return Text(text, f"read as {_ENCODINGS[encoding].name}: {not_unicode}")


def decode_unicode(content: bytes, offset: int = 0) -> str:
    """Decode UTF-8, with or without a byte order mark, or UTF-16 with one.

    Args:
        offset: position of the content in its file, for the message.

    Raises:
        NotUnicode: it is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    encoding = "utf-16" if is_utf_16(content) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        # utf-8-sig skips the byte order mark and counts from after it.
        start = error.start + len(content) - len(error.object)
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise NotUnicode(f"not {name}: byte 0x{content[start]:02X} at offset {offset + start}") from None


def is_utf_16(content: bytes) -> bool:
    """Whether the content begins with a UTF-16 byte order mark."""
    return content.startswith(_UTF_16)


def _is_damaged_utf_8(content: bytes) -> bool:
    """Whether this is UTF-8 with a damaged byte: at least three non-ASCII UTF-8 characters come before the first error.

    Text in another encoding hardly looks like this by accident.
    """
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return len(re.sub("[\0-\x7f]", "", content[: error.start].decode())) >= 3
    return False


class _Encoding(NamedTuple):
    name: str
    script: str  # key of _SCRIPTS
    common: int = 0  # largest first byte of common characters; the standards list them before the rare ones


_ENCODINGS = {
    "gb2312": _Encoding("GB2312", "Chinese", 0xD7),
    "euc_kr": _Encoding("EUC-KR", "Korean", 0xC8),
    "big5": _Encoding("Big5", "Chinese", 0xC6),
    "shift_jis": _Encoding("Shift JIS", "Japanese", 0x98),
    "euc_jp": _Encoding("EUC-JP", "Japanese", 0xCF),
    "cp1252": _Encoding("Windows-1252", "Latin"),
    "cp1250": _Encoding("Windows-1250", "Latin"),
    "cp1254": _Encoding("Windows-1254", "Latin"),
    "cp850": _Encoding("code page 850", "Latin"),
    "mac_roman": _Encoding("Mac Roman", "Latin"),
}

_HALF_WIDTH = "[\uff66-\uff9f]"
_IDEOGRAPHS = "\u4e00-\u9fff"
_SCRIPTS = {
    "Chinese": _IDEOGRAPHS,
    "Korean": f"{_IDEOGRAPHS}\uac00-\ud7a3",
    "Japanese": f"{_IDEOGRAPHS}\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\uff66-\uff9f",
}
# Punctuation and signs of East Asian text: CJK punctuation, full-width forms, and other signs in those standards.
_OTHER_SIGNS = "\u3003\u3008-\u3011\u3014\u3015…‘’“”×÷°℃±‖※→←↑↓①-⑳○●◎◇◆□■△▲☆★\u30fb\uffe0-\uffe6"
_SIGNS = f"\u3000-\u3002\uff01-\uff5e·—～{_OTHER_SIGNS}"
# A single East Asian character next to Latin letters: a wrong decoder turns an accented letter into this.
_STRAY = "(?<![{letters}])[{letters}](?=[A-Za-z])(?![{letters}])|(?<=[A-Za-z])[{letters}](?![{letters}])"
# Full-width punctuation is typed between Latin letters, other signs are not.
_STRAY_SIGN = "(?<=[A-Za-z])[{signs}]|[{signs}](?=[A-Za-z])"
MANY = 10  # minimum number of characters for the share of rare ones to exclude an encoding
RARE = 0.1  # maximum share of rare characters in real text; in wrongly decoded text it is about one half

# Non-ASCII letters of each language. A single letter does not tell code pages apart, but all letters of a text often
# do. Two very rare letters of Slovak are left out: their bytes are à and å in Windows-1252.
_ALPHABETS = (
    "äöüß",  # German
    "àâæçéèêëîïôœùûüÿ",  # French
    "áéíóúüñªº¡¿",  # Spanish
    "àáâãçéêíóôõúüªº",  # Portuguese
    "àèéìíòóùú",  # Italian
    "àçèéíïòóúü",  # Catalan
    "éèëïöüáíóú",  # Dutch
    "åäöéü",  # Swedish, Finnish
    "åæøéêòóôü",  # Danish, Norwegian
    "áðéíóúýþæö",  # Icelandic
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíľňóôšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "ăâîşţ",  # Romanian
    "čćđšž",  # Croatian, Slovene
    "çğıöşüâîûi\u0307",  # Turkish
)
_WORD = re.compile(r"[^\W\d_]+")
# Signs of the Windows code pages in positions where real text has them: next to a number, between words, at a word end.
_LATIN_SIGNS = re.compile(
    r"(?<![^\x00-\x7f])(?:"
    r"[£€¥](?=\s?[0-9])|(?<=[0-9])\s?[€£°%‰²³½¼¾](?![A-Za-z0-9]{2})|(?<=[0-9])[ªº×]|(?<=[0-9])[–](?=[0-9])"
    r"|(?<=\s)[–—•·©®§×±](?=\s)|©(?=\s?[0-9])|(?<=[A-Za-z])[®™](?![A-Za-z])|[¿¡](?=[A-Za-z])"
    r"|(?<=[A-Za-z])’(?=[A-Za-z])|(?<!\w)“(?=\w)|(?<=[\w.,])”(?!\w)"
    r")(?![^\x00-\x7f])"
)


def _may_be(text: str, encoding: str) -> bool:
    """Whether the text is plausible in this encoding. A lenient test: it makes other encodings ambiguous."""
    script = _ENCODINGS[encoding].script
    return _is_latin(text) if script == "Latin" else _is_east_asian(text, encoding, _SCRIPTS[script])


def _is_latin(text: str) -> bool:
    """Whether all letters belong to one language, few are accented, and all signs are in positions of real text."""
    rest = _LATIN_SIGNS.sub(" ", text)
    accented: set[str] = set()
    for word in set(_WORD.findall(rest)):
        own = [letter for letter in word if not letter.isascii()]
        if not own:
            continue
        # Apart from "à", words have ASCII letters too. At most two accented letters are adjacent, between lower-case
        # ASCII letters, as in "créée" and "Größe". No capital follows a lower-case letter.
        if word.lower() != "à" and len(own) == len(word):
            return False
        if re.search(r"[^\x00-\x7f]{3}|(?<![a-z])[^\x00-\x7f]{2}|[^\x00-\x7f]{2}(?![a-z])", word):
            return False
        if any(before.islower() and after.isupper() for before, after in pairwise(word)):
            return False
        accented.update(word.lower())
    left = _WORD.sub(" ", rest)
    if not left.isascii():
        return False
    accented = {letter for letter in accented if not letter.isascii()}
    return any(accented <= set(alphabet) for alphabet in _ALPHABETS)


def _is_east_asian(text: str, encoding: str, letters: str) -> bool:
    """Whether non-ASCII text is of one script, without single characters next to Latin letters, and few rare ones."""
    beyond = re.sub("[\0-\x7f]", "", text)
    if re.search(f"[^{letters}{_SIGNS}]", beyond):
        return False
    if re.search(_STRAY.format(letters=letters), text):
        return False
    # A single half-width katakana is more likely a sign of a Western code page, such as "¥" before a number.
    if re.search(f"(?<!{_HALF_WIDTH}){_HALF_WIDTH}(?!{_HALF_WIDTH})", text):
        return False
    if re.search("[\uac00-\ud7a3][\u4e00-\u9fff]|[\u4e00-\u9fff][\uac00-\ud7a3]", text):
        return False
    return len(re.findall(f"[{letters}]", beyond)) < MANY or _rare(beyond, encoding, letters) <= RARE


def _is_likely(text: str, encoding: str) -> bool:
    """Whether a plausible East Asian text is also likely. A strict test, without the leniency for short texts."""
    letters = _SCRIPTS[_ENCODINGS[encoding].script]
    # Half-width katakana are single bytes, so almost any bytes decode to some.
    if re.search(_HALF_WIDTH, text) or re.search(_STRAY_SIGN.format(signs=_OTHER_SIGNS), text):
        return False
    return _rare(re.sub("[\0-\x7f]", "", text), encoding, letters) <= RARE


def _rare(text: str, encoding: str, letters: str) -> float:
    """Share of rare characters among the letters of a text."""
    count = Counter(re.sub(f"[^{letters}]", "", text))
    common = _ENCODINGS[encoding].common
    rare = sum(
        number
        for letter, number in count.items()
        if re.match(f"[{_IDEOGRAPHS}\uac00-\ud7a3]", letter) and letter.encode(encoding)[0] > common
    )
    return rare / max(1, count.total())
