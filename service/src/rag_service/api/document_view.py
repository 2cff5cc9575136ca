"""A document to read in a browser, opened at a page or at the words a citation quotes.

Of a PDF whose file is still there, pages are images with marks on them, and the text is one link away. Plain
HTML without scripts: everything of the document is escaped, and the Content-Security-Policy allows the style
below alone. The focus is on the place that was asked for, so browsers scroll there.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias
from urllib.parse import urlencode

import pydantic_core
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from rag_kit.errors import StepError
from rag_kit.reports import StoredDocument

from ..http.context import LINKED, Context
from ..http.errors import JSON
from ..http.openapi import FAILURES
from ..http.requests import whole_number
from ..library.library import Library
from ..library.page_images import bounds
from .dependencies import Caller, ReadableCollection
from .documents import LibraryDep, in_time, readable_document
from .page import HEADERS

if TYPE_CHECKING:
    from ..library.page_images import Sheet

View: TypeAlias = Literal["pages", "text", "image"]  # how a document is shown

router = APIRouter(tags=["documents"], responses=FAILURES)

WHOLE = 200_000  # characters of a document that is shown at once
BEFORE = 20_000  # characters before the place asked for, of a longer one
MAX_SPANS = 64
SHOWN_PAGES = 4  # as images, of quotes that are on many
ALT_CHARACTERS = 500  # of the words that the description of an image quotes
STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --text: #1d1f20; --link: #0b6657; --soft: #575b5e; --line: #dcdcd7; --mark: #ffe28a;
}
@media (prefers-color-scheme: dark) { :root {
  --ground: #15181a; --text: #e6e8e8; --link: #6fd0bb; --soft: #a4abad; --line: #33383a; --mark: #f2c94c;
} }
html { background: var(--ground); color: var(--text); } a { color: var(--link); }
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
header p, h2, nav { color: var(--soft); font-size: 0.9rem; margin: 0.3rem 0 0; overflow-wrap: anywhere; }
h2 { border-top: 1px solid var(--line); font-weight: 600; margin: 2rem 0 0.5rem; padding-top: 0.5rem; }
pre { font: inherit; margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
mark { background: var(--mark); color: #241c00; padding: 0.1em 0; scroll-margin: 30vh; }
:focus { outline: none; } a:focus, summary:focus { outline: 2px solid; }
nav a { display: inline-block; min-height: 24px; min-width: 24px; } summary { padding: 0.3rem 0; }
.page { background: #fff; border: 1px solid var(--line); isolation: isolate; position: relative; }
.page img { display: block; height: auto; width: 100%; }
.page svg { height: 100%; left: 0; mix-blend-mode: multiply; position: absolute; top: 0; width: 100%; }
rect { fill: #ffe28a; stroke: #c79a00; stroke-width: 0.6; }
details { margin-top: 0.5rem; } summary { color: var(--soft); font-size: 0.9rem; }
@media (forced-colors: active) { rect { fill: none; stroke: Highlight; stroke-width: 2; } }
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
    responses={
        200: {
            "content": {
                "text/html": {"schema": {"type": "string"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    },
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
    view: Annotated[
        View,
        Query(
            alias="as",
            description="`pages`: of a PDF whose file is there, its pages as images with the marks; else "
            "as `text`. `image`: one page as PNG, without marks.",
        ),
    ] = "pages",
    expires: Annotated[str, Query(description="Of a signed link: when it ends.")] = "",
    signature: Annotated[str, Query(description="Of a signed link.")] = "",
) -> Response:
    """Show a document as a page, opened at a page of it or at marked text.

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
    if view == "image":
        return await _image(library, caller, collection, document, 1 if page is None else page)
    ends = end[: len(start)]
    spans = [*zip(start, ends, strict=False), *((at, at) for at in start[len(ends) :])]
    signed = {"expires": expires, "signature": signature} if signature else {}
    query = {"collection": collection, **signed}
    if view == "pages":
        sheets = await _sheets(library, caller, collection, document, page, spans)
        if sheets:
            return to_images(document, query, page, spans, sheets)
    return to_page(document, query, page, spans)


async def _image(
    library: Library, caller: Context, collection: str, document: StoredDocument, page: int
) -> Response:
    """Return a page as PNG.

    Raises:
        StepError: `not_found`: there is no such page, no file, or it cannot be drawn.
    """
    if not 1 <= page <= len(document.pages):
        text = f"page {page}: this document has {len(document.pages)} pages"
        raise StepError("not_found", text, param="page")
    image = await in_time(caller, library.page_image(collection, document, page))
    if image is None:
        raise StepError(
            "not_found",
            "the file of this document is not kept here, so its pages are not drawn; its text is at "
            "the same address with as=text",
            param="as",
        )
    return Response(
        image, media_type="image/png", headers={**HEADERS, "content-security-policy": POLICY}
    )


async def _sheets(
    library: Library,
    caller: Context,
    collection: str,
    document: StoredDocument,
    page: int | None,
    asked: Sequence[Span],
) -> dict[int, Sheet] | None:
    """Return the pages to show as images; None where the document is shown as text."""
    spans = [(start, end) for start, end in asked if start <= end <= len(document.text)]
    cited = {number for start, end in spans for number in _numbers(document, start, end)}
    known = page if page is not None and 1 <= page <= len(document.pages) else 1
    numbers = sorted(cited)[:SHOWN_PAGES] or [known]
    try:
        return await in_time(caller, library.sheets(collection, document, numbers, spans))
    except StepError as error:
        if error.code != "not_found":
            raise
        return None  # a page that cannot be drawn has a text all the same


