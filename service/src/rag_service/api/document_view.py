"""A document to read in a browser, opened at a page or at the words a citation quotes.

Plain HTML without scripts: everything of the document is escaped, and the Content-Security-Policy
allows the style below alone. The focus is on the place that was asked for, so browsers scroll there.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Annotated
from urllib.parse import urlencode

import pydantic_core
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from rag_kit.errors import StepError
from rag_kit.reports import StoredDocument

from ..http.context import LINKED
from ..http.errors import JSON
from ..http.openapi import FAILURES
from ..http.requests import whole_number
from .dependencies import Caller, ReadableCollection
from .documents import LibraryDep, readable_document
from .page import HEADERS

router = APIRouter(tags=["documents"], responses=FAILURES)

WHOLE = 200_000  # characters of a document that is shown at once
BEFORE = 20_000  # characters before the place asked for, of a longer one
MAX_SPANS = 64
STYLE = """
:root { color-scheme: light dark; --soft: #575b5e; --line: #dcdcd7; --mark: #ffe28a; }
@media (prefers-color-scheme: dark) { :root { --soft: #a4abad; --line: #33383a; --mark: #f2c94c; } }
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
header p, h2, nav { color: var(--soft); font-size: 0.9rem; margin: 0.3rem 0 0; overflow-wrap: anywhere; }
h2 { border-top: 1px solid var(--line); font-weight: 600; margin: 2rem 0 0.5rem; padding-top: 0.5rem; }
pre { font: inherit; margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
mark { background: var(--mark); color: #241c00; padding: 0.1em 0; scroll-margin: 30vh; }
:focus { outline: none; } a:focus { outline: 2px solid; }
"""
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{DIGEST}'; img-src 'self'; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
Span = tuple[int, int]
Offset = Annotated[int, *whole_number(0, 2**31 - 1)]
Offsets = Annotated[tuple[Offset, ...], Field(max_length=MAX_SPANS)]


@router.get(
    "/v1/documents/{document_id:path}/view",
    summary="Read a document in a browser",
    operation_id="view_document",
    response_class=Response,  # not HTMLResponse: failures are JSON
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def view_document(
    library: LibraryDep,
    collection: ReadableCollection,
    caller: Caller,
    document_id: str,
    page: Annotated[Offset | None, Query(description="The page to open, from 1.")] = None,
    start: Annotated[
        Offsets, Query(description="Where the marked text starts, in characters; may be repeated.")
    ] = (),
    end: Annotated[
        Offsets, Query(description="Where it ends; as often as `start`, in the same order.")
    ] = (),
    expires: Annotated[str, Query(description="Of a signed link: when it ends.")] = "",
    signature: Annotated[str, Query(description="Of a signed link.")] = "",
) -> Response:
    """Show a document's text as a page, opened at a page of it or at marked text.

    A place that the document does not have, because it has changed since, is said on the page.
    """
    try:
        document = await readable_document(library, caller, collection, document_id)
    except StepError as error:
        if error.code != "document_not_found" or caller.principal.name == LINKED:
            raise
        with_suffix = f"{document_id}/view"  # such an id would be hidden by this route
        try:
            shown = await readable_document(library, caller, collection, with_suffix)
        except StepError:
            raise error from None
        return Response(pydantic_core.to_json(shown), media_type=JSON)
    ends = end[: len(start)]
    spans = [*zip(start, ends, strict=False), *((at, at) for at in start[len(ends) :])]
    signed = {"expires": expires, "signature": signature} if signature else {}
    return to_page(document, {"collection": collection, **signed}, page, spans)


def to_page(
    document: StoredDocument, query: Mapping[str, str], page: int | None, asked: Sequence[Span]
) -> HTMLResponse:
    """Return a document as a page.

    Args:
        document: With its text.
        query: What links to other parts of it need: its collection, and a signature.
        page: The page asked for, from 1.
        asked: Spans asked for; those that the text does not have are left out.
    """
    length = len(document.text)
    spans = sorted((start, end) for start, end in asked if start <= end <= length)
    known = page is None or 1 <= page <= len(document.pages)
    place = spans[0][0] if spans else 0
    if page is not None and known and not spans:
        place = document.pages[page - 1]
    first = max(0, place - BEFORE) if length > WHOLE else 0
    last = min(length, first + WHOLE)
    body = [
        *_head(document, lost=len(spans) < len(asked) or not (known or spans)),
        *_parts(query, length, first, last),
        *_pages(document, spans, (first, last), None if spans else page),
        *_parts(query, length, first, last),
    ]
    return HTMLResponse(
        _html(document.title or document.document_id, "".join(body)),
        headers={**HEADERS, "content-security-policy": POLICY},
    )


def _html(title: str, body: str) -> str:
    return (
        '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    )


def _head(document: StoredDocument, *, lost: bool) -> Iterator[str]:
    source = escape(document.source)
    if document.source.startswith(("http://", "https://")):
        source = f'<a href="{source}" rel="noreferrer noopener">{source}</a>'
    yield f"<header><h1>{escape(document.title or document.document_id)}</h1><p>{source}</p>"
    if lost:
        yield (
            f'<p role="status">This document has {len(document.text):,} characters and '
            f"{len(document.pages):,} pages, and not the place that was asked for: it may have "
            "changed since.</p>"
        )
    yield "</header>"


def _parts(query: Mapping[str, str], length: int, first: int, last: int) -> Iterator[str]:
    """Yield links to what stands before and after the part that is shown, where there is any."""
    if first == 0 and last == length:
        return

    def link(text: str, at: int) -> str:
        place = urlencode({**query, "start": at, "end": at})
        return f'<a href="view?{escape(place)}">{text}</a>'

    shown = f"Characters {first:,} to {last:,} of {length:,}"
    before = link("Before", max(0, first - WHOLE + BEFORE)) if first else ""
    after = link("After", min(length - 1, last + BEFORE)) if last < length else ""
    yield f"<nav>{' · '.join(filter(None, (shown, before, after)))}</nav>"


def _pages(
    document: StoredDocument, spans: Sequence[Span], part: Span, opened: int | None
) -> Iterator[str]:
    """Yield the text of a part, page by page, with the spans marked.

    Args:
        document: With its text.
        spans: What is marked, by their starts.
        part: What of the text is shown.
        opened: The page that has the focus; None: the first mark has it.
    """
    first, last = part
    focus = bool(spans)
    starts = document.pages or [0]
    at = max(0, bisect_right(starts, first) - 1)
    for number, begin in enumerate(starts[at:], at + 1):
        begin = max(first, begin if number > 1 else 0)
        end = min(last, starts[number] if number < len(starts) else last)
        if begin >= last:
            return
        if document.pages:
            here = ' tabindex="-1" autofocus' if number == opened else ""
            yield f'<h2 id="page-{number}"{here}>Page {number}</h2>'
        yield "<pre>"
        for text, marked in _marked(document.text, begin, end, spans):
            here = ' id="cited" tabindex="-1" autofocus' if marked and focus else ""
            focus = focus and not marked
            yield f"<mark{here}>{escape(text)}</mark>" if marked else escape(text)
        yield "</pre>"


def _marked(text: str, begin: int, end: int, spans: Sequence[Span]) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of text[begin:end], and whether each is in one of the spans."""
    at = begin
    for start, stop in spans:
        start, stop = max(start, at), min(stop, end)
        if start >= stop:
            continue
        if at < start:
            yield text[at:start], False
        yield text[start:stop], True
        at = stop
    if at < end:
        yield text[at:end], False
