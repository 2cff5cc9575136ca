"""A text that repeats itself without end is noticed; one that repeats a little is not."""

from __future__ import annotations

import pytest

from rag_generate.repetition import RepetitionCheck, loop_of

ROWS = "".join(f"| {row} | yes | no |\n" for row in range(40))


@pytest.mark.parametrize(
    "part",
    [
        "The board may sign contracts. ",
        "The board may sign contracts [1].\n\n",
        "no ",
        "ha",
        "然后董事会可以签署合同。",
        "1. Open the door, and look whether anybody is there who has a key to the house, or to the "
        "garden behind it, where the dogs are kept in summer. 2. Close the door again. ",
    ],
)
def test_a_loop_is_noticed_while_it_is_written(part: str) -> None:
    """Whatever the part is, and after a few repeats."""
    check, text = RepetitionCheck(), "It says so. "
    for _ in range(400):
        text += part
        if check.feed(part):
            break
    assert len(text) < max(800, 8 * len(part))
    assert loop_of(text) is not None
    assert text[: loop_of(text)].count(part.strip()) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "very " * 8 + "often [1].",
        "-" * 500,
        "| --- " * 60,
        "=" * 100 + "\n" + "-" * 400,
        ROWS,
        "\n".join(f"- RAG_SETTING_{n}: a number of seconds" for n in range(40)),
        "a b c d " * 30 + "and so on, which ends it.",
    ],
)
def test_lines_tables_and_emphasis_are_no_loop(text: str) -> None:
    """A ruled line, rows that differ, a list."""
    check = RepetitionCheck()
    assert loop_of(text) is None
    if not text.startswith("a b"):
        assert not any(check.feed(piece) for piece in text)
