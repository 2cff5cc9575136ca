"""PDF: the text layer, page by page, in reading order; scanned pages where their text is recognised."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pypdfium2  # type: ignore[import-untyped]

from rag_kit.text import join_hyphenated

from .. import ocr
from ..document import LoadedDocument, check_text, stem, tidy, unreadable
from ..ocr import ScannedLine
from .furniture import without_furniture
from .layout import Line, lines_of_page, texts_of
from .page import PDFIUM, PageText, read_page
from .scan import boxes_of, draw, pieces_of, recognise

PAGE_SEPARATOR = "\n\n"
MAX_PAGES = 20_000
MAX_CHARACTERS = 20_000_000  # in all pages; a page of prose has some thousands
GARBLED_SHARE = 0.3  # of a page's characters that its fonts do not map; above it the page is noise
MIN_LETTERS = 2  # on a page; one is what is left of a damaged one
BLANK = "no text on page(s) {}; scanned, or damaged?"
SCANNED = "the text of page(s) {} was recognised in an image; it may hold errors"
GARBLED = "page(s) {} have fonts that name no characters, their text is left out; scans?"
DAMAGED = "page(s) {} are damaged and left out"
COMPLEX = "page(s) {} hold far more than a page does and are left out; print them to a new PDF"
SHOWN_PAGES = 20  # in a warning
UNPRINTABLE = re.compile("[\ud800-\udfff\x00-\x08\x0e-\x1f]")
PDF_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")
OFFICE_TITLE = re.compile(r"^Microsoft \w+ - ")
ENDS = re.compile(r"[.!?:;\u3002\uff01\uff1f][\"')\]\u201d\u2019\u00bb]*$")
LOG = logging.getLogger(__name__)


class _Page(NamedTuple):
    lines: list[Line]
    notes: list[str]
    fault: str = ""
    scanned: list[ScannedLine] = []  # noqa: RUF012, never changed


def read_pdf(name: str, data: bytes) -> list[LoadedDocument]:
    """Read the text layer of a PDF; a file with an empty user password counts as open.

    Raises:
        StepError: `document_unreadable`: not a PDF, damaged, encrypted, too complex, or without
            any text (a scan).
    """
    if b"%PDF-" not in data[:1024]:
        unreadable(name, "it does not start as a PDF does (%PDF-); check the file or its extension")
    with PDFIUM:
        pdf = _open(name, data)
    try:
        pages = _pages(name, pdf)
        with PDFIUM:
            title, author, modified = (
                tidy(pdf.get_metadata_value(key)) for key in ("Title", "Author", "ModDate")
            )
    finally:
        with PDFIUM:
            pdf.close()
    if ocr.is_available():
        pages = _with_scans(data, pages)
    date = PDF_DATE.match(modified)
    metadata = {"author": author, "modified": "-".join(filter(None, date.groups())) if date else ""}
    document = _document(name, pages, OFFICE_TITLE.sub("", title), metadata)
    return [replace(document, file_digest=hashlib.sha256(data).hexdigest())]


def _open(name: str, data: bytes) -> Any:
    try:
        pdf = pypdfium2.PdfDocument(data)
        pdf.init_forms()
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            unreadable(name, "the PDF is encrypted; save a copy without a password")
        why = tidy(str(error)) or type(error).__name__
        unreadable(name, f"the PDF is damaged ({why}); repair it, or print it to a new PDF")
    if not len(pdf):
        pdf.close()
        unreadable(
            name, "the PDF is damaged (it has no pages); repair it, or print it to a new PDF"
        )
    return pdf


def _pages(name: str, pdf: Any) -> list[_Page]:
    with PDFIUM:
        count = len(pdf)
    if count > MAX_PAGES:
        unreadable(name, f"it has {count} pages; at most {MAX_PAGES} are accepted: split it")
    pages: list[_Page] = []
    characters = 0
    for number in range(count):
        with PDFIUM:  # a page at a time, so that others read and draw in between
            found = _read(pdf, number)
        if found is None:
            pages.append(_Page([], [], DAMAGED))
            continue
        characters += found.characters
        if characters > MAX_CHARACTERS:
            unreadable(name, f"it is too complex: more than {MAX_CHARACTERS} characters; split it")
        pages.append(_page(found))
    return pages


def _read(pdf: Any, number: int) -> PageText | None:
    """Return what stands on a page; None of a damaged one."""
    try:
        page = pdf[number]
    except pypdfium2.PdfiumError:
        return None
    try:
        return read_page(page, pdf.formenv and pdf.formenv.raw)
    finally:
        page.close()


def _with_scans(data: bytes, pages: list[_Page]) -> list[_Page]:
    """Return the pages with the text that is recognised on those without any."""
    blank = [at for at, page in enumerate(pages) if page.fault in (BLANK, GARBLED)]
    for at in blank[: ocr.MAX_PAGES]:
        with PDFIUM:  # not kept while a page is recognised, which takes seconds
            pdf = pypdfium2.PdfDocument(data)
            page = pdf[at]
            height = page.get_height()
            image, scale = draw(page)
            page.close()
            pdf.close()
        lines = recognise(image, scale)
        if sum(map(str.isalnum, "".join(line.text for line in lines))) >= MIN_LETTERS:
            found = lines_of_page(pieces_of(lines, height))
            pages[at] = _Page(found, pages[at].notes, SCANNED, lines)
    return pages


def _page(found: PageText) -> _Page:
    if found.too_complex:
        return _Page([], [], COMPLEX)
    if found.garbled > GARBLED_SHARE:
        return _Page([], found.notes, GARBLED)
    lines = lines_of_page(found.pieces)
    letters = sum(character.isalnum() for line in lines for character in line.text)
    return _Page(lines, found.notes) if letters >= MIN_LETTERS else _Page([], found.notes, BLANK)


def _document(
    name: str, pages: list[_Page], title: str, metadata: dict[str, str]
) -> LoadedDocument:
    warnings = tuple(_warnings(pages))
    kept = without_furniture([page.lines for page in pages])
    texts = [_page_text(lines, page.notes) for lines, page in zip(kept, pages, strict=True)]
    if not any(text.strip() for text in texts):
        garbled = any(page.fault == GARBLED for page in pages)
        why = "their fonts name no characters" if garbled else "they are probably scanned images"
        unreadable(
            name,
            f"none of its {len(texts)} pages has text, {why}; {_way_out()}",
        )
    for warning in warnings:
        LOG.warning("%s: %s", name, warning)
    text, starts = _joined(texts)
    boxes = [
        box
        for page, own, start in zip(pages, texts, starts, strict=True)
        for box in boxes_of(page.scanned, own, start)
    ]
    return LoadedDocument(
        name,
        title or stem(name),
        name,
        check_text(name, text),
        "application/pdf",
        pages=starts,
        metadata={key: value for key, value in metadata.items() if value},
        boxes=tuple(boxes),
        warnings=warnings,
    )


def _warnings(pages: list[_Page]) -> Iterator[str]:
    for fault in (BLANK, GARBLED, DAMAGED, COMPLEX, SCANNED):
        numbers = [str(number) for number, page in enumerate(pages, 1) if page.fault == fault]
        if numbers:
            more = " and more" if len(numbers) > SHOWN_PAGES else ""
            unread = fault in (BLANK, GARBLED) and not ocr.is_available()
            hint = f" {ocr.HINT}" if unread else ""
            yield fault.format(", ".join(numbers[:SHOWN_PAGES]) + more) + hint


def _way_out() -> str:
    """Return how scans are read."""
    if ocr.is_available():
        return "nothing was recognised on them"
    return f"{ocr.HINT}, or run OCR on it first (for example with ocrmypdf)"


def _page_text(lines: list[Line], notes: list[str]) -> str:
    text = join_hyphenated("".join(texts_of(lines)))
    parts = [text, *notes] if text else notes
    return UNPRINTABLE.sub("", PAGE_SEPARATOR.join(parts)).rstrip()


def _joined(texts: list[str]) -> tuple[str, tuple[int, ...]]:
    """Join pages by a blank line, by a line end within a sentence; return where each starts."""
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    for number, text in enumerate(texts):
        if number:
            before = texts[number - 1]
            goes_on = before and not ENDS.search(before[-8:]) and text[:1].islower()
            pieces.append("\n" if goes_on else PAGE_SEPARATOR)
            length += len(pieces[-1])
        starts.append(length)
        pieces.append(text)
        length += len(text)
    return "".join(pieces), tuple(starts)
