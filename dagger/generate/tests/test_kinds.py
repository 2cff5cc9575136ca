"""What a question asks for, in seven languages: the sentence that holds it comes first."""

from __future__ import annotations

import pytest

from rag_generate.kinds import KINDS, kinds_asked
from rag_generate.questions import read_question
from rag_generate.scoring import score_sentences
from rag_kit.passages import Context

# question, the sentence that answers, one with the same words that does not
ASKED = [
    ("english", "When was the mill built?", "The mill was built in 1840.", "The mill was built of wood."),
    ("german", "Wann wurde die Mühle gebaut?", "Die Mühle wurde 1840 gebaut.", "Die Mühle wurde gebaut."),
    ("german", "Wie viele Zimmer hat das Haus?", "Das Haus hat zwölf Zimmer.", "Das Haus hat Zimmer."),
    ("german", "Wie oft fährt der Bus?", "Der Bus fährt täglich.", "Der Bus fährt langsam."),
    ("german", "Wo liegt der Schlüssel?", "Der Schlüssel liegt im Schrank.", "Der Schlüssel liegt bereit."),
    ("french", "Quand ferme le musée ?", "Le musée ferme le mardi.", "Le musée ferme parfois."),
    ("french", "Combien coûte le billet ?", "Le billet coûte douze euros.", "Le billet coûte cher."),
    ("french", "Qui dirige l'école ?", "L'école est dirigée par Anne Roy.", "L'école est dirigée avec soin."),
    ("french", "Où dort le chat ?", "Le chat dort sous la table.", "Le chat dort longtemps."),
    ("spanish", "¿Cuándo abre la tienda?", "La tienda abre el lunes.", "La tienda abre pronto."),
    ("spanish", "¿Cuantos libros tiene?", "La caja tiene nueve libros.", "La caja tiene libros."),
    ("spanish", "¿Quién pintó el cuadro?", "El cuadro lo pintó Ana Ruiz.", "El cuadro se pintó al sol."),
    ("italian", "Quando arriva il treno?", "Il treno arriva alle 9:30.", "Il treno arriva tardi."),
    ("italian", "Quanti posti ha la sala?", "La sala ha ottanta posti.", "La sala ha posti."),
    ("italian", "Chi guida il gruppo?", "Il gruppo lo guida Luca Neri.", "Il gruppo si guida bene."),
    ("portuguese", "Quando fecha a loja?", "A loja fecha no domingo.", "A loja fecha cedo."),
    ("portuguese", "Quantas camas tem o quarto?", "O quarto tem duas camas.", "O quarto tem camas."),
    ("dutch", "Wanneer sluit de winkel?", "De winkel sluit op maandag.", "De winkel sluit vroeg."),
    ("dutch", "Hoeveel kamers heeft het huis?", "Het huis heeft drie kamers.", "Het huis heeft kamers."),
]  # fmt: skip


@pytest.mark.parametrize(("language", "question", "right", "other"), ASKED)
def test_a_sentence_with_what_is_asked_for_comes_first(
    language: str, question: str, right: str, other: str
) -> None:
    """Wherever it stands in the passage."""
    for text in (f"{right} {other}", f"{other} {right}"):
        context = Context(
            marker=1, chunk_id="c", document_id="d", title="", source="", text=text,
            span=[0, len(text)], score=1.0, language=language,
        )  # fmt: skip
        candidates, _ = score_sentences(read_question(question, [language]), [context])
        best = max(candidates, key=lambda one: one.score)
        assert text[best.start : best.end] == right


@pytest.mark.parametrize(
    ("language", "question"),
    [
        ("german", "Warum ist die Mühle alt?"), ("german", "Wie heißt die Mühle?"),
        ("french", "Pourquoi le chat dort-il ?"), ("french", "Thé ou café ?"),
        ("spanish", "¿Qué es un molino?"), ("spanish", "¿Por qué es viejo?"),
        ("italian", "Perché è chiuso?"), ("portuguese", "Por que está fechado?"),
        ("dutch", "Waarom is de winkel dicht?"), ("dutch", "Hoe heet de winkel?"),
        ("polish", "Kiedy?"),
    ],
)  # fmt: skip
def test_other_questions_ask_for_none_of_them(language: str, question: str) -> None:
    """Why, what, or, what for; and languages without a row."""
    assert kinds_asked(question, language) == ()


def test_each_language_tells_numbers_once() -> None:
    """A sentence without a number ranks behind, whatever else is asked."""
    for language, kinds in KINDS.items():
        assert sum(kind.is_number for kind in kinds) == 1, language
