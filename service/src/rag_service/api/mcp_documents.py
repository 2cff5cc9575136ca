"""Documents over the Model Context Protocol: what `search` gives ids of, `fetch` reads, resources list.

An id is `<collection>/<document id>`, with `#<start>-<end>` behind it for a passage. The address of a
resource is `rag://<collection>/<document id>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, Field, JsonValue
from starlette.requests import Request

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION, Result
from rag_kit.reports import DocumentInfo, StoredDocument

from ..access import may_read
from ..http.context import context_of
from ..service import Service
from .documents import in_time, library_of, readable_document

SCHEME = "rag://"
TEMPLATE = f"{SCHEME}{{collection}}/{{+document_id}}"
SPAN = re.compile(r"#(\d+)-(\d+)\Z")
FETCHED = 200_000  # characters of a document in one result
BEFORE = 20_000  # characters of them before a passage


class Found(Result):
    """A passage, with the id that `fetch` takes and the address that a browser opens."""

    id: str = Field(description="For `fetch`.")
    url: str = Field(description="Where a browser shows the passage.")


class Fetched(BaseModel):
    """A document as ChatGPT takes it."""

    id: str = Field(description="As asked.")
    title: str = Field(description="Title of the document.")
    text: str = Field(description="Its text; of a very long one the part around the passage.")
    url: str = Field(description="Where a browser shows it.")
    metadata: dict[str, JsonValue] | None = Field(description="Its metadata and where it is from.")


def found(result: Mapping[str, Any], collection: str, service: Service, http: Request) -> Found:
    """Return a passage with its id and address."""
    start, end = result["span"]
    document = f"{collection}/{result['document_id']}"
    url = service.links(http).found(result, collection) or uri_of(collection, result["document_id"])
    return Found.model_validate({**result, "id": f"{document}#{start}-{end}", "url": url})


async def fetch(service: Service, http: Request, document_id: str) -> Fetched:
    """Return the document that an id of `search` names, or an id in the service's own collection.

    Raises:
        StepError: `document_not_found`; `not_supported`, documents are kept elsewhere.
    """
    for collection, name, span in _readings(document_id, service.settings.collection):
        try:
            document = await _document(service, http, collection, name)
        except StepError as error:
            if error.code not in ("document_not_found", "collection_not_found"):
                raise
            continue
        return _fetched(document_id, document, collection, span, service, http)
    raise StepError(
        "document_not_found",
        f"id: there is no document {document_id[:200]!r}; `search` gives ids",
        param="id",
    )


def _readings(document_id: str, default: str) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """Yield what an id may mean: collection, document, span; the likeliest first."""
    span = SPAN.search(document_id)
    ends: list[tuple[str, tuple[int, int] | None]] = [(document_id, None)]
    if span is not None:
        ends.insert(0, (document_id[: span.start()], (int(span[1]), int(span[2]))))
    for text, place in ends:
        collection, slash, name = text.partition("/")
        if slash and name and re.fullmatch(COLLECTION, collection):
            yield collection, name, place
    for text, place in ends:
        yield default, text, place


async def _document(
    service: Service, http: Request, collection: str, document_id: str
) -> StoredDocument:
    context = context_of(http.scope)
    service.authorize(context, collection)
    library = await library_of(service)
    return await readable_document(library, context, collection, document_id)


def _fetched(
    document_id: str,
    document: StoredDocument,
    collection: str,
    span: tuple[int, int] | None,
    service: Service,
    http: Request,
) -> Fetched:
    length = len(document.text)
    start, end = span if span is not None and span[0] < span[1] <= length else (0, 0)
    first = max(0, start - BEFORE) if length > FETCHED else 0
    place = {"document_id": document.document_id, "source": document.source, "page": None}
    url = service.links(http).found({**place, "span": [start, end]}, collection)
    more: dict[str, JsonValue] = {"source": document.source, "content_type": document.content_type}
    if length > FETCHED:
        more |= {"characters": length, "from": first, "to": min(length, first + FETCHED)}
    return Fetched(
        id=document_id,
        title=document.title or document.document_id,
        text=document.text[first : first + FETCHED],
        url=url or uri_of(collection, document.document_id),
        metadata={**document.metadata, **more},
    )


# -- resources ------------------------------------------------------------------------------------


def uri_of(collection: str, document_id: str) -> str:
    """Return the address of a document as a resource."""
    return f"{SCHEME}{collection}/{quote(document_id, safe='/')}"


async def read_resource(service: Service, http: Request, uri: str) -> StoredDocument:
    """Return the document at the address of a resource.

    Raises:
        StepError: `document_not_found`, `not_supported`.
    """
    collection, _, document_id = uri.removeprefix(SCHEME).partition("/")
    if uri.startswith(SCHEME) and document_id and re.fullmatch(COLLECTION, collection):
        return await _document(service, http, collection, unquote(document_id))
    text = f"uri: {uri[:200]!r} is no resource here; they are like {TEMPLATE}"
    raise StepError("document_not_found", text, param="uri")


async def resources(service: Service, http: Request) -> list[tuple[str, DocumentInfo]]:
    """Return the documents that the caller may read with their addresses, ordered by these.

    There are none where documents are kept elsewhere.
    """
    if service.library is None:
        return []
    context = context_of(http.scope)
    listed = []
    for collection in await in_time(context, service.library.collections()):
        if collection.problem is None and context.principal.may_use(collection.name):
            infos = await in_time(context, service.library.documents(collection.name))
            listed += [
                (uri_of(collection.name, info.document_id), info)
                for info in infos
                if may_read(context.principal.groups, info.metadata)
            ]
    return sorted(listed, key=lambda one: one[0])
