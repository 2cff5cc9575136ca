"""Questions and passages of other languages than English, and misspelt questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rag_generate import generate
from rag_generate.extractive import Extractive
from rag_generate.models import GenerateRequest, GenerateResponse
from rag_generate.sentences import split_sentences
from rag_generate.settings import MIN_SUPPORT
from rag_generate.terms import misspelt

NONE = "Not found."


def passage(text: str, language: str | None, marker: int = 1, dense: float = 0.9) -> dict[str, Any]:
    return {"marker": marker, "chunk_id": f"c{marker}", "document_id": f"d{marker}", "text": text,
            "span": [0, len(text)], "score": 1.0, "scores": {"dense": dense},
            "language": language}  # fmt: skip


def ask(question: str, *passages: dict[str, Any]) -> GenerateResponse:
    return generate(
        GenerateRequest.model_validate({"query": question, "contexts": passages}),
        generators={"extractive": Extractive(min_support=MIN_SUPPORT)},
        default="extractive",
        no_context_text=NONE,
    )


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("german", "Am 3. Mai kommt Dr. Frey, z. B. mittags. Danach nicht.", [40, 13]),
        ("french", "M. Roy arrive à 9 h. Il part.", [20, 8]),
        ("hindi", "पंप बंद है। उसे खोलें।", [11, 10]),
        ("greek", "Πότε κλείνει; Στις έξι.", [13, 9]),
        ("arabic", "متى يغلق؟ عند السادسة.", [9, 12]),
        ("japanese", "窓を閉める。鍵をかける。", [6, 6]),
        ("chinese", "关窗。锁门！", [3, 3]),
        ("thai", "กรุณาปิดหน้าต่างทุกบานก่อนออกจากห้อง กุญแจอยู่ที่ห้อง 12 ชั้นล่าง", [36, 28]),
        ("russian", "Он родился в 1932 г. в Москве. Потом уехал.", [30, 12]),
    ],
)
def test_sentences_end_where_the_language_ends_them(
    language: str, text: str, sentences: Sequence[int]
) -> None:
    """At exact places: their texts are the text without the spaces between them."""
    found = split_sentences(text, language=language)
    assert [one.end - one.start for one in found] == list(sentences)
    between = text[found[0].end : found[1].start]
    whole = between.join(text[one.start : one.end] for one in found)
    assert whole == text and not between.strip()


@pytest.mark.parametrize(
    ("language", "question", "right", "other"),
    [
        ("german", "Wie lange gilt die Fahrkarte?", "Die Fahrkarte gilt 30 Tage.", "Der Bus hält hier."),
        ("dutch", "Hoeveel kost een kaartje?", "Een kaartje kost 4 euro.", "De bus stopt."),
        ("polish", "Ile kosztuje bilet?", "Bilet kosztuje 4 złote.", "Autobus staje na rynku."),
        ("czech", "Kolik stojí jízdenka?", "Jízdenka stojí 4 koruny.", "Autobus staví na náměstí."),
        ("portuguese", "Quanto custa o bilhete?", "O bilhete custa 4 euros.", "O autocarro para na praça."),
        ("italian", "Quanto costa il biglietto?", "Il biglietto costa 4 euro.", "L'autobus ferma in piazza."),
        ("finnish", "Paljonko lippu maksaa?", "Lippu maksaa 4 euroa.", "Bussi pysähtyy torilla."),
        ("hebrew", "כמה עולה הכרטיס?", "כרטיס עולה 4 שקלים.", "האוטובוס עוצר בכיכר."),
        ("korean", "승차권은 얼마인가요?", "승차권 가격은 4유로이다.", "버스는 시장에 선다."),
        ("chinese", "车票多少钱？", "一张车票4元。", "公交车停在市场。"),
    ],
)  # fmt: skip
def test_the_answer_is_the_sentence_with_the_questions_words(
    language: str, question: str, right: str, other: str
) -> None:
    """Cosines of an English model do not count: here they are high for the wrong passage."""
    response = ask(question, passage(other, language, 1, 0.9), passage(right, language, 2, 0.1))
    assert [citation.quote for citation in response.citations] == [right]
    assert response.answerable


@pytest.mark.parametrize(
    ("language", "question", "text"),
    [
        ("german", "Wie heißt die Fahrerin?", "Eine Monatsfahrkarte gilt 30 Tage."),
        ("russian", "Как зовут водителя?", "Билет действует 30 дней."),
        ("chinese", "司机叫什么名字？", "一张车票有效三十天。"),
        ("thai", "คนขับรถชื่ออะไร", "ตั๋วใช้ได้สามสิบวัน"),
    ],
)
def test_what_no_passage_says_is_refused_whatever_the_cosines(
    language: str, question: str, text: str
) -> None:
    """A model of English gives sentences of other languages high cosines for nothing."""
    assert not ask(question, passage(text, language, dense=0.95)).answerable


def test_a_question_meets_passages_of_several_languages() -> None:
    """Each passage is read in its own."""
    english = passage("The permit is valid for two years.", None, 1, 0.2)
    german = passage("Die Genehmigung gilt zwei Jahre.", "german", 2, 0.2)
    assert ask("Wie lange gilt die Genehmigung?", english, german).citations[0].marker == 2
    assert ask("How long is the permit valid?", english, german).citations[0].marker == 1


@pytest.mark.parametrize(
    ("question", "text", "answered"),
    [
        ("How long is maternaty leave?", "Maternity leave lasts 16 weeks.", True),
        ("Which documents does the aplication need?", "An application needs two documents.", True),
        ("Who is the mayor of Lund?", "The major of the regiment is Berg.", False),
    ],
)
def test_a_misspelt_word_is_read_as_the_nearest_of_the_passages(
    question: str, text: str, answered: bool
) -> None:
    """Other words and numbers are not."""
    assert ask(question, passage(text, None, dense=0.45)).answerable is answered


def test_numbers_and_codes_are_read_as_they_stand() -> None:
    """P-71 is no misspelt P-17."""
    context = GenerateRequest.model_validate(
        {"query": "P-71", "contexts": [passage("Part P-17 costs 1200 euros; see notes.txt.", None)]}
    ).contexts[0]
    assert misspelt("Does P-71 cost 1300, by note.txt?", [context]) == {}
