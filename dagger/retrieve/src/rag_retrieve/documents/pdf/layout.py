"""The reading order of a PDF page: lines, columns of prose, tables, from the places of its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..headers import names_columns
from .page import BASELINE, Piece

MAX_BLOCK_ROWS = 500  # bounds the work on a page that is drawn to be slow
BLOCK_PITCH = 4.0  # of the type's size; rows further apart belong to no common table or columns
GUTTER = 0.8  # of the type's size; a free stripe as wide parts columns
PROSE_CHARACTERS = 20  # mean length of the lines of a column that is prose and not cells
MAX_PROSE_COLUMNS = 4
PARAGRAPH_PITCH = 1.4  # of the usual distance between two lines; more starts a paragraph
MARKER = re.compile(r"\(?\w{1,3}[.)]|[\u2022\u2023\u25aa\u25cf\u25cb\u2013*o-]|.{1,60}:")


class Line(NamedTuple):
    """A line in reading order: its text, its baseline, and whether a paragraph starts there."""

    text: str
    baseline: float
    starts: bool = False


Row = list[Piece]  # on one baseline, from left to right
Stripe = tuple[float, float]


def lines_of_page(pieces: Sequence[Piece]) -> list[Line]:
    """Return the lines of a page as one reads them.

    Text on one baseline is one line; columns of prose are read one after the other; a table
    becomes one line a row, with the names of its columns where it has any.
    """
    turns = Counter(piece.quarter for piece in pieces)
    return [
        line
        for quarter, _ in turns.most_common()
        for line in _upright_lines([piece for piece in pieces if piece.quarter == quarter])
    ]


def _upright_lines(pieces: Sequence[Piece]) -> list[Line]:
    rows = _labelled(_rows(pieces))
    lines: list[Line] = []
    start = 0
    while start < len(rows):
        end, stripes = _block(rows, start)
        if stripes and end - start > 1 and not _titles(rows, start, len(stripes)):
            lines += _columns_or_table(rows[start:end], stripes)
            start = end
        else:
            lines.append(Line(_text(rows[start]), rows[start][0].baseline))
            start += 1
    return _with_paragraphs(lines)


def _titles(rows: list[Row], start: int, stripes: int) -> bool:
    """Whether a line stands above columns and runs across some of them."""
    return len(rows[start]) == 1 and len(_block(rows, start + 1)[1]) > stripes


def _labelled(rows: list[Row]) -> list[Row]:
    """Put the name of a form field before its value where no text on the left of it does."""
    return [
        [
            piece._replace(text=f"{piece.field}: {piece.text}")
            if piece.field and (not number or row[number - 1].field)
            else piece
            for number, piece in enumerate(row)
        ]
        for row in rows
    ]


def _rows(pieces: Sequence[Piece]) -> list[Row]:
    """Group pieces by baseline, top to bottom; `left` orders them, PDFium's order a right-to-left line."""
    rows: list[Row] = []
    for piece in sorted(pieces, key=lambda piece: -piece.baseline):
        near = BASELINE * min(piece.size, rows[-1][0].size) if rows else 0.0
        if rows and abs(rows[-1][0].baseline - piece.baseline) <= max(near, 1.0):
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return [sorted(row, key=lambda piece: piece.left) for row in rows]


def _block(rows: list[Row], start: int) -> tuple[int, list[Stripe]]:
    """Return where the rows from `start` end that leave common stripes free, and those stripes."""
    size = min(piece.size for piece in rows[start])
    covered: list[Stripe] = []
    stripes: list[Stripe] = []
    end = start
    for row in rows[start : start + MAX_BLOCK_ROWS]:
        if end > start and rows[end - 1][0].baseline - row[0].baseline > BLOCK_PITCH * size:
            break
        covered = _merged([*covered, *((piece.left, piece.right) for piece in row)])
        free = [(a[1], b[0]) for a, b in pairwise(covered) if b[0] - a[1] >= GUTTER * size]
        crossing = len(row) == 1 and len(free) < len(stripes)
        if end > start and (crossing or not free):
            break
        stripes, end = free, end + 1
    return end, stripes


