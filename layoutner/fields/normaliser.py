"""The normalisers, by name, and which of them each entity type has."""

from collections.abc import Callable, Iterable, Mapping

from layoutner.errors import SettingsError, did_you_mean
from layoutner.fields.amount import parse_amount, parse_number
from layoutner.fields.date import parse_date

Normaliser = Callable[[str], str]  # text -> value; raises ValueError, with the reason, if the value is not clear

NORMALISERS: dict[str, Normaliser] = {
    "amount": parse_amount,
    "amount.dot": lambda text: parse_amount(text, "."),
    "amount.comma": lambda text: parse_amount(text, ","),
    "date": parse_date,
    "date.dmy": lambda text: parse_date(text, "dmy"),
    "date.mdy": lambda text: parse_date(text, "mdy"),
    "date.ymd": lambda text: parse_date(text, "ymd"),
    "number": parse_number,
    "number.dot": lambda text: parse_number(text, "."),
    "number.comma": lambda text: parse_number(text, ","),
}


def find_normalisers(names: Mapping[str, str], types: Iterable[str]) -> dict[str, Normaliser]:
    """The normaliser of each type.

    Args:
        names: entity type -> name of its normaliser.
        types: all entity types of the model.

    Raises:
        SettingsError: the model has no such type, or there is no such normaliser.
    """
    known = list(types)
    for kind, name in names.items():
        if kind not in known:
            raise SettingsError(f"normaliser of {kind}: the model has no such type; {did_you_mean(kind, known)}")
        require_normaliser(name)
    return {kind: NORMALISERS[name] for kind, name in names.items()}


def read_choices(given: Iterable[str]) -> dict[str, str]:
    """Texts such as "TOTAL=amount" as entity type -> name of its normaliser.

    Raises:
        SettingsError: a text of another form, an unknown normaliser, or two for one type.
    """
    found: dict[str, str] = {}
    for text in given:
        kind, equals, name = text.rpartition("=")
        if not (kind and equals):
            raise SettingsError(f"--normalise {text}: write TYPE=NORMALISER, such as TOTAL=amount")
        require_normaliser(name)
        if found.setdefault(kind, name) != name:
            raise SettingsError(f"--normalise {text}: {kind} has {found[kind]} already; give one per type")
    return found


def require_normaliser(name: str) -> None:
    """Refuse a name that no normaliser has.

    Raises:
        SettingsError: there is no such normaliser.
    """
    if name not in NORMALISERS:
        raise SettingsError(f"{name!r} is not a normaliser; known: {', '.join(NORMALISERS)}")
