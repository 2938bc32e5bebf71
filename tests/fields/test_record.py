"""Records of documents: merged pages, normalised values, what is to be reviewed, and CSV."""

import csv
import io

import pytest

from layoutner.errors import DataError, SettingsError
from layoutner.fields.field import FieldWord
from layoutner.fields.normaliser import find_normalisers, read_choices
from layoutner.fields.record import FieldPage, Record, RecordStream, Rules, group_pages, make_record
from layoutner.fields.review import ReviewList
from layoutner.fields.table import csv_line, header, row
from layoutner.pages.labels import Span

TYPES = ("DATE", "ITEM", "TOTAL")


def page(name: str, group: str | None, *entities: tuple[str, str, float]) -> FieldPage:
    """A page of entities (type, text, probability of the first word), one word after the other from left to right.

    All other words are sure, and one of no entity follows each entity.
    """
    words: list[FieldWord] = []
    spans = []

    def add(text: str, probability: float) -> None:
        words.append(FieldWord(text, (10 * len(words), 5, 10 * len(words) + 9, 15), probability))

    for kind, text, probability in entities:
        first, *others = text.split(" ")
        start = len(words)
        add(first, probability)
        for other in others:
            add(other, 1.0)
        spans.append(Span(kind, start, len(words)))
        add("and", 1.0)
    return FieldPage(name, group, (600, 800), words, spans)


THREE = [
    page("a-1", "a", ("DATE", "14 Mar 2025", 0.9), ("ITEM", "Tea", 0.8), ("ITEM", "Cup of milk", 0.7)),
    page("a-2", "a", ("ITEM", "Sugar", 0.6)),
    page("a-3", "a", ("TOTAL", "RM 1,234.50", 0.5)),
]
NAMES = {"DATE": "date", "TOTAL": "amount"}


def rules(least: float = 0.0, **names: str) -> Rules:
    return Rules(find_normalisers(names, TYPES), least)


def test_three_pages_are_one_document() -> None:
    record = make_record(THREE, TYPES, rules(**NAMES))
    assert (record.document, [name for name, _ in record.pages]) == ("a", ["a-1", "a-2", "a-3"])
    items = record.fields["ITEM"]
    assert [(item.text, item.page, item.number) for item in items] == [
        ("Tea", 1, 1),
        ("Cup of milk", 1, 2),
        ("Sugar", 2, 3),
    ]
    assert items[1].box == (60, 5, 89, 15)
    (total,) = record.fields["TOTAL"]
    assert (total.value, total.text, total.page, total.confidence) == ("1234.50", "RM 1,234.50", 3, 0.5)
    assert record.fields["DATE"][0].value == "2025-03-14"
    told = record.to_dict()
    assert list(told["fields"]) == list(TYPES)
    assert told["fields"]["TOTAL"][0]["words"][1] == {
        "text": "1,234.50",
        "box": [10, 5, 19, 15],
        "probability": 1.0,
    }
    assert told["pages"][2] == {"name": "a-3", "page_size": [600, 800]}


def test_the_confidence_is_that_of_all_words_that_decide_on_an_entity() -> None:
    probabilities = (0.5, 0.9, 0.8, 0.7, 0.6)
    words = [FieldWord("x", (n, 0, n + 1, 1), probability) for n, probability in enumerate(probabilities)]
    spans = [Span("ITEM", 0, 1), Span("ITEM", 2, 3), Span("ITEM", 3, 5)]
    record = make_record([FieldPage("p", None, (1, 1), words, spans)], TYPES, rules())
    found = [item.confidence for item in record.fields["ITEM"]]
    assert found == pytest.approx([0.5 * 0.9, 0.9 * 0.8 * 0.7, 0.8 * 0.7 * 0.6])


