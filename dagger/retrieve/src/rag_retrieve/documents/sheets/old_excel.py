"""Workbooks of Excel 2 to 2003, the binary format. Uses xlrd, whose memory grows with the file only."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator
from typing import Any

import xlrd  # type: ignore[import-untyped]

from ..archive import OLD_OFFICE
from ..document import LoadedDocument, tidy, unreadable
from ..tabular import XLS
from .cells import cell_of, shows_percent
from .excel import read_xlsx
from .grid import Cell
from .workbook import MAX_CELLS, Sheet, read_workbook

BIFF = b"\x09"  # with which the files begin that are older than Office's container


def read_xls(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a workbook of Excel 2 to 2003; one that is an `.xlsx` file by its content as such.

    Raises:
        StepError: `document_unreadable`: no workbook, damaged, encrypted, or empty.
    """
    if data.startswith(b"PK"):
        return read_xlsx(name, data)
    if not data.startswith((OLD_OFFICE, BIFF)):
        unreadable(
            name, "it is not an Excel workbook; save it as .xlsx, or give it its own extension"
        )
    try:
        book = xlrd.open_workbook(
            file_contents=data, formatting_info=True, ragged_rows=True, logfile=io.StringIO()
        )
        sheets = list(_sheets(book))
    except Exception as error:  # xlrd raises whatever a damaged file leads it to
        why = tidy(str(error)) or type(error).__name__
        if "encrypted" in why:
            unreadable(name, "it is encrypted; save a copy without a password")
        unreadable(name, f"the workbook is damaged ({why}); save it again as .xlsx")
    return [read_workbook(name, XLS, sheets)]


def _sheets(book: Any) -> Iterator[Sheet]:
    for sheet in book.sheets():
        if sheet.visibility:
            yield Sheet(sheet.name, fault="is hidden")
        elif sheet.nrows * sheet.ncols > MAX_CELLS:
            yield Sheet(sheet.name, fault=f"holds over {MAX_CELLS} cells")
        else:
            yield _sheet(book, sheet)


def _sheet(book: Any, sheet: Any) -> Sheet:
    rows = []
    for number in range(sheet.nrows):
        row = [_cell(book, sheet, number, at) for at in range(sheet.row_len(number))]
        rows.append(row + [Cell()] * (sheet.ncols - len(row)))
    merged = [(top, left, end - 1, right - 1) for top, end, left, right in sheet.merged_cells]
    notes = {place: note.text for place, note in sorted(sheet.cell_note_map.items())}
    return Sheet(sheet.name, rows, merged, notes)


def _cell(book: Any, sheet: Any, row: int, column: int) -> Cell:
    kind, value = sheet.cell_type(row, column), sheet.cell_value(row, column)
    if kind == xlrd.XL_CELL_TEXT:
        return cell_of(value)
    if kind == xlrd.XL_CELL_BOOLEAN:
        return cell_of(bool(value))
    if kind == xlrd.XL_CELL_DATE:
        return cell_of(_date(value, book.datemode))
    if kind == xlrd.XL_CELL_NUMBER:
        style = book.format_map.get(book.xf_list[sheet.cell_xf_index(row, column)].format_key)
        return cell_of(value, percent=shows_percent(style.format_str if style else ""))
    return Cell()


def _date(value: float, mode: int) -> Any:
    """Return a date, a time for what is less than a day, the number for what is no date."""
    try:
        found = xlrd.xldate_as_datetime(value, mode)
    except (ValueError, OverflowError, xlrd.xldate.XLDateError):
        return value
    rounded = (found + datetime.timedelta(microseconds=500_000)).replace(microsecond=0)
    return rounded.time() if 0 <= value < 1 else rounded
