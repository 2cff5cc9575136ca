"""The cells of a sheet as text: its tables with the names of their columns, and the lines around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..builder import TextBuilder

MIN_YEAR, MAX_YEAR = 1900, 2100  # numbers that name columns
MAX_NAME_CHARACTERS = 80
MAX_GROUP_CHARACTERS = 40  # of a name over several columns; a longer one is a title


class Cell(NamedTuple):
    """A cell: what a person reads in it, and whether that is a number, a date or a truth value."""

    text: str = ""
    is_value: bool = False


Merged = tuple[int, int, int, int]  # first row and column, last row and column
Place = tuple[int, int]  # row and column of a cell, from 0
Rows = Sequence[Sequence[Cell]]
EMPTY = Cell()


class _Region(NamedTuple):
    """A block of a sheet without an empty row, as rows of cells; `left` is its first column."""

    top: int
    left: int
    rows: list[list[Cell]]
    spanned: frozenset[int]  # its rows in which one cell stands over several columns

    @property
    def width(self) -> int:
        return len(self.rows[0])


def write_sheet(rows: Rows, merged: Sequence[Merged], builder: TextBuilder) -> None:
    """Append what stands on a sheet.

    Blocks between empty rows are tables of their own where they begin with names of columns; else
    they go on with the table above that has the same columns.

    Args:
        rows: All rows from the first one on, each with as many cells as there are columns.
        merged: Cells that were joined, as their rows and columns, counted from 0.
        builder: Gets the text.
    """
    columns: tuple[str, ...] = ()
    left = right = -1
    for region in _headed(_regions(_filled(rows, merged), merged)):
        within = left <= region.left and region.left + region.width <= right
        if columns and within and _goes_on(region):
            builder.table(columns, _widened(region, left, right))
            continue
        columns = _write_region(region, builder)
        left, right = region.left, region.left + region.width


def _filled(rows: Rows, merged: Sequence[Merged]) -> list[list[Cell]]:
    """Return the rows with cells that reach down repeated in each of their rows."""
    filled = [list(row) for row in rows]
    for top, left, bottom, right in merged:
        if bottom > top and left == right and bottom < len(filled) and left < len(filled[top]):
            for row in range(top + 1, bottom + 1):
                filled[row][left] = filled[top][left]
    return filled


def _regions(rows: list[list[Cell]], merged: Sequence[Merged]) -> Iterator[_Region]:
    """Yield the blocks between empty rows, without their empty columns at both sides."""
    block: list[list[Cell]] = []
    for number, row in enumerate([*rows, []]):
        if any(cell.text for cell in row):
            block.append(row)
        elif block:
            top = number - len(block)
            spanned = frozenset(
                first - top
                for first, begin, _, end in merged
                if end > begin and top <= first < number
            )
            yield from _beside(_trimmed(_Region(top, 0, block, spanned)))
            block = []


def _headed(regions: Iterator[_Region]) -> Iterator[_Region]:
    """Join a row of names to the values that stand below it after an empty row."""
    above: _Region | None = None
    for region in regions:
        if above is not None and _names_alone(above, region):
            region = above._replace(rows=[*above.rows, *_as_wide(region, above)])
        elif above is not None:
            yield above
        above = region
    if above is not None:
        yield above


def _names_alone(above: _Region, below: _Region) -> bool:
    within = above.left <= below.left and below.left + below.width <= above.left + above.width
    return (
        within
        and len(above.rows) == 1
        and above.width > 1
        and all(cell.text and not cell.is_value for cell in above.rows[0])
        and any(cell.is_value for cell in below.rows[0])
    )


def _as_wide(region: _Region, other: _Region) -> list[list[Cell]]:
    before = region.left - other.left
    after = other.width - before - region.width
    return [[*[EMPTY] * before, *row, *[EMPTY] * after] for row in region.rows]


def _trimmed(region: _Region) -> _Region:
    used = [at for at, column in enumerate(zip(*region.rows, strict=True)) if _any(column)]
    first, last = used[0], used[-1] + 1
    rows = [row[first:last] for row in region.rows]
    return region._replace(left=region.left + first, rows=rows)


def _beside(region: _Region) -> Iterator[_Region]:
    """Yield the tables that stand side by side: parted by an empty column, each with a header."""
    empty = [at for at, column in enumerate(zip(*region.rows, strict=True)) if not _any(column)]
    for cut in empty:
        halves = [
            _without_empty_rows(region._replace(rows=[row[:cut] for row in region.rows])),
            _without_empty_rows(
                region._replace(
                    left=region.left + cut + 1, rows=[row[cut + 1 :] for row in region.rows]
                )
            ),
        ]
        if all(
            half.width > 1 and len(half.rows) > 1 and _header(half) is not None for half in halves
        ):
            yield halves[0]
            yield from _beside(_trimmed(halves[1]))
            return
    if empty:
        kept = [at for at in range(region.width) if at not in empty]
        region = region._replace(rows=[[row[at] for at in kept] for row in region.rows])
    yield region


def _without_empty_rows(region: _Region) -> _Region:
    return region._replace(rows=[row for row in region.rows if _any(row)] or region.rows[:1])


def _any(cells: Sequence[Cell]) -> bool:
    return any(cell.text for cell in cells)


def _goes_on(region: _Region) -> bool:
    """Whether the first row of a block holds values, so that the block has no names of its own."""
    first = region.rows[0]
    return region.width > 1 and any(cell.is_value for cell in first) and not _is_title(first)


def _widened(region: _Region, left: int, right: int) -> list[list[str]]:
    before, after = region.left - left, right - region.left - region.width
    return [[*[""] * before, *(cell.text for cell in row), *[""] * after] for row in region.rows]


def _header(region: _Region) -> int | None:
    """Return which row names the columns, or None: the first one that is mostly filled with names."""
    for number, row in enumerate(region.rows[:-1]):
        filled = sum(bool(cell.text) for cell in row)
        if filled >= max(2, (region.width + 1) // 2) and number not in region.spanned:
            return number if _are_names(row, region.rows[number + 1 :]) else None
    return None


def _are_names(row: Sequence[Cell], below: Rows) -> bool:
    """Whether a row names columns: words or years, above other kinds of cells or above many columns."""
    named = [cell for cell in row if cell.text]
    if not all(_is_name(cell) for cell in named) or named[0].is_value:
        return False
    if len({cell.text for cell in named}) < len(named) and len(named) < 4:
        return False
    if len(row) > 2:
        return True
    values = [cells[-1].is_value for cells in below if cells[-1].text]
    return bool(values) and all(values) and not any(cells[0].text.endswith(":") for cells in below)


def _is_name(cell: Cell) -> bool:
    if not cell.is_value:
        return len(cell.text) <= MAX_NAME_CHARACTERS
    return cell.text.isdecimal() and MIN_YEAR <= int(cell.text) <= MAX_YEAR


def _is_title(row: Sequence[Cell]) -> bool:
    return sum(bool(cell.text) for cell in row) == 1


def _write_region(region: _Region, builder: TextBuilder) -> tuple[str, ...]:
    """Append a block, and return the names of its columns; () where it has none."""
    header = _header(region)
    if header is None:
        _write_lines(region.rows, builder)
        return ()
    above = region.rows[:header]
    names = [cell.text for cell in region.rows[header]]
    if above and header - 1 in region.spanned and _are_groups(above[-1]):
        names = _joined(above.pop(), names)
    _write_lines(above, builder)
    builder.table(names, [[cell.text for cell in row] for row in region.rows[header + 1 :]])
    return tuple(names)


def _are_groups(row: Sequence[Cell]) -> bool:
    named = [cell for cell in row if cell.text]
    return len(named) > 1 and all(len(cell.text) <= MAX_GROUP_CHARACTERS for cell in named)


def _joined(groups: Sequence[Cell], names: Sequence[str]) -> list[str]:
    """Return names with the name of the group of columns that stands above them: `2024 Q1`."""
    joined, group = [], ""
    for cell, name in zip(groups, names, strict=True):
        group = cell.text or group
        joined.append(f"{group} {name}".strip() if name else group)
    return joined


def _write_lines(rows: Rows, builder: TextBuilder) -> None:
    """Append rows that no names stand above: `label: value` of two cells, else cells with bars."""
    tabular: list[list[str]] = []
    for row, following in pairwise([*rows, ()]):
        cells = [cell.text for cell in row if cell.text]
        if len(cells) > 2:
            tabular.append([cell.text for cell in row])
        if tabular and sum(bool(cell.text) for cell in following) <= 2:
            builder.table([""] * len(row), tabular)
            tabular = []
        if len(cells) == 2:
            builder.line(f"{cells[0].rstrip(': ')}: {cells[1]}")
        elif len(cells) == 1:
            builder.line(cells[0])
