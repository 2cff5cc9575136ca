"""Words of a question that no passage has: the nearest words that passages have are searched, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rag_kit.languages import ENGLISH
from rag_kit.spelling import LONG, edits, nearest
from rag_kit.words import main_language, words

from ..index.collection import Collection, DocumentsOf, Found, Ranked
from ..stores.base import Sparse
from .filters import Condition

MOST_CORRECTED = 8  # words of one question; each is a search
SEEN = 20  # passages with a word that is near, in which it is read


def one_edit_away(
    query: str, unknown: Sequence[str], *, collection: Collection, condition: Condition | None
) -> dict[str, str | None]:
    """Return for words of a question that no passage has the nearest word one edit away that one has.

    It is looked for in all passages that pass the filter, by the terms of all words that near.

    Args:
        query: The question.
        unknown: Its words that no passage has; the first `MOST_CORRECTED` are looked at.
        collection: Where to look.
        condition: Which passages the caller may see; the others give no word.
    """
    if not unknown:
        return {}
    languages = collection.languages or []
    main = main_language(query, languages)
    searched = [main] if main else languages
    return {
        word: _one_edit_away(word, searched, collection, condition)
        for word in unknown[:MOST_CORRECTED]
    }


def corrections(
    near: Mapping[str, str | None], passages: Iterable[dict[str, Any]]
) -> dict[str, str]:
    """Return for unknown words the words that are searched, too.

    Args:
        near: From `one_edit_away`. A long word that has none gets the nearest one of the passages
            found, up to two edits away.
        passages: The payloads of the passages found without the correction.
    """
    found = {word: other for word, other in near.items() if other}
    if far := [word for word in near if word not in found and len(word) >= LONG]:
        around = set().union(*map(_words_of, passages))
        found |= {word: other for word in far if (other := nearest(word, around))}
    return {word: found[word] for word in near if word in found}


def certain(near: Mapping[str, str | None]) -> dict[str, str]:
    """Return the `corrections` if no passages are needed for them, else none.

    Args:
        near: From `one_edit_away`.
    """
    if any(other is None and len(word) >= LONG for word, other in near.items()):
        return {}
    return corrections(near, ())


def _one_edit_away(
    word: str, languages: Sequence[str], collection: Collection, condition: Condition | None
) -> str | None:
    candidates = edits(word)
    vector = collection.analyzer.terms.any_of(candidates, languages)
    counts: Counter[str] = Counter()
    for payload in _holders(vector, collection, condition):
        counts.update(candidates & _words_of(payload))
    return min(counts, key=lambda one: (-counts[one], one), default=None)


def _holders(
    vector: Sparse, collection: Collection, condition: Condition | None
) -> Iterator[dict[str, Any]]:
    """Yield the payloads of passages that have one of the terms."""

    def all_of(found: list[Found], _: DocumentsOf) -> list[Ranked]:
        return [Ranked(hit.id, hit.score, {}) for hit in found[0].hits]

    snapshot = collection.search([("sparse", vector, SEEN)], condition, all_of)
    yield from (payload for _, payload in snapshot.passages)


def _words_of(payload: dict[str, Any]) -> set[str]:
    """Return the words of a passage; a field that is not text has none, and is refused as a result."""
    texts = [payload.get("title"), payload.get("text"), *(payload.get("headings") or ())]
    known = " ".join(text for text in texts if isinstance(text, str))
    return set(words(known, str(payload.get("language") or ENGLISH)))
