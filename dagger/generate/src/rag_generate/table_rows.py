"""Rows of the tables in a passage: sentences whose cells have column names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rag_kit.passages import Context
from rag_kit.tables import rows
from rag_kit.words import is_unspaced

from .sentences import Kind, Sentence, split_sentences
from .terms import STOP_WORDS, words

WORD_BREAKS = re.compile(r"_+|(?<=[a-zäöüß])(?=[A-Z])")
RULE = re.compile(r"[\s|:\-+=]*$")


class TableRow(NamedTuple):
    """One row: its sentence, and each cell with the name of its column ("" where it has none)."""

    sentence: Sentence
    cells: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(name for name, _ in self.cells)


def table_rows(context: Context) -> list[TableRow]:
    """Return the rows of the tables in a passage, in order; none where its span is not exact."""
    origin = context.span[0]
    if context.span[1] - origin != len(context.text):
        return []
    found: list[TableRow] = []
    for table in context.tables:
        start, end = max(0, table.span[0] - origin), min(len(context.text), table.span[1] - origin)
        width = len(table.columns)
        for row in rows(context.text, start, end, table.delimiter, width):
            text = context.text[row.start : row.end]
            first = row.start + len(text) - len(text.lstrip())
            if RULE.match(text) or (found and first < found[-1].sentence.end):
                continue
            kind: Kind = "header" if row.cells == tuple(table.columns) else "table"
            names = (*table.columns, *[""] * (len(row.cells) - width))
            cells = tuple(zip(names, row.cells, strict=False))
            found.append(TableRow(Sentence(first, row.start + len(text.rstrip()), kind), cells))
    return found


def passage_sentences(context: Context, table: Sequence[TableRow]) -> list[Sentence]:
    """Return the sentences of a passage in order; the rows of its tables are sentences.

    Args:
        context: The passage.
        table: What `table_rows` returns for it.
    """
    if not table:
        return split_sentences(context.text, in_code=context.in_code, language=context.language)
    found: list[Sentence] = []
    at = 0
    for row in [*(row.sentence for row in table), None]:
        end = row.start if row else len(context.text)
        between = context.text[at:end]
        if between.strip() and not RULE.match(between):
            found += [
                Sentence(at + one.start, at + one.end, one.kind)
                for one in split_sentences(between, language=context.language)
            ]
        if row:
            found.append(row)
            at = row.end
    return found


def column_words(row: TableRow) -> list[str]:
    """Return the words of the names of a row's columns: `noise_db` has two."""
    return [word for name in row.columns for word in words(WORD_BREAKS.sub(" ", name))]


def written(row: TableRow) -> str:
    """Return a row as it stands in an answer: `Column: cell, …`, without empty cells."""
    return ", ".join(f"{name}: {cell}" if name else cell for name, cell in row.cells if cell)


def named_less(query: str, table: Sequence[TableRow]) -> list[int]:
    """Return the positions of the rows that are not asked for, when others are named in the question.

    A row is named by cells that stand in the question as they are. It is not asked for when another
    row is named by more of the question: `NX-58` names one row, and not the one with a 58 in it.
    """
    found = {at: named(query, row) for at, row in enumerate(table) if row.sentence.kind == "table"}
    distinct = set(found.values())
    return [at for at, places in found.items() if any(places < other for other in distinct)]


def named(query: str, row: TableRow) -> frozenset[int]:
    """Return the places in the question at which a cell of the row stands."""
    places: set[int] = set()
    folded = query.casefold()
    for _, cell in row.cells:
        own = words(cell)
        if own and not STOP_WORDS.issuperset(own) and len(cell) <= len(query):
            mark = re.escape(" ".join(cell.casefold().split())).replace(r"\ ", r"\s+")
            whole = rf"(?<!\w)(?<!\w[-./]){mark}(?!\w)(?![-./]\w)"
            for match in re.finditer(mark if is_unspaced(cell) else whole, folded):
                places.update(range(match.start(), match.end()))
    return frozenset(places)
