"""Documents and collections: list, show, add, delete; an ingest is a job that can be followed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from rag_kit.errors import CODES, StepError, envelope
from rag_kit.handler import Event
from rag_kit.passages import COLLECTION
from rag_kit.server import while_connected

from ..http import openapi as replies
from ..http.context import context_of
from ..http.errors import JSON
from ..http.requests import FAILURES, Name, flag, flag_query, in_query, takes
from ..http.sse import EVENTS, streamed
from ..library.library import Job, Library
from ..library.uploads import FORM, DocumentsRequest, Items, digest_of, form_schema, read_items
from .questions import service_of

router = APIRouter(tags=["documents"])
MAX_PAGE = 1000
HINT = (
    "documents of the runner {} come with its build (`dagger call rag ingest`, RAG_DOCS) or are "
    "kept by whoever runs it (`rag index`); set RAG_QDRANT_URL, as for the runner, to manage them "
    "here"
)
RESPONSES = {
    **FAILURES,
    **replies.failures(
        {
            409: "It is being done already, or the collection was built with other settings.",
            501: "This runner's documents are not managed here.",
            507: "The disk is full.",
        }
    ),
}
INGESTED: replies.Responses = {
    200: replies.answers(replies.IngestReport, "The report of the ingest.", streams=True),
    202: replies.answers(replies.Accepted, "It goes on; `events` tells when it ends."),
    **RESPONSES,
}
ADDED = {
    f"{what}_added": {
        "operationId": f"{what}_document",
        "parameters": {
            "document_id": "$response.body#/added/0",
            "collection": "$response.body#/collection",
        },
    }
    for what in ("show", "delete")
}
Result = TypeVar("Result")


COLLECTION_QUERY = in_query(
    "collection", "Where; default: RAG_COLLECTION.", type="string", pattern=COLLECTION
)
WAIT_QUERY = flag_query("wait", "false: answer 202 at once.", default=True)


# -- what every route asks ------------------------------------------------------------------


def _library(request: Request) -> Library:
    service = service_of(request)
    if service.library is None:
        raise StepError("not_supported", HINT.format(service.runner.name))
    return service.library


def _collection(request: Request, name: str | None = None, *, write: bool = False) -> str:
    """Return the collection that is meant, which the key may use."""
    service = service_of(request)
    if write and service.admission.draining:
        raise StepError("draining", "the service is shutting down; ask another one")
    if name is None:
        name = request.query_params.get("collection", service.settings.collection)
    if not re.fullmatch(COLLECTION, name):
        raise StepError(
            "invalid_request",
            f"collection: {name[:80]!r} is no name of a collection; it matches {COLLECTION}",
            param="collection",
        )
    service.authorize(context_of(request.scope), name, write=write)
    return name


def _limit(request: Request) -> int:
    value = request.query_params.get("limit", str(MAX_PAGE))
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= MAX_PAGE):
        text = f"limit: send a number from 1 to {MAX_PAGE}, but got {value[:40]!r}"
        raise StepError("invalid_request", text, param="limit")
    return int(value)


async def _in_time(request: Request, work: Awaitable[Result]) -> Result:
    context = context_of(request.scope)
    try:
        async with asyncio.timeout(context.remaining_s()):
            return await work
    except TimeoutError:
        raise StepError(
            "deadline_exceeded",
            "it did not come to its turn in time, because other changes are under way; try again",
        ) from None


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(pydantic_core.to_json(value), status, headers, media_type=JSON)


# -- collections ----------------------------------------------------------------------------


@router.get(
    "/v1/collections",
    summary="List the collections",
    responses={200: replies.answers(replies.Collections), **RESPONSES},
)
async def collections(request: Request) -> Response:
    """List the collections this key may use, with how many documents and passages they hold."""
    principal = context_of(request.scope).principal
    found = await _in_time(request, _library(request).collections())
    return _json({"collections": [one for one in found if principal.may_use(one.name)]})


@router.delete(
    "/v1/collections/{name}",
    summary="Delete a collection",
    responses={200: replies.answers(replies.DeletedCollection), **RESPONSES},
)
async def delete_collection(request: Request, name: Name) -> Response:
    """Delete a collection and all it holds."""
    library = _library(request)
    collection = _collection(request, name, write=True)
    await _in_time(request, library.delete_collection(collection))
    return _json({"collection": collection, "deleted": True})


@router.post(
    "/v1/collections/{name}/reindex",
    summary="Build a collection anew",
    responses=INGESTED,
    openapi_extra={"parameters": [WAIT_QUERY]},
)
async def reindex(request: Request, name: Name) -> Response:
    """Build a collection anew from its documents, with the settings of now; answers as an ingest.

    Questions are answered from the old one until the new one is whole.
    """
    library = _library(request)
    collection = _collection(request, name, write=True)
    await request.body()  # there is none, and what follows it is that the client went away
    return await _followed(request, library.reindex(collection))


# -- documents ------------------------------------------------------------------------------


@router.get(
    "/v1/documents",
    summary="List the documents of a collection",
    responses={200: replies.answers(replies.Documents), **RESPONSES},
    openapi_extra={
        "parameters": [
            COLLECTION_QUERY,
            in_query("limit", "How many.", type="integer", minimum=1, maximum=MAX_PAGE),
            in_query("after", "The `next` of the page before.", type="string"),
        ]
    },
)
async def documents(request: Request) -> Response:
    """List documents by id, a page at a time; `next` is null on the last page."""
    library, collection, limit = _library(request), _collection(request), _limit(request)
    after = request.query_params.get("after") or ""
    found = await _in_time(request, library.documents(collection))
    page = [info for info in found if info.document_id > after][: limit + 1]
    more = page[limit - 1].document_id if len(page) > limit else None
    return _json({"documents": page[:limit], "next": more})


@router.get(
    "/v1/documents/{document_id:path}",
    summary="Show a document",
    operation_id="show_document",
    responses={200: replies.answers(replies.StoredDocument), **RESPONSES},
    openapi_extra={"parameters": [COLLECTION_QUERY]},
)
async def document(request: Request, document_id: str) -> Response:
    """Show a document with its text; its id may hold slashes, as a path does."""
    library, collection = _library(request), _collection(request)
    return _json(await _in_time(request, library.document(collection, document_id)))


@router.delete(
    "/v1/documents/{document_id:path}",
    summary="Delete a document",
    operation_id="delete_document",
    responses={200: replies.answers(replies.Report), **RESPONSES},
    openapi_extra={"parameters": [COLLECTION_QUERY]},
)
async def delete_document(request: Request, document_id: str) -> Response:
    """Delete a document; no answer finds it from then on."""
    library, collection = _library(request), _collection(request, write=True)
    report = await _in_time(request, library.delete_documents(collection, [document_id]))
    if report.missing:
        raise StepError(
            "document_not_found",
            f"collection '{collection}' has no document '{document_id[:200]}'",
            param="document_id",
            step="retrieve",
        )
    return _json(report)


@router.post(
    "/v1/documents",
    summary="Add documents to a collection",
    responses={**INGESTED, 200: {**INGESTED[200], "links": ADDED}},
    openapi_extra={
        "parameters": [
            COLLECTION_QUERY,
            WAIT_QUERY,
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Within a day, a second request with this key gets the first one's "
                "report.",
                "schema": {"type": "string", "maxLength": 255},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                FORM: form_schema(),
                **takes(DocumentsRequest)["requestBody"]["content"],
            },
        },
    },
)
async def add_documents(request: Request) -> Response:
    """Add files or texts; a document whose content did not change costs nothing.

    Answers with the report once it is done, with 202 when that takes longer than a request may,
    with progress as server-sent events when they are accepted. What cannot be read is in the
    report's `failed`; when nothing can be read, the status is that of the first failure. The
    ingest goes on when the client goes away; `DELETE /v1/ingests/{id}` stops it.
    """
    library, collection = _library(request), _collection(request, write=True)
    flag(request, "wait", default=True)
    items = await read_items(request)
    job, replayed = await _begin(request, library, collection, items)
    response = await _followed(request, job)
    if replayed:
        response.headers["idempotency-replayed"] = "true"
    return response


async def _begin(
    request: Request, library: Library, collection: str, items: Items
) -> tuple[Job, bool]:
    """Start the ingest, or return that of an equal request before."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return library.ingest(collection, items), False
    who = context_of(request.scope).principal.name
    try:
        digest = await asyncio.to_thread(digest_of, collection, items)
        job = library.replays.find(who, key, digest)
    except BaseException:
        _close(items)
        raise
    if job is not None:
        _close(items)
        return job, True
    job = library.ingest(collection, items)
    library.replays.keep(who, key, digest, job)
    return job, False


