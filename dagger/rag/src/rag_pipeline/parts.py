"""Split a question with several parts into its questions, so that each finds its own passages."""

from __future__ import annotations

import re

from .conversation import leans_on_conversation, own_words

MAX_PARTS = 4
_ASKS = (
    r"(?:what|who|whom|whose|which|when|where|why|how|is|are|was|were|do|does|did|can|could|may|must|should|will"
    r"|would|has|have|had)\b"
)
# between two questions: the end of the first, or a conjunction before one that asks anew
_BETWEEN = re.compile(
    rf"\?\s+(?=\S)|[,;]?\s+(?:and|or|und|et|y)\s+(?:also\s+)?(?={_ASKS})|[;]\s+(?={_ASKS})",
    re.IGNORECASE,
)
_BEGINS = re.compile(rf"\s*(?:\w+\s+)?{_ASKS}", re.IGNORECASE)


def split_parts(question: str) -> list[str]:
    """Return the parts of a question that each can be searched alone; none for a single question.

    A part that leans on the one before it ("… and how is it removed?") has its words before it.
    """
    pieces = [piece.strip() for piece in _BETWEEN.split(question) if piece.strip()]
    if not 1 < len(pieces) <= MAX_PARTS or not all(map(_BEGINS.match, pieces)):
        return []
    parts: list[str] = []
    for piece in pieces:
        if parts and leans_on_conversation(piece):
            piece = f"{piece.rstrip('?')} {' '.join(own_words(pieces[0]))}"
        parts.append(piece)
    return parts if all(any(own_words(part)) for part in parts) else []
