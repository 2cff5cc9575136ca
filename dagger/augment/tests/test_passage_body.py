"""What stands above a passage in a prompt: title, headings, the names of columns."""

from __future__ import annotations

import pytest

from rag_augment.prompt import passage_body
from rag_kit.passages import Result, TablePart


def passage(text: str, start: int) -> Result:
    """Make a passage with a table from `start` of its text on."""
    span = [start, len(text)]
    table = TablePart(span=span, columns=["no", "price"], delimiter=";")
    return Result(
        chunk_id="c", document_id="d", text=text, span=[0, len(text)], score=1, tables=[table]
    )


def test_a_passage_that_begins_in_a_table_is_headed_by_its_columns() -> None:
    """A passage with the header row, or with text above the table, stays as it is."""
    assert passage_body(passage("P-1;2,5", 0)) == "no;price\nP-1;2,5"
    assert passage_body(passage("no;price\nP-1;2,5", 0)) == "no;price\nP-1;2,5"
    assert passage_body(passage("Prices\nP-1;2,5", 7)) == "Prices\nP-1;2,5"


@pytest.mark.parametrize(
    ("title", "headings", "text", "expected"),
    [
        ("Pumps", ["Service", "Filter"], "Monthly.", "Pumps > Service > Filter\nMonthly."),
        ("Pumps", ["Pumps", "Service"], "Monthly.", "Pumps > Service\nMonthly."),
        ("Pumps", ["Service"], "## Service\n\nMonthly.", "Pumps\n## Service\n\nMonthly."),
        ("", ["Ser\nvice\x07"], "Monthly.", "Ser vice\nMonthly."),
        ("Pumps", ["Pumps"], "# Pumps\nMonthly.", "# Pumps\nMonthly."),
    ],
)
def test_a_passage_is_headed_by_title_and_headings(
    title: str, headings: list[str], text: str, expected: str
) -> None:
    """One line above the text, without what the text begins with."""
    result = Result(
        chunk_id="c", document_id="d", title=title, headings=headings, text=text,
        span=[0, len(text)], score=1,
    )  # fmt: skip

    assert passage_body(result) == expected
