"""Dates, as people write them, as ISO 8601 dates.

A date that can be read in two ways, such as 03/04/2025, is an error unless the order is known.
"""

import datetime
import re
import unicodedata
from collections.abc import Iterator
from itertools import dropwhile
from typing import Literal

Order = Literal["dmy", "mdy", "ymd"]

LONGEST = 100  # characters
YEARS = range(1900, 2101)
PIVOT = 69  # years of two digits from here on are of the twentieth century, as POSIX has it

# Month names without accents: English, German, French, Spanish, Italian, Portuguese, Dutch, Swedish and Danish, Polish.
_MONTHS = """
january jan januar jaenner janner janvier janv enero ene gennaio gen janeiro januari stycznia styczen sty
february feb februar fevrier fevr fev febrero febbraio fevereiro februari lutego luty lut
march mar marz maerz mrz mars marzo marco maart mrt marts marca marzec
april apr avril avr abril abr aprile kwietnia kwiecien kwi
may mai mayo maggio mag maio mei maj maja
june jun juni juin junio giugno giu junho czerwca czerwiec cze
july jul juli juillet juil julio luglio lug julho lipca lipiec lip
august aug aout agosto ago augustus augusti sierpnia sierpien sie
september sep sept septembre septiembre settembre set setembro wrzesnia wrzesien wrz
october oct oktober okt octobre octubre ottobre ott outubro out pazdziernika pazdziernik paz
november nov novembre noviembre novembro listopada listopad lis
december dec dezember dez decembre diciembre dic dicembre dezembro desember grudnia grudzien gru
"""
MONTHS = {name: number for number, line in enumerate(_MONTHS.split("\n")[1:13], 1) for name in line.split()}
# Words that may stand in a date without a meaning for it: articles, and the days of the week.
_FILLERS = """
of the de del di den der le am d
mon tue tues wed thu thur thurs fri sat sun monday tuesday wednesday thursday friday saturday sunday
mo di mi do fr sa so montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag
lundi mardi mercredi jeudi vendredi samedi dimanche lunes martes miercoles jueves viernes sabado domingo
lunedi martedi mercoledi giovedi venerdi domenica maandag dinsdag woensdag donderdag vrijdag zaterdag zondag
"""
FILLERS = frozenset(_FILLERS.split())
_TIME = re.compile(
    r"(?:(?<=\d)T|(?<![\d:]))\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?\s*(?:[ap]\.?m\.?|z|h|uhr)?(?![\w:])", re.I
)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th|er|\N{MASCULINE ORDINAL INDICATOR}|o|e)\b")


def parse_date(text: str, order: Order | None = None) -> str:
    """A date as YYYY-MM-DD.

    Day, month and year may be separated by anything but letters. A month may be a name. A year of four digits in front
    is followed by month and day. A time of day and words in front are ignored. Years of two digits are those from 1969
    to 2068.

    Args:
        order: of the numbers, if it is known. Without it, a year of two digits in front must be more than 31.

    Raises:
        ValueError: the text is no date, or can be read in two ways.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, too long for a date")
    plain = _TIME.sub(" ", _ascii(text))
    plain = _ORDINAL.sub("", re.sub("[\u5e74\u6708]", "-", plain.replace("\u65e5", " ")))
    parts = re.findall(r"\d+|[^\W\d_]+", plain)
    parts = list(dropwhile(lambda part: not part.isdigit() and part not in MONTHS, parts))  # "Invoice date:"
    numbers = [part for part in parts if part.isdigit()]
    names = [part for part in parts if not part.isdigit()]
    months = [part for part in names if part in MONTHS]
    if other := [part for part in names if part not in MONTHS and part not in FILLERS]:
        raise ValueError(f"more than a date: {' '.join(other)}")
    if months:
        if len(months) > 1 or len(numbers) != 2:
            raise ValueError("a date needs one day, one month and one year")
        readings = set(_with_name(numbers, MONTHS[months[0]]))
    elif len(numbers) == 1 and len(numbers[0]) == 8:
        readings = set(_eight_digits(numbers[0], order))
    elif len(numbers) == 3:
        readings = set(_numeric(numbers, order))
    else:
        raise ValueError("a date needs a day, a month and a year")
    if not readings:
        raise ValueError("there is no such day")
    if len(readings) > 1:
        raise ValueError(f"can be read as {' or as '.join(sorted(day.isoformat() for day in readings))}")
    return readings.pop().isoformat()


def _ascii(text: str) -> str:
    """Lower case, digits of any script as 0 to 9, letters without accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    plain = (letter for letter in letters if not unicodedata.combining(letter))
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in plain)


def _numeric(numbers: list[str], order: Order | None) -> Iterator[datetime.date]:
    """The dates that three numbers can be."""
    first, second, third = numbers
    if len(first) == 4:
        yield from _day(first, second, third)
    elif len(third) == 4:
        if order in (None, "dmy", "ymd"):
            yield from _day(third, second, first)
        if order in (None, "mdy", "ymd"):
            yield from _day(third, first, second)
    elif order == "ymd" or (order is None and int(first) > 31):
        yield from _day(first, second, third)
    else:
        if order in (None, "dmy"):
            yield from _day(third, second, first)
        if order in (None, "mdy"):
            yield from _day(third, first, second)


def _with_name(numbers: list[str], month: int) -> Iterator[datetime.date]:
    """The date of day and year, in this order unless the first can only be the year."""
    day, year = numbers
    if len(day) == 4 or int(day) > 31:
        day, year = year, day
    yield from _day(year, str(month), day)


def _eight_digits(digits: str, order: Order | None) -> Iterator[datetime.date]:
    yield from _day(digits[:4], digits[4:6], digits[6:])  # as a year of four digits in front
    if order in (None, "dmy"):
        yield from _day(digits[4:], digits[2:4], digits[:2])
    if order in (None, "mdy"):
        yield from _day(digits[4:], digits[:2], digits[2:4])


def _day(year: str, month: str, day: str) -> Iterator[datetime.date]:
    """The date, if there is one."""
    if len(year) not in (2, 4) or len(month) > 2 or len(day) > 2:
        return
    whole = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= PIVOT else 2000)
    if whole in YEARS and 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
        try:
            yield datetime.date(whole, int(month), int(day))
        except ValueError:  # such as 30 February
            return
