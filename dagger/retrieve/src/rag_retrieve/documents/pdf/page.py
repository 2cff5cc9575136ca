"""What stands on a PDF page: pieces of text with their places, form fields, notes. Uses PDFium."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium  # type: ignore[import-untyped]

PDFIUM = threading.Lock()  # PDFium is not safe for threads
MAX_CHARACTERS = 200_000  # of a page; a dense one has some thousands
MAX_OBJECTS = 200_000  # texts, lines and images of a page; a city map has some tens of thousands
CELL_GAP = 1.0  # of the type's size; a wider gap parts two pieces on one line
SPACED_LETTERS = 4  # single letters in a row that are one word set apart, and no list
WORD_GAP = 1.5  # of the usual distance between such letters
BASELINE = 0.4  # of the type's size; characters closer than that stand on one line
LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB06: "st"}
HYPHENS = {0x02: "-", 0xFFFE: "-"}  # PDFium's marks for a hyphen at a line end
DROPPED = {0xAD: "", 0xFFFF: "", 0x0: ""}
CHARACTERS = LIGATURES | HYPHENS | DROPPED
RIGHT_TO_LEFT = ((0x590, 0x8FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFC))
NOTES = (
    *(pdfium.FPDF_ANNOT_TEXT, pdfium.FPDF_ANNOT_FREETEXT, pdfium.FPDF_ANNOT_HIGHLIGHT),
    *(pdfium.FPDF_ANNOT_UNDERLINE, pdfium.FPDF_ANNOT_SQUIGGLY, pdfium.FPDF_ANNOT_STRIKEOUT),
    *(pdfium.FPDF_ANNOT_CARET, pdfium.FPDF_ANNOT_SQUARE, pdfium.FPDF_ANNOT_CIRCLE),
    *(pdfium.FPDF_ANNOT_INK, pdfium.FPDF_ANNOT_STAMP, pdfium.FPDF_ANNOT_POLYGON),
)
FIELDS = (
    *(pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX),
    pdfium.FPDF_FORMFIELD_LISTBOX,
)
MARKS = (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
HIDDEN = 2  # annotation flag
PASSWORD = 1 << 13  # flag of a text field
FIELD_SIZE = 12.0  # points; a taller field holds its text at the top


class Piece(NamedTuple):
    """Text on one line without a gap: its left and right end, baseline and size, in points."""

    text: str
    left: float
    right: float
    baseline: float
    size: float
    quarter: int = 0  # how many times the text is turned by 90 degrees, clockwise
    field: str = ""  # name of the form field whose value it is


@dataclass
class PageText:
    """What was read of a page; `garbled` is the share of its characters that map to none."""

    pieces: list[Piece] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    garbled: float = 0.0
    characters: int = 0
    too_complex: bool = False


class _Character(NamedTuple):
    text: str
    left: float
    right: float
    baseline: float
    size: float
    quarter: int


def read_page(page: Any, form: Any | None) -> PageText:
    """Read a page.

    Args:
        page: A `pypdfium2.PdfPage`.
        form: The document's form environment, or None without a form.
    """
    if pdfium.FPDFPage_CountObjects(page.raw) > MAX_OBJECTS:
        return PageText(too_complex=True)
    text_page = page.get_textpage()
    try:
        found = PageText(characters=text_page.count_chars())
        if found.characters > MAX_CHARACTERS:
            return PageText(too_complex=True)
        garbled = sum(_is_garbled(text_page.raw, number) for number in range(found.characters))
        found.garbled = garbled / max(1, found.characters)
        found.pieces = list(_pieces(_characters(text_page.raw, found.characters)))
    finally:
        text_page.close()
    for number in range(pdfium.FPDFPage_GetAnnotCount(page.raw)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, number)
        if annotation:
            _read_annotation(annotation, form, found)
            pdfium.FPDFPage_CloseAnnot(annotation)
    return found


def _is_garbled(raw: Any, number: int) -> bool:
    """Whether the font does not say which character a glyph is: none, a control code, private use."""
    if pdfium.FPDFText_HasUnicodeMapError(raw, number) == 1:
        return True
    code = pdfium.FPDFText_GetUnicode(raw, number)
    return code in (0, 0xFFFD) or 0xE000 <= code < 0xF900


def codes(raw: Any, count: int) -> Iterator[tuple[int, str]]:
    """Yield the characters of a text page with their numbers in PDFium's order."""
    high = 0
    for number in range(count):
        code = pdfium.FPDFText_GetUnicode(raw, number)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            if not high:
                continue
            code = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00
        high = 0
        if text := CHARACTERS.get(code, chr(code)):
            yield number, text


def _characters(raw: Any, count: int) -> Iterator[_Character]:
    """Yield the characters of a page in PDFium's order; a line end has no width."""
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    x, y = ctypes.c_double(), ctypes.c_double()
    for number, text in codes(raw, count):
        pdfium.FPDFText_GetCharBox(raw, number, left, right, bottom, top)
        pdfium.FPDFText_GetCharOrigin(raw, number, x, y)
        size = pdfium.FPDFText_GetFontSize(raw, number)
        quarter = round(pdfium.FPDFText_GetCharAngle(raw, number) / (math.pi / 2)) % 4
        ends = (
            _turned(left.value, bottom.value, quarter)[0],
            _turned(right.value, top.value, quarter)[0],
        )
        baseline = _turned(x.value, y.value, quarter)[1]
        yield _Character(text, min(ends), max(ends), baseline, size, quarter)


