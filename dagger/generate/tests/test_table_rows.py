"""Rows of tables: sentences with the names of their columns."""

from __future__ import annotations

import pytest

from rag_generate import extractive, scoring
from rag_generate.extractive import Extractive
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest
from rag_generate.sentences import split_sentences
from rag_generate.table_rows import TableRow, passage_sentences, table_rows
from rag_kit.passages import Context, TablePart

MARKDOWN = "| NX-48 | 2.5 | 58 |\n| NX-58 | 3.5 | 68 |"
CSV = 'P-1;"pump, small\n(with seal)";1,50\nP-2;"pump, big\n(5"" seal)";2,75'
LINES = (
    "Rooms\n\nRoom | Season | Price\nDouble | summer | 142\nDouble | winter | 97\n\nAll with bath."
)


def passage(text: str, table: str, columns: list[str], delimiter: str) -> Context:
    """Make a passage at offset 100 of its document, with one table in it."""
    start = 100 + text.index(table)
    part = TablePart(span=[start, start + len(table)], columns=columns, delimiter=delimiter)
    return Context(
        chunk_id="c",
        document_id="d",
        text=text,
        span=[100, 100 + len(text)],
        score=1.0,
        scores={"dense": 0.6},
        marker=1,
        tables=[part],
    )


def answer(query: str, context: Context) -> Draft:
    """Return the draft of the extractive generator."""
    *_, draft = Extractive(min_support=0).stream(GenerateRequest(query=query, contexts=[context]))
    assert isinstance(draft, Draft)
    return draft


@pytest.mark.parametrize(
    ("query", "context", "expected"),
    [
        (
            "What is the max current of NX-58?",
            passage(MARKDOWN, MARKDOWN, ["Cable", "Size", "Max current A"], " | "),
            "Cable: NX-58, Size: 3.5, Max current A: 68 [1].",
        ),
        (
            "What does P-2 cost?",
            passage(CSV, CSV, ["no", "name", "price"], ";"),
            'no: P-2, name: pump, big (5" seal), price: 2,75 [1].',
        ),
        (
            "What does a double room cost in winter?",
            passage(LINES, LINES[7:-16], ["Room", "Season", "Price"], " | "),
            "Room: Double, Season: winter, Price: 97 [1].",
        ),
    ],
)
def test_the_row_that_the_question_names_answers_with_its_columns(
    query: str, context: Context, expected: str
) -> None:
    """Also where the names stand above the passage; the quote is the row as it stands."""
    draft = answer(query, context)

    assert draft.text == expected
    (quote,) = draft.quotes or ()
    assert context.text[quote.start : quote.end] in context.text.replace("\n\n", "\n")


PLANS = (
    "| Plan | City | Price |\n|---|---|---|\n"
    "| Free | Oslo | 0 |\n| Team | Rome | 49 |\n| Max | Oslo | 99 |"
)


@pytest.mark.parametrize(
    ("query", "plans"),
    [
        ("List the plans.", ["Free", "Team", "Max"]),
        ("What does each plan cost, by price?", ["Free", "Team", "Max"]),
        ("Give the prices of all plans.", ["Free", "Team", "Max"]),
        ("Which plans are for the city Oslo?", ["Free", "Max"]),
        ("What is the price of the plan Team?", ["Team"]),
        ("Which plan has the highest price?", ["Max"]),
    ],
)
def test_a_list_that_a_table_holds_is_given_whole(query: str, plans: list[str]) -> None:
    """All rows, those that the question names, or the one it asks for."""
    context = passage(PLANS, PLANS, ["Plan", "City", "Price"], " | ")

    lines = answer(query, context).text.splitlines()

    assert [line.removeprefix("- ").split(",")[0] for line in lines] == [
        f"Plan: {plan}" for plan in plans
    ]


def test_the_tables_of_a_passage_are_read_once_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scores the rows hands them on to what writes the answer."""
    read: list[Context] = []

    def counting(context: Context) -> list[TableRow]:
        read.append(context)
        return table_rows(context)

    monkeypatch.setattr(scoring, "table_rows", counting)
    table = passage(MARKDOWN, MARKDOWN, ["Cable", "Size", "Max current A"], " | ")
    answer("What is the max current of NX-58?", table)

    assert read == [table]
    assert not hasattr(extractive, "table_rows")


def test_a_passage_that_begins_inside_code_is_not_read_inverted() -> None:
    """What stands above the closing fence is code, what stands below is prose."""
    found = split_sentences("rag index docs\n```\nThe index is built.", in_code=True)

    assert [sentence.kind for sentence in found] == ["code", "prose"]


def test_a_passage_with_a_table_keeps_its_other_sentences() -> None:
    """Sentences come in order and never overlap; the row of names is a header."""
    context = passage(LINES, LINES[7:-16], ["Room", "Season", "Price"], " | ")

    found = passage_sentences(context, table_rows(context))

    assert [(LINES[s.start : s.end], s.kind) for s in found] == [
        ("Rooms", "prose"),
        ("Room | Season | Price", "header"),
        ("Double | summer | 142", "table"),
        ("Double | winter | 97", "table"),
        ("All with bath.", "prose"),
    ]


@pytest.mark.parametrize(
    ("cells", "least", "most"),
    [
        (("20,50", "118,00", "12,00"), 2, 1),
        (("1,250.00", "980.00", "1.5"), 2, 0),
        (("1.250,00 €", "980,00 €", "1,50 €"), 2, 0),
        (("9", "10", "100"), 0, 2),
        (("1 200", "1 199", "20"), 2, 0),
        (("0.125", "0.5", "0.25"), 0, 1),
        (("1.234.567,8", "1'234", "12,345"), 1, 0),
    ],
)
def test_numbers_are_compared_as_people_write_them(
    cells: tuple[str, ...], least: int, most: int
) -> None:
    """Decimal commas, grouped thousands and currencies."""
    rows = [f"R{at};{cell}" for at, cell in enumerate(cells)]
    text = "\n".join(["Room;Rate", *rows])
    context = passage(text, text, ["Room", "Rate"], ";")

    assert answer("Which is the cheapest room?", context).text.startswith(f"Room: R{least},")
    assert answer("Which room has the highest rate?", context).text.startswith(f"Room: R{most},")


def test_what_is_no_single_number_is_not_compared() -> None:
    """Feet and inches, a range, a time."""
    text = "Name;Height\nAnn;5'11\nBob;6'2\nCid;5-6"
    context = passage(text, text, ["Name", "Height"], ";")

    assert "Height: " in answer("Who is the tallest by height?", context).text
