"""The cells of an HTML table as a grid: each row has a cell for each column, spans filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from selectolax.lexbor import LexborNode

CELLS = ("td", "th")
GROUPS = ("thead", "tbody", "tfoot")
STRUCTURE = "h1,h2,h3,h4,h5,h6,pre,textarea"  # in a cell: the table lays out a page
MAX_COLUMNS = 100  # that one cell may span
MAX_REPEATED = 200  # characters; a longer cell stands only where it begins


class Grid(NamedTuple):
    """The names of the columns ("" where there is none), and the rows below them."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class _Line(NamedTuple):
    cells: tuple[str, ...]
    is_header: bool


def grid_of(table: LexborNode, words: Callable[[LexborNode], str]) -> Grid | None:
    """Return the grid of a table, or None for one that only lays out a page.

    A cell over several rows or columns stands in each of them, but a cell over all columns, a title
    in the table, only once. Several header rows are joined by column.

    Args:
        table: The table.
        words: Gives the text of a cell, on one line.
    """
    if table.attributes.get("role") == "presentation" or table.css_first(STRUCTURE) is not None:
        return None
    lines = list(_lines(table, words))
    width = max((len(line.cells) for line in lines), default=0)
    if width < 2 or len(lines) < 2:
        return None
    count = next((n for n, line in enumerate(lines) if not line.is_header), len(lines))
    if count == 0 and len(table.css("table")) > 1:
        return None
    if count == 0 and _names_columns([line.cells for line in lines]):
        count = 1
    if count == len(lines):
        count = 1
    columns = tuple(_joined(column) for column in zip(*_filled(lines[:count], width), strict=True))
    return Grid(columns or ("",) * width, [line.cells for line in lines[count:]])


def _filled(lines: Sequence[_Line], width: int) -> list[tuple[str, ...]]:
    return [line.cells + ("",) * (width - len(line.cells)) for line in lines]


def _joined(names: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(name for name in names if name))


def _names_columns(lines: list[tuple[str, ...]]) -> bool:
    """Tell whether the first row names columns: it alone holds no digit, as in most tables."""
    digits = [any(character.isdigit() for cell in cells for character in cell) for cells in lines]
    return not digits[0] and all(lines[0]) and all(digits[1:])


def _lines(table: LexborNode, words: Callable[[LexborNode], str]) -> Iterator[_Line]:
    spanning: dict[int, tuple[int, str]] = {}  # column -> rows left, text of a cell from above
    rows = list(_rows(table))
    for row, in_head in rows:
        cells: list[str] = []
        own = [cell for cell in row.iter() if cell.tag in CELLS]
        is_title = len(own) == 1 and not spanning
        for cell in own:
            _fill(cells, spanning)
            text = words(cell)
            down = _span(cell, "rowspan") or len(rows)
            across = 1 if is_title else min(max(1, _span(cell, "colspan")), MAX_COLUMNS)
            repeated = text if len(text) <= MAX_REPEATED else ""
            for column in range(across):
                if down > 1:
                    spanning[len(cells)] = (down - 1, repeated)
                cells.append(repeated if column else text)
        _fill(cells, spanning)
        if any(cells):
            yield _Line(tuple(cells), in_head or all(cell.tag == "th" for cell in own))


def _fill(cells: list[str], spanning: dict[int, tuple[int, str]]) -> None:
    """Append the cells that reach down from rows above to the next free column."""
    while len(cells) in spanning:
        left, text = spanning.pop(len(cells))
        if left > 1:
            spanning[len(cells)] = (left - 1, text)
        cells.append(text)


def _rows(table: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Yield the rows of a table, not those of tables in it, and whether each is in its head."""
    for child in table.iter():
        if child.tag == "tr":
            yield child, False
        elif child.tag in GROUPS:
            yield from ((row, child.tag == "thead") for row in child.iter() if row.tag == "tr")


def _span(cell: LexborNode, name: str) -> int:
    value = (cell.attributes.get(name) or "1").strip()
    return int(value) if value.isdecimal() and len(value) < 6 else 1
