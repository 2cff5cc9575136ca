"""The tables of `bench/answers.py` from answers made by hand, and the sets that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from answer_sets import Labelled, is_gold, rgb
from answers import Asked, report
from data import DataMissing


def test_a_quote_is_right_when_half_of_it_or_all_of_a_span_was_picked() -> None:
    """In the right document only."""
    question = Labelled("q", "d", {"d": ((10, 20), (40, 43))})

    assert is_gold(question, "d", 5, 25)
    assert is_gold(question, "d", 30, 90)
    assert not is_gold(question, "d", 21, 39)
    assert not is_gold(question, "d", 18, 30)
    assert not is_gold(question, "e", 10, 20)


def test_the_tables_count_answered_questions_by_threshold() -> None:
    """Answerable ones, near misses, and answerable ones whose documents are taken away."""
    asked = [
        Asked(True, 0.9, 0.2, 1.0, 1.0, None),
        Asked(True, 0.45, 0.7, 0.0, 0.0, None),
        Asked(False, 0.58, None, 0.0, None, None),
    ]

    lines = report({"small": asked}).splitlines()

    assert lines[2].startswith("| small | 3 | 0.500 [")
    answered = {line.split(" | ")[1]: line for line in lines if line.startswith("| small | 0")}
    assert answered["0.40"].count("1.000 [") == 2 and "0.500 [" in answered["0.40"]
    assert answered["0.60"].split(" | ")[3].startswith("0.000")


def test_a_set_that_is_not_there_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command then skips it."""
    monkeypatch.setenv("RAG_DATA", str(tmp_path))

    with pytest.raises(DataMissing, match=r"rgb/en_fact\.json"):
        rgb()
