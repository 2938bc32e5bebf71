"""Text of unknown encoding: Unicode, or another encoding if the bytes allow only one that makes sense.

A guess that is wrong puts wrong words into training without an error, so what several encodings can explain is not
decided. (charset-normalizer 3.5 decides always: of 37 short receipts in 13 encodings it read 27 wrongly.)
"""

import codecs
import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

# Letters and signs that look like others are what this module is about.
# ruff: noqa: RUF001

LARGEST_GUESSED = 2**20  # bytes; a page takes thousands, and this a few seconds
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotUnicode(ValueError):
    """Bytes that are no UTF-8, and may be of none or of several other encodings. The message names the first byte."""


class Text(NamedTuple):
    """Decoded text."""

    text: str
    note: str = ""  # of a text that is not Unicode: what it was read as, and its first byte that says so


def decode(content: bytes) -> Text:
    """Decode UTF-8, UTF-16 with a byte order mark, or the only other encoding that makes sense.

    These others are looked at: GB2312, EUC-KR, Big5, Shift JIS, EUC-JP, the Windows code pages of Western Europe,
    Central Europe and Turkey, code page 850 of DOS and Mac Roman. Encodings that give the same text count as one.

    Raises:
        NotUnicode: none of them makes sense, or several may, or it is longer than `LARGEST_GUESSED`.
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
        offset: of the content in its file, for the message.

    Raises:
        NotUnicode: it is neither.
    """
    encoding = "utf-16" if is_utf_16(content) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        # The codec that skips the mark counts from behind it.
        start = error.start + len(content) - len(error.object)
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise NotUnicode(f"not {name}: byte 0x{content[start]:02X} at offset {offset + start}") from None


def is_utf_16(content: bytes) -> bool:
    """Whether it begins with the byte order mark of UTF-16."""
    return content.startswith(_UTF_16)


def _is_damaged_utf_8(content: bytes) -> bool:
    """Whether a text begins as UTF-8 does, so that a later byte is damage: by accident, three letters hardly do."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return len(re.sub("[\0-\x7f]", "", content[: error.start].decode())) >= 3
    return False


class _Encoding(NamedTuple):
    name: str
    script: str  # key of _SCRIPTS
    common: int = 0  # largest first byte of its common characters, which the standards list before the rare ones


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
# Punctuation and signs of East Asian text: CJK punctuation, full-width forms, and what the standards have beside them.
_OTHER_SIGNS = "\u3003\u3008-\u3011\u3014\u3015…‘’“”×÷°℃±‖※→←↑↓①-⑳○●◎◇◆□■△▲☆★\u30fb\uffe0-\uffe6"
_SIGNS = f"\u3000-\u3002\uff01-\uff5e·—～{_OTHER_SIGNS}"
# A character alone between or beside Latin letters is what a wrong decoder makes of an accent.
_STRAY = "(?<![{letters}])[{letters}](?=[A-Za-z])(?![{letters}])|(?<=[A-Za-z])[{letters}](?![{letters}])"
# Full-width punctuation is typed between Latin letters, other signs are not.
_STRAY_SIGN = "(?<=[A-Za-z])[{signs}]|[{signs}](?=[A-Za-z])"
MANY = 10  # characters from which on too many rare ones show that it is another encoding
RARE = 0.1  # share of rare characters that no text exceeds; in wrongly decoded ones it is about a half

# The letters of each language beyond A to Z. Of single letters, no code page makes more sense than another; of all
# letters of a text, one often does. Slovak's very rare two are left out: they stand for the à and å of Windows-1252.
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
# Signs of the Windows code pages where they stand in print: before or after a number, between words, at a word's end.
_LATIN_SIGNS = re.compile(
    r"(?<![^\x00-\x7f])(?:"
    r"[£€¥](?=\s?[0-9])|(?<=[0-9])\s?[€£°%‰²³½¼¾](?![A-Za-z0-9]{2})|(?<=[0-9])[ªº×]|(?<=[0-9])[–](?=[0-9])"
    r"|(?<=\s)[–—•·©®§×±](?=\s)|©(?=\s?[0-9])|(?<=[A-Za-z])[®™](?![A-Za-z])|[¿¡](?=[A-Za-z])"
    r"|(?<=[A-Za-z])’(?=[A-Za-z])|(?<!\w)“(?=\w)|(?<=[\w.,])”(?!\w)"
    r")(?![^\x00-\x7f])"
)


def _may_be(text: str, encoding: str) -> bool:
    """Whether it makes sense, if only as a few rare characters: enough to keep another encoding from being sure."""
    script = _ENCODINGS[encoding].script
    return _is_latin(text) if script == "Latin" else _is_east_asian(text, encoding, _SCRIPTS[script])


def _is_latin(text: str) -> bool:
    """Whether all letters are of one language, few of them accented, and all signs where signs stand."""
    rest = _LATIN_SIGNS.sub(" ", text)
    accented: set[str] = set()
    for word in set(_WORD.findall(rest)):
        own = [letter for letter in word if not letter.isascii()]
        if not own:
            continue
        # "à" is a word; other words have letters of A to Z too, and accents do not follow each other but in "créée"
        # and "Größe". No capital follows a small letter.
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
    """Whether all of it is of one script, in words of more than a letter among Latin ones, few of them rare."""
    beyond = re.sub("[\0-\x7f]", "", text)
    if re.search(f"[^{letters}{_SIGNS}]", beyond):
        return False
    if re.search(_STRAY.format(letters=letters), text):
        return False
    # One of them alone is rather a sign of a Western code page, such as "¥" before a number.
    if re.search(f"(?<!{_HALF_WIDTH}){_HALF_WIDTH}(?!{_HALF_WIDTH})", text):
        return False
    if re.search("[\uac00-\ud7a3][\u4e00-\u9fff]|[\u4e00-\u9fff][\uac00-\ud7a3]", text):
        return False
    return len(re.findall(f"[{letters}]", beyond)) < MANY or _rare(beyond, encoding, letters) <= RARE


def _is_likely(text: str, encoding: str) -> bool:
    """Whether an East Asian text that makes sense is one that somebody wrote, however short it is."""
    letters = _SCRIPTS[_ENCODINGS[encoding].script]
    # Half-width katakana are single bytes, of which nearly any bytes are some.
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
