"""Cut a document into passages that fit the embedding model and keep its structure.

The text is first split into leaves (sentences, lines, rows); a shortest path over them then
chooses the cuts that cost least: a cut at a heading costs less than one inside a paragraph, and
a chunk costs more the emptier it is. A chunk never holds more than the budget of tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from .boundaries import PARAGRAPH, WORD, boundaries, middle
from .document import Heading, LoadedDocument, Table, code_lines, page_of, stem
from .headings import MAX_HEADING_CHARACTERS, SEPARATOR, HeadingPaths
from .source import SOURCE, comments, is_code
from .tables import clipped, columns_above

MAX_CHARACTERS_PER_TOKEN = 16  # a word of 100 letters is one unknown token for WordPiece
MAX_LEAVES = 64  # in one chunk; bounds the work on texts of very short lines
ESTIMATED_SHARE = 1.5  # of the budget; a longer span is cut by estimate, without a count
SLACK = 1.15  # parts of a sentence are cut somewhat below the budget, since cuts need a space
GLUED_SHARE = 8  # leaves shorter than max_tokens / 8 characters are not worth a cut of their own
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Chunk:
    """One passage of a document.

    Attributes:
        index: Position among the chunks of the document, from 0.
        span: Start and end in the document's text, in characters.
        text: The document's text[span[0]:span[1]]; no white space at either end.
        page: Page on which it starts, from 1, or None.
        headings: The headings all of it stands under, outermost first.
        tables: The parts of tables in it.
        in_code: Whether it begins inside a fenced block of code, or is most of it code.
    """

    index: int
    span: tuple[int, int]
    text: str
    page: int | None
    headings: tuple[Heading, ...]
    tables: tuple[Table, ...] = ()
    in_code: bool = False


class _Leaf(NamedTuple):
    """The smallest piece that is kept whole; `cost` is that of starting a chunk with it."""

    start: int
    end: int
    tokens: int
    cost: float


def chunk(
    document: LoadedDocument,
    *,
    count_tokens: CountTokens,
    max_tokens: int = 200,
    overlap_tokens: int = 0,
) -> list[Chunk]:
    """Cut a document into chunks, in order, that together cover all of its visible text.

    Args:
        document: The text and its structure.
        count_tokens: How many tokens a text has for the embedding model, without special ones.
        max_tokens: The most tokens of a chunk, >= 1; only a single visible character can exceed
            it. A chunk also has at most 16 characters per token allowed.
        overlap_tokens: About how many tokens at the end of a chunk are repeated at the start of
            the next, 0 <= overlap_tokens < max_tokens; never across a heading or a row.

    Returns:
        The chunks; none for a blank text.

    Raises:
        ValueError: A number is out of its range.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be >= 1, but got {max_tokens}")
    if not 0 <= overlap_tokens < max_tokens:
        raise ValueError(
            f"overlap_tokens must be >= 0 and < max_tokens ({max_tokens}), but got {overlap_tokens}"
        )
    cutter = _Cutter(document.text, count_tokens, max_tokens)
    spans = cutter.spans(boundaries(document), overlap_tokens)
    paths = HeadingPaths(document.text, document.headings)
    begins_in_code = _code_of(document)
    return [
        Chunk(
            index,
            span,
            document.text[slice(*span)],
            page_of(document, span[0]),
            paths[span],
            clipped(document.tables, span),
            begins_in_code(span),
        )
        for index, span in enumerate(spans)
    ]


def _code_of(document: LoadedDocument) -> Callable[[tuple[int, int]], bool]:
    """Return what tells of a span whether it begins inside a fence, or is mostly code of a source file."""
    if document.content_type == SOURCE:
        remarks = comments(document.text, document.source)
        return lambda span: is_code(document.text, span, remarks)
    code = code_lines(document)

    def is_fenced(span: tuple[int, int]) -> bool:
        at = bisect_right(code, span[0], key=lambda line: line[0])
        return at > 0 and code[at - 1][1]

    return is_fenced


def embedding_text(document: LoadedDocument, chunk: Chunk) -> str:
    """Return what of a chunk is embedded and indexed: title, headings and text, by single spaces.

    The columns of a table that the chunk begins in stand before its text.

    A title is left out where it says nothing new: the text starts with it, or it is only the
    file's name or the record's id. So are headings equal to the title or in the text. With a title
    and no heading this is exactly `title text`.
    """
    start = _plain(chunk.text[:MAX_HEADING_CHARACTERS])
    fallbacks = (stem(document.source), document.document_id.removeprefix(f"{document.source}#"))
    title = "" if document.title in fallbacks else document.title
    if title and start.startswith(_plain(title)):
        title = ""
    path = [
        words
        for offset, _, words in chunk.headings
        if offset < chunk.span[0]
        and _plain(words) != _plain(document.title)
        and not start.startswith(_plain(words))
    ]
    columns = " | ".join(columns_above(document.tables, chunk.span[0]))[:MAX_HEADING_CHARACTERS]
    return " ".join(part for part in (title, SEPARATOR.join(path), columns, chunk.text) if part)


def _plain(text: str) -> str:
    return text.lstrip("#=*_ \t\r\n").casefold()


