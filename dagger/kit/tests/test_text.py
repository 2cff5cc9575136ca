"""Text as it is compared."""

from __future__ import annotations

import unicodedata

import pytest

from rag_kit.text import comparable, fold


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\ufb03ciency of the \ufb01lter", "efficiency of the filter"),
        ("War\u00adtungs\u00adinter\u00advall", "Wartungsintervall"),
        ("War\u00ad\ntung", "Wartung"),
        ("long\u200bidentifier", "longidentifier"),
        (unicodedata.normalize("NFD", "Überprüfung"), "Überprüfung"),
        ("ＡＢＣ １２", "ABC 12"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("12\u00a0kg, e\u2011mail", "12 kg, e-mail"),
        ("rent¹ of 20 m²", "rent  of 20 m2"),
        ("Acme™ pump", "Acme  pump"),
    ],
)
def test_characters_that_look_alike_are_one(text: str, expected: str) -> None:
    """Ligatures, width, accents and invisible characters do not keep words apart."""
    assert fold(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main-\ntenance", "maintenance"),
        ("main-\r\n  tenance", "maintenance"),
        ("Rhein-\nMain", "Rhein-Main"),
        ("state-of-the-\nart", "state-of-the-\nart"),
        ("Haus-\nund Hoftür", "Haus-\nund Hoftür"),
        ("a list\n- of\n- items", "a list\n- of\n- items"),
    ],
)
def test_words_cut_at_a_line_end_are_joined(text: str, expected: str) -> None:
    """The hyphen goes, but for that of a compound, of `Haus- und Hoftür`, and of a list."""
    assert fold(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,500 kg", "1500 kg"),
        ("1.500 kg", "1500 kg"),
        ("1 500 kg", "1500 kg"),
        ("1\u202f500", "1500"),
        ("1'500", "1500"),
        ("$1,234,567.89", "$1234567.89"),
        ("0.500 mm", "0.500 mm"),
        ("v1.200", "v1.200"),
        ("192.168.100.200", "192.168.100.200"),
        ("in 2020 100 people", "in 2020 100 people"),
        ("call +49 30 123 456", "call +49 30 123 456"),
        ("bolt,5,100,20", "bolt,5,100,20"),
    ],
)
def test_numbers_are_compared_without_marks_of_thousands(text: str, expected: str) -> None:
    """Versions, addresses, decimals, telephone numbers and cells of a CSV row stay."""
    assert comparable(text) == expected


def test_embedding_models_see_numbers_as_they_are_written() -> None:
    """Only words are compared by `comparable`; `fold` leaves numbers."""
    assert fold("1,500 kg") == "1,500 kg"
