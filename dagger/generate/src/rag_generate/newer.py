"""What counts where passages contradict each other: the newer document, and the new text of a mail."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_kit.passages import Context

from .scoring import Candidate
from .terms import content_terms

YEAR = re.compile(r"(?<![\d.,-])(?:19|20)\d\d(?![\d,])")
QUOTED_LINE = re.compile(r"^[ \t]*>", re.MULTILINE)
# What stands above the mail that is answered: everything below it is that mail.
OLD_MAIL = re.compile(
    r"^(?:-{2,}\s*(?:Original Message|Forwarded message|Ursprüngliche Nachricht|Message d'origine)\s*-{2,}"
    r"|(?:On|Am|Le)\b.{6,200}(?:wrote|schrieb|a écrit)[^\n]{0,80}:[ \t]*$"
    r"|(?:From|Von|De): [^\n]+\n(?:Sent|Gesendet|Date|Datum|Envoyé): )",
    re.MULTILINE,
)
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
    if not rivals:
        return list(chosen)
    newest = max(rivals, key=lambda one: (contexts[one.context].date or "", one.score))
    return [newest, *(one for one in chosen if one != newest)][:most]


def _text(candidate: Candidate, contexts: Sequence[Context]) -> str:
    return contexts[candidate.context].text[candidate.start : candidate.end]


def _is_newer(one: Candidate, other: Candidate, contexts: Sequence[Context]) -> bool:
    mine, theirs = contexts[one.context], contexts[other.context]
    quoted = [is_quoted(c.text, at.start) for c, at in ((mine, one), (theirs, other))]
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


def is_quoted(text: str, offset: int) -> bool:
    """Tell whether an offset stands in the old mail that a mail quotes."""
    line = text.rfind("\n", 0, offset) + 1
    if QUOTED_LINE.match(text, line):
        return True
    return any(match.end() <= offset for match in OLD_MAIL.finditer(text))


def _about_the_same(one: str, other: str, asked: set[str]) -> bool:
    """Whether two sentences share most of their words, or most of what the question is about."""
    mine, theirs = set(content_terms(one)), set(content_terms(other))
    if one == other or len(mine & theirs & asked) < SHARED_WITH_QUESTION:
        return False
    shared = len(mine & theirs)
    return shared >= SHARED * min(len(mine), len(theirs)) or (
        len(mine & asked) >= SHARED * len(asked) and len(theirs & asked) >= SHARED * len(asked)
    )