def _close(items: Items) -> None:
    for item in items:
        item.close()


# -- ingests --------------------------------------------------------------------------------


@router.get(
    "/v1/ingests/{ingest_id}",
    summary="Show an ingest",
    responses={200: replies.answers(replies.Ingest), **RESPONSES},
)
async def ingest(request: Request, ingest_id: str) -> Response:
    """Show how far an ingest is, or how it ended."""
    return _json(_state(_job(request, ingest_id)))


@router.delete(
    "/v1/ingests/{ingest_id}",
    summary="Stop an ingest",
    status_code=202,
    responses={202: replies.answers(replies.Ingest), **RESPONSES},
)
async def stop_ingest(request: Request, ingest_id: str) -> Response:
    """Stop an ingest after its current commit; what was committed until then stays."""
    job = _job(request, ingest_id, write=True)
    job.stopped.set()
    return _json(_state(job), 202)


@router.get(
    "/v1/ingests/{ingest_id}/events",
    summary="Follow an ingest",
    response_class=StreamingResponse,
    responses={200: {**replies.STREAM, "description": "Its events."}, **RESPONSES},
)
async def ingest_events(request: Request, ingest_id: str) -> Response:
    """Follow an ingest from where it is: `progress`…, then `report` or `error`."""
    job = _job(request, ingest_id)
    await request.body()
    events = _events(request, job, len(job.progress) - 1)
    return await streamed(service_of(request), request, events)


