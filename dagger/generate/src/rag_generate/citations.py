"""Verify the citations of an answer: each number points to a passage, each citation to its words.

What cannot be verified is removed and reported. Whether a quoted sentence *proves* the claim is not
judged: the sentence that shares the most words with it is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_kit.passages import Citation, Context

from .generator import Quote
from .markers import Marker, find_markers, strip_markers
from .models import CitationCheck
from .removal import Cut, removal, says_something
from .sentences import split_sentences
from .table_rows import passage_sentences, table_rows
from .terms import content_terms, words

SUPPORT_SHARE = 0.25  # share of a claim's terms a sentence must hold to be quoted for it


class Verified(NamedTuple):
    """An answer whose every number points to a passage."""

    text: str
    citations: list[Citation]
    check: CitationCheck
    warnings: list[str]


class _Claim(NamedTuple):
    """A sentence of the answer and its citation numbers."""

    text: str
    markers: tuple[int, ...]


def verify(text: str, contexts: Sequence[Context], quotes: Sequence[Quote] | None) -> Verified:
    """Remove numbers that point to no passage and find the sentences that support the others.

    Args:
        text: The answer with numbers in brackets.
        contexts: The passages that may be cited.
        quotes: What the answer quotes, when its generator knows; None: found by shared words.
    """
    by_marker = {context.marker: context for context in contexts}
    text, removed = _normalise(text, frozenset(by_marker))
    claims = _claims(text, frozenset(by_marker))
    cited = sorted({marker for claim in claims for marker in claim.markers})
    if quotes is None:
        quotes = [
            quote for marker in cited for quote in _support(by_marker[marker], marker, claims)
        ]
    citations, warnings = [], []
    for marker in cited:
        context = by_marker[marker]
        citations.append(_citation(context, [quote for quote in quotes if quote.marker == marker]))
        if not _exact(context):
            warnings.append(f"span_mismatch:{marker}")
    uncited = sum(not claim.markers and bool(words(claim.text)) for claim in claims)
    check = CitationCheck(removed_markers=removed, uncited_sentences=uncited)
    return Verified(text, citations, check, warnings)


def verify_json(text: str, contexts: Sequence[Context]) -> Verified:
    """Verify the citations in the texts of an answer that is JSON; its numbers and arrays stay.

    Args:
        text: The answer.
        contexts: The passages that may be cited.

    Raises:
        ValueError: It is no JSON.
    """
    known = frozenset(context.marker for context in contexts)
    data = json.loads(text)
    verified = verify("\n\n".join(_texts(data)), contexts, None)
    if verified.check.removed_markers:
        text = json.dumps(_with_texts(data, known), ensure_ascii=False)
    return verified._replace(text=text)


def is_only_citations(text: str) -> bool:
    """Whether nothing is said beside the numbers: "[1]", "The answer is: [2]", "See [1]."."""
    return not says_something(strip_markers(text))


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a JSON value, without the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _with_texts(value: object, known: frozenset[int]) -> object:
    """Return a JSON value whose texts have no unknown numbers."""
    if isinstance(value, str):
        return _normalise(value, known)[0]
    if isinstance(value, dict):
        return {name: _with_texts(inner, known) for name, inner in value.items()}
    return [_with_texts(inner, known) for inner in value] if isinstance(value, list) else value


def _normalise(text: str, known: frozenset[int]) -> tuple[str, list[int]]:
    """Write every marker as [n], drop unknown ones; returns the text and the numbers dropped."""
    removed: set[int] = set()
    while True:
        pieces, last, changed = [], 0, False
        for marker in find_markers(text, known):
            good = [number for number in marker.numbers if number in known]
            removed.update(number for number in marker.numbers if number not in known)
            cut = _rewritten(text, marker, good)
            if cut.start < last:
                continue  # an earlier cut has its place: the next round
            changed |= cut.text != text[cut.start : cut.end]
            pieces += [text[last : cut.start], cut.text]
            last = cut.end
        if not changed:
            return text.strip(), sorted(removed)
        text = "".join([*pieces, text[last:]])


def _rewritten(text: str, marker: Marker, good: Sequence[int]) -> Cut:
    """Return how a marker is written with its good numbers alone."""
    if not good:
        return removal(text, marker.start + len(marker.blank), marker.end)
    return Cut(marker.start, marker.end, marker.blank + "".join(f"[{number}]" for number in good))


def _claims(text: str, known: frozenset[int]) -> list[_Claim]:
    """Split the answer into sentences with their numbers; one after the full stop counts too."""
    plain, places = "", []
    last = 0
    for marker in find_markers(text, known):
        plain += text[last : marker.start]
        places.append((len(plain), marker.numbers))
        last = marker.end
    plain += text[last:]
    sentences = [s for s in split_sentences(plain) if s.kind not in ("heading", "header")]
    carried: list[list[int]] = [[] for _ in sentences]
    for place, numbers in places:
        owner = max((i for i, s in enumerate(sentences) if s.start < place), default=0)
        if sentences:
            carried[owner] += numbers
    if not sentences and places:
        return [_Claim("", tuple(n for _, numbers in places for n in numbers))]
    return [
        _Claim(plain[s.start : s.end], tuple(dict.fromkeys(numbers)))
        for s, numbers in zip(sentences, carried, strict=True)
    ]


def _support(context: Context, marker: int, claims: Sequence[_Claim]) -> list[Quote]:
    """Return the sentence of the passage that shares the most terms with each claim it backs."""
    sentences = [
        s
        for s in passage_sentences(context, table_rows(context))
        if s.kind not in ("heading", "header")
    ]
    terms = [set(content_terms(context.text[s.start : s.end])) for s in sentences]
    quotes: dict[Quote, None] = {}
    for claim in claims:
        wanted = set(content_terms(claim.text)) if marker in claim.markers else set()
        shares = [len(wanted & own) / len(wanted) for own in terms] if wanted else []
        best = max(shares, default=0.0)
        if best >= SUPPORT_SHARE:
            sentence = sentences[shares.index(best)]
            quotes[Quote(marker, sentence.start, sentence.end)] = None
    return list(quotes)


def _exact(context: Context) -> bool:
    return context.span[1] - context.span[0] == len(context.text)


def _citation(context: Context, quotes: Sequence[Quote]) -> Citation:
    """Return the citation of a passage; it quotes all of the passage when no sentence matches."""
    ranges = [(quote.start, quote.end) for quote in quotes] if _exact(context) else []
    origin = context.span[0]
    quoted = [context.text[start:end] for start, end in ranges] or [context.text]
    return Citation(
        marker=context.marker,
        chunk_id=context.chunk_id,
        document_id=context.document_id,
        title=context.title,
        source=context.source,
        page=context.page,
        date=context.date,
        score=context.score,
        spans=[[origin + first, origin + last] for first, last in ranges] or [list(context.span)],
        quote=quoted[0],
        quotes=quoted,
    )