def _turned(x: float, y: float, quarter: int) -> tuple[float, float]:
    """Return a place as it is when the text is turned upright: along its line, and upwards."""
    return ((x, y), (-y, x), (-x, -y), (y, -x))[quarter]


def _pieces(characters: Iterator[_Character]) -> Iterator[Piece]:
    """Join characters to pieces; spaces separate words and a wide gap, or a new line, pieces."""
    piece: list[_Character] = []
    space = False
    for character in characters:
        if character.text.isspace():
            if character.text in "\r\n":
                yield from _joined(piece)
                piece, space = [], False
            space = bool(piece)
            continue
        if character.text < " " or character.text == "\x7f":
            continue
        if piece and _parted(piece[-1], character):
            yield from _joined(piece)
            piece, space = [], False
        if space and piece:
            piece.append(piece[-1]._replace(text=" "))
        piece.append(character)
        space = False
    yield from _joined(piece)


def _parted(before: _Character, after: _Character) -> bool:
    size = max(before.size, after.size, 1.0)
    if before.quarter != after.quarter:
        return True
    if abs(before.baseline - after.baseline) > BASELINE * size * 2:
        return True
    if _reads_left(before.text) or _reads_left(after.text):
        return False  # figures inside jump to and fro
    return after.left - before.right > CELL_GAP * size or before.left - after.right > 2 * size


def _reads_left(text: str) -> bool:
    code = ord(text[0])
    return any(first <= code <= last for first, last in RIGHT_TO_LEFT)


def _joined(piece: list[_Character]) -> Iterator[Piece]:
    if text := _words(piece):
        sizes = sorted(character.size for character in piece)
        baselines = sorted(character.baseline for character in piece)
        yield Piece(
            text,
            min(character.left for character in piece),
            max(character.right for character in piece),
            baselines[len(baselines) // 2],
            max(1.0, sizes[len(sizes) // 2]),
            piece[0].quarter,
        )


def _words(piece: list[_Character]) -> str:
    """Return the text of a piece; letters set far apart are joined to words by their distances."""
    text = "".join(character.text for character in piece).strip()
    tokens = text.split()
    if len(tokens) < SPACED_LETTERS or any(len(token) > 1 for token in tokens):
        return text
    letters = [character for character in piece if not character.text.isspace()]
    gaps = [after.left - before.right for before, after in pairwise(letters)]
    wide = WORD_GAP * sorted(gaps)[len(gaps) // 2]
    spaces = (" " * (gap > wide) for gap in (0.0, *gaps))
    return "".join(space + letter.text for space, letter in zip(spaces, letters, strict=True))


def _read_annotation(annotation: Any, form: Any | None, found: PageText) -> None:
    if pdfium.FPDFAnnot_GetFlags(annotation) & HIDDEN:
        return
    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    if kind in NOTES:
        if text := _line(_string(annotation, "Contents")):
            author = _line(_string(annotation, "T"))
            found.notes.append(f"Note by {author}: {text}" if author else f"Note: {text}")
    elif kind == pdfium.FPDF_ANNOT_WIDGET and form is not None:
        found.pieces += _field(annotation, form)


def _field(annotation: Any, form: Any) -> Iterator[Piece]:
    """Yield the value of a form field where it stands; nothing of an empty or secret one."""
    value = _field_value(annotation, form)
    if not value:
        return
    name = _wide(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation)
    name = _line(name) or _line(_wide(pdfium.FPDFAnnot_GetFormFieldName, form, annotation))
    box = pdfium.FS_RECTF()
    pdfium.FPDFAnnot_GetRect(annotation, box)
    left, right = sorted((box.left, box.right))
    bottom, top = sorted((box.bottom, box.top))
    size = min(FIELD_SIZE, max(1.0, top - bottom))
    yield Piece(value, left, right, top - 0.8 * size, size, field=name or "field")


def _field_value(annotation: Any, form: Any) -> str:
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in MARKS:
        if not pdfium.FPDFAnnot_IsChecked(form, annotation):
            return ""
        export = _line(_wide(pdfium.FPDFAnnot_GetFormFieldExportValue, form, annotation))
        return export if export.lower() not in ("", "on", "1", "true") else "yes"
    flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation)
    if kind not in FIELDS or (kind == pdfium.FPDF_FORMFIELD_TEXTFIELD and flags & PASSWORD):
        return ""
    return _line(_wide(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation))


def _line(text: str) -> str:
    return " ".join(text.split())


def _string(annotation: Any, key: str) -> str:
    return _wide(lambda *more: pdfium.FPDFAnnot_GetStringValue(annotation, key.encode(), *more))


def _wide(function: Callable[..., int], *arguments: Any) -> str:
    """Return a string that PDFium writes as UTF-16, asked first for its length in bytes."""
    length = function(*arguments, None, 0)
    if length <= 2:
        return ""
    buffer = ctypes.create_string_buffer(length)
    pointer = ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR))
    function(*arguments, pointer, length)
    return buffer.raw[: length - 2].decode("utf-16-le", "ignore")
