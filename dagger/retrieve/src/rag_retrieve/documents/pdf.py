"""PDF: the text layer, page by page. Does no character recognition."""

from __future__ import annotations

import io
import logging
import re
from typing import Any, NoReturn

from pypdf import PageObject, PdfReader
from pypdf.errors import DependencyError

from rag_kit.errors import StepError

from .document import LoadedDocument, check_text, stem, tidy, unreadable

PAGE_SEPARATOR = "\n\n"
MAX_PAGES = 20_000
MAX_OPERATORS = 20_000_000  # drawing operators in all pages; a page of prose has some thousands
UNPRINTABLE = re.compile("[\ud800-\udfff\x00-\x08\x0e-\x1f]")
OFFICE_TITLE = re.compile(r"^Microsoft \w+ - ")
LOG = logging.getLogger(__name__)
# pypdf warns about each oddity it repairs, and raises for those it cannot
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


class _TooMuchError(Exception):
    """The file draws more than any document does."""


def read_pdf(name: str, data: bytes) -> list[LoadedDocument]:
    """Read the text layer of a PDF; a file with an empty user password counts as open.

    Raises:
        StepError: `document_unreadable`: not a PDF, damaged, encrypted, too complex, or without
            any text (a scan).
    """
    if b"%PDF-" not in data[:1024]:
        unreadable(name, "it does not start as a PDF does (%PDF-); check the file or its extension")
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            _refuse_encrypted(name)
        texts = _texts(reader)
        info = reader.metadata
        title, author = (tidy(info.get(key)) if info else "" for key in ("/Title", "/Author"))
    except StepError:
        raise
    except DependencyError:  # AES needs a package we do not ship
        _refuse_encrypted(name)
    except _TooMuchError as error:
        unreadable(name, f"it is too complex: {error}; split it, or print it to a new PDF")
    except Exception as error:  # pypdf raises whatever a damaged file leads it to
        why = tidy(str(error)) or type(error).__name__
        unreadable(name, f"the PDF is damaged ({why}); repair it, or print it to a new PDF")
    return [_document(name, texts, OFFICE_TITLE.sub("", title), author)]


def _refuse_encrypted(name: str) -> NoReturn:
    unreadable(name, "the PDF is encrypted; save a copy without a password")


def _texts(reader: PdfReader) -> list[str]:
    """Extract each page, counting drawing operators so that a hostile file ends."""
    if len(reader.pages) > MAX_PAGES:
        raise _TooMuchError(f"{len(reader.pages)} pages, at most {MAX_PAGES}")
    drawn = 0

    def count(*_: Any) -> None:
        nonlocal drawn
        drawn += 1
        if drawn > MAX_OPERATORS:
            raise _TooMuchError(f"more than {MAX_OPERATORS} drawing operators")

    def text_of(page: PageObject) -> str:
        text = page.extract_text(visitor_operand_before=count)
        return UNPRINTABLE.sub("", text).rstrip()

    return [text_of(page) for page in reader.pages]


def _document(name: str, texts: list[str], title: str, author: str) -> LoadedDocument:
    blank = [str(number) for number, text in enumerate(texts, 1) if not text.strip()]
    if len(blank) == len(texts):
        unreadable(
            name,
            f"none of its {len(texts)} pages has text, they are probably scanned images; "
            "run OCR on it first (for example with ocrmypdf)",
        )
    if blank:
        LOG.warning("%s: no text on page(s) %s; scanned?", name, ", ".join(blank[:20]))
    pages, offset = [], 0
    for text in texts:
        pages.append(offset)
        offset += len(text) + len(PAGE_SEPARATOR)
    return LoadedDocument(
        name,
        title or stem(name),
        name,
        check_text(name, PAGE_SEPARATOR.join(texts)),
        "application/pdf",
        pages=tuple(pages),
        metadata={"author": author} if author else {},
    )
