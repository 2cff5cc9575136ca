"""Which questions lean on the conversation, what completes them, and what the parts of one are."""

from __future__ import annotations

import pytest

from rag_kit.passages import Message
from rag_pipeline.conversation import complete, leans_on_conversation
from rag_pipeline.parts import split_parts

LEANING = {
    "continuation": [
        "And what is its default?", "And for interns?", "What about gold members?", "Or in Berlin?",
        "How about in Germany?", "But why?", "What if I miss it?", "Also on weekends?", "And then?",
        "Und für Praktikanten?", "Et pour les stagiaires ?", "¿Y cuándo?",
    ],
    "pronoun": [
        "How do I change it?", "What is its default?", "when did he die", "Where was she born?",
        "Can they be renewed?", "How does the embedder handle it?", "How many of them are there?",
        "What happens when it is full?", "If it fails, what does the service do?", "Is it free?",
        "What is the default of its cache?", "what is the function of it and where is it produced",
    ],
    "pointing": [
        "Does this work on Windows?", "How do I turn that off?", "Do those count?", "Who works there?",
        "The second one?", "Is there another one?", "Does the same apply to gold members?",
        "Is that also true for contractors?", "What else?", "Which ones?", "How do I do that in Go?",
    ],
    "ellipsis": [
        "Why?", "Why not?", "How long?", "Since when?", "Who signs?", "What is the price?", "Are you sure?",
        "Tell me more", "Can you explain that?", "Can you give an example?", "When is the deadline?",
    ],
    "phrase": ["opening hours", "The deadline?", "for interns?", "in 2021?", "cost?", "Any exceptions?"],
}  # fmt: skip
STANDING_ALONE = [
    "What is RAG_MAX_QUEUE?", "Who may sign contracts?", "What is a lease?", "How do I install Docker?",
    "How long does it take to embed a document?", "Is it possible to delete a collection?",
    "When a request is refused, does it get retried?", "Why does the service stop when it is idle?",
    "Which documents are read that have tables?", "What happens to files that cannot be read?",
    "Are there limits on uploads?", "Is there a way to delete a document?",
    "How many people live in Paris this year?", "Did Napoleon bring his army to Russia?",
    "Those who sign contracts need what training?", "List all settings of the service",
    "who sings the song i can only imagine", "I want to cancel my membership",
    "What should a document contain so that it can be found?",
    "Wie hoch ist die Kündigungsfrist?", "Quelle est la durée du préavis ?",
    "Thanks", "thank you very much", "ok", "",
    "By the way: who pays for it?", "New question: and what about its licence?",
]  # fmt: skip


@pytest.mark.parametrize("question", [one for kind in LEANING.values() for one in kind])
def test_a_follow_up_is_noticed(question: str) -> None:
    """Continuations, pronouns, pointing words, ellipses and phrases without a verb."""
    assert leans_on_conversation(question)


@pytest.mark.parametrize("question", STANDING_ALONE)
def test_a_question_that_stands_alone_is_none(question: str) -> None:
    """A pronoun whose meaning is in the question, an empty "it", thanks, a change of topic."""
    assert not leans_on_conversation(question)


def talk(*said: str) -> list[Message]:
    """Return a conversation: the user begins, and they take turns."""
    return [
        Message(role="assistant" if at % 2 else "user", content=text)
        for at, text in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("said", "question", "completed"),
    [
        (["What is RAG_MAX_QUEUE?", "Requests that may wait [1]."], "And what is its default?",
         "And what is its default RAG_MAX_QUEUE?"),
        (["What is the notice period for interns?", "Two weeks."], "And for contractors?",
         "And for contractors notice period interns?"),
        (["Who is the chair?", "The chair is Jane Doe [2]."], "When was she elected?",
         "When was she elected chair Jane Doe?"),
        (["How much is a gold membership?", "40 euros.", "And silver?", "20."], "How do I cancel it?",
         "How do I cancel it gold membership silver?"),
        (["Who is the chair?", "Jane Doe.", "What does a lease cost?", "5 euros."], "Is it taxed?",
         "Is it taxed lease cost?"),
        (["What is a lease?", "A contract."], "Who may sign contracts?", None),
        ([], "And what is its default?", None),
        (["Thanks", "You are welcome."], "Why?", None),
    ],
)  # fmt: skip
def test_a_follow_up_gets_the_terms_it_leans_on(
    said: list[str], question: str, completed: str | None
) -> None:
    """Those of the questions since the last one that stands alone, and the names of the answer."""
    assert complete(question, talk(*said)) == completed


def test_a_long_conversation_adds_a_bounded_number_of_terms() -> None:
    """However long a question or an answer was."""
    words = " ".join(f"term{number}" for number in range(300))
    names = ". ".join(f"It is Name{number}" for number in range(300))

    completed = complete("Why is that?", talk(f"What is {words}?", names))

    assert completed is not None
    assert len(completed.split()) == 3 + 16 + 4


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Who may sign contracts, and what training must interns have?",
         ["Who may sign contracts", "what training must interns have?"]),
        ("What is Docker and do I need it?", ["What is Docker", "do I need it Docker"]),
        ("What is a lease and how is it removed?", ["What is a lease", "how is it removed lease"]),
        ("Which files can be read? Where are they stored?",
         ["Which files can be read", "Where are they stored files read"]),
        ("What is the difference between dense and sparse search?", []),
        ("How do I delete a collection or a document?", []),
        ("How are the accounts audited and by whom?", []),
        ("The cache is full. What happens?", []),
        ("Who signs?", []),
    ],
)  # fmt: skip
def test_a_question_with_several_parts_is_split(question: str, parts: list[str]) -> None:
    """At a conjunction before a question; a part that leans on the first has its words."""
    assert split_parts(question) == parts
