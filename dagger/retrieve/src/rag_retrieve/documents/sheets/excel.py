"""Excel workbooks: each sheet with its tables, formulas by their last values. Uses calamine."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from ..archive import OLD_OFFICE, check_office_file
from ..document import LoadedDocument, tidy, unreadable
from ..tabular import XLS, XLSX
from ..values import number_text
from .grid import Cell
from .workbook import MAX_CELLS, Sheet, read_workbook

WORKSHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
REFERENCE = re.compile(rb'<(?:\w+:)?c [^<>]*?\br="([A-Z]{1,3})([0-9]{1,7})"')
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
READ_BYTES = 1 << 20


def read_xlsx(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an Excel workbook.

    Raises:
        StepError: `document_unreadable`: no workbook, damaged, encrypted, a zip bomb, or empty.
    """
    check_office_file(name, data, kind="Excel workbook", suffix=".xlsx")
    _check_extent(name, data)
    return [_read(name, data, XLSX)]


def read_xls(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a workbook of Excel 97 to 2003; one that is an `.xlsx` file by its content as such."""
    if not data.startswith(OLD_OFFICE):
        if data.startswith(b"PK"):
            return read_xlsx(name, data)
        unreadable(
            name, "it is not an Excel workbook; save it as .xlsx, or give it its own extension"
        )
    return [_read(name, data, XLS)]


def _read(name: str, data: bytes, content_type: str) -> LoadedDocument:
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(data)) as workbook:
            return read_workbook(name, content_type, _sheets(workbook))
    except PasswordError:
        unreadable(name, "it is encrypted; save a copy without a password")
    except (CalamineError, ValueError, OSError, OverflowError) as error:
        why = tidy(str(error)) or type(error).__name__
        if ENCRYPTED in data or "detect file format" in why:
            unreadable(name, "it is encrypted or no workbook; save a copy as .xlsx, no password")
        unreadable(name, f"the workbook is damaged ({why}); save it again as .xlsx")


def _sheets(workbook: CalamineWorkbook) -> Iterator[Sheet]:
    for number, about in enumerate(workbook.sheets_metadata):
        if about.typ not in (SheetTypeEnum.WorkSheet, SheetTypeEnum.DialogSheet):
            yield Sheet(about.name, fault="holds no cells")
        elif about.visible != SheetVisibleEnum.Visible:
            yield Sheet(about.name, fault="is hidden")
        else:
            yield _sheet(about.name, workbook, number)


def _sheet(name: str, workbook: CalamineWorkbook, number: int) -> Sheet:
    try:
        sheet = workbook.get_sheet_by_index(number)
    except (CalamineError, ValueError, OSError) as error:
        return Sheet(name, fault=f"is damaged ({tidy(str(error))})")
    if sheet.height * sheet.width > MAX_CELLS:
        return Sheet(name, fault=f"holds over {MAX_CELLS} cells")
    rows = [[_cell(value) for value in row] for row in sheet.to_python(skip_empty_area=False)]
    return Sheet(name, rows, _merged(sheet))


def _merged(sheet: CalamineSheet) -> Sequence[tuple[int, int, int, int]]:
    return [(*first, *last) for first, last in sheet.merged_cell_ranges or []]


def _cell(value: Any) -> Cell:
    """Return a value as a person reads it: 1200.5, 2024-03-15, 14:30, TRUE."""
    if isinstance(value, str):
        return Cell(value.strip())
    if isinstance(value, bool):
        return Cell(str(value).upper(), is_value=True)
    if isinstance(value, int | float):
        return Cell(number_text(value), is_value=True)
    if isinstance(value, datetime.datetime):
        clock = value.time().replace(microsecond=0)
        day = value.date().isoformat()
        return Cell(f"{day} {_short(clock)}" if clock != datetime.time() else day, is_value=True)
    if isinstance(value, datetime.time):
        return Cell(_short(value), is_value=True)
    return Cell(str(value), is_value=True)


def _short(clock: datetime.time) -> str:
    """Return a time without the seconds where these are 0: 14:30."""
    return clock.isoformat("seconds" if clock.second else "minutes")


def _check_extent(name: str, data: bytes) -> None:
    """Refuse a workbook with cells so far apart that their rectangle does not fit into memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for part in archive.namelist():
            if WORKSHEET.fullmatch(part) and (cells := _extent(name, archive, part)) > MAX_CELLS:
                unreadable(
                    name,
                    f"its sheet {part!r} reaches over {cells} cells; at most {MAX_CELLS} are "
                    "accepted: delete the stray cells far from the others, or split the sheet",
                )


def _extent(name: str, archive: zipfile.ZipFile, part: str) -> int:
    rows = columns = 0
    rest = b""
    try:
        with archive.open(part) as file:
            while block := file.read(READ_BYTES):
                text = rest + block
                for letters, digits in REFERENCE.findall(text):
                    rows = max(rows, int(digits))
                    columns = max(columns, _column(letters))
                rest = text[-200:]
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        unreadable(name, f"the workbook is damaged ({error}); save it again as .xlsx")
    return rows * columns


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number
