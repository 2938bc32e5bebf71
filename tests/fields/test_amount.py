"""Amounts and numbers as people write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layoutner.fields.amount import parse_amount, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.234,56", "1234.56"),
        ("1,234.56", "1234.56"),
        ("1 234,56 €", "1234.56"),
        ("1\u00a0234,56", "1234.56"),
        ("1'234.50", "1234.50"),
        ("CHF 1\u2019234.50", "1234.50"),
        ("1,23,456.78", "123456.78"),
        ("1.234.567", "1234567"),
        ("EUR 1.234", "1234"),
        ("$1,234", "1234"),
        ("US$ 5", "5"),
        ("RM9.00", "9.00"),
        ("rm 9.00", "9.00"),
        ("12,5 zł", "12.5"),
        ("0.500", "0.500"),
        (".50", "0.50"),
        ("12,-", "12"),
        ("Fr. 12.--", "12"),
        ("(12.50)", "-12.50"),
        ("-12,50 EUR", "-12.50"),
        ("\u221212.50", "-12.50"),
        ("12.00-", "-12.00"),
        ("-$5.00", "-5.00"),
        ("-0.00", "0.00"),
        ("+3", "3"),
        ("Total 9.00", "9.00"),
        ("Sub-total: RM -9.00", "-9.00"),
        ("GRAND TOTAL:14.000", "14000"),
        ("Netto : 50,039", "50039"),
        ("\u0661\u0662.\u0665\u0660", "12.50"),
    ],
)
def test_an_amount_is_a_decimal_number(text: str, value: str) -> None:
    assert parse_amount(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no digit"),
        ("RM", "no digit"),
        ("9.00 S", "more than a number: S"),
        ("9.00 Total", "more than a number: Total"),
        ("Total 9.00 Tax 1.00", "more than a number: Tax"),
        ("minus 9.00", "more than a number: minus"),
        ("T9.00", "more than a number: T"),
        ("1O.00", "more than a number: O"),
        ("9 10", "no thousands"),
        ("1.2.3", "no thousands"),
        ("1.234,567.8", "not a number"),
        ("12.345,67,8", "not a number"),
        ("(-5)", "more than one minus"),
        ("£1.00 €", "several currencies"),
        ("1.234 KWD", "can be read as 1234 or as 1.234"),
        ("9" * 101, "too long"),
    ],
)
def test_what_is_not_clear_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_amount(text)


def test_a_known_decimal_sign_decides() -> None:
    assert (parse_amount("1.234", "."), parse_amount("1.234", ",")) == ("1.234", "1234")
    assert (parse_number("1,234", ","), parse_number("1,234", ".")) == ("1.234", "1234")
    with pytest.raises(ValueError, match="can be read as 1234 or as 1.234"):
        parse_number("1,234")
    with pytest.raises(ValueError, match="more than a number: RM"):
        parse_number("3 RM")


def write(value: Decimal, thousands: str, sign: str) -> str:
    whole, _, decimals = f"{abs(value):,.2f}".partition(".")
    return f"{whole.replace(',', thousands)}{sign}{decimals}"


@given(
    st.decimals(-(10**12), 10**12, places=2),
    st.sampled_from([(".", ","), (",", "."), (" ", ","), ("'", "."), ("", "."), ("\u202f", ",")]),
    st.sampled_from(["{}", "({})", "-{}", "{}-", "EUR {}", "{} €", "$ -{}"]),
)
def test_every_amount_comes_back_from_how_it_is_written(value: Decimal, signs: tuple[str, str], form: str) -> None:
    text = form.format(write(value, *signs))
    negative = "-" in form or "(" in form
    assert Decimal(parse_amount(text)) == (-abs(value) if negative else abs(value))


@given(st.text(max_size=120))
def test_any_text_is_a_number_or_a_reason(text: str) -> None:
    for parse in (parse_amount, parse_number):
        try:
            assert Decimal(parse(text)).is_finite()
        except ValueError as error:
            assert str(error)  # noqa: PT017
