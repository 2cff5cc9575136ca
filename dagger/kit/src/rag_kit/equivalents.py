"""Words that mean the same in question and document: `Who owns it?` and `It belongs to …`.

A small list of relations that people ask for in other words than documents use. Each counts only in
questions of its form, for most of these words have other meanings, too: `head`, `charge`, `end`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from .languages import ENGLISH
from .words import content_words, stem


class Relation(NamedTuple):
    """What questions call it, and what documents say."""

    question: re.Pattern[str]  # the form of the questions it counts in
    asked: re.Pattern[str]  # its words in the question
    said: re.Pattern[str]  # what says the same in a document


class Equivalent(NamedTuple):
    """Words of a question, their stems, and what says the same in a document."""

    words: str  # as they stand in the question
    stems: frozenset[str]
    said: re.Pattern[str]


def _relation(question: str, asked: str, said: str = "") -> Relation:
    """Return the relation; a document may always say what the question does."""
    either = f"{asked}|{said}" if said else asked
    return Relation(
        re.compile(rf"\b(?:{question})\b", re.IGNORECASE),
        re.compile(rf"\b(?:{asked})\b", re.IGNORECASE),
        re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE),
    )


_MONEY = (  # digits of one number, not of a whole line of them: each would be tried to its end
    r"[€$£] ?[0-9][0-9.,]{0,20}"
    r"|[0-9][0-9.,]{0,20} ?(?:€|£|EUR|USD|GBP|CHF|euros?|dollars?|pounds?|francs?|Franken)"
)
_PRICE = (
    r"how (?:much|expensive|high)|what (?:\w+ ){0,6}(?:costs?|price|fee|charge|rate)s?"
    r"|which .*(?:costs?|prices?|fees?)"
)
RELATIONS: dict[str, tuple[Relation, ...]] = {
    ENGLISH: (
        _relation("who|whom|whose", "own(?:s|ed|ers?)?|belongs? to|proprietors?", "property of"),
        _relation(
            "who|whom",
            r"in charge|responsible|accountable|tak(?:es?|ing) care|look(?:s|ed|ing)? after|leads?|leaders?"
            r"|heads?|runs?|manag(?:es?|ers?|ing)|directors?|organi[sz](?:es?|ers?|ing)|handles?"
            r"|coordinat(?:es?|ors?)|oversees?|chair(?:s|ed|man|woman|person)?|presid(?:es?|ents?)",
            r"responsibility|led|headed|run|managed|organi[sz]ed|handled?|coordinated|(?:\w+['’]s|the) job",
        ),
        _relation(
            _PRICE, "costs?|prices?|priced|fees?|charges?|rates?|expensive", rf"paid|pays?|free|{_MONEY}"
        ),
        _relation(
            "how|when|until|till|by|can|may|could|what",
            "cancel(?:s|l?ed|l?ing|lation)?|terminat(?:es?|ed|ing|ion)|withdraw(?:al|n)?|quit"
            r"|end(?:ing)?(?= (?:the|my|our|this|that|an?|it)\b)"
            "|unsubscrib(?:e|ing)|give notice",
            "cancellations?|notice(?= (?:of|must|is|by|period))|(?:days?|weeks?|months?)['’]? notice"
            "|withdrawals?|resign",
        ),
        _relation(
            "how|when|where|until|till|by|can|may|do|must",
            "regist(?:er|ers|ered|ering|ration)|sign(?:ing)? up|enrol(?:l?ed|l?ing|l?ment)?",
            "signed up|sign-up|enrolments?",
        ),
        _relation(
            "how|when|do|will|can|is|are",
            "refund(?:s|ed)?|reimburs(?:e|ed|ement)|(?:money|deposit|payment) back",
            "return(?:s|ed)?|pa(?:y|ys|id) back|repa(?:y|id)",
        ),
        _relation(
            "what|which|is|are",
            "forbidden|prohibited|banned|not (?:allowed|permitted)",
            "(?:may|must) not|not be (?:allowed|permitted)",
        ),
        _relation(
            "may|can|am|is|are|do",
            "allowed|permitted|permission|possible",
            "may(?: not)?|can(?:not)?|must(?: not)?|forbidden|prohibited|banned|consent|approval|welcome"
            "|max(?:imum)?|at most|up to|limit(?:ed)?",
        ),
        _relation(
            "do|does|must|is|are|what|which",
            "requires?|required|needs?|needed|mandatory|compulsory|obligatory",
            "must",
        ),
        _relation(".+", "phones?|telephones?"),
        _relation(".+", "RAM|memory"),
        _relation(".+", "photos?|photograph(?:s|y|ing)?|pictures?"),
        _relation(
            "what|which|when|since",
            "versions?|releases?",
            r"v(?:ersion)?[ .]?[0-9]+(?:\.[0-9]+)+|[0-9]+(?:\.[0-9]+){2}",
        ),
        _relation(".+", "discounts?|reductions?|rebates?", "reduced|half price|pays? half"),
        _relation("what|which", "bugs|defects", "problems?|issues"),
        _relation("what|which|is|was|are|were", "tak(?:en?|ing) out|removed|dropped", "deleted|no longer"),
        _relation("what|which|does|how", "includes?|included|comes? with|covers?|covered", "part of"),
        _relation(
            "what|which|is|are",
            r"(?:not|never|\w+n['’]t) (?:be )?(?:included?|covered|reimbursed)|excluded|left out",
            r"exclu(?:ded|des?|sions?)|not (?:included|covered|reimbursed|part)|non-?\w+ble|uncovered",
        ),
        _relation(
            ".+", "free(?: of charge)?|without (?:paying|charge|cost)|at no (?:cost|charge)|gratis",
            "no charge",
        ),
        _relation("who|whom", "wrote|written|authors?|authored"),
        _relation(
            "when|how long|within|by|until",
            "due|hand(?:ed)? in|submit(?:ted)?|turn(?:ed)? in|deadline",
            "within \\w+ (?:\\w+ )?(?:hours?|days?|weeks?|months?)|payable|no later than|at the latest",
        ),
        _relation("what|which", "take along|bring(?: along)?|pack", "with you|equipment"),
        _relation(
            "(?:do|must|should) (?:i|we|you|one)",
            "wear|bring|carry|show",
            "mandatory|compulsory|obligatory|required?|must|needs?",
        ),
        _relation(
            "cancel|terminate|quit|leave|end (?:my|the|our|this|a)",
            "contract|membership|subscription|agreement|plan",
        ),
    ),
    "german": (
        _relation(
            "wer|wem|wessen", r"gehör(?:t|en)|eigentümer(?:in)?|inhaber(?:in)?|besitzer(?:in)?|besitzt",
            "eigentum",
        ),
        _relation(
            "wer|wem", "verantwortlich|zuständig|leite(?:t|n)|leiter(?:in)?|führt|kümmert|betreibt",
            "leitung|betreiber(?:in)?|verantwortung|obliegt|geleitet",
        ),
        _relation(
            "was|wie ?viel|wie (?:teuer|hoch)|welche[rnms]?",
            "koste(?:t|n)|preise?|gebühr(?:en)?|teuer", rf"zahl(?:t|en)|kostenlos|{_MONEY}",
        ),
        _relation(
            "wie|wann|kann|darf|bis",
            "absagen|stornier(?:en|t)|kündig(?:en|t)|zurücktreten|abbestellen|widerrufen",
            "storno|stornierung|kündigung|kündigungsfrist|abgesagt|gekündigt|widerruf",
        ),
        _relation(
            "was|welche[rnms]?|ist|sind", "verboten|untersagt|nicht (?:erlaubt|gestattet|zulässig)",
            "dürfen nicht|darf nicht|unzulässig",
        ),
        _relation(
            "was|welche[rnms]?|ist|sind",
            "nicht (?:enthalten|inbegriffen|versichert|abgedeckt|gedeckt)|ausgeschlossen",
            "ausgenommen|ausschlüsse?",
        ),
        _relation(
            "wie|wann|wo|bis|kann", "anmelden|registrieren|einschreiben", "anmeldung(?:en)?|angemeldet"
        ),
    ),
    "french": (
        _relation("qui", "propriétaires?|appartien(?:t|nent)|possède", "appartenant"),
        _relation(
            "qui", "responsables?|dirige|gère|gérante?|s['’]occupe|charge",
            "direct(?:eur|rice)|dirigée?|gérée?",
        ),
        _relation(
            "combien|quels?|quelles?", "prix|coût(?:e|ent)?|tarifs?|frais",
            rf"pa(?:ie|ye)nt?|gratuit|{_MONEY}",
        ),
        _relation(
            "comment|quand|peut-on|puis-je|jusqu['’]à", "annuler|résilier|rétracter",
            "annulée?s?|annulation|résiliée?|résiliation|préavis",
        ),
        _relation(
            "qu['’]est-ce|quoi|quels?|quelles?|que",
            "interdite?s?|défendue?s?|(?:pas|non) (?:autorisée?s?|permise?s?)",
            "ne (?:peut|doit|peuvent|doivent) pas",
        ),
        _relation(
            "qu['’]est-ce|quoi|quels?|quelles?|que",
            "(?:pas|non) (?:inclu(?:se?|ses)|comprise?s?|couverte?s?)|exclue?s?",
            "exclusions?|en sus",
        ),
    ),
}  # fmt: skip
# Forms of English verbs that share no stem.
_VERBS = """
become became, begin began begun, break broke broken, bring brought, build built, buy bought, catch caught,
choose chose chosen, draw drew drawn, drive drove driven, eat ate eaten, fall fell fallen, fight fought,
find found, fly flew flown, give gave given, grow grew grown, hold held, keep kept, know knew known, lead led,
leave left, lose lost, meet met, pay paid, ride rode ridden, rise rose risen, run ran, see saw seen,
sell sold, send sent, shoot shot, sing sang sung, speak spoke spoken, spend spent, stand stood,
steal stole stolen, swear swore sworn, teach taught, think thought, throw threw thrown, understand understood,
wear wore worn, win won, write wrote written
"""


@cache
def _forms() -> dict[str, tuple[str, ...]]:
    """Return by each stem of a verb's forms the stems of all of them."""
    verbs = [tuple(map(stem, line.split())) for line in _VERBS.split(",")]
    return {form: forms for forms in verbs for form in forms}


def verb_forms(stemmed: str, language: str = ENGLISH) -> list[str]:
    """Return the stems of the other forms of a verb that has several: of `pay` that of `paid`."""
    forms = _forms().get(stemmed, ()) if language == ENGLISH else ()
    return [form for form in forms if form != stemmed]


def equivalents(query: str, language: str = ENGLISH) -> list[Equivalent]:
    """Return for the relations a question asks for what says the same; none without a list for it."""
    return list(_equivalents(query, language))


def _equivalents(query: str, language: str) -> Iterator[Equivalent]:
    for relation in RELATIONS.get(language, ()):
        if relation.question.search(query):
            for found in relation.asked.finditer(query):
                stems = {stem(word, language) for word in content_words(found[0], language)}
                yield Equivalent(found[0], frozenset(stems), relation.said)


def meant_stems(query: str, text: str, language: str = ENGLISH) -> set[str]:
    """Return the stems of a question's words that a text says in other words."""
    found = (one.stems for one in equivalents(query, language) if one.said.search(text))
    return set().union(*found)
