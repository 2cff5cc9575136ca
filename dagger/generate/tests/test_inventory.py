"""All there is of a thing: tables whose column is called so, headings below it, versions."""

from __future__ import annotations

import pytest
from test_structure import ask

from rag_generate import generate
from rag_generate.extractive import Extractive
from rag_generate.inventory import thing_asked, version_of
from rag_generate.models import GenerateRequest, GenerateResponse
from rag_generate.settings import MIN_SUPPORT
from rag_kit.passages import Context, TablePart

NOTES = (
    "# Changes\n\n## 2.10.0 (2026-05-04)\n\n- Faster start\n\n## 2.9.1 (2026-02-11)\n\n- Fewer crashes\n\n"
    "## 2.9.0 (2025-12-01)\n\nThis version is smaller."
)
TABLE = "Room | Seats | Floor\nOak | 12 | 1\nElm | 30 | 2\nAsh | 8 | 2"
PROSE = "\n\nEvery room has a screen. A room can be booked by all."


def ask_table(query: str) -> GenerateResponse:
    text = TABLE + PROSE
    table = TablePart(span=[0, len(TABLE)], columns=["Room", "Seats", "Floor"], delimiter=" | ")
    context = Context(
        marker=1, chunk_id="1", document_id="1", source="rooms.html", text=text, span=[0, len(text)],
        score=1.0, scores={"dense": 0.3}, tables=[table],
    )  # fmt: skip
    return generate(
        GenerateRequest(query=query, contexts=[context]),
        generators={"extractive": Extractive(min_support=MIN_SUPPORT)},
        default="extractive",
        no_context_text="Not found.",
    )


@pytest.mark.parametrize(
    ("query", "thing"),
    [
        ("Which plans are there?", "plans"),
        ("What kinds of rooms do you offer?", "rooms"),
        ("Which payment methods can I choose?", "methods"),
        ("Please list all rooms.", "rooms"),
        ("Name the rooms there are", "rooms"),
        ("Which sizes exist?", "sizes"),
        ("Which plan is the cheapest?", ""),
        ("What is a room?", ""),
        ("How many rooms are there?", ""),
    ],
)
def test_the_thing_of_which_all_are_asked_for_is_known(query: str, thing: str) -> None:
    """As it is called in the question; one of them, or their number, is another question."""
    assert thing_asked(query) == thing


@pytest.mark.parametrize(
    "query",
    [
        "Which rooms are there?",
        "Which rooms do you have?",
        "What rooms can I book?",
        "List all rooms.",
    ],
)
def test_the_rows_of_the_table_come_before_prose_with_the_word(query: str) -> None:
    """The column is called as what is asked for."""
    assert ask_table(query).answer == (
        "- Room: Oak, Seats: 12, Floor: 1 [1].\n- Room: Elm, Seats: 30, Floor: 2 [1].\n"
        "- Room: Ash, Seats: 8, Floor: 2 [1]."
    )


def test_the_headings_below_the_thing_are_the_answer() -> None:
    """The price of a plan stands below its name."""
    text = "## Plans\n\n### Solo\n\nFive euros.\n\n### Duo\n\nNine euros.\n\n## Help\n\n### Desk\n\nCall us."
    assert ask("Which plans are there?", text).answer == "- Solo [1].\n- Duo [1]."


def test_versions_are_headings_that_begin_with_a_number() -> None:
    """With their dates, where they have one."""
    answer = ask("Which versions are there?", NOTES).answer
    assert (
        answer == "- 2.10.0 (2026-05-04) [1].\n- 2.9.1 (2026-02-11) [1].\n- 2.9.0 (2025-12-01) [1]."
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("What is the latest version?", "2.10.0 (2026-05-04) [1]."),
        ("Which is the newest release?", "2.10.0 (2026-05-04) [1]."),
        ("What is the oldest version?", "2.9.0 (2025-12-01) [1]."),
        ("When was version 2.9.1 released?", "2.9.1 (2026-02-11) [1]."),
    ],
)
def test_a_heading_answers_with_the_version_or_its_date(query: str, expected: str) -> None:
    """2.10 is newer than 2.9."""
    assert ask(query, NOTES).answer == expected


def test_a_heading_without_the_date_asked_for_still_answers_nothing() -> None:
    """It only repeats the question."""
    text = "## Opening of the annex\n\nThe mayor opened it in May 2021."
    assert (
        ask("When was the opening of the annex?", text).answer
        == "The mayor opened it in May 2021 [1]."
    )


def test_versions_compare_by_their_parts() -> None:
    """Not as text, and a year is no version."""
    assert (version_of("v1.10") or 0) > (version_of("Version 1.9.9") or 0)
    assert version_of("2024 in review") is None
    assert version_of("1. Property") is None


def test_what_is_not_in_the_table_has_no_price_there() -> None:
    """The columns are those of other things."""
    assert ask_table("How many seats does the Larch have?").answer == "Not found."
    assert "Seats: 30" in ask_table("How many seats does the Elm have?").answer
