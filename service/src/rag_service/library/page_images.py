"""Pages of PDFs as images, from the file that was read, wherever it still is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rag_kit.reports import StoredDocument

from .files import Files
from .originals import Originals, read_same

if TYPE_CHECKING:
    from rag_retrieve.documents.pdf.drawn import Sheet as Sheet
    from rag_retrieve.retriever import Retriever

CACHED_BYTES = 32 * 2**20  # of images; a page of text has some 100 KiB
Span = tuple[int, int]


class PageImages:
    """Draws pages and finds quotes on them; for one thread, and it blocks.

    Args:
        originals: Files of uploads.
        files: Files of OpenAI clients.
    """

    def __init__(self, originals: Originals, files: Files) -> None:
        self._originals, self._files = originals, files
        self._drawn: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def sheets(
        self,
        retriever: Retriever,
        collection: str,
        document: StoredDocument,
        numbers: Iterable[int],
        spans: Sequence[Span],
    ) -> dict[int, Sheet] | None:
        """Return pages with the boxes of the spans on them; None where the file is not there any more.

        Args:
            retriever: Knows where the file was indexed.
            collection: Of the document.
            document: With its text.
            numbers: Of the pages, from 1.
            spans: What to mark, in characters of the text.
        """
        from rag_retrieve.documents.pdf.drawn import Box, mark_pages
        from rag_retrieve.documents.pdf.quotes import Quote

        content = self._content(retriever, collection, document)
        if content is None:
            return None
        quotes: dict[int, list[Quote]] = {}
        scanned: dict[int, list[Box]] = {}
        for number in numbers:
            begin, end = bounds(document, number)
            inside = [(max(begin, a), min(end, b)) for a, b in spans if a < end and b > begin]
            scanned[number] = [Box(*box) for box in _scanned(document, inside)]
            text = document.text[begin:end]
            quotes[number] = [
                Quote(text, a - begin, b - begin) for a, b in inside if not scanned[number]
            ]
        return {
            number: sheet._replace(boxes=sheet.boxes or scanned[number])
            for number, sheet in mark_pages(content, quotes).items()
        }

    def draw(
        self, retriever: Retriever, collection: str, document: StoredDocument, number: int
    ) -> bytes | None:
        """Return a page as PNG; None where the file is not there any more."""
        from rag_retrieve.documents.pdf.drawn import draw_page

        content = self._content(retriever, collection, document)
        if content is None:
            return None
        key = (document.file_digest, number)
        image = self._drawn.pop(key, None) or draw_page(content, number)
        self._drawn[key] = image
        while sum(map(len, self._drawn.values())) > CACHED_BYTES:
            self._drawn.popitem(last=False)
        return image

    def _content(
        self, retriever: Retriever, collection: str, document: StoredDocument
    ) -> bytes | None:
        """Return the bytes that the document was read from, by their digest."""
        document_id, digest = document.document_id, document.file_digest
        if not digest:
            return None
        if content := self._originals.read(collection, document_id, digest):
            return content
        paths = (self._files.path_of(document_id), retriever.path(collection, document_id))
        found = (read_same(path, digest) for path in paths if path is not None)
        return next(filter(None, found), None)


def bounds(document: StoredDocument, number: int) -> Span:
    """Return where the text of a page starts and ends."""
    ends = [*document.pages, len(document.text)]
    return ends[number - 1], ends[number]


def _scanned(
    document: StoredDocument, spans: Sequence[Span]
) -> Iterable[tuple[float, float, float, float]]:
    """Yield the boxes of the recognised lines that the spans touch."""
    for start, end, *box in document.boxes:
        if any(a < end and start < b for a, b in spans):
            yield tuple(box)  # type: ignore[misc]
