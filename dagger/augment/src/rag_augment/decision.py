"""Decide whether the passages are enough to try an answer."""

from __future__ import annotations

from collections.abc import Sequence

from rag_kit.equivalents import meant_stems
from rag_kit.languages import ENGLISH
from rag_kit.passages import Context
from rag_kit.words import content_words, stem, words

from .models import Decision

DENSE = "dense"  # name of the cosine among a passage's scores
MIN_RELEVANCE = 0.15
"""Dense cosine below which no passage is worth an answer; lenient, the generator decides further.

With the packaged MiniLM, of 150 answerable CLAP NQ questions the lowest gold passage has 0.31; the
best passage of a foreign corpus (the FastAPI documentation) has 0.13 in the median, 0.30 at most. Names,
versions and options have low cosines with questions about them, so words count, too.
"""


def decide(
    query: str, contexts: Sequence[Context], *, found: int, min_relevance: float | None = None
) -> Decision:
    """Return whether to try an answer, and why, with the numbers.

    Args:
        query: The question.
        contexts: The passages in the prompt.
        found: How many passages were sent.
        min_relevance: Dense cosine at least one passage must reach, -1 to 1; None: `MIN_RELEVANCE`,
            or a passage with every word of the question but stop words, or one that means the same.
            Where no passage has a cosine (sparse retrieval), it decides nothing: BM25 has no scale
            of its own.
    """
    if not found:
        return Decision(answerable=False, reason="No passage was found.")
    if not contexts:
        return Decision(answerable=False, reason=f"None of the {found} passages found has text.")
    packed = f"{len(contexts)} of {found} passages found are in the prompt"
    cosines = [context.scores[DENSE] for context in contexts if DENSE in context.scores]
    if not cosines:
        return Decision(answerable=True, reason=f"{packed}.")
    least = MIN_RELEVANCE if min_relevance is None else min_relevance
    best = f"the best has dense cosine {max(cosines):.3f}, min_relevance {least:g}"
    if max(cosines) >= least:
        return Decision(answerable=True, reason=f"{packed}; {best}.")
    if min_relevance is None and any(_holds_words(query, context) for context in contexts):
        return Decision(
            answerable=True, reason=f"{packed}; {best}, but one holds every word of the question."
        )
    return Decision(answerable=False, reason=f"No passage is relevant enough: {best}.")


def _holds_words(query: str, context: Context) -> bool:
    """Whether a passage with its title and headings says every word of the question but stop words."""
    language = context.language or ENGLISH
    text = " ".join([context.title, *context.headings, context.text])
    asked = {stem(word, language) for word in content_words(query, language)}
    held = {stem(word, language) for word in words(text, language)}
    return bool(asked) and asked <= held | meant_stems(query, text, language)