def _merged(spans: list[Stripe]) -> list[Stripe]:
    merged: list[Stripe] = []
    for left, right in sorted(spans):
        if merged and left <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return merged


def _columns_or_table(rows: list[Row], stripes: list[Stripe]) -> list[Line]:
    edges = [right for _, right in stripes]
    cells = [_cells(row, edges) for row in rows]
    columns = [[cell for cell in column if cell] for column in zip(*cells, strict=True)]
    prose = len(columns) <= MAX_PROSE_COLUMNS and all(
        len(column) > 1 and _mean_length(column) >= PROSE_CHARACTERS for column in columns
    )
    if prose:
        return [
            Line(_text(cell), cell[0].baseline, starts=not number)
            for column in columns
            for number, cell in enumerate(column)
        ]
    first = next((at for at, row in enumerate(cells) if sum(map(bool, row)) > 1), len(rows))
    above = [Line(_text(row), row[0].baseline) for row in rows[:first]]
    return above + (_table(cells[first:]) if first < len(rows) else [])


def _mean_length(column: list[Row]) -> float:
    return sum(len(_text(cell)) for cell in column) / len(column)


def _cells(row: Row, edges: list[float]) -> list[Row]:
    """Return the pieces of a row by column; `edges` are the left edges of the columns but the first."""
    cells: list[Row] = [[] for _ in range(len(edges) + 1)]
    for piece in row:
        cells[sum(piece.left >= edge - 0.5 for edge in edges)].append(piece)
    return cells


def _table(rows: list[list[Row]]) -> list[Line]:
    """Return a line for each row; a row whose first cell is empty goes on with the one above."""
    texts: list[list[str]] = []
    baselines: list[float] = []
    last, size = 0.0, 1.0
    for cells in rows:
        pieces = [piece for cell in cells for piece in cell]
        row = [_text(cell) for cell in cells]
        near = last - pieces[0].baseline <= 1.5 * size
        if texts and not row[0] and near and sum(map(bool, row)) * 2 <= len(row):
            texts[-1] = [
                f"{above} {more}".strip() for above, more in zip(texts[-1], row, strict=True)
            ]
        else:
            texts.append(row)
            baselines.append(pieces[0].baseline)
        last, size = pieces[0].baseline, pieces[0].size
    names = texts[0] if len(texts) > 1 and names_columns(texts[0], texts[1:]) else None
    if names is None:
        parted = sum(sum(map(bool, row)) > 1 for row in texts) > 1
        bar = " | " if parted else " "
        return [Line(_cells_text(row, bar), at) for row, at in zip(texts, baselines, strict=True)]
    return [
        Line(
            " | ".join(
                f"{name}: {text}" if name else text
                for name, text in zip(names, row, strict=True)
                if text
            ),
            at,
        )
        for row, at in zip(texts[1:], baselines[1:], strict=True)
    ]


def _cells_text(cells: list[str], bar: str) -> str:
    """Join the cells of a row by `bar`: by a space after a label or the mark of a list item."""
    text = ""
    for cell in filter(None, cells):
        mark = not text or MARKER.fullmatch(text)
        text += cell if not text else f" {cell}" if mark else f"{bar}{cell}"
    return text


def _text(row: Sequence[Piece]) -> str:
    return " ".join(piece.text for piece in row)


def _with_paragraphs(lines: list[Line]) -> list[Line]:
    pitches = sorted(a.baseline - b.baseline for a, b in pairwise(lines) if a.baseline > b.baseline)
    usual = pitches[len(pitches) // 2] if len(pitches) > 2 else 0.0
    return [
        line._replace(starts=line.starts or _far(before, line, usual))
        for before, line in zip([None, *lines], lines, strict=False)
    ]


def _far(before: Line | None, line: Line, usual: float) -> bool:
    return (
        before is not None
        and usual > 0
        and before.baseline - line.baseline > PARAGRAPH_PITCH * usual
    )


def texts_of(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the lines with the line ends in front of them; a paragraph has a blank line before it."""
    for number, line in enumerate(lines):
        yield ("\n\n" if line.starts else "\n" if number else "") * bool(number) + line.text
