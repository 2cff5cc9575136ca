"""What counts where passages contradict each other: the newer document, and the new text of a mail."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_kit.passages import Context

from .scoring import Candidate
from .terms import content_terms

YEAR = re.compile(r"(?<![\d.,-])(?:19|20)\d\d(?![\d,])")
# a year that begins or ends a time: other years are in it
PERIOD = re.compile(
    r"\b(?:from|since|until|till|between|after|before|by|to|through|as of|effective|starting|beginning"
    r"|prior to|seit|ab|bis|vor|nach)\b(?: \w+){0,3} (?:19|20)\d\d\b"
    r"|\b(?:19|20)\d\d ?(?:[-–—/]|and later|or later|onwards?)",
    re.IGNORECASE,
)
QUOTED_LINE = re.compile(r"^[ \t]*>", re.MULTILINE)
CALLOUTS = (".md", ".markdown", ".mdx", ".rst", ".adoc")  # there `>` marks a note or a quotation
# What mail programs write above the mail that is answered, or passed on: everything below it is that mail.
_OLD = (
    "Original Message|Forwarded message|Ursprüngliche Nachricht|Weitergeleitete Nachricht"
    "|Message d['’]origine|Message transféré|Mensaje original|Mensaje reenviado|Messaggio originale"
    "|Messaggio inoltrato"
    "|Mensagem original|Mensagem encaminhada|Oorspronkelijk bericht|Doorgestuurd bericht"
)
_WROTE = "wrote|schrieb|a écrit|escribió|ha scritto|escreveu|schreef"
_SENT = "Sent|Date|Gesendet|Datum|Envoyé|Enviado(?: el| em)?|Fecha|Inviato|Data|Verzonden"
OLD_MAIL = re.compile(
    rf"^(?:-{{2,}} *(?:{_OLD}) *-{{2,}}|Begin forwarded message:"
    rf"|(?:On|Am|Le|El|Il|Em|Op)\b.{{6,200}}(?:{_WROTE})[^\n]{{0,80}}:[ \t]*$"
    rf"|\*?(?:From|Von|De|Da|Van) ?:\*? [^\n]+\n(?:[^\n]+\n){{0,2}}?\*?(?:{_SENT}) ?:\*? )",
    re.MULTILINE | re.IGNORECASE,
)
HEAD = re.compile(r"(?:[\w-]+ ?: [^\n]*\n)+")  # of the mail itself
# What an old document says of itself.
SUPERSEDED = re.compile(
    r"\b(?:superseded|replaced) by\b|\bno longer (?:valid|in force|applies|applicable)\b"
    r"|\b(?:this|the) (?:document|policy|rule|version|page|section|price list) (?:is|has been|was) "
    r"(?:obsolete|outdated|withdrawn|superseded|replaced|out of date|archived)\b"
    r"|\b(?:ersetzt durch|nicht mehr gültig|außer Kraft)\b",
    re.IGNORECASE,
)
SUPERSEDED_BY = {"superseded_by", "replaced_by", "supersededby", "replacedby"}
SUPERSEDED_STATUS = {
    "superseded", "replaced", "obsolete", "outdated", "withdrawn", "archived", "deprecated", "expired",
}  # fmt: skip
VERSION = re.compile(r"(?<![a-z])v(?:ersion)?[ _.-]?(\d+(?:[._]\d+)*)(?![a-z0-9])", re.IGNORECASE)
SHARED = 0.5  # share of the shorter sentence's terms that the other one holds
SHARED_WITH_QUESTION = 2  # terms of the question in both, at least
# Log-odds; from here a newer sentence on the same thing counts, however it is worded.
LEAST_SCORE = -2.5


def of_asked_year(
    query: str, candidates: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the candidates without those of another year, where the question names one that is there."""
    asked = set(YEAR.findall(query))
    years = {number: (context.date or "")[:4] for number, context in enumerate(contexts)}
    if not any(years[one.context] in asked for one in candidates):
        return list(candidates)
    return [
        one
        for one in candidates
        if not years[one.context]
        or years[one.context] in asked
        or asked & set(YEAR.findall(_text(one, contexts)))
    ]