def _job(request: Request, ingest_id: str, *, write: bool = False) -> Job:
    """Return a job whose collection the key may use; another's looks as if it did not exist."""
    library = _library(request)
    job = library.job(ingest_id)
    if not context_of(request.scope).principal.may_use(job.collection):
        job = library.job("")
    _collection(request, job.collection, write=write)
    return job


def _state(job: Job) -> dict[str, Any]:
    error = envelope(job.error, step="retrieve")["error"] if job.error else None
    return {
        "id": job.id,
        "collection": job.collection,
        "status": job.status,
        "progress": job.progress[-1],
        "report": job.report,
        "error": error,
        "events": f"/v1/ingests/{job.id}/events",
    }


def _report(job: Job) -> dict[str, Any]:
    assert job.report is not None
    return {"id": job.id, **job.report.model_dump()}


async def _events(request: Request, job: Job, seen: int) -> AsyncGenerator[Event, None]:
    async for progress in job.follow(seen):
        yield Event("progress", pydantic_core.to_json({"id": job.id, **progress}).decode())
    await job.wait()  # raises what made it fail
    yield Event("report", pydantic_core.to_json(_report(job)).decode())


async def _followed(request: Request, job: Job) -> Response:
    """Return a job's end, its events, or where to find it, as the client asked."""
    service, headers = service_of(request), {"location": f"/v1/ingests/{job.id}"}
    if not flag(request, "wait", default=True):
        return _json(_accepted(job), 202, headers)
    if EVENTS in request.headers.get("accept", ""):
        response = await streamed(service, request, _events(request, job, 0))
        response.headers.update(headers)
        return response
    left = max(0.0, context_of(request.scope).deadline - time.monotonic())
    try:
        async with asyncio.timeout(left):
            await while_connected(request, _ended(job))
    except TimeoutError:
        return _json(_accepted(job), 202, headers)
    _refuse_nothing_read(job)
    return _json(_report(job), 200, headers)


async def _ended(job: Job) -> str:
    await job.wait()
    return job.id


def _accepted(job: Job) -> dict[str, str]:
    return {"id": job.id, "status": job.status, "events": f"/v1/ingests/{job.id}/events"}


def _refuse_nothing_read(job: Job) -> None:
    """Fail a request of which not one document could be read.

    Raises:
        StepError: The first failure.
    """
    report = job.report
    assert report is not None
    if not report.failed or report.added or report.updated or report.unchanged:
        return
    first, others = report.failed[0], len(report.failed) - 1
    text = (
        f"{first.message}; and {others} more, see /v1/ingests/{job.id}"
        if others
        else (first.message)
    )
    code = first.code if first.code in CODES else "document_unreadable"
    raise StepError(code, text, step="retrieve")