def test_a_value_that_is_not_clear_is_kept_as_text_and_listed() -> None:
    pages = [page("p", None, ("TOTAL", "RM 9.OO", 0.95), ("DATE", "03/04/2025", 0.99), ("ITEM", "Tea", 0.4))]
    record = make_record(pages, TYPES, rules(0.5, **NAMES))
    total, date, item = (record.fields[kind][0] for kind in ("TOTAL", "DATE", "ITEM"))
    assert (total.value, total.text, total.problem) == (None, "RM 9.OO", "more than a number: OO")
    assert (date.value, date.problem) == (None, "can be read as 2025-03-04 or as 2025-04-03")
    assert (item.value, item.problem) == ("Tea", "confidence below 0.5")
    review = ReviewList()
    review.add(record)
    assert len(review) == 3
    assert list(csv.reader(io.StringIO(review.to_csv(), newline=""))) == [
        ["document", "page", "type", "text", "confidence", "reason"],
        ["p", "1", "ITEM", "Tea", "0.4000", "confidence below 0.5"],
        ["p", "1", "TOTAL", "RM 9.OO", "0.9500", "more than a number: OO"],
        ["p", "1", "DATE", "03/04/2025", "0.9900", "can be read as 2025-03-04 or as 2025-04-03"],
    ]


def test_a_document_is_complete_when_another_begins() -> None:
    stream = RecordStream(TYPES, rules())
    loose, other = page("x", None, ("ITEM", "Tea", 1.0)), page("b-1", "b")
    assert [record.document for record in stream.add([loose])] == ["x"]
    assert list(stream.add(THREE[:2])) == []
    assert list(stream.add(THREE[2:])) == []
    done = list(stream.add([loose, other]))
    assert [(record.document, len(record.pages)) for record in done] == [("a", 3), ("x", 1)]
    with pytest.raises(DataError, match="page 'a-1' belongs to the document 'a', but other documents come in between"):
        list(stream.add(THREE[:1]))
    assert [record.document for record in stream.end()] == []
    assert group_pages([THREE[0], loose, other, THREE[1], loose]) == [[0, 3], [1], [2], [4]]


# CSV


def table(*records: Record, names: dict[str, str] | None = None) -> list[list[str]]:
    text = header(TYPES, names or {}) + "".join(row(record, names or {}) for record in records)
    assert text.count("\r\n") >= 1 + len(records)
    return list(csv.reader(io.StringIO(text, newline="")))


def test_a_document_is_a_row() -> None:
    first, second = table(make_record(THREE, TYPES, rules(0.55, **NAMES)), names=NAMES)
    assert first == [
        *("document", "pages", "DATE", "DATE text", "DATE confidence"),
        *("ITEM", "ITEM confidence", "TOTAL", "TOTAL text", "TOTAL confidence", "review"),
    ]
    assert second == [
        *("a", "3", "2025-03-14", "14 Mar 2025", "0.9000"),
        *("Tea | Cup of milk | Sugar", "0.8000 | 0.7000 | 0.6000", "", "RM 1,234.50", "0.5000", "TOTAL"),
    ]


def test_csv_is_read_back_as_it_was() -> None:
    texts = ['say "no"', "a,b;c", "Übergröße 東京", "line\nbreak", ""]
    pages = [page("p", None, *(("ITEM", text.replace(" ", "\u00a0"), 1.0) for text in texts))]
    (_, cells) = table(make_record(pages, TYPES, rules()))
    assert cells[4].split(" | ") == [text.replace(" ", "\u00a0") for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+A1",
        "-A1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "\uff1d1",
        "|cmd",
        "%0",
        "-2+3",
        '=HYPERLINK("x")',
    ],
)
def test_no_cell_is_a_formula(text: str) -> None:
    (cells,) = csv.reader(io.StringIO(csv_line([text, "-12.50", "+3", "a=b"]), newline=""))
    assert cells == [f"'{text}", "-12.50", "+3", "a=b"]


# Normalisers by type


def test_normalisers_are_given_by_type() -> None:
    assert read_choices(["TOTAL=amount", "A=B=date.dmy"]) == {"TOTAL": "amount", "A=B": "date.dmy"}
    assert find_normalisers({"DATE": "date.mdy"}, TYPES)["DATE"]("03/04/2025") == "2025-03-04"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["TOTAL"], "write TYPE=NORMALISER, such as TOTAL=amount"),
        (["=amount"], "write TYPE=NORMALISER"),
        (["TOTAL=money"], "'money' is not a normaliser; known: amount, "),
        (["TOTAL=amount", "TOTAL=date"], "TOTAL has amount already"),
    ],
)
def test_a_normaliser_that_cannot_be_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_choices(given)


def test_a_type_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="normaliser of TOTALS: the model has no such type; did you mean 'TOTAL'"):
        find_normalisers({"TOTALS": "amount"}, TYPES)
