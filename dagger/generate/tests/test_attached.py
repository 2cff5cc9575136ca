"""What an answer brings along: notes, what a note refers to, and the sentence that limits it."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from test_structure import ask

from rag_generate.notes import find_notes
from rag_kit.passages import Context


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        (
            "The pool opens at 8:00 on weekdays.*\n\n* On public holidays it opens at 10:00.",
            "When does the pool open on weekdays?",
            "The pool opens at 8:00 on weekdays.* [1]. * On public holidays it opens at 10:00 [1].",
        ),
        (
            "Tickets cost 12 EUR.[^1] Dogs travel free.\n\n[^1]: Pupils pay 6 EUR.",
            "How much do tickets cost?",
            "Tickets cost 12 EUR [1]. Pupils pay 6 EUR [1].",
        ),
        (
            "The warranty lasts two years.¹\n\nSpare parts are in stock.\n\n¹ Batteries: six months.",
            "How long does the warranty last?",
            "The warranty lasts two years.¹ [1]. ¹ Batteries: six months [1].",
        ),
        (
            "Der Kurs kostet 48 Euro.* Er beginnt im Mai.\n\n* Studierende zahlen die Hälfte.",
            "Was kostet der Kurs?",
            "Der Kurs kostet 48 Euro.* [1]. * Studierende zahlen die Hälfte [1].",
        ),
        (
            "The boat leaves daily at nine.†\n\n† Not in January.",
            "When does the boat leave?",
            "The boat leaves daily at nine.† [1]. † Not in January [1].",
        ),
        (
            "Invoices are payable within 14 days.[2]\n\n[1] By e-mail only.\n[2] Schools have 60 days.",
            "Within how many days are invoices payable?",
            "Invoices are payable within 14 days [1]. Schools have 60 days [1].",
        ),
    ],
)
def test_a_sentence_brings_its_note(text: str, query: str, expected: str) -> None:
    """Whatever the mark is."""
    assert ask(query, text).answer == expected


def test_a_note_is_found_by_what_refers_to_it() -> None:
    """The note alone shares no word with the question."""
    text = "The library keeps a deposit for each key.[^k]\n\n[^k]: Paid back when it is returned."
    answer = ask("What happens with my deposit for the key when I get it back?", text).answer
    assert "Paid back when it is returned [1]." in answer
    assert answer.startswith("The library keeps a deposit for each key")


@pytest.mark.parametrize(
    "text",
    [
        "Take the *blue* line.*\n\n* apples\n* pears\n* plums",
        "It was first described in 1906.[1]\n\n[1] Alzheimer et al. (1907). Allgemeine Zeitschrift.",
        "It was first described in 1906.[1]\n\n[1] Moen, I. Tides of the north. 1907.",
        "It was first described in 1906.[1]\n\n## References\n\n[1] Tides of the north",
        "The *whole* text.\n\n* A single item",
        "The hall has 390 m².\n\nTwo doors.",
        "See above.†\n\nNo note follows.",
    ],
)
def test_lists_sources_and_units_are_no_notes(text: str) -> None:
    """A list of bullets, a bibliography, emphasis, a power."""
    context = Context(
        marker=1, chunk_id="1", document_id="1", source="a.md", text=text, span=[0, len(text)],
        score=1.0,
    )  # fmt: skip
    assert find_notes([context]) == []


def test_a_mark_used_twice_refers_to_the_next_note_below() -> None:
    """Each table has its own asterisk."""
    text = (
        "Cabins sleep four guests.*\n\n* Six with a folding bed.\n\n"
        "Tents sleep two guests.*\n\n* Three with a child."
    )
    answer = ask("How many guests do tents sleep?", text).answer
    assert answer == "Tents sleep two guests.* [1]. * Three with a child [1]."


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        (
            "Lockers are free for the first day. After that they cost 2 EUR a day.",
            "How much is a locker?",
            "Lockers are free for the first day [1]. After that they cost 2 EUR a day [1].",
        ),
        (
            "Damage up to 50 EUR is paid by the guest. All other damage is paid by the house.",
            "Who pays for damage up to 50 EUR?",
            "Damage up to 50 EUR is paid by the guest [1]. All other damage is paid by the house [1].",
        ),
        (
            "Orders before noon are sent the same day. Otherwise they leave on the next.",
            "When are orders before noon sent?",
            "Orders before noon are sent the same day [1]. Otherwise they leave on the next [1].",
        ),
    ],
)
def test_a_sentence_brings_the_one_that_limits_it(text: str, query: str, expected: str) -> None:
    """What holds afterwards, otherwise, and for all others."""
    assert ask(query, text).answer == expected


def test_one_sentence_at_most_is_one_sentence() -> None:
    """What limits it is a second one."""
    text = "Lockers are free for the first day. After that they cost 2 EUR a day."
    assert (
        ask("How much is a locker?", text, most=1).answer
        == "Lockers are free for the first day [1]."
    )


def test_a_limit_in_another_paragraph_stays_out() -> None:
    """It may be about something else."""
    text = "Lockers are free on the first day.\n\nOtherwise, ask at the desk for a towel."
    assert ask("How much are lockers on the first day?", text).answer == (
        "Lockers are free on the first day [1]."
    )


def test_many_marks_cost_no_more_than_their_number() -> None:
    """Each place looks for its note among those of its mark, not at all of them."""
    text = "fee[1]\n[1] b\n" * 1000
    context = Context(
        marker=1, chunk_id="1", document_id="1", source="a.md", text=text, span=[0, len(text)],
        score=1.0,
    )  # fmt: skip
    steps = 0

    def counting(frame: FrameType, event: str, argument: object) -> None:
        nonlocal steps
        steps += event == "call"

    sys.setprofile(counting)
    try:
        find_notes([context])
    finally:
        sys.setprofile(None)
    assert steps < 50 * 2000
