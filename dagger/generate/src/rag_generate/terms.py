"""Words of a text as comparable terms: lower-cased, stemmed by Snowball, without stop words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rag_kit.languages import ENGLISH
from rag_kit.words import content_words, is_unspaced, main_language, stem, stop_words, words

__all__ = [
    "STOP_WORDS",
    "content_terms",
    "is_function_word",
    "question_language",
    "question_words",
    "stem",
    "words",
]

# Phrases that only specify the kind of answer: "how long", "what year", "which kind of".
_ASKING = re.compile(
    r"\bhow (?:many|much|long|far|tall|big|high|old|often|fast|large|deep|wide|soon|late|early)\b"
    r"|\b(?:what|which) (?:kind|type|sort|year|date|day|month|time|number)s?\b(?: of\b)?",
    re.IGNORECASE,
)

_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing done down during each few for from further get gets
getting got had happen happened happens has have having he her here hers him his how i if in into is
it its itself just let ll like made make makes many may me mean means might more most much must my
no nor not now of off on once only or other our out over own please re s same say says shall she
should so some such t take taken takes tell than that the their them then there these they this
those through to too under until up us use used ve very was we were what when where which while who
whom whose why will with would you your
"""
# Question and function words, which do not tell a passage's topic.
STOP_WORDS = frozenset(_STOP_WORDS.split())


def content_terms(text: str) -> list[str]:
    """Return the distinct stems of `text` in order; stop words only when there is nothing else."""
    return list(dict.fromkeys(stem(word) for word in _content(text)))


def _content(text: str) -> list[str]:
    found = words(text)
    return [word for word in found if word not in STOP_WORDS] or found


def question_language(query: str, languages: Iterable[str]) -> str:
    """Return the language of a question: of its passages' and English the one whose words it uses.

    English where it uses those of none and a passage is in English, else the language of the first.
    """
    known = list(languages) or [ENGLISH]
    return main_language(query, {*known, ENGLISH}) or (ENGLISH if ENGLISH in known else known[0])


def question_words(query: str, language: str = ENGLISH) -> list[str]:
    """Return the words of a question that tell its topic, without the phrases for the kind of answer."""
    if language != ENGLISH or is_unspaced(query):
        return list(dict.fromkeys(content_words(query, language)))
    found = words(_ASKING.sub(" ", query))
    return _content(" ".join(word for word in found if word not in STOP_WORDS) or query)


def is_function_word(word: str, language: str) -> bool:
    """Tell whether a word only asks or connects."""
    return word in (STOP_WORDS if language == ENGLISH else stop_words(language))
