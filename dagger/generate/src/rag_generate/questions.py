"""What a question asks for: its terms, its parts, and what an answer must hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_kit.equivalents import equivalents, verb_forms
from rag_kit.languages import ENGLISH
from rag_kit.text import comparable

from .inventory import thing_asked
from .kinds import Kind, kinds_asked
from .terms import question_language, question_words, stem

NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|except|excluding|excludes?|excluded"
    r"|exclusions?|exempt\w*|cannot|forbidden|prohibited|banned|unless|uncovered|uninsured|refus\w+"
    r"|non-?\w+(?:ble|ed)|ineligible|unsupported|unavailable|disallowed)\b|n['’]t\b",
    re.IGNORECASE,
)
_REASON = re.compile(r"\s*(?:why|what (?:if|happens|should i do|can i do|to do))\b", re.IGNORECASE)
_DOUBLE = re.compile(
    r"\b(?:not only|no longer than|no later than|no more than|no fewer than|if not)\b", re.I
)
_CLOSED = re.compile(
    r"\s*(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had|am)\b",
    re.IGNORECASE,
)
_LIST = re.compile(
    r"^\W*(?:list|name|enumerate|give|show|tell)\b|\b(?:all|every) (?:the |of the )?\w+s\b"
    r"|\b(?:what|which)(?: \w+){0,3} are\b"
    r"|\b(?:what|which) (?:\w+ ){0,2}(?!(?:does|is|was|has|its|this|us|always)\b)\w+s\b"
    r"|\bwhat(?:['’]s| is| was| has| has been| gets?)? (?:new|changed|changes|added|removed|fixed|deprecated"
    r"|included|excluded|covered|required|needed|supported|missing|planned|left out)\b",
    re.IGNORECASE,
)
_EACH = re.compile(r"\b(?:each|every|all|any)\b", re.IGNORECASE)
_STEPS = re.compile(
    r"^\W*how (?:do|can|should|could|would|must|may|to|does one|is|are)\b|\bhow to\b"
    r"|\b(?:steps|procedure|instructions)\b",
    re.IGNORECASE,
)
_ANCHOR = re.compile(
    r"(?<![^\W_])[^\W_]*[0-9][\w]*(?:[-./:][\w]*[0-9A-Za-z][\w]*)*|\b[A-Z][\w]*(?:[-/.][\w]*[0-9][\w]*)+"
)
_AND = r"(?:,? and |, |; |,? or |,? but )"
_PART = re.compile(
    rf"(?:\?\s+|;\s+|{_AND})(?:also )?(?=(?:who|whom|whose|what|when|where|which|why|how"
    r"|(?:is|are|does|do|can|must|may) (?:it|they|there|i|we|you|the|this|that|he|she))\b)",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|may|must"
    r"|should|will|has|have)\b",
    re.IGNORECASE,
)
_SOURCE = re.compile(
    r"\b(?:references?|sources?|links?|urls?|websites?|address|citations?|cited?|papers?|books?|articles?"
    r"|publications?|published|isbn|doi|archived|retrieved|web ?page)\b",
    re.IGNORECASE,
)
EXTREME = re.compile(
    r"\b(?:(?P<most>highest|most|largest|biggest|greatest|maximum|max|longest|tallest|heaviest|oldest"
    r"|newest|latest|fastest|top|priciest|dearest|(?:most (?:expensive|costly)))"
    r"|(?P<least>lowest|least|smallest|fewest|minimum|min|shortest|lightest|cheapest|youngest"
    r"|earliest|slowest|least expensive))\b",
    re.IGNORECASE,
)


NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip
DIGITS = frozenset(map(str, range(1, 13)))
_COUNTED = re.compile(
    r"\bhow many (?:of (?:the )?)?([\w'’ -]+?)(?= (?:do|does|did|is|are|was|were|can|could|have|has|had|will"
    r"|would|should|may|must|in|of|on|at|per|for|with|from|to|there|that|who|which|each|an?|the|by)\b|\?|$)",
    re.IGNORECASE,
)
_WEIGHED = re.compile(r"\bhow (?:much|heavy)\b.*\b(?:weighs?|heavy)\b|\bweight of\b", re.IGNORECASE)
_WEIGHT = re.compile(
    r"\b(?:weigh\w*|heavy|mass)\b|[0-9] ?(?:kg|g|lbs?|t|kilograms?|grams?|pounds?|tonnes?|tons?)\b(?! of)",
    re.IGNORECASE,
)
_PEOPLE = re.compile(
    r"\b(?:people|persons?|population|inhabitants?|residents?|members?|passengers?|visitors?|guests?"
    r"|employees?|staff|spectators?|seats?|men|women|children|players?|died|killed|live)\b",
    re.IGNORECASE,
)


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
MAX_BACKGROUND = 20  # words beside a question that may say what it is about; a mail has more


class Question(NamedTuple):
    """What a question asks, ready to be compared."""

    terms: dict[str, int]  # stem -> number of the term; one has several in several languages
    prefixes: frozenset[str]  # first letters of the terms; words without them are not stemmed
    size: int  # how many terms they are
    language: str = ENGLISH
    asked: tuple[Kind, ...] = ()  # what a sentence that answers holds
    text: str = ""  # the question as asked
    anchors: tuple[re.Pattern[str], ...] = ()  # numbers, years, versions, part numbers asked for
    negated: bool = False  # it asks for what is not
    open: bool = False  # it asks who, what, which, where, when or how, not yes or no
    wants_items: bool = False  # it asks for a list or for steps
    wants_rows: bool = False  # it asks for all that a table has of something
    wants_source: bool = False  # it asks for a reference or an address
    counted: re.Pattern[str] | None = None  # what stands beside the number that answers
    thing: str = ""  # of which all are asked for
    said: tuple[tuple[frozenset[int], re.Pattern[str]], ...] = ()  # terms, and what means the same

    @property
    def by_cosine(self) -> bool:
        """Whether cosines say something: a model of English gives other languages high ones for nothing."""
        return self.language == ENGLISH


def read_question(query: str, languages: Sequence[str] = (ENGLISH,)) -> Question:
    """Return the terms of the question and what its answer must hold.

    Args:
        query: The question.
        languages: Those of the passages.
    """
    language = question_language(query, languages)
    asked = dict.fromkeys(question_words(query, language))
    numbers = {one: n for n, one in enumerate(dict.fromkeys(stem(w, language) for w in asked))}
    terms = dict(numbers)
    said = tuple(_said(query, language, numbers))
    thing = thing_asked(query) if language == ENGLISH else ""
    lists = bool(_LIST.search(query) or thing)
    for one, number in numbers.items():
        for form in verb_forms(one, language):
            terms.setdefault(form, number)
    for other in dict.fromkeys(languages):
        for word in asked:
            terms.setdefault(stem(word, other), numbers[stem(word, language)])
    return Question(
        terms,
        frozenset(term[:2] for term in terms),
        len(numbers),
        language,
        kinds_asked(query, language),
        query,
        tuple(map(_exactly, dict.fromkeys(_ANCHOR.findall(comparable(query))))),
        is_negated(query) and not _REASON.match(query),
        not _CLOSED.match(query) and not (_REASON.match(query) and is_negated(query)),
        lists or bool(_STEPS.search(query)),
        lists or bool(_EACH.search(query)),
        bool(_SOURCE.search(query)),
        _counted(query),
        thing,
        said,
    )


def _said(
    query: str, language: str, numbers: dict[str, int]
) -> Iterator[tuple[frozenset[int], re.Pattern[str]]]:
    """Yield terms of the question, and what means the same in a passage.

    A relation whose words are all stop words, as in `taken out`, becomes a term of its own.
    """
    for one in equivalents(query, language):
        found = {numbers[own] for own in one.stems if own in numbers}
        yield frozenset(found or {numbers.setdefault(one.words, len(numbers))}), one.said


def _counted(query: str) -> re.Pattern[str] | None:
    """Return how the thing counted is named, as in `how many claws`; None when nothing is counted."""
    if _WEIGHED.search(query):
        return _WEIGHT
    match = _COUNTED.search(query)
    thing = match[1].split()[-1:] if match else []
    if not thing:
        return None
    if _PEOPLE.fullmatch(thing[0]):
        return _PEOPLE
    return re.compile(rf"\b{re.escape(stem(thing[0].lower()))}", re.IGNORECASE)


def is_negated(text: str) -> bool:
    """Whether a text says what is not, or is excluded."""
    return bool(NEGATION.search(_DOUBLE.sub(" ", text)))


def asked_in(query: str) -> str:
    """Return the sentences of a long message that ask; a shorter one says what its question is about."""
    sentences = [one for one in map(str.strip, _SENTENCE_END.split(query)) if one]
    asking = [one for one in sentences if one.endswith("?")]
    background = sum(len(one.split()) for one in sentences if one not in asking)
    return " ".join(asking) if asking and background > MAX_BACKGROUND else query


def question_parts(query: str) -> list[str]:
    """Return the questions a query asks, in order: one, or several joined by `and` or `?`.

    A part counts when what stands before it is a question of its own.
    """
    query = asked_in(query)
    cuts, start = [], 0
    for match in _PART.finditer(query):
        before = query[start : match.start()]
        if (
            _ASKS.search(before)
            and len(before.split()) > 2
            and len(query[match.end() :].split()) > 1
        ):
            cuts.append(before)
            start = match.end()
    parts = [*cuts, query[start:]]
    return [part.strip(" ,;") for part in parts if part.strip(" ,;?")] or [query]


def extreme(query: str) -> int:
    """Return 1 when the query asks for the most, -1 for the least, 0 for neither."""
    match = EXTREME.search(query)
    return 0 if match is None else 1 if match["most"] else -1


def _exactly(anchor: str) -> re.Pattern[str]:
    """Return a pattern of the anchor that is not a part of a longer one: P-17/3 is not P-17/13."""
    forms = [anchor, *NUMBER_WORDS[int(anchor) :][:1]] if anchor in DIGITS else [anchor]
    either = "|".join(map(re.escape, forms))
    return re.compile(rf"(?<!\w)(?<!\w[-./])(?:{either})(?!\w)(?![-./]\w)", re.IGNORECASE)