class _Cutter:
    """Chooses the spans of one text; counts each leaf once and each chunk of several once."""

    def __init__(self, text: str, count_tokens: CountTokens, max_tokens: int) -> None:
        self.text = text
        self.count = count_tokens
        self.max_tokens = max_tokens
        self.max_characters = max_tokens * MAX_CHARACTERS_PER_TOKEN

    def spans(self, cuts: dict[int, float], overlap: int) -> Iterator[tuple[int, int]]:
        """Yield the span of each chunk."""
        leaves = list(self.leaves(cuts))
        floor = 0
        for first, last in self.groups(leaves, self.max_tokens - overlap):
            start, end = leaves[first].start, leaves[last].end
            if overlap and first and leaves[first].cost >= PARAGRAPH:
                start = self.reach_back(leaves, first, floor, overlap)
                whole = end - start <= self.max_characters
                if not whole or self.count(self.text[start:end]) > self.max_tokens:
                    start = leaves[first].start
            floor = leaves[first].start
            if first == last and start == floor:
                yield start, end
            else:
                yield from (leaf[:2] for leaf in self.fit(start, end, 0.0))

    def leaves(self, cuts: dict[int, float]) -> Iterator[_Leaf]:
        """Yield the pieces between cuts; those over the budget in parts, very short ones glued."""
        glued = self.max_tokens // GLUED_SHARE
        offsets = [0, *sorted(cuts), len(self.text)]
        start, cost = 0, 0.0
        for left, right in pairwise(offsets[1:]):
            if right - start > glued or cuts[left] < PARAGRAPH:
                yield from self.fit(start, left, cost)
                start, cost = left, cuts[left]
        yield from self.fit(start, len(self.text), cost)

    def fit(self, start: int, end: int, cost: float) -> Iterator[_Leaf]:
        """Yield a span without white space around it, cut until each part fits the budget."""
        pending = [(start, end, cost, 0.0)]
        while pending:
            start, end, cost, estimate = pending.pop()
            piece = self.text[start:end]
            start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
            if start >= end:
                continue
            tokens, parts = self.measure(start, end, estimate)
            cut = middle(self.text, start, end, parts) if parts > 1 else None
            if cut is None:
                yield _Leaf(start, end, ceil(tokens), cost)
                continue
            share = tokens * (cut - start) / (end - start)
            pending += [(cut, end, WORD, tokens - share), (start, cut, cost, share)]

    def measure(self, start: int, end: int, estimate: float) -> tuple[float, int]:
        """Return the tokens of a span and into how many parts it must be cut.

        Args:
            start: Where the span starts.
            end: Where it ends.
            estimate: Its tokens as far as known; far above the budget they are not counted anew.
        """
        if (length := end - start) > self.max_characters:
            return 0.0, ceil(length / self.max_characters) + 1
        far_above = estimate > ESTIMATED_SHARE * self.max_tokens
        tokens = estimate if far_above else float(self.count(self.text[start:end]))
        if tokens <= self.max_tokens:
            return tokens, 1
        return tokens, max(2, ceil(SLACK * tokens / self.max_tokens))

    def groups(self, leaves: Sequence[_Leaf], budget: int) -> list[tuple[int, int]]:
        """Choose the cheapest way to join neighbouring leaves into chunks of at most `budget`.

        Returns:
            First and last leaf of each chunk. Least sum of: the cost of the cut before a chunk,
            plus the square of the share of the budget that the chunk leaves empty.
        """
        best, back = [0.0], [0]
        for last, leaf in enumerate(leaves):
            tokens, least, origin = 0, float("inf"), last
            for first in range(last, max(-1, last - MAX_LEAVES), -1):
                tokens += leaves[first].tokens
                characters = leaf.end - leaves[first].start
                if first < last and (tokens > budget or characters > self.max_characters):
                    break
                total = best[first] + leaves[first].cost + max(0.0, 1 - tokens / budget) ** 2
                if total < least:
                    least, origin = total, first
            best.append(least)
            back.append(origin)
        groups = []
        last = len(leaves)
        while last:
            groups.append((back[last], last - 1))
            last = back[last]
        return groups[::-1]

    def reach_back(self, leaves: Sequence[_Leaf], first: int, floor: int, overlap: int) -> int:
        """Return where the chunk that begins with leaf `first` starts with its overlap.

        Args:
            leaves: All leaves.
            first: The first leaf of the chunk without overlap, > 0.
            floor: Where the chunk before it starts, which is not repeated as a whole.
            overlap: The most tokens to repeat.
        """
        start, tokens, leaf = leaves[first].start, 0, first
        while leaf and leaves[leaf].cost >= PARAGRAPH and leaves[leaf - 1].start > floor:
            leaf -= 1
            tokens += leaves[leaf].tokens
            if tokens > overlap:
                break
            start = leaves[leaf].start
        if start < leaves[first].start:
            return start
        start = self.tail(leaves[first - 1], overlap)  # not even one leaf: its last words
        return start if start > floor else leaves[first].start

    def tail(self, leaf: _Leaf, overlap: int) -> int:
        """Return where the last words of a leaf start that have at most `overlap` tokens."""
        start = leaf.start
        while self.count(self.text[start : leaf.end]) > overlap:
            cut = middle(self.text, start, leaf.end)
            if cut is None:
                return leaf.end
            start = cut
        return start
