"""Words of a text as comparable terms: lower-cased, stemmed by Snowball, without stop words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rag_kit.languages import ENGLISH
from rag_kit.passages import Context
from rag_kit.spelling import doubtful, nearest
from rag_kit.words import content_words, is_unspaced, main_language, stem, stop_words, words

__all__ = [
    "STOP_WORDS",
    "content_terms",
    "is_function_word",
    "misspelt",
    "question_language",
    "question_words",
    "stem",
    "words",
]

MEANT = 6  # letters; an answer that takes a shorter word for another one is wrong too often

# Phrases that only specify the kind of answer: "how long", "what year", "list all", "take place".
_ASKING = re.compile(
    r"\bhow (?:many|much|long|far|tall|big|high|old|often|fast|large|deep|wide|soon|late|early)\b"
    r"|\b(?:what|which) (?:kind|type|sort|year|date|day|month|time|number)s?\b(?: of\b)?"
    r"|^\W*(?:please )?(?:list|name|enumerate|show|give|tell)(?: (?:me|us|all|every|each|the|some|any))+\b"
    r"|\b(?:is|are|was|were|do|does|did|has|have|had|ca|wo|would|could|should|must|need)n['’]t\b"
    r"|\b(?:take[sn]?|took|taking) place\b",
    re.IGNORECASE,
)
# What asks for all there is of a thing: "which plans are there", "what sizes do you have".
_EXISTING = re.compile(
    r"^(\W*(?:what|which)\b.*?) (?:exist|(?:is|are) (?:there|available|offered|used|listed)"
    r"|(?:do|can|could|may) (?:you|we|i|they) "
    r"(?:have|offer|sell|choose|get|buy|hire|rent|order|book|reserve|pick))\W*$",
    re.IGNORECASE,
)

STOP_WORDS = stop_words(ENGLISH)


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
    found = words(_ASKING.sub(" ", _EXISTING.sub(r"\1", query)))
    return _content(" ".join(word for word in found if word not in STOP_WORDS) or query)


def misspelt(query: str, contexts: Sequence[Context]) -> dict[str, str]:
    """Return for words of a question that no passage has the nearest one of the passages, if any."""
    spoken: set[str] = set()
    stems: set[str] = set()
    for context in contexts:
        language = context.language or ENGLISH
        around = " ".join([context.title, *context.headings, context.source, context.text])
        own = words(around, language)
        spoken.update(own)
        stems.update(stem(word, language) for word in own)
    language = question_language(query, [context.language or ENGLISH for context in contexts])
    found = {
        word: nearest(word, spoken, short=MEANT)
        for word in doubtful(query)
        if stem(word, language) not in stems and not is_function_word(word, language)
    }
    return {word: other for word, other in found.items() if other}


def is_function_word(word: str, language: str) -> bool:
    """Tell whether a word only asks or connects."""
    return word in stop_words(language)
