"""Pages of a PDF as a reader sees them: drawn as PNG, and where the words of a quote stand on them."""

from __future__ import annotations

import ctypes
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pypdfium2  # type: ignore[import-untyped]
import pypdfium2.raw as pdfium  # type: ignore[import-untyped]
from numpy.typing import NDArray

from rag_kit.errors import StepError

from .page import MAX_CHARACTERS, PDFIUM, codes
from .quotes import Quote, find_quote

SCALE = 150 / 72  # pixels a point: 150 dots per inch
MAX_PIXELS = 2_200_000  # A4 at 150 dots per inch; larger pages are drawn coarser
DRAWING_S = 5.0  # a page of prose takes hundredths of a second
DEVICE = 20_000  # steps across a page in which PDFium gives places
SAME_LINE = 0.5  # of the lower of two characters, that stand beside each other
SAME_WORDS = 3.0  # of a character's height; a wider gap parts two boxes


class Box(NamedTuple):
    """A rectangle on a page as it is shown, in points from its top left."""

    left: float
    top: float
    right: float
    bottom: float


class Sheet(NamedTuple):
    """A page as it is shown: its size in points, turned and cropped, and what is marked there."""

    width: float
    height: float
    boxes: list[Box]


def draw_page(data: bytes, number: int, *, seconds: float = DRAWING_S) -> bytes:
    """Return a page as PNG of at most `MAX_PIXELS`, with its annotations and form fields.

    Args:
        data: A PDF.
        number: Of the page, from 1.
        seconds: How long drawing may take.

    Raises:
        StepError: `not_found`, the page cannot be drawn: it is damaged, or too complex.
    """
    with _page(data, number) as (pdf, page):
        width, height = page.get_size()
        scale = min(SCALE, math.sqrt(MAX_PIXELS / max(1.0, width * height)))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = _drawn(pdf, page, number, size, time.monotonic() + seconds)
    return png(pixels)


def _drawn(
    pdf: Any, page: Any, number: int, size: tuple[int, int], deadline: float
) -> NDArray[np.uint8]:
    """Return a page as height x width x 3 bytes, RGB."""
    bitmap = pypdfium2.PdfBitmap.new_native(*size, pdfium.FPDFBitmap_BGR, rev_byteorder=True)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, *size)
    area = (0, 0, *size, 0, pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER)
    pause = pdfium.IFSDK_PAUSE(version=1)
    kind = dict(pause._fields_)["NeedToPauseNow"]
    pause.NeedToPauseNow = kind(lambda _: time.monotonic() > deadline)
    status = pdfium.FPDF_RenderPageBitmap_Start(bitmap.raw, page.raw, *area, pause)
    pdfium.FPDF_RenderPage_Close(page.raw)
    if status != pdfium.FPDF_RENDER_DONE:
        raise _undrawn(number, "it is too complex")
    if pdf.formenv:
        pdfium.FPDF_FFLDraw(pdf.formenv.raw, bitmap.raw, page.raw, *area)
    pixels: NDArray[np.uint8] = bitmap.to_numpy().copy()
    bitmap.close()
    return pixels


@contextmanager
def _page(data: bytes, number: int) -> Iterator[tuple[Any, Any]]:
    """Open a page while nobody else uses PDFium; raises `not_found`."""
    with PDFIUM:
        try:
            pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError:
            raise _undrawn(number, "the file is damaged") from None
        try:
            if pdf.get_formtype() != pdfium.FORMTYPE_NONE:
                pdf.init_forms()
            if not 1 <= number <= len(pdf):
                raise _undrawn(number, f"the file has {len(pdf)}")
            page = pdf[number - 1]
            try:
                yield pdf, page
            finally:
                page.close()
        except pypdfium2.PdfiumError:
            raise _undrawn(number, "it is damaged") from None
        finally:
            pdf.close()


def _undrawn(number: int, why: str) -> StepError:
    return StepError(
        "not_found", f"page {number} cannot be drawn: {why}; read its text", param="page"
    )


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an RGB image as PNG, in grey where it has no colour."""
    if (pixels[:, :, :1] == pixels).all():
        pixels = pixels[:, :, :1]
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, none
    rows[:, 1:] = pixels.reshape(height, -1)
    colour = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 4)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# -- marks ------------------------------------------------------------------------------------


def mark_pages(data: bytes, quotes: Mapping[int, Sequence[Quote]]) -> dict[int, Sheet]:
    """Return pages with the boxes of the quotes on them, one a line or less; none of words not found.

    Args:
        data: A PDF.
        quotes: What to mark, by page, from 1; pages without a quote only have their size.

    Raises:
        StepError: `not_found`, as for `draw_page`.
    """
    sheets = {}
    for number, wanted in quotes.items():
        with _page(data, number) as (_, page):
            sheets[number] = Sheet(page.get_width(), page.get_height(), list(_boxes(page, wanted)))
    return sheets


def _boxes(page: Any, quotes: Sequence[Quote]) -> Iterator[Box]:
    if not quotes:
        return
    text_page = page.get_textpage()
    try:
        count = text_page.count_chars()
        if count > MAX_CHARACTERS:
            return
        characters = list(codes(text_page.raw, count))
        to_shown = _places(page)
        for quote in quotes:
            for first, last in find_quote(quote, [text for _, text in characters]):
                numbers = [number for number, _ in characters[first : last + 1]]
                yield from _joined(_box(text_page.raw, number, to_shown) for number in numbers)
    finally:
        text_page.close()


def _places(page: Any) -> Callable[[float, float], tuple[float, float]]:
    """Return what turns places of a page's content into points from its top left, as it is shown."""
    width, height = page.get_size()
    x, y = ctypes.c_int(), ctypes.c_int()

    def to_shown(left: float, bottom: float) -> tuple[float, float]:
        pdfium.FPDF_PageToDevice(page.raw, 0, 0, DEVICE, DEVICE, 0, left, bottom, x, y)
        return x.value * width / DEVICE, y.value * height / DEVICE

    return to_shown


def _box(raw: Any, number: int, to_shown: Callable[[float, float], tuple[float, float]]) -> Box:
    """Return the box of a character, as high as its font; spaces that PDFium adds have none."""
    rect = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(raw, number, rect)
    (a, b), (c, d) = to_shown(rect.left, rect.bottom), to_shown(rect.right, rect.top)
    return Box(min(a, c), min(b, d), max(a, c), max(b, d))


def _joined(boxes: Iterator[Box]) -> Iterator[Box]:
    """Join the boxes of characters that stand beside each other, on a line or below each other."""
    whole = last = None
    for box in boxes:
        if box.right <= box.left or box.bottom <= box.top:
            continue
        if whole and last and _beside(last, box):
            whole = Box(*map(min, whole[:2], box[:2]), *map(max, whole[2:], box[2:]))
        else:
            if whole:
                yield whole
            whole = box
        last = box
    if whole:
        yield whole


def _beside(a: Box, b: Box) -> bool:
    """Whether two characters follow each other on a line, or on a line that runs up or down."""
    across, down = min(a.right, b.right) - max(a.left, b.left), min(a[3], b[3]) - max(a[1], b[1])
    tall, wide = (min(one[at + 2] - one[at] for one in (a, b)) for at in (1, 0))
    size = max(tall, wide)
    on_line = down > SAME_LINE * tall and -across < SAME_WORDS * size
    on_column = across > SAME_LINE * wide and -down < 0.5 * size and not on_line
    return on_line or on_column
