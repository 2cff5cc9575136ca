"""Excel workbooks: each sheet with its tables, formulas by their last values. Uses calamine."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from python_calamine import (
    CalamineError,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from ..archive import check_office_file
from ..document import LoadedDocument, tidy, unreadable
from ..ooxml import Package, relation_id
from ..safe_xml import attribute, children, first
from ..tabular import XLSX
from .cells import cell_of, shows_percent
from .grid import Place
from .workbook import MAX_CELLS, Sheet, read_workbook

WORKBOOK = "xl/workbook.xml"
REFERENCE = re.compile(
    rb'<(?:\w+:)?c [^<>]*?\br="([A-Z]{1,3})([0-9]{1,7})"(?:[^<>]*?\bs="([0-9]{1,5})")?'
)
ROW = re.compile(rb'<(?:\w+:)?row [^<>]*?\br="([0-9]{1,7})"')
CELL_TAG = re.compile(rb"<(?:\w+:)?c[\s/>]")
ROW_TAG = re.compile(rb"<(?:\w+:)?row[\s/>]")
PERCENTS = ("9", "10")  # formats that every workbook has


class _Layout(NamedTuple):
    """Of a sheet: how many cells its rectangle has, and the cells that show percent."""

    cells: int
    percents: frozenset[Place]


def read_xlsx(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an Excel workbook.

    Raises:
        StepError: `document_unreadable`: no workbook, damaged, encrypted, a zip bomb, or empty.
    """
    check_office_file(name, data, kind="Excel workbook", suffix=".xlsx")
    package = Package(name, data)
    parts = _parts(package)
    layouts = _layouts(package, parts)
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(data)) as workbook:
            return [read_workbook(name, XLSX, _sheets(workbook, package, parts, layouts))]
    except PasswordError:
        unreadable(name, "it is encrypted; save a copy without a password")
    except (CalamineError, ValueError, OSError, OverflowError) as error:
        why = tidy(str(error)) or type(error).__name__
        unreadable(name, f"the workbook is damaged ({why}); save it again as .xlsx")


def _parts(package: Package) -> list[str]:
    """Return the part of each sheet, in their order; "" for one that is missing."""
    if WORKBOOK not in package.names:
        unreadable(
            package.name, "it is a zip archive, but no Excel workbook; save it again as .xlsx"
        )
    related = package.related(WORKBOOK)
    listed = package.root(WORKBOOK).iter("{*}sheet")
    found = (related.get(relation_id(sheet)) for sheet in listed)
    return [one.part if one is not None and one.part in package.names else "" for one in found]


def _layouts(package: Package, parts: list[str]) -> list[_Layout]:
    """Measure the sheets; refuse cells so far apart that their rectangle does not fit into memory."""
    styles = _percent_styles(package)
    layouts = []
    for part in parts:
        layout = _layout(package.read(part), styles) if part else _Layout(0, frozenset())
        if layout.cells > MAX_CELLS:
            unreadable(
                package.name,
                f"its sheet {part!r} reaches over {layout.cells} cells; at most {MAX_CELLS} are "
                "accepted: delete the stray cells far from the others, or split the sheet",
            )
        layouts.append(layout)
    return layouts


def _layout(xml: bytes, styles: frozenset[bytes]) -> _Layout:
    rows = max((int(digits) for digits in ROW.findall(xml)), default=0)
    columns = 0
    percents: set[Place] = set()
    named = 0
    for letters, digits, style in REFERENCE.findall(xml):
        named += 1
        column = _column(letters)
        columns = max(columns, column)
        rows = max(rows, int(digits))
        if style in styles:
            percents.add((int(digits) - 1, column - 1))
    lines = ROW_TAG.split(xml)
    if (
        len(CELL_TAG.findall(xml)) > named
    ):  # a cell without a reference stands right of the one before
        columns += max(len(CELL_TAG.findall(line)) for line in lines)
    return _Layout(max(rows, len(lines) - 1) * columns, frozenset(percents))


def _percent_styles(package: Package) -> frozenset[bytes]:
    """Return the styles of cells that show percent, by their number."""
    if "xl/styles.xml" not in package.names:
        return frozenset()
    root = package.root("xl/styles.xml")
    own = (one for one in root.iter("{*}numFmt") if shows_percent(attribute(one, "formatCode")))
    formats = {*PERCENTS, *(attribute(one, "numFmtId") for one in own)}
    styles = first(root, "cellXfs")
    numbered = enumerate(children(styles, "xf") if styles is not None else ())
    return frozenset(
        str(number).encode()
        for number, style in numbered
        if attribute(style, "numFmtId") in formats
    )


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _sheets(
    workbook: CalamineWorkbook, package: Package, parts: list[str], layouts: list[_Layout]
) -> Iterator[Sheet]:
    for number, about in enumerate(workbook.sheets_metadata):
        if about.typ not in (SheetTypeEnum.WorkSheet, SheetTypeEnum.DialogSheet):
            yield Sheet(about.name, fault="holds no cells")
        elif about.visible != SheetVisibleEnum.Visible:
            yield Sheet(about.name, fault="is hidden")
        elif number >= len(parts) or not parts[number]:
            yield Sheet(about.name, fault="is missing")
        else:
            notes = _notes(package, parts[number])
            yield _sheet(about.name, workbook, number, layouts[number].percents, notes)


def _sheet(
    name: str,
    workbook: CalamineWorkbook,
    number: int,
    percents: frozenset[Place],
    notes: dict[Place, str],
) -> Sheet:
    try:
        sheet = workbook.get_sheet_by_index(number)
    except (CalamineError, ValueError, OSError) as error:
        return Sheet(name, fault=f"is damaged ({tidy(str(error))})")
    rows = [
        [cell_of(value, percent=(row, at) in percents) for at, value in enumerate(values)]
        for row, values in enumerate(sheet.to_python(skip_empty_area=False))
    ]
    merged = [(*top, *bottom) for top, bottom in sheet.merged_cell_ranges or []]
    return Sheet(name, rows, merged, notes)


def _notes(package: Package, part: str) -> dict[Place, str]:
    """Return the comments on cells, by their place."""
    found: dict[Place, str] = {}
    for kind, target in package.related(part).values():
        if kind == "comments" and target in package.names:
            for comment in package.root(target).iter("{*}comment"):
                reference = re.fullmatch(
                    rb"([A-Z]{1,3})([0-9]{1,7})", attribute(comment, "ref").encode()
                )
                text = " ".join("".join(one.text or "" for one in comment.iter("{*}t")).split())
                if reference and text:
                    found[int(reference[2]) - 1, _column(reference[1]) - 1] = text
    return found
