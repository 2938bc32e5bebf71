"""Amounts of money and numbers, as people write them, as decimal numbers.

Nothing is guessed that another reader of the text could take for another number: such a text is an error.
"""

import re
import unicodedata
from decimal import Decimal
from typing import Literal

DecimalSign = Literal[".", ","]

LONGEST = 100  # characters; nobody writes a number that long

# ISO 4217, and what is written instead of it where the currency is at home.
# fmt: off
_CODES = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS
INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU
MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK
SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF
XCD XOF XPF YER ZAR ZMW ZWL
"""
_LOCAL = ("RM", "Rs", "Rp", "kr", "zł", "Kč", "Ft", "lei", "Fr", "SFr", "TL", "руб", "лв", "kn", "元", "円", "圓", "원")  # noqa: RUF001
# fmt: on
THREE_DECIMALS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
DOLLARS = r"(?:US|AU|CA|HK|NZ|SG|NT|MX|A|C|S|R)\$"
_CURRENCY = re.compile(
    rf"{DOLLARS}|(?<![^\W\d_])(?:{'|'.join(sorted(map(re.escape, (*_CODES.split(), *_LOCAL)), key=len, reverse=True))})"
    r"\.?(?![^\W\d_])",
    re.IGNORECASE,
)
_APOSTROPHES = "'\u2019"
_SPACE = "[ \u00a0\u2009\u202f]"
_LABEL = re.compile(
    r"(?:[^\W\d_]+(?:[-/&][^\W\d_]+)*(?:\s*:\s*|\.*\s+))+"
)  # words before the number, such as "Sub-total:"
_NEGATING = frozenset(("minus", "less", "negative"))
_GROUPED = r"\d{1,3}(?:G\d{3})+|\d{1,2}(?:G\d{2})+G\d{3}"  # G: the separator; the second is India's


def parse_amount(text: str, decimal: DecimalSign | None = None) -> str:
    """An amount of money as a decimal number, such as "-1234.50"; the decimals are those of the text.

    "1.234,56", "1,234.56", "1 234,56" and "1'234.56" are the same. A currency sign or code may stand before or after.
    A minus before or after and brackets make it negative. Words in front, as in "Total: 9.00", are ignored. Three
    digits after the only sign, as in "1.234", are thousands, unless the currency has three decimals.

    Args:
        decimal: the decimal sign, if it is known; the other sign separates thousands.

    Raises:
        ValueError: the text is no amount, or can be read in two ways.
    """
    rest = _plain(text)
    codes = {found.upper().rstrip(".") for found in _CURRENCY.findall(rest)}
    rest = _CURRENCY.sub(" ", rest)
    symbols = {letter for letter in rest if unicodedata.category(letter) == "Sc"}
    rest = "".join(" " if letter in symbols else letter for letter in rest)
    if len(codes) > 1 or len(symbols) > 1:
        raise ValueError(f"several currencies: {', '.join(sorted(codes | symbols))}")
    return _decimal(rest, decimal, thousands=not codes & THREE_DECIMALS)


def parse_number(text: str, decimal: DecimalSign | None = None) -> str:
    """A number as a decimal number, such as "-1234.5"; the decimals are those of the text.

    As `parse_amount`, without a currency. "1.234" and "1,234" can be read in two ways.

    Args:
        decimal: the decimal sign, if it is known.

    Raises:
        ValueError: the text is no number, or can be read in two ways.
    """
    return _decimal(_plain(text), decimal, thousands=False)


def _plain(text: str) -> str:
    """The text with digits of any script as 0 to 9, and dashes as minus.

    Raises:
        ValueError: it is too long.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, too long for a number")
    digits = (str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)
    return re.sub("[\u2010-\u2015\u2212]", "-", "".join(digits)).strip()


def _without_label(text: str) -> str:
    """The text without the words in front of the number.

    Raises:
        ValueError: one of them makes the number negative.
    """
    label = _LABEL.match(text)
    if label is None:
        return text
    if negating := _NEGATING.intersection(re.findall(r"[^\W\d_]+", label[0].casefold())):
        raise ValueError(f"more than a number: {' '.join(sorted(negating))}")
    return text[label.end() :]


def _decimal(text: str, decimal: DecimalSign | None, thousands: bool) -> str:
    """The number of a text that holds nothing but a number, its sign and spaces, and words in front.

    Args:
        thousands: three digits after the only separator are thousands.
    """
    rest = _without_label(text.strip()).strip()
    negative = 0
    if found := re.fullmatch(r"\((.*)\)", rest):
        negative, rest = 1, found[1].strip()
    whole = re.fullmatch(r"(.*\d)\s?[.,]\s?--?", rest)  # "12,-" is 12
    rest = whole[1] if whole else rest
    for pattern in (r"-\s*(.*)", r"(.*?)\s*-"):
        if found := re.fullmatch(pattern, rest):
            negative, rest = negative + 1, found[1]
    rest = re.sub(r"^\+\s*", "", rest)
    if negative > 1:
        raise ValueError("more than one minus sign")
    number = _unsigned(rest.strip(), decimal, thousands)
    value = Decimal(number)
    return format(-value if negative and value else value, "f")


def _unsigned(text: str, decimal: DecimalSign | None, thousands: bool) -> str:
    if not re.search(r"\d", text):
        raise ValueError("no digit")
    if not re.fullmatch(rf"(?:\d|[{_APOSTROPHES}.,]|{_SPACE})+", text):
        other = re.sub(rf"(?:\d|[{_APOSTROPHES}.,\-+]|{_SPACE})+", " ", text).split()
        raise ValueError(f"more than a number: {' '.join(other) or text}")
    whole, sign, decimals = _split(text, decimal, thousands)
    if decimals and not decimals.isdigit():
        raise ValueError(f"not a number: {text}")
    separators = set(re.sub(r"\d", "", re.sub(_SPACE, " ", whole)))
    if len(separators) > 1 or sign in separators:
        raise ValueError(f"not a number: {text}")
    if separators:
        separator = _SPACE if separators == {" "} else re.escape(separators.pop())
        if not re.fullmatch(_GROUPED.replace("G", separator), whole):
            raise ValueError(f"digits in groups that are no thousands: {text}")
    digits = re.sub(r"\D", "", whole)
    return f"{digits or '0'}.{decimals}" if decimals else digits


def _split(text: str, decimal: DecimalSign | None, thousands: bool) -> tuple[str, str, str]:
    """The digits before the decimal sign with their separators, the sign, and the digits after it."""
    if decimal is not None:
        return text.rpartition(decimal) if decimal in text else (text, "", "")
    dots, commas = text.count("."), text.count(",")
    if dots and commas:
        return text.rpartition("." if text.rindex(".") > text.rindex(",") else ",")
    if dots + commas != 1:
        return text, "", ""  # none, or one that separates thousands several times
    before, sign, after = text.rpartition("." if dots else ",")
    if len(after) != 3 or not re.fullmatch(r"[1-9]\d{0,2}", before):
        return before, sign, after
    if not thousands:
        raise ValueError(f"{text} can be read as {before}{after} or as {before}.{after}")
    return text, "", ""
