"""Dates as people write them."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layoutner.fields.date import MONTHS, parse_date


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2025-03-14", "2025-03-14"),
        ("2018-03-01T10:00:00", "2018-03-01"),
        ("14/03/2025", "2025-03-14"),
        ("03/14/2025", "2025-03-14"),
        ("3/3/2025", "2025-03-03"),
        ("14.03.25", "2025-03-14"),
        ("14.03.69", "1969-03-14"),
        ("98-03-14", "1998-03-14"),
        ("20250314", "2025-03-14"),
        ("14032025", "2025-03-14"),
        ("25/12/2018 8:13:39 PM", "2018-12-25"),
        ("14 Mar 25", "2025-03-14"),
        ("14. März 2025", "2025-03-14"),
        ("March 14th, 2025", "2025-03-14"),
        ("Fri, 14-MAR-2025", "2025-03-14"),
        ("14MAR2025", "2025-03-14"),
        ("05 FEB 2018(MON)", "2018-02-05"),
        ("14 de marzo de 2025", "2025-03-14"),
        ("1er janvier 2020", "2020-01-01"),
        ("2 août 2019", "2019-08-02"),
        ("2 października 2019", "2019-10-02"),
        ("2025\u5e743\u670814\u65e5", "2025-03-14"),
        ("29 Feb 2024", "2024-02-29"),
        ("Invoice date: 14/03/2025", "2025-03-14"),
    ],
)
def test_a_date_is_written_as_iso_8601(text: str, value: str) -> None:
    assert parse_date(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "needs a day"),
        ("03/04/2025", "can be read as 2025-03-04 or as 2025-04-03"),
        ("03.04.25", "can be read as 2025-03-04 or as 2025-04-03"),
        ("31/02/2025", "no such day"),
        ("29 Feb 2025", "no such day"),
        ("14/03", "needs a day"),
        ("March 2025", "one day, one month and one year"),
        ("Mar Apr 14 2025", "one day, one month and one year"),
        ("14/03/2025 due", "more than a date: due"),
        ("due 14/03", "needs a day"),
        ("14/03/202", "no such day"),
        ("1" * 101, "too long"),
    ],
)
def test_what_is_not_clear_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_date(text)


def test_a_known_order_decides() -> None:
    assert [parse_date("03/04/2025", order) for order in ("dmy", "mdy")] == ["2025-04-03", "2025-03-04"]
    assert [parse_date("01.02.03", order) for order in ("dmy", "mdy", "ymd")] == [
        "2003-02-01",
        "2003-01-02",
        "2001-02-03",
    ]
    assert parse_date("20180304", "dmy") == "2018-03-04"
    with pytest.raises(ValueError, match="no such day"):
        parse_date("14/03/2025", "mdy")


@given(
    st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)),
    st.sampled_from(["%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y", "%Y %b %d", "%d. %B %Y 10:15"]),
)
def test_every_date_comes_back_from_how_it_is_written(day: datetime.date, form: str) -> None:
    assert parse_date(day.strftime(form)) == day.isoformat()


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)), st.sampled_from("/.- "))
def test_numbers_are_that_date_or_two(day: datetime.date, between: str) -> None:
    text = f"{day.day}{between}{day.month}{between}{day.year}"
    assert parse_date(text, "dmy") == day.isoformat()
    if day.day > 12 or day.day == day.month:
        assert parse_date(text) == day.isoformat()
    else:
        with pytest.raises(ValueError, match=f"{day.isoformat()}"):
            parse_date(text)


@given(st.text(max_size=120))
def test_any_text_is_a_date_or_a_reason(text: str) -> None:
    try:
        assert datetime.date.fromisoformat(parse_date(text))
    except ValueError as error:
        assert str(error)  # noqa: PT017


def test_no_month_has_two_numbers() -> None:
    assert (len(MONTHS), set(MONTHS.values())) == (len(set(MONTHS)), set(range(1, 13)))
    assert (MONTHS["lis"], MONTHS["mars"], MONTHS["mag"]) == (11, 3, 5)
