"""Decide whether the passages are enough to try an answer."""

from __future__ import annotations

from collections.abc import Sequence

from rag_kit.passages import Context

from .models import Decision

DENSE = "dense"  # name of the cosine among a passage's scores
MIN_RELEVANCE = 0.15
"""Dense cosine below which no passage is worth an answer; lenient, the generator decides further.

With the packaged MiniLM, of 150 answerable CLAP NQ questions the lowest gold passage has 0.31; the
best passage of a foreign corpus (the FastAPI documentation) has 0.13 in the median, 0.30 at most.
"""


def decide(contexts: Sequence[Context], *, found: int, min_relevance: float) -> Decision:
    """Return whether to try an answer, and why, with the numbers.

    Args:
        contexts: The passages in the prompt.
        found: How many passages were sent.
        min_relevance: Dense cosine at least one passage must reach, -1 to 1. Where no passage has
            one (sparse retrieval), it decides nothing: BM25 has no scale of its own.
    """
    if not found:
        return Decision(answerable=False, reason="No passage was found.")
    if not contexts:
        return Decision(answerable=False, reason=f"None of the {found} passages found has text.")
    packed = f"{len(contexts)} of {found} passages found are in the prompt"
    cosines = [context.scores[DENSE] for context in contexts if DENSE in context.scores]
    if not cosines:
        return Decision(answerable=True, reason=f"{packed}.")
    best = f"the best has dense cosine {max(cosines):.3f}, min_relevance {min_relevance:g}"
    if max(cosines) < min_relevance:
        return Decision(answerable=False, reason=f"No passage is relevant enough: {best}.")
    return Decision(answerable=True, reason=f"{packed}; {best}.")
