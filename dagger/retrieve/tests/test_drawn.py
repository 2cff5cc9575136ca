"""Pages of a PDF as images, and marks on the words of a quote.

The quoted words are drawn in red, so the image itself tells where the marks have to be.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pypdf import PdfWriter
from pypdf.generic import FloatObject, NameObject, RectangleObject
from reportlab.pdfgen.canvas import Canvas
from test_pdf import SIZE, changed, drawn, form, read

from rag_kit.errors import StepError
from rag_retrieve.documents.pdf.drawn import MAX_PIXELS, Sheet, draw_page, mark_pages, png
from rag_retrieve.documents.pdf.quotes import Quote, find_quote

RED, BLACK = (1, 0, 0), (0, 0, 0)
Cell = tuple[float, float, str]  # left, baseline, text with the quoted words between [ and ]


def coloured(*cells: Cell, turn: float = 0) -> bytes:
    """Return a small page with these texts, those between brackets in red; brackets are not drawn."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(500, 450) if turn else (500, 150))
    if turn:
        canvas.translate(250, 225)
    canvas.rotate(turn)
    for left, baseline, marked in cells:
        text = canvas.beginText(left, baseline)
        text.setFont("Helvetica", SIZE)
        for number, piece in enumerate(marked.replace("]", "[").split("[")):
            text.setFillColorRGB(*(RED if number % 2 else BLACK))
            text.textOut(piece)
        canvas.drawText(text)
    canvas.save()
    return buffer.getvalue()


def pixels(data: bytes, number: int = 1) -> NDArray[np.int16]:
    image = Image.open(io.BytesIO(draw_page(data, number))).convert("RGB")
    return np.asarray(image).astype(np.int16)


def quoted(data: bytes, first: str, last: str, page: int = 1) -> Sheet:
    """Mark a PDF's text from the first words to the end of the last ones."""
    document = read(data)
    begin = document.text.index(first)
    end = document.text.index(last, begin) + len(last)
    start = document.pages[page - 1]
    quote = Quote(document.text[start:], begin - start, end - start)
    return mark_pages(data, {page: [quote]})[page]


def shares(data: bytes, sheet: Sheet) -> tuple[float, float]:
    """Return which share of the red, and of the black, is under the marks."""
    image = pixels(data)
    covered = np.zeros(image.shape[:2], bool)
    x, y = image.shape[1] / sheet.width, image.shape[0] / sheet.height
    for left, top, right, bottom in sheet.boxes:
        covered[
            int(top * y) : int(np.ceil(bottom * y)), int(left * x) : int(np.ceil(right * x))
        ] = True
    red = (image[:, :, 0] > 150) & (image[:, :, 1] < 120)
    black = image.max(axis=2) < 120
    assert red.any() and black.any()
    return float(covered[red].mean()), float(covered[black].mean())


def turned(degrees: int) -> Callable[[PdfWriter], Any]:
    return lambda writer: writer.pages[0].rotate(degrees)


def cropped(writer: PdfWriter) -> None:
    writer.pages[0].cropbox = RectangleObject((60, 60, 420, 140))


def shifted(writer: PdfWriter) -> None:
    """Move the origin of the page, as printers' PDFs do."""
    writer.pages[0].mediabox = RectangleObject((-40, -30, 520, 160))
    writer.pages[0].cropbox = RectangleObject((-20, 40, 480, 130))
    writer.pages[0].rotate(90)


def enlarged(writer: PdfWriter) -> None:
    writer.pages[0][NameObject("/UserUnit")] = FloatObject(2)


LINES: tuple[Cell, ...] = (
    (72, 100, "The lease begins in May. [The deposit is paid"),
    (72, 86, "[before the keys are handed over, and it is re-"),
    (72, 72, "[turned within a month.] Pets need a permit."),
)
COLUMNS: tuple[Cell, ...] = (
    (72, 100, "The committee reviewed the yearly"), (320, 100, "Staff may park in the [north yard"),
    (72, 86, "report of the harbour and found"), (320, 86, "[only with a permit that is valid"),
    (72, 72, "that its fund was short by far."), (320, 72, "[on the day.] Visitors ask the gate."),
)  # fmt: skip
TABLE: tuple[Cell, ...] = (
    (72, 100, "Article"), (200, 100, "Warehouse"), (330, 100, "Remark"),
    (72, 86, "Anchor bolts"), (200, 86, "Rotterdam"), (330, 86, "none"),
    (72, 72, "[Copper pipes]"), (200, 72, "[Antwerp harbour]"), (330, 72, "[sold by metre]"),
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [None, turned(90), turned(180), turned(270), cropped, shifted, enlarged],
    ids=["upright", "90", "180", "270", "cropped", "shifted", "enlarged"],
)
def test_a_quote_over_lines_is_marked_as_the_page_is_shown(
    change: Callable[[PdfWriter], Any] | None,
) -> None:
    """Its words and no others, on pages that are turned, cropped or have their origin elsewhere."""
    data = coloured(*LINES)
    data = changed(data, change) if change else data

    sheet = quoted(data, "The deposit", "within a month.")
    red, black = shares(data, sheet)

    assert len(sheet.boxes) == 3
    assert red > 0.99 and black < 0.03


