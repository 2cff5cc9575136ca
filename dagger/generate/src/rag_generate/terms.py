"""Words of a text as comparable terms: lower-cased, stemmed (Snowball English), without stop words."""

from __future__ import annotations

import re
from functools import lru_cache

import snowballstemmer  # type: ignore[import-untyped]

from rag_kit.text import comparable

_WORD = re.compile(r"\w+(?:[.,]\d+)*")
_STEMMER = snowballstemmer.stemmer("english")

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


def words(text: str) -> list[str]:
    """Return the words of `text` as they are compared, lower-cased, in order."""
    return _WORD.findall(comparable(text).lower())


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return the Snowball English stem of a lower-cased word."""
    stemmed: str = _STEMMER.stemWord(word)
    return stemmed


def content_terms(text: str) -> list[str]:
    """Return the distinct stems of `text` in order; stop words only when there is nothing else."""
    found = words(text)
    content = [word for word in found if word not in STOP_WORDS] or found
    return list(dict.fromkeys(stem(word) for word in content))


def question_terms(query: str) -> list[str]:
    """Return the content terms of a question, without the phrases for the kind of answer."""
    found = words(_ASKING.sub(" ", query))
    content = " ".join(word for word in found if word not in STOP_WORDS)
    return content_terms(content or query)
