"""Questions that lean on the conversation: notice them, and complete them for the search.

Both work on words alone: they are rules for English, with the question words of a few other languages, so
that their questions are not taken for fragments. A question that leans on nothing is searched as it is, which
is how a change of topic leaves the conversation behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rag_kit.passages import Message

MAX_TURNS = 4  # earlier questions a follow-up may lean on
MAX_TERMS = 16  # terms of earlier questions that complete one
MAX_NAMES = 4  # names of the last answer that complete one
FRAGMENT_TERMS = 4  # a text without a verb that has more terms stands alone

# English, then German, French, Spanish, Italian, Dutch and Portuguese
_ASKING = """
what who whom whose which when where why how was wer wem wen wessen wann wo woher wohin wie warum wieso
weshalb wozu womit welche welcher welches welchen qui que quoi quand où comment pourquoi combien quel
quelle quels quelles qué quién quiénes cuándo dónde cómo cuánto cuánta cuántos cuál cuáles chi quando
dove come perché quanto quanti quale quali wat wanneer waar hoe waarom welke hoeveel quem onde como qual
quais quantos
"""
_VERBS = """
am is are was were be been being do does did have has had can could may might must shall should will
would ist sind war kann darf muss soll hat haben est sont peut dois peux faut es son está puede hay è
sono può mag kan moet
"""
_PERSONS = """
i we you my our your me us ich wir man je nous
"""
# words that say nothing of a topic, besides those above
_SMALL_WORDS = """
a about above after again against all an and any as at because before below between both but by during
each few for from further get gets got if in into it its itself just let like made make makes many mean
means more most much need no nor not of off on once only or other others out over own per please same say
says shall since so some such take takes than that the their them then there these they this those through to
too under until up use used uses very via want wants while with within without work works yet he him his
she her hers theirs one ones else also instead either neither otherwise still happen happens happened
"""
# words about the answer, not about the documents
_ANSWER_WORDS = """
again answer brief briefly clarify continue detail detailed details elaborate exactly example examples
explain further give go long longer more precisely question reason reasons sentence short shorter shortly
show simple simpler simply specific specifically sum summarise summarize summary sure tell translate
understand
"""
_ORDER_WORDS = """
compare define describe explain find give list name say show state summarise summarize tell
"""
# a text of these alone asks nothing
_POLITE_WORDS = """
a bye cheers cool fine good goodbye great hello hey hi lot much nice no ok okay perfect sorry thank
thanks that's thx understood very yes you
"""
_META = frozenset(_ANSWER_WORDS.split())
_ORDERS = frozenset(_ORDER_WORDS.split())
_COURTESY = frozenset(_POLITE_WORDS.split())
_QUESTION_WORDS = frozenset(_ASKING.split())
_ACTING = frozenset(f"{_ASKING} {_VERBS} {_PERSONS}".split())
_EMPTY = _ACTING | frozenset(_SMALL_WORDS.split())

_WORD = re.compile(r"\w+(?:['’_./:+#-]+\w+)*")
_CITED = re.compile(r"\[\d+(?:\s*,\s*\d+)*\]")
_CLAUSE = re.compile(
    r"[,;.?!:]\s|\b(?:if|when|while|because|after|before|unless|although|since|that)\b"
    r"|\b(?:and|or|but)\b(?=\s+(?:what|who|when|where|why|how|is|are|was|were|do|does|did|can|may|must|should|will))",
    re.IGNORECASE,
)
_NEW_TOPIC = re.compile(
    r"\s*(?:(?:a |an )?(?:new|different|another|other|unrelated) (?:question|topic|subject)|unrelated(?:ly)?"
    r"|by the way|btw|something (?:else|different)|on another (?:note|topic|subject)"
    r"|(?:changing|change of) (?:the )?(?:topic|subject))\b\s*[:,.;–-]",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"[\s¿]*(?:and|or|but|so|then|plus|because|also|what about|how about|what if|what of|why not"
    r"|same (?:for|with)|as for|und|aber|oder|et|mais|ou|y|pero|e|ma|en|maar|mas)\b(?!['’])",
    re.IGNORECASE,
)
_POINTING = re.compile(
    # this and these, but not this year or this site; those, but not those who
    r"\b(?:this|these)\b(?!\s+(?:year|month|week|morning|afternoon|evening|time|century|service|product|project|page"
    r"|site|website|repository)\b)"
    r"|\bthose\b(?!\s+(?:who|that|which|with|of|in)\b)"
    r"|\b(?:is|are|was|were|do|does|did|can|could|will|would|has|about|of|for|than|to|after|before|with|like|by"
    r"|from|in|on|at|and|under|without|change|use|set)\s+that\b(?!\s+(?:the|a|an|i|we|you|there)\b)|\bthat\W*\Z"
    # a place, not "there is"
    r"|\bthere\b(?<!\bis there)(?<!\bare there)(?<!\bwas there)(?<!\bwere there)(?<!\bhas there)"
    r"(?<!\bhave there)(?<!\bcan there)(?<!\bwill there)(?<!\bdoes there)"
    r"(?!['’]|\s+(?:is|are|was|were|be|been|has|have|exists?|will|can|must)\b)"
    r"|\b(?:what|who|where|how|when|anything|anyone|anybody|something|nothing) else\b|\balso\b"
    r"|\b(?:too|as well|instead|otherwise|then|either|again|in that case|likewise|anymore)\W*\Z"
    r"|\b(?:the )(?:former|latter|others|rest|same|opposite|reverse)\b"
    r"|\b(?:other|another|first|second|third|last|next|previous|which|new|old|big|small) ones?\b"
    r"|\b(?:first|second|third|last|other|next|another|others|which)\W*\Z"
    r"|\b(?:davon|dafür|damit|daran|dazu|darüber|dabei|dort|dessen|deren|diese[rsmn]?|cela|ça|celui-ci|celle-ci|eso"
    r"|esto|ellos|ellas|questo|questa|daarvan|daarvoor|daar|isso|isto)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?P<personal>it|itself|they|them|themselves|he|him|himself|she|herself|hers|theirs)\b"
    r"|\b(?P<possessive>its|their|his|her)\b",
    re.IGNORECASE,
)
# "it" that stands for what follows, for weather or for the time
_EMPTY_IT = re.compile(
    r"\b(?:is|was|be|would|will)\s+it\s+(?:not\s+)?\w+\s+(?:to|that|if|for\s+\w+\s+to)\b"
    r"|\bit(?:'s|’s|\s+is|\s+was)\s+\w+\s+(?:to|that|if)\b"
    r"|\b(?:does|did|will|would)\s+it\s+(?:take|cost|matter|make sense|help|hurt)\s+(?:\S+\s+){0,3}?"
    r"(?:to|if|that|when|for\s+\S+\s+to)\b"
    r"|\bit\s+(?:seems|happens|turns out|takes|costs)\b|\b(?:is|does) it\s+(?:rain|snow)(?:ing)?\b"
    r"|\bwhat\s+(?:time|day)\s+is\s+it\b|\bdoes it get\b",
    re.IGNORECASE,
)
_DEFINITE = re.compile(
    r".*\b(?:the|le|la|les|der|die|das|el|los|las)\s+\S+(?:\s+\S+)?\W*\Z",
    re.IGNORECASE,
)
_ASKS_WHAT = re.compile(r"\s*(?:what|who)(?:\s+(?:is|are|was|were)|['’]s)\s+", re.IGNORECASE)
_DEFINITION = re.compile(rf"{_ASKS_WHAT.pattern}(?!the\b)", re.IGNORECASE)


def leans_on_conversation(question: str) -> bool:
    """Tell whether a question is only understood with the ones before it.

    It opens as a continuation ("and …?", "what about …?"), has a pronoun or a word like "that one"
    whose meaning is not in the question itself, is a phrase without a verb, or has hardly a word
    of its own ("why?", "tell me more").
    """
    if _NEW_TOPIC.match(question):
        return False
    if _is_courtesy(question):
        return False
    said = [word.casefold() for word in _WORD.findall(question)]
    if _OPENING.match(question) or _POINTING.search(question) or _has_open_pronoun(question):
        return True
    asks = not _QUESTION_WORDS.isdisjoint(said)
    own = [word for word in own_words(question) if asks or word.casefold() not in _META]
    return _is_elliptical(question, own) or _is_fragment(said, own)


def _is_courtesy(text: str) -> bool:
    """Whether a text is thanks, a greeting or nothing at all."""
    return _COURTESY.issuperset(word.casefold() for word in _WORD.findall(text))


def _has_open_pronoun(question: str) -> bool:
    """Whether a pronoun stands for something that the question does not name before it."""
    text = _EMPTY_IT.sub(lambda found: " " * len(found[0]), question)
    for pronoun in _PRONOUN.finditer(text):
        before = text[: pronoun.start()]
        if pronoun["personal"]:
            ends = [clause.start() for clause in _CLAUSE.finditer(before) if clause.start()]
            before = before[: ends[-1]] if ends else ""
        if not list(own_words(before)) or re.search(r"\bof\s+\Z", before, re.IGNORECASE):
            return True
    return False


def own_words(text: str) -> Iterator[str]:
    """Yield the words of a text that say something, as they are written."""
    return (word for word in _WORD.findall(text) if word.casefold() not in _EMPTY)


def shared_words(text: str, others: Sequence[str]) -> set[str]:
    """Return the words of its own that a text has in common with others, case folded."""
    known = {word.casefold() for other in others for word in own_words(other)}
    return {word.casefold() for word in own_words(text)} & known


def _is_elliptical(question: str, own: Sequence[str]) -> bool:
    """Whether a question has hardly a word of its own, and names nothing.

    With two words it is one that asks for "the …", which somebody must have mentioned.
    """
    if len(own) > 2 or any(map(_is_name, own)) or (own and _DEFINITION.match(question)):
        return False
    return len(own) < 2 or bool(_DEFINITE.match(question) and not _ASKS_WHAT.match(question))


def _is_name(word: str) -> bool:
    """Whether a word is spelled like a name or an identifier: `Docker`, `NX-58`, `max_size`."""
    return any(character.isupper() or character.isdigit() or character == "_" for character in word)


def _is_fragment(said: Sequence[str], own: Sequence[str]) -> bool:
    """Whether a text is a short phrase: nobody acts in it, and nothing is asked or ordered."""
    if len(own) > FRAGMENT_TERMS or said[0] in _ORDERS:
        return False
    return not any(word in _ACTING for word in said)


def complete(question: str, messages: Sequence[Message]) -> str | None:
    """Return a follow-up with what it leans on, or None when it stands alone or nothing is before it.

    What it leans on are the terms of the questions before it, back to one that stands alone, and for a
    pronoun the names in the last answer.

    Args:
        question: The question as asked.
        messages: The conversation before it, oldest first.
    """
    if not leans_on_conversation(question):
        return None
    earlier: list[str] = []
    for message in reversed(messages):
        if message.role == "user" and not _is_courtesy(message.content):
            earlier.insert(0, message.content)
            if len(earlier) == MAX_TURNS or not leans_on_conversation(message.content):
                break
    answers = [message.content for message in messages if message.role == "assistant"]
    known = {word.casefold() for word in _WORD.findall(question)}
    carried = list(_new(_terms(earlier), known, MAX_TERMS))
    if _PRONOUN.search(question) or _POINTING.search(question):
        carried += _new(_names(answers[-1:]), known, MAX_NAMES)
    return f"{question.strip(' ?？')} {' '.join(carried)}?" if carried else None


def _terms(questions: Sequence[str]) -> Iterator[str]:
    for question in questions:
        yield from (word for word in own_words(question) if word.casefold() not in _META)


def _names(answers: Sequence[str]) -> Iterator[str]:
    """Yield the names of answers: words with a capital inside a sentence, or with digits and letters."""
    for answer in answers:
        for found in _WORD.finditer(_CITED.sub("", answer)):
            word = found[0]
            begins = not answer[: found.start()].strip() or re.search(
                r"[.!?:]\s*\Z", answer[: found.start()]
            )
            named = word[:1].isupper() and (not begins or not word[1:].islower())
            if named and word.casefold() not in _EMPTY:
                yield word


def _new(words: Iterator[str], known: set[str], most: int) -> Iterator[str]:
    """Yield the words that are not known yet, and remember them."""
    for word in words:
        if most == 0:
            return
        if word.casefold() not in known:
            known.add(word.casefold())
            most -= 1
            yield word
