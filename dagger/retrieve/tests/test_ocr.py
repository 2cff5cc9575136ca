"""Scans and images: their text with the box of each line, and a hint where they cannot be read."""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from test_office_formats import one, refusal

from rag_retrieve.documents.ocr import ScannedLine, _in_order
from rag_retrieve.documents.pdf.scan import boxes_of, pieces_of
from rag_retrieve.index.points import Version, content_hash, document_point, loaded_document

WORDS = ("Service the pump every 250 hours.", "Invoice number KX559", "Total 1,250.40")
real = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs the extra ocr (rapidocr)")


def picture(*lines: str) -> Image.Image:
    """Draw lines of text 40 pixels high, 100 pixels apart."""
    image = Image.new("RGB", (1000, 100 * len(lines) + 100), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((80, 100 * number + 60), line, fill="black", font=ImageFont.load_default(40))
    return image


def scan(image: Image.Image, text: str = "") -> bytes:
    """Return a PDF whose first page is an image, 500 points wide; with a second one of text."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(500, image.height / 2))
    canvas.drawImage(ImageReader(image), 0, 0, 500, image.height / 2)
    canvas.showPage()
    if text:
        canvas.drawString(72, 100, text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


@pytest.mark.skipif(find_spec("rapidocr") is not None, reason="the extra ocr is installed")
def test_without_the_extra_a_scan_says_how_it_is_read() -> None:
    """A whole file, one page of several, and an image."""
    hint = "pip install 'rag-retrieve[ocr]'"

    assert hint in refusal("a.pdf", scan(picture("x")))
    assert hint in " ".join(one("a.pdf", scan(picture("x"), "Some text.")).warnings)
    assert hint in refusal("a.png", b"\x89PNG")


def test_lines_of_a_page_come_from_the_top_and_those_beside_each_other_from_the_left() -> None:
    """Lines of a scan are never quite level."""
    lines = [
        ScannedLine(*one)
        for one in (("c", 10, 60, 50, 80), ("b", 90, 8, 150, 28), ("a", 10, 12, 50, 32))
    ]

    assert [line.text for line in _in_order(lines)] == ["a", "b", "c"]


def test_boxes_are_those_of_the_lines_that_stand_in_the_text() -> None:
    """Two equal lines have each their own; a line that was changed has none."""
    lines = [
        ScannedLine(text, 10, top, 90, top + 12)
        for text, top in (("Tea", 0), ("hyphen-", 20), ("Tea", 40))
    ]
    text = "Tea\nhyphenated\nTea"

    assert [(box.start, box.end, box.top) for box in boxes_of(lines, text, 100)] == [
        (100, 103, 0),
        (115, 118, 40),
    ]
    assert [round(piece.baseline, 1) for piece in pieces_of(lines, 100)] == [90.4, 70.4, 50.4]


@real
def test_a_scanned_page_is_read_with_the_box_of_each_line() -> None:
    """Beside a page of text; the boxes are kept with the document."""
    document = one("a.pdf", scan(picture(*WORDS), "The last page."))
    point = document_point(document, Version("a.pdf", content_hash(document), 1))

    assert all(word in document.text for word in WORDS)
    assert len(document.pages) == 2
    assert "page(s) 1 was recognised" in document.warnings[0]
    assert [document.text[box.start : box.end] for box in document.boxes] == list(WORDS)
    assert [box.top for box in document.boxes] == pytest.approx([30, 80, 130], abs=8)
    assert loaded_document(point.payload).boxes == document.boxes


@real
def test_an_image_is_read_and_an_empty_one_refused() -> None:
    """Boxes are in its pixels."""
    buffer = io.BytesIO()
    picture(*WORDS).save(buffer, "PNG")
    document = one("a.png", buffer.getvalue())
    blank = io.BytesIO()
    Image.fromarray(np.full((200, 200, 3), 255, np.uint8)).save(blank, "PNG")

    assert document.text == "\n".join(WORDS)
    assert document.boxes[1].left == pytest.approx(80, abs=12)
    assert "no text" in refusal("b.png", blank.getvalue())
    assert "damaged" in refusal("c.png", b"\x89PNG no image")
