"""Words as they are compared, in any language."""

from __future__ import annotations

import hashlib
import threading

import pytest

from rag_kit.languages import LANGUAGES
from rag_kit.words import (
    compound_parts,
    content_words,
    is_latin,
    main_language,
    stem,
    stop_words,
    words,
)


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("german", "Verträge", "Vertrag"),
        ("german", "Straße", "Strasse"),
        ("german", "Überprüfung", "Ueberpruefung"),
        ("french", "congés", "conges"),
        ("spanish", "vacación", "vacaciones"),
        ("turkish", "IŞIKLAR", "ışık"),
        ("greek", "άδειας", "ΑΔΕΙΑ"),
        ("russian", "отпусков", "отпуска"),
        ("arabic", "الإِجَازَة", "اجازة"),
        ("hebrew", "הסוללות", "סוללה"),
        ("hindi", "कर्मचारियों", "कर्मचारी"),
        ("polish", "umowy", "umowa"),
        ("danish", "træner", "traener"),
    ],
)
def test_forms_of_a_word_have_one_stem(language: str, one: str, other: str) -> None:
    """Endings, accents, marks, prefixes and capitals do not tell a word from itself."""
    stems = [{stem(word, language) for word in words(text, language)} for text in (one, other)]
    assert stems[0] == stems[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("電池充電 90 分", ["電池", "池充", "充電", "90", "分"]),
        ("ポンプの点検", ["ポン", "ンプ", "の", "点検"]),
        ("펌프는 정비를", ["펌프", "정비"]),
        ("१५ दिन", ["15", "दिन"]),
        ("٢٥ يوما", ["25", "يوما"]),
        ("How many, 1,500?", ["how", "many", "1500"]),
    ],
)
def test_words_are_told_apart_in_every_script(text: str, expected: list[str]) -> None:
    """Pairs of characters stand for words where no spaces do; digits are 0 to 9."""
    assert words(text) == expected


@pytest.mark.parametrize(
    ("language", "question", "expected"),
    [
        ("german", "Wie lange dauert das?", ["dauert"]),
        ("chinese", "电池充电要多长时间？", ["电池", "池充", "充电", "时间"]),
        ("japanese", "いつですか", ["いつ", "つで", "です", "すか"]),
        ("japanese", "充電はいつまでですか", ["充電"]),
        ("korean", "배터리는 며칠인가요?", ["배터", "터리"]),
    ],
)
def test_a_questions_function_words_are_left_out(
    language: str, question: str, expected: list[str]
) -> None:
    """Unless there is nothing else."""
    assert content_words(question, language) == expected


def test_parts_of_long_words_are_given_where_nouns_are_joined() -> None:
    """German joins nouns, English does not; parts have four letters and more."""
    assert {"pumpen", "wartung"} <= set(compound_parts("pumpenwartung", "german"))
    assert min(map(len, compound_parts("pumpenwartung", "german"))) == 4
    assert compound_parts("maintenance", "english") == []
    assert compound_parts("abc12345678", "german") == compound_parts("kurz", "german") == []


def test_the_language_of_a_question_is_that_of_its_function_words() -> None:
    """A question without any has none."""
    known = ["english", "german", "french"]
    assert main_language("Wie lange dauert die Wartung?", known) == "german"
    assert main_language("How long is the bridge?", known) == "english"
    assert main_language("P-17/3", known) is None
    assert "für" in stop_words("german") and "fur" in stop_words("german")


def test_scripts_are_told_apart_by_most_letters() -> None:
    """Numbers alone count as Latin."""
    assert is_latin("Größe 12 µm") and is_latin("P-17") and is_latin("")
    assert not is_latin("насос P-17") and not is_latin("ポンプ")


def test_stems_of_threads_do_not_mix() -> None:
    """A stemmer keeps the word it works on; every thread has its own."""
    wrong: list[str] = []

    def work(word: str) -> None:
        letters = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}{word}" for n in range(300)]
        wrong.extend(one for one in letters if stem(f"{one}ing") != one)

    threads = [threading.Thread(target=work, args=(w,)) for w in ("walk", "talk", "climb", "jump")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_stems_are_those_that_stored_terms_were_made_of() -> None:
    """Of every stop word of every language; a collection with other stems has to be reindexed."""
    known = [
        f"{language} {word} {stem(word, language)}"
        for language in sorted(LANGUAGES.values())
        for word in sorted(stop_words(language))
    ]
    assert hashlib.sha256("\n".join(known).encode()).hexdigest()[:16] == "3b4d646bbe833d79"