def not_of_another_year(
    query: str, candidates: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the candidates that are not about another year than the one asked for.

    None where the best one is: those with the year asked for, which count more, are about other things.
    """
    asked = set(YEAR.findall(query))
    if not asked or not candidates:
        return list(candidates)
    kept = [
        one
        for one in candidates
        if not one.features.lacks_anchor or not _is_of_another_year(_text(one, contexts), asked)
    ]
    best = max(candidates, key=lambda one: one.score)
    return kept if best in kept else []


def _is_of_another_year(text: str, asked: set[str]) -> bool:
    """Whether a text names one year, not one asked for, and no time that may hold it."""
    years = set(YEAR.findall(text))
    return len(years) == 1 and not years & asked and not PERIOD.search(text)


def newer_first(
    query: str,
    chosen: Sequence[Candidate],
    candidates: Sequence[Candidate],
    contexts: Sequence[Context],
    most: int,
) -> list[Candidate]:
    """Return at most `most` sentences; before the best one the newer one that is about the same.

    Args:
        query: The question; its terms tell what a sentence is about.
        chosen: The sentences of the answer, the best first.
        candidates: All sentences.
        contexts: The passages.
        most: How many sentences an answer has.
    """
    if not chosen or YEAR.search(query):
        return list(chosen)
    best = chosen[0]
    asked = set(content_terms(query))
    rivals = [
        one
        for one in candidates
        if one.score >= LEAST_SCORE
        and _is_newer(one, best, contexts)
        and _about_the_same(_text(one, contexts), _text(best, contexts), asked)
    ]
    found = list(chosen)
    if rivals:
        newest = max(rivals, key=lambda one: (contexts[one.context].date or "", one.score))
        found = [newest, *(one for one in chosen if one != newest)][:most]
    return [one for one in found if not _is_answered(one, found, contexts, asked)]


def _is_answered(
    old: Candidate, found: Sequence[Candidate], contexts: Sequence[Context], asked: set[str]
) -> bool:
    """Whether a sentence stands in an old mail, and the new text above it says the same thing anew."""
    return any(
        contexts[one.context].document_id == contexts[old.context].document_id
        and _is_newer(one, old, contexts)
        and _about_the_same(_text(one, contexts), _text(old, contexts), asked, least=1)
        for one in found
    )


def _text(candidate: Candidate, contexts: Sequence[Context]) -> str:
    return contexts[candidate.context].text[candidate.start : candidate.end]


def _is_newer(one: Candidate, other: Candidate, contexts: Sequence[Context]) -> bool:
    mine, theirs = contexts[one.context], contexts[other.context]
    quoted = [is_quoted(c.text, at.end - 1, c.source) for c, at in ((mine, one), (theirs, other))]
    if mine.document_id == theirs.document_id:
        return quoted == [False, True]
    if is_superseded(mine) or quoted[0]:
        return False
    if is_superseded(theirs) or _is_later_version(mine.source, theirs.source):
        return True
    if not mine.date or not theirs.date:
        return False
    return mine.date > theirs.date and not mine.date.startswith(theirs.date)


def is_superseded(context: Context) -> bool:
    """Tell whether a passage, or the metadata of its document, says that it is no longer valid."""
    names = {name.lower().replace("-", "_") for name in context.metadata}
    status = str(context.metadata.get("status", "")).strip().lower()
    said = names & SUPERSEDED_BY or status in SUPERSEDED_STATUS
    return bool(said or SUPERSEDED.search(context.text))


def _is_later_version(one: str, other: str) -> bool:
    """Whether two names of files differ in their version only, and the first has the later one."""
    mine, theirs = VERSION.search(one), VERSION.search(other)
    if not mine or not theirs or VERSION.sub("", one, 1) != VERSION.sub("", other, 1):
        return False
    return _version(mine) > _version(theirs)


def _version(match: re.Match[str]) -> list[int]:
    return [int(part) for part in re.split("[._]", match[1])]


def is_quoted(text: str, offset: int, source: str = "") -> bool:
    """Tell whether an offset stands in the old mail that a mail quotes.

    Args:
        text: The mail, or a text file with one.
        offset: In characters.
        source: Name of the file; in Markdown and its kin `>` quotes no mail.
    """
    line = text.rfind("\n", 0, offset) + 1
    if QUOTED_LINE.match(text, line) and not source.lower().endswith(CALLOUTS):
        return True
    own = HEAD.match(text)
    start = own.end() if own else 0
    return any(start <= m.start() and m.end() <= offset for m in OLD_MAIL.finditer(text))


def _about_the_same(
    one: str, other: str, asked: set[str], least: int = SHARED_WITH_QUESTION
) -> bool:
    """Whether two sentences share most of their words, or most of what the question is about."""
    mine, theirs = set(content_terms(one)), set(content_terms(other))
    if one == other or len(mine & theirs & asked) < least:
        return False
    shared = len(mine & theirs)
    return shared >= SHARED * min(len(mine), len(theirs)) or (
        len(mine & asked) >= SHARED * len(asked) and len(theirs & asked) >= SHARED * len(asked)
    )
