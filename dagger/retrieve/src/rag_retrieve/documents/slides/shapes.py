"""The shapes of a slide: placeholders, text boxes, groups, tables, charts and diagrams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..builder import TextBuilder
from ..headers import names_columns
from ..safe_xml import attribute, children, first, local
from ..values import number_text

TITLES = ("title", "ctrTitle")
UNSHOWN = ("sldNum", "dt", "hdr")  # placeholders of what every slide has
MAX_POINTS = 1000  # of one series of a chart
Target = Callable[[str], Any | None]


def write_shapes(root: Any, builder: TextBuilder, footers: set[str], target: Target) -> None:
    """Append the texts of a slide, its title first.

    Args:
        root: The slide.
        builder: Gets the text.
        footers: The footers of the slides before; each is read once.
        target: Returns the root of a related part by its id, or None.
    """
    tree = first(root, "cSld", "spTree")
    shapes = list(_shapes(tree)) if tree is not None else []
    title = next((shape for shape in shapes if _placeholder(shape) in TITLES), None)
    if title is not None:
        builder.heading(1, " ".join(_lines(title)))
    for shape in shapes:
        if shape is title or _placeholder(shape) in UNSHOWN:
            continue
        if local(shape) == "graphicFrame":
            _write_frame(shape, builder, target)
            continue
        text = "\n".join(_lines(shape))
        if _placeholder(shape) == "ftr":
            if text in footers:
                continue
            footers.add(text)
        builder.paragraph(text)


def _shapes(parent: Any) -> Iterator[Any]:
    """Yield the shapes with text that are not hidden, those in groups too."""
    pending = list(reversed(list(children(parent))))
    while pending:
        shape = pending.pop()
        kind = local(shape)
        if kind == "AlternateContent":
            branches = list(children(shape, "Choice", "Fallback"))
            pending += reversed(list(children(branches[0]))) if branches else ()
        elif _is_hidden(shape):
            continue
        elif kind == "grpSp":
            pending += reversed(list(children(shape)))
        elif kind in ("sp", "cxnSp", "graphicFrame"):
            yield shape


def _is_hidden(shape: Any) -> bool:
    about = next(
        (one[0] for one in children(shape) if local(one).startswith("nv") and len(one)), None
    )
    return about is not None and attribute(about, "hidden") in ("1", "true")


def _placeholder(shape: Any) -> str:
    """Return the kind of a placeholder, "" of any other shape."""
    for about in children(shape, "nvSpPr"):
        mark = first(about, "nvPr", "ph")
        return attribute(mark, "type", "obj") if mark is not None else ""
    return ""


def _lines(shape: Any) -> Iterator[str]:
    """Yield the paragraphs of a shape with the numbers that they are shown with."""
    body = first(shape, "txBody")
    numbers: dict[int, int] = {}
    for paragraph in children(body, "p") if body is not None else ():
        if not (text := text_of_paragraph(paragraph)):
            continue
        properties = first(paragraph, "pPr")
        level = attribute(properties, "lvl", "0") if properties is not None else "0"
        depth = int(level) if level.isdecimal() else 0
        numbers = {at: number for at, number in numbers.items() if at <= depth}
        if properties is not None and first(properties, "buAutoNum") is not None:
            numbers[depth] = numbers.get(depth, 0) + 1
            text = f"{numbers[depth]}. {text}"
        else:
            numbers.pop(depth, None)
        yield text


def text_of_paragraph(paragraph: Any) -> str:
    """Return the text of a paragraph on one line, without what is struck through."""
    return " ".join("".join(_runs(paragraph)).split())


def _runs(parent: Any) -> Iterator[str]:
    for run in children(parent):
        kind = local(run)
        if kind in ("r", "fld"):
            properties = first(run, "rPr")
            strike = (
                attribute(properties, "strike", "noStrike")
                if properties is not None
                else "noStrike"
            )
            text = first(run, "t")
            if strike == "noStrike" and text is not None:
                yield text.text or ""
        elif kind in ("br", "tab"):
            yield " "
        elif kind in ("m", "AlternateContent", "Choice", "oMathPara", "oMath"):
            yield from (one.text or "" for one in run.iter("{*}t"))


def _write_frame(frame: Any, builder: TextBuilder, target: Target) -> None:
    for element in frame.iter("{*}tbl", "{*}chart", "{*}relIds"):
        kind = local(element)
        if kind == "tbl":
            _write_table(element, builder)
        elif kind == "chart" and (part := target(attribute(element, "id"))) is not None:
            _write_chart(part, builder)
        elif kind == "relIds" and (part := target(attribute(element, "dm"))) is not None:
            for point in part.iter("{*}pt"):
                body = first(point, "t")
                lines = map(text_of_paragraph, children(body, "p")) if body is not None else ()
                builder.line(" ".join(lines))


def _write_table(table: Any, builder: TextBuilder) -> None:
    rows = list(_rows(table))
    width = max((len(row) for row in rows), default=0)
    if width < 2:
        builder.paragraph("\n".join(cell for row in rows for cell in row if cell))
        return
    rows = [row + [""] * (width - len(row)) for row in rows]
    properties = first(table, "tblPr")
    marked = properties is not None and attribute(properties, "firstRow") in ("1", "true")
    if len(rows) > 1 and (marked or names_columns(rows[0], rows[1:])):
        builder.table(rows[0], rows[1:])
    else:
        builder.table([""] * width, rows)


def _rows(table: Any) -> Iterator[list[str]]:
    """Yield the rows; a cell over several rows stands in each of them, one over columns once."""
    above: list[str] = []
    for row in children(table, "tr"):
        cells = []
        for column, cell in enumerate(children(row, "tc")):
            body = first(cell, "txBody")
            text = " ".join(map(text_of_paragraph, children(body, "p"))) if body is not None else ""
            goes_on = attribute(cell, "vMerge") in ("1", "true") and column < len(above)
            cells.append(above[column] if goes_on else " ".join(text.split()))
        above = cells
        yield cells


def _write_chart(root: Any, builder: TextBuilder) -> None:
    """Append a chart as a table: a row for each category, a column for each series."""
    title = next(iter(root.iter("{*}title")), None)
    if title is not None:
        builder.paragraph(" ".join(text_of_paragraph(one) for one in title.iter("{*}p")))
    names: list[str] = []
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for number, series in enumerate(root.iter("{*}ser"), 1):
        points = {kind: _points(series, kind) for kind in ("tx", "cat", "xVal", "val", "yVal")}
        categories |= points["cat"] or points["xVal"]
        names.append(" ".join(points["tx"].values()) or f"series {number}")
        columns.append(points["val"] or points["yVal"])
    keys = sorted({key for column in columns for key in column} | categories.keys())[:MAX_POINTS]
    rows = [[categories.get(key, ""), *(column.get(key, "") for column in columns)] for key in keys]
    if rows and names:
        builder.table(["category", *names], rows)


def _points(series: Any, kind: str) -> dict[int, str]:
    """Return the values of a part of a series that the file keeps, by their number."""
    part = first(series, kind)
    found = {}
    for point in part.iter("{*}pt") if part is not None else ():
        value, number = first(point, "v"), attribute(point, "idx", "0")
        if value is not None and value.text and number.isdecimal():
            found[int(number)] = _written(value.text.strip())
    return found


def _written(text: str) -> str:
    try:
        return number_text(float(text))
    except (ValueError, OverflowError):
        return text