def _numbers(document: StoredDocument, start: int, end: int) -> range:
    """Return the pages that a span is on."""
    first = max(1, bisect_right(document.pages, start))
    return range(first, max(first, bisect_right(document.pages, max(start, end - 1))) + 1)


def to_images(
    document: StoredDocument,
    query: Mapping[str, str],
    page: int | None,
    asked: Sequence[Span],
    sheets: Mapping[int, Sheet],
) -> HTMLResponse:
    """Return pages of a document as images with marks, each with its text.

    Args:
        document: With its text.
        query: As for `to_page`.
        page: The page asked for, from 1.
        asked: Spans asked for.
        sheets: The pages to show, with what is marked on them.
    """
    spans = sorted((start, end) for start, end in asked if start <= end <= len(document.text))
    known = page is None or 1 <= page <= len(document.pages)
    marked = any(sheet.boxes for sheet in sheets.values())
    links = list(_turns(document, query, min(sheets), max(sheets), spans))
    body = [
        *_head(document, lost=len(spans) < len(asked) or not (known or spans)),
        _nav("Pages", links),
    ]
    focus = marked
    for number, sheet in sheets.items():
        body += _figure(document, query, number, sheet, spans, focus=focus)
        focus = focus and not sheet.boxes
        begin, end = bounds(document, number)
        text = "".join(_text(document, begin, end, spans, focus=bool(spans) and not marked))
        closed = sheet.boxes or not any(a < end and begin < b for a, b in spans)
        body.append(
            f"<details{'' if closed else ' open'}><summary>Text of page {number}</summary>{text}</details>"
        )
    body.append(_nav("Pages, again", links))
    return _response(document, "".join(body))


def _figure(
    document: StoredDocument,
    query: Mapping[str, str],
    number: int,
    sheet: Sheet,
    spans: Sequence[Span],
    *,
    focus: bool,
) -> Iterator[str]:
    """Yield a page as an image with marks; with `focus` the first mark has it."""
    begin, end = bounds(document, number)
    quoted = " … ".join(
        document.text[max(begin, a) : min(end, b)] for a, b in spans if a < end and begin < b
    )
    alt = f"Page {number}" + (f", with these words: {_shortened(quoted)}" if quoted.strip() else "")
    source = escape(_link(query, "image", number))
    width, height = round(sheet.width), round(sheet.height)
    yield f'<h2 id="page-{number}">Page {number}</h2><div class="page">'
    yield f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">'
    if sheet.boxes:
        yield f'<svg viewBox="0 0 {sheet.width:.1f} {sheet.height:.1f}" aria-hidden="true">'
        for box in sheet.boxes:
            here = ' id="cited"' if focus else ""
            focus = False
            yield (
                f'<rect{here} x="{box.left:.1f}" y="{box.top:.1f}" width="{box.right - box.left:.1f}" '
                f'height="{box.bottom - box.top:.1f}"/>'
            )
        yield "</svg>"
    yield "</div>"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= ALT_CHARACTERS else f"{text[:ALT_CHARACTERS]} …"


def _turns(
    document: StoredDocument, query: Mapping[str, str], first: int, last: int, spans: Sequence[Span]
) -> Iterator[str]:
    """Yield which pages are shown, and links to those before and after, and to the text."""
    pages = len(document.pages)
    shown = f"Page {first}" if first == last else f"Pages {first} to {last}"
    text = _link(query, "text", first, spans)
    yield f"{shown} of {pages:,}"
    if first > 1:
        yield _anchor("Page before", _link(query, "pages", first - 1))
    if last < pages:
        yield _anchor("Page after", _link(query, "pages", last + 1))
    yield _anchor("As text", text)


def _nav(label: str, links: Sequence[str]) -> str:
    return f'<nav aria-label="{label}">{" · ".join(links)}</nav>' if links else ""


def _link(
    query: Mapping[str, str], view: View, page: int | None = None, spans: Sequence[Span] = ()
) -> str:
    """Return the address of another view of the same document."""
    place = [] if page is None else [("page", page)]
    marks = [pair for start, end in spans for pair in (("start", start), ("end", end))]
    return f"view?{urlencode([*query.items(), ('as', view), *place, *marks])}"


def _anchor(text: str, address: str) -> str:
    return f'<a href="{escape(address)}">{text}</a>'


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
    links = list(_parts(query, length, first, last))
    body = [
        *_head(document, lost=len(spans) < len(asked) or not (known or spans)),
        _nav("Parts", links),
        *_pages(document, spans, (first, last), None if spans else page),
        _nav("Parts, again", links),
    ]
    return _response(document, "".join(body))


def _response(document: StoredDocument, body: str) -> HTMLResponse:
    return HTMLResponse(
        _html(document.title or document.document_id, body),
        headers={**HEADERS, "content-security-policy": POLICY},
    )


def _html(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
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
    """Yield which part is shown, and links to those before and after; nothing of a whole text."""
    if first == 0 and last == length:
        return

    def link(text: str, at: int) -> str:
        return _anchor(text, _link(query, "text", spans=[(at, at)]))

    yield f"Characters {first:,} to {last:,} of {length:,}"
    if first:
        yield link("Before", max(0, first - WHOLE + BEFORE))
    if last < length:
        yield link("After", min(length - 1, last + BEFORE))


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
        yield from _text(document, begin, end, spans, focus=focus)
        focus = focus and not any(max(a, begin) < min(b, end) for a, b in spans)


def _text(
    document: StoredDocument, begin: int, end: int, spans: Sequence[Span], *, focus: bool
) -> Iterator[str]:
    """Yield the text from `begin` to `end` with the spans marked; with `focus` the first mark has it."""
    yield '<pre lang="">'  # in whatever language the document is
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
