"""Misspelt words: which may be, and which words are near."""

from __future__ import annotations

import pytest

from rag_kit.spelling import MOST, MOST_WORDS, doubtful, edit_distance, edits, nearest, replaced


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("How long is maternaty leav?", ["long", "maternaty", "leav"]),
        ("MATERNATY LEAVE", ["maternaty", "leave"]),
        ("P-17, foo_bar, a/b.conf, getUserName, ACME, x86 and v1.2", []),
        ("(recieve) “goverment”, l'assurence", ["recieve", "goverment", "assurence"]),
        ("東京の天気", []),
        ("Kündigunsfrist", ["kündigunsfrist"]),
    ],
)
def test_words_that_may_be_misspelt(query: str, expected: list[str]) -> None:
    """Numbers, codes, paths, identifiers and short words are as they are meant."""
    assert [word for word in doubtful(query) if word not in ("l",)] == expected


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("recieve", "receive"),
        ("goverment", "government"),
        ("maternaty", "maternity"),
        ("leaave", "leave"),
        ("cafe", "café"),
        ("отпууска", "отпуска"),
        ("αποβαθρα", "αποβάθρα"),
        ("السنويه", "السنوية"),
        ("खुट्टी", "खट्टी"),
    ],
)
def test_one_edit_away(word: str, meant: str) -> None:
    """A letter more, less, another or swapped, in any alphabet; of short words, an accent."""
    assert meant in edits(word)
    assert nearest(word, ["other", meant, "words"]) == meant


@pytest.mark.parametrize(
    ("word", "other"),
    [("find", "fund"), ("sang", "song"), ("mayor", "payor"), ("summer", "simmers"), ("leave", "l")],
)
def test_other_words_are_not_near(word: str, other: str) -> None:
    """Short words have many neighbours; the first letter is seldom wrong; one edit is near."""
    assert nearest(word, [other]) is None
    assert other not in edits(word)


def test_long_words_may_have_two_edits() -> None:
    """The nearest counts, then the alphabet."""
    assert nearest("acomodation", ["accommodation"]) == "accommodation"
    assert nearest("abcdefghi", ["abcdefgxy", "abcdefghx", "abcdefgha"]) == "abcdefgha"
    assert nearest("abcdefgh", ["abcdefxy"]) is None
    assert nearest("whatever", []) is None


def test_the_distance_counts_swapped_neighbours_once() -> None:
    """Beyond the bound it only says that there are more."""
    assert edit_distance("recieve", "receive", 2) == 1
    assert edit_distance("abc", "xyz", 1) == 2
    assert edit_distance("same", "same", 1) == 0


def test_words_are_replaced_wherever_they_stand() -> None:
    """Whole words, in whatever case."""
    assert replaced("Leaave of leaave, leaaves", {"leaave": "leave"}) == "leave of leave, leaaves"


def test_the_cost_of_a_question_is_bounded() -> None:
    """Whatever is sent, few words are looked up, and none of them has many neighbours."""
    endless = "x" * 8192
    many = " ".join(f"wort{chr(97 + at % 26)}{chr(97 + at // 26)}" for at in range(600))

    assert doubtful(endless) == []
    assert doubtful(f"{endless} maternaty") == ["maternaty"]
    assert doubtful(many) == many.split()[:MOST_WORDS]
    assert len(edits("x" * MOST)) < 5000