@pytest.mark.parametrize(
    ("cells", "first", "last"),
    [
        (COLUMNS, "north yard", "on the day."),
        (TABLE, "Copper pipes", "by metre"),
        (((72, 100, "Is it safe? Yes. Is it [dry? Yes.] Is it warm? Yes."),), "dry", "Yes."),
        (((72, 100, "Total 5 and [Total 7] and Total 5"),), "Total 7", "7"),
        (((72, 100, "A rare [word"), (72, 86, "[and] another one")), "word", "and"),
        (
            ((72, 100, "Stra\u00dfe und [Gr\u00f6\u00dfe \u00fcber alles] gestern"),),
            "Gr\u00f6",
            "alles",
        ),
    ],
    ids=["columns", "table", "repeated", "number", "short", "umlauts"],
)
def test_quotes_are_found_where_the_text_is_in_another_order(
    cells: tuple[Cell, ...], first: str, last: str
) -> None:
    """Columns are read one after the other, rows get the names of their columns, words repeat."""
    data = coloured(*cells)

    red, black = shares(data, quoted(data, first, last))

    assert red > 0.99 and black < (0.2 if cells is TABLE else 0.03)


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_text_that_runs_up_or_down_is_marked(turn: float) -> None:
    data = coloured((-150, 0, "A margin note: [approved by the board] in May"), turn=turn)

    sheet = quoted(data, "approved", "board")
    red, black = shares(data, sheet)

    assert len(sheet.boxes) == 1 and red > 0.99 and black < 0.03


def test_words_that_are_not_drawn_are_not_marked() -> None:
    """Those of a form field are no part of the page's text; nothing else is marked in their place."""
    data = drawn(form)
    text = read(data).text
    quote = Quote(text, 0, len(text))

    whole = mark_pages(data, {1: [quote]})[1]
    none = mark_pages(data, {1: [Quote("Information formation", 12, 21)]})[1]

    assert whole.boxes and none.boxes == []


def test_a_page_is_an_image_of_bounded_size() -> None:
    """However large it is; grey where it has no colour."""
    grey = Image.open(io.BytesIO(draw_page(drawn(lambda page: page.drawString(72, 700, "x")), 1)))
    colour = Image.open(io.BytesIO(draw_page(coloured(*LINES), 1)))
    large = changed(
        coloured(*LINES),
        lambda writer: setattr(writer.pages[0], "mediabox", RectangleObject((0, 0, 9000, 14000))),
    )
    height, width, _ = pixels(large).shape

    assert grey.mode == "L" and colour.mode == "RGB"
    assert 0.9 * MAX_PIXELS < height * width < 1.01 * MAX_PIXELS


def test_annotations_and_form_fields_are_drawn() -> None:
    empty = drawn(lambda page: page.drawString(72, 700, "x"))

    assert (pixels(drawn(form)) < 250).sum() > 2 * (pixels(empty) < 250).sum()


def random_images() -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    for height, width in ((1, 1), (1, 300), (257, 3), (40, 64)):
        yield rng.integers(0, 256, (height, width, 3), np.uint8)
        yield np.repeat(rng.integers(0, 256, (height, width, 1), np.uint8), 3, axis=2)


def test_an_image_is_the_same_after_a_decoder() -> None:
    for image in random_images():
        decoded = Image.open(io.BytesIO(png(image))).convert("RGB")
        assert (np.asarray(decoded) == image).all()


def heavy(canvas: Canvas) -> None:
    for at in range(300):
        canvas.saveState()
        canvas.setFillAlpha(0.5)
        canvas.circle(300, 400, 200 + at % 50, fill=1, stroke=1)
        canvas.restoreState()


def test_a_page_that_takes_too_long_is_given_up() -> None:
    """Its text is there; PDFium is free again, and draws the next page."""
    data = drawn(heavy, lambda page: page.drawString(72, 700, "x"))

    with pytest.raises(StepError, match="too complex; read its text") as raised:
        draw_page(data, 1, seconds=0.0)

    assert raised.value.code == "not_found"
    assert draw_page(data, 2)


@pytest.mark.parametrize(
    ("data", "number", "text"),
    [
        (b"%PDF-1.4 nothing", 1, "damaged"),
        (drawn(lambda page: page.drawString(1, 1, "x")), 2, "the file has 1"),
        (drawn(lambda page: page.drawString(1, 1, "x")), 0, "the file has 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(data: bytes, number: int, text: str) -> None:
    with pytest.raises(StepError, match=text):
        draw_page(data, number)
    with pytest.raises(StepError, match=text):
        mark_pages(data, {number: []})


@pytest.mark.parametrize("words", ["aaac", "a", "z"])
@pytest.mark.parametrize("repeated", ["a", "aaab"])
def test_a_page_of_one_letter_is_searched_to_its_end(repeated: str, words: str) -> None:
    """It would take hours if every place were compared with every letter."""
    page, text = repeated * (20_000 // len(repeated)), words * (8_000 // len(words))

    pieces = find_quote(Quote(text, 0, len(text)), page)

    assert all(0 <= first <= last < len(page) for first, last in pieces)
    assert bool(pieces) == (repeated == words)  # a part of a word is no word
