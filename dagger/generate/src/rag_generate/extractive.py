"""Answer with the passages' own sentences: no model, no network, the same answer every time."""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Sequence

from rag_kit.passages import Context

from .generator import Draft, Quote
from .markers import strip_markers
from .models import GenerateRequest
from .output_filter import without_images
from .scoring import Candidate, answering, read_question, score_sentences, support_of
from .sentences import row_cells
from .table_rows import named_less, table_rows, written
from .terms import words

# Log-odds; a sentence this much worse than the best is left out. On the even lines of CLAP NQ dev,
# cross-validated, 1.0 gives precision 0.73 and recall 0.56 of the annotators' sentences, 2.0 gives
# 0.67 and 0.68; on the chunking set, where answers are shorter, 0.52 and 0.50, then 0.41 and 0.52.
SCORE_DROP = 1.0
SAME_WORDS = 0.8  # Jaccard overlap of words; such a sentence repeats one already chosen


class Extractive:
    """The generator `extractive`.

    Args:
        min_support: Abstain when the support of an answer is lower, 0 to 1; a request may differ.
    """

    name = "extractive"
    model: str | None = None

    def __init__(self, *, min_support: float) -> None:
        self._min_support = min_support

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Draft, None, None]:
        """Yield the answer sentence by sentence, then the draft."""
        options = request.generate
        least = self._min_support if options.min_support is None else options.min_support
        question = request.question()
        candidates, evidence = score_sentences(read_question(question), request.contexts)
        candidates = _asked_for(question, answering(candidates), request.contexts)
        support = support_of(evidence) if candidates else 0.0
        if not candidates or support < least:
            yield Draft("", "no_context", support=support)
            return
        chosen = _choose(candidates, request.contexts, options.max_sentences)
        pieces: list[str] = []
        for candidate in chosen:
            piece = _write(candidate, request.contexts[candidate.context])
            pieces.append(f" {piece}" if pieces else piece)
            yield pieces[-1]
        quotes = tuple(Quote(request.contexts[c.context].marker, c.start, c.end) for c in chosen)
        yield Draft("".join(pieces), "stop", support=support, quotes=quotes)


def _asked_for(
    query: str, candidates: Sequence[Candidate], contexts: Sequence[Context]
) -> list[Candidate]:
    """Return the candidates without the rows of tables that others are named before in the question."""
    table = [(n, row) for n, context in enumerate(contexts) for row in table_rows(context)]
    left_out = {
        (table[at][0], table[at][1].sentence.start)
        for at in named_less(query, [row for _, row in table])
    }
    return [one for one in candidates if (one.context, one.start) not in left_out]


def _choose(
    candidates: Sequence[Candidate], contexts: Sequence[Context], most: int
) -> list[Candidate]:
    """Return the best sentences: passages by their best sentence, inside a passage in order."""
    ranked = sorted(candidates, key=lambda c: (-c.score, c.context, c.start))
    chosen: list[Candidate] = []
    seen: list[set[str]] = []
    for candidate in ranked:
        if len(chosen) == most or candidate.score < ranked[0].score - SCORE_DROP:
            break
        own = set(words(contexts[candidate.context].text[candidate.start : candidate.end]))
        if all(_overlap(own, other) < SAME_WORDS for other in seen):
            chosen.append(candidate)
            seen.append(own)
    order = list(dict.fromkeys(candidate.context for candidate in chosen))
    return sorted(chosen, key=lambda c: (order.index(c.context), c.start))


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _write(candidate: Candidate, context: Context) -> str:
    """Return the sentence as it stands in an answer, with its number before the full stop.

    Bracketed numbers in the passage would read as citations, and its images would be fetched: the
    quote keeps them, the answer does not.
    """
    text = context.text[candidate.start : candidate.end]
    if candidate.kind == "code":
        return f"`{without_images(text.replace('`', ''))}` [{context.marker}]."
    if candidate.kind == "table":
        row = next((r for r in table_rows(context) if r.sentence.start == candidate.start), None)
        text = written(row) if row else ", ".join(row_cells(text))
    # a lone backtick could hide the number from the check
    text = text if text.count("`") % 2 == 0 else text.replace("`", "")
    text = re.sub(r"\s+", " ", without_images(strip_markers(text))).strip()
    body, end = (text[:-1].rstrip(), text[-1]) if text[-1:] in tuple(".!?") else (text, ".")
    return f"{body} [{context.marker}]{end}"
