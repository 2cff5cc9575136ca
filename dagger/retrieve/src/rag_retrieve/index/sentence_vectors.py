"""Vectors of the sentences of a passage, kept with it, and their cosines with a question.

They come from the run of the model that also gives the passage its vector: a sentence's vector is the
mean over its tokens (late chunking, arXiv 2409.04701). So they cost ingest no further run, and a
question one product of matrices. Each is kept as int8, scaled to its largest component.
"""

from __future__ import annotations

import base64
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_kit.passages import Similarity
from rag_kit.text import fold

from ..documents import LoadedDocument
from ..documents.boundaries import WRAP, boundaries
from .embedders import Vectors

Span = tuple[int, int]
MIN_CHARACTERS = 20  # a shorter piece belongs to the one before it: a bullet, a bracket, "No."


def sentence_spans(cuts: Sequence[int], start: int, end: int) -> list[Span]:
    """Return the pieces of a passage between the places where its document may be cut.

    Args:
        cuts: Offsets of sentences, lines and rows inside the passage, ascending.
        start: Where the passage starts in the document.
        end: Where it ends.

    Returns:
        Their spans in the document, in characters; together they are the passage.
    """
    spans: list[Span] = []
    edges = [start, *cuts, end]
    for left, right in pairwise(edges):
        if spans and spans[-1][1] - spans[-1][0] < MIN_CHARACTERS:
            spans[-1] = (spans[-1][0], right)
        else:
            spans.append((left, right))
    return spans


def sentences_of(document: LoadedDocument, passages: Sequence[Span]) -> list[list[Span]]:
    """Return for each passage of a document the spans of its sentences, lines and rows."""
    costs = boundaries(document)
    cuts = sorted(cut for cut, cost in costs.items() if cost < WRAP)
    return [
        sentence_spans(cuts[bisect_right(cuts, start) : bisect_left(cuts, end)], start, end)
        for start, end in passages
    ]


def at_end(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return where the pieces of a passage stand in a text that ends with the passage."""
    moved = len(text) - spans[-1][1]
    return [(start + moved, end + moved) for start, end in spans]


def folded_spans(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return where pieces of a text stand once it is folded; none where folding joins two of them."""
    if fold(text) == text:
        return list(spans)
    edges = [0, *(start for start, _ in spans), len(text)]
    pieces = [fold(text[left:right]) for left, right in pairwise(edges)]
    if "".join(pieces) != fold(text):
        return []
    return list(pairwise(accumulate(map(len, pieces))))


def packed(spans: Sequence[Span], vectors: Vectors) -> dict[str, Any]:
    """Return spans and vectors as the payload keeps them."""
    scale = np.abs(vectors).max(axis=1, keepdims=True)
    rows = np.round(127 * vectors / np.where(scale > 0, scale, 1)).astype(np.int8)
    return {
        "spans": [list(span) for span in spans],
        "vectors": base64.b64encode(rows.tobytes()).decode(),
    }


def similarities(payload: Mapping[str, Any], queries: Sequence[Vectors]) -> list[Similarity]:
    """Return each sentence's cosine with the query it is closest to; none where none are kept.

    Args:
        payload: Of a passage.
        queries: Vectors of what was searched, each of length 1.

    Raises:
        ValueError: The payload holds other vectors than those of its spans.
    """
    kept = payload.get("sentences")
    if not kept or not queries:
        return []
    rows: NDArray[np.int8] = np.frombuffer(base64.b64decode(kept["vectors"]), np.int8)
    matrix = rows.reshape(len(kept["spans"]), len(queries[0])).astype(np.float32)
    lengths = np.linalg.norm(matrix, axis=1)
    cosines = (matrix @ np.stack(queries, axis=1)).max(axis=1) / np.where(lengths > 0, lengths, 1)
    return [
        Similarity(span=span, cosine=round(float(cosine), 4))
        for span, cosine in zip(kept["spans"], cosines, strict=True)
    ]
