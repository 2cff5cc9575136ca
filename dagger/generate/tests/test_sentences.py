"""Sentences and their offsets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_generate.sentences import MAX_SENTENCE_CHARS, row_cells, split_sentences


def texts(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith paid 3.5 dollars. He left.", ["Dr. Smith paid 3.5 dollars.", "He left."]),
        ("J. K. Rowling wrote it, e.g. the first.", ["J. K. Rowling wrote it, e.g. the first."]),
        ("He lives in the U.S. The law differs.", ["He lives in the U.S.", "The law differs."]),
        ("The U.S. Army came.", ["The U.S. Army came."]),
        ("See Fig. 3 and No. 5. Done.", ["See Fig. 3 and No. 5.", "Done."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ('A follow-up ("And for interns?") is understood.',
         ['A follow-up ("And for interns?") is understood.']),
        ('"Why?" he asked. "Why?" He left.', ['"Why?" he asked.', '"Why?"', "He left."]),
        ("It was approx. 5 km ... and more.", ["It was approx. 5 km ... and more."]),
        ("It rose.[3][b] It fell.", ["It rose.[3][b]", "It fell."]),
        ("In 1944 . It later served .", ["In 1944 .", "It later served ."]),
        ("A line that is wrapped hard\nin the middle. Next.",
         ["A line that is wrapped hard\nin the middle.", "Next."]),
        ("# Title\nBody text here.", ["Title", "Body text here."]),
        ("- one item\n- two items. More.", ["one item", "two items.", "More."]),
        ("1. First\n2. Second", ["First", "Second"]),
        ("Use it:\n```sh\nmake run. Now\n```\nDone.", ["Use it:", "make run. Now", "Done."]),
        ("| a | b |\n|---|---|\n| c. d | e |", ["| a | b |", "| c. d | e |"]),
        ("Short line\nAnother line", ["Short line", "Another line"]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
        ("", []),
        (" \n\t\n", []),
    ],
)  # fmt: skip
def test_text_is_split_where_a_reader_would(text: str, expected: list[str]) -> None:
    """Abbreviations, decimals, initials, quotes, Markdown and wrapped lines are understood."""
    assert texts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("| a | b |\n|---|---|\n| c. D … e | f |", [("| a | b |", "header"), ("| c. D … e | f |", "table")]),
        ("[--json] | answer … |\nText.", [("[--json] | answer … |", "table"), ("Text.", "prose")]),
        ("name,place\nLumen 40,hall\nTick 2,\"a, b\"",
         [("name,place", "header"), ("Lumen 40,hall", "table"), ('Tick 2,"a, b"', "table")]),
        ("Lumen 40,hall,INV-1", [("Lumen 40,hall,INV-1", "table")]),
        ("It costs 2,000 euros, or less,\nsays the head, who knows.",
         [("It costs 2,000 euros, or less,\nsays the head, who knows.", "prose")]),
        ("---\ntitle: Rules\nyear: 2024\n---\n# Rules\nNo smoking.",
         [("Rules", "heading"), ("No smoking.", "prose")]),
        ("---\nNot a field.\n---\nMore.", [("Not a field.", "prose"), ("More.", "prose")]),
    ],
)  # fmt: skip
def test_rows_column_names_and_front_matter_are_told_from_prose(
    text: str, expected: list[tuple[str, str]]
) -> None:
    """A row is one unit, whatever punctuation stands in it; front matter is none."""
    assert [(text[s.start : s.end], s.kind) for s in split_sentences(text)] == expected


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("| `rag ask` | answers \\| asks | |", ["`rag ask`", "answers \\| asks"]),
        ("[--json] | answer |", ["[--json]", "answer"]),
        ('Tick 2,"a, b",2024-06', ["Tick 2", "a, b", "2024-06"]),
        ("a\tb, c", ["a", "b, c"]),
    ],
)
def test_a_row_is_cut_into_its_cells(row: str, cells: list[str]) -> None:
    """Escaped pipes and quoted commas stay inside their cell."""
    assert row_cells(row) == cells


def test_rows_with_bars_are_a_sentence_each() -> None:
    """However long they are, and where a paragraph meets them."""
    rows = [
        f"Article: Bracket {n} | Qty: {n}0 | Unit price: 3.20 | Total: 128.00" for n in range(3)
    ]
    lead = "The prices below hold until the end of the year"

    assert texts("\n".join((lead, *rows))) == [lead, *rows]


def test_a_run_without_full_stop_is_cut_at_a_space() -> None:
    """A transcript without punctuation still gives quotable pieces."""
    pieces = texts("word " * 500)

    assert max(map(len, pieces)) <= MAX_SENTENCE_CHARS
    assert " ".join(pieces).split() == ["word"] * 500


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1 .!?\n#-`|\"'。\u2028é"), max_size=300))
def test_sentences_are_in_order_trimmed_and_do_not_overlap(text: str) -> None:
    """Whatever the text, the offsets are exact."""
    end = 0
    for sentence in split_sentences(text):
        piece = text[sentence.start : sentence.end]
        assert end <= sentence.start < sentence.end <= len(text)
        assert piece == piece.strip()
        end = sentence.end
