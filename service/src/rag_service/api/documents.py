"""Documents and collections: list, show, add, delete; an ingest is a job that can be followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Annotated, Any, Literal, TypeVar

import pydantic_core
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from rag_kit import reports
from rag_kit.errors import CODES, ErrorBody, StepError, envelope
from rag_kit.handler import EVENTS, Event
from rag_kit.reports import CollectionInfo, DocumentInfo, StoredDocument
from rag_kit.server import while_connected

from ..access import MAX_GROUPS, may_read
from ..http.context import Context, context_of
from ..http.errors import JSON, for_callers
from ..http.openapi import EVENT_STREAM, FAILURES, Responses, failures
from ..http.requests import takes, whole_number
from ..library.files import Files
from ..library.jobs import Job
from ..library.library import Library
from ..library.uploads import (
    FORM,
    DocumentsRequest,
    Items,
    digest_of,
    for_groups,
    form_schema,
    read_items,
)
from ..service import Service
from .dependencies import (
    Caller,
    Flag,
    ReadableCollection,
    ServiceDep,
    WritableCollection,
    WritableCollectionInPath,
    authorized,
    sees_all,
)
from .sse import streamed

MAX_PAGE = 1000
HINT = (
    "the documents of the runner {} come with its build or are kept by whoever runs it, and cannot be "
    "managed here; whoever runs the service can change that with RAG_QDRANT_URL"
)
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
"""Links from an ingest's report to a document it added."""
Result = TypeVar("Result")

router = APIRouter(
    tags=["documents"],
    responses={
        **FAILURES,
        **failures(
            {
                409: "It is being done already, or the collection was built with other settings.",
                501: "This runner's documents are not managed here.",
                507: "The disk is full.",
            }
        ),
    },
)


# -- responses ------------------------------------------------------------------------------


class Report(reports.IngestReport):
    """What a change did, by document id."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class IngestReport(Report):
    """How an ingest ended."""

    id: str = Field(description="As in `/v1/ingests/{id}`.")


class Accepted(BaseModel):
    """An ingest that goes on."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    ahead: int = Field(description="Uploads that are done before it begins.")
    events: str = Field(description="Path of its events.")


class Ingest(Accepted):
    """An ingest, under way or ended."""

    collection: str
    progress: reports.Progress
    report: Report | None
    error: ErrorBody | None


class Documents(BaseModel):
    """A page of documents."""

    documents: list[DocumentInfo]
    next: str | None = Field(description="For `after`; null on the last page.")


class Collections(BaseModel):
    """The collections a key may use."""

    collections: list[CollectionInfo]


class DeletedCollection(BaseModel):
    """What was deleted."""

    collection: str
    deleted: Literal[True]


INGESTED: Responses = {
    200: {"description": "The report of the ingest.", **EVENT_STREAM},
    202: {"model": Accepted, "description": "It goes on; `events` tells when it ends."},
}


# -- parameters -----------------------------------------------------------------------------


async def library_of(service: ServiceDep) -> Library:
    """Return who keeps the documents; raises `not_supported` where they are kept elsewhere."""
    if service.library is None:
        raise StepError("not_supported", HINT.format(service.runner.name))
    return service.library


LibraryDep = Annotated[Library, Depends(library_of)]


async def files_of(service: ServiceDep, library: LibraryDep) -> Files:
    """Return who keeps files; raises `not_supported` where documents are kept elsewhere."""
    assert service.files is not None, "opened with the library"
    return service.files


FilesDep = Annotated[Files, Depends(files_of)]


Limit = Annotated[int, Query(description="How many."), *whole_number(1, MAX_PAGE)]
Wait = Annotated[Flag, Query(description="false: answer 202 at once.")]
AllowedGroups = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Query(
        max_length=MAX_GROUPS,
        description="Groups that may read these documents; none: as their metadata say, or everybody.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Within a day, a second request with this key gets the first one's report.",
    ),
    WithJsonSchema({"type": "string", "maxLength": 255}),
]


async def _job(
    service: Service, library: Library, caller: Context, ingest_id: str, *, write: bool
) -> Job:
    """Return a job whose collection the key may use.

    Raises:
        StepError: `not_found`: there is none, or it is about another collection.
    """
    job = await library.job(ingest_id)
    if job is None or not _may_see(caller, job):
        raise StepError("not_found", f"there is no ingest '{ingest_id[:80]}' of the last day")
    authorized(service, caller, job.collection, write=write)
    return job


def _may_see(caller: Context, job: Job) -> bool:
    """Whether a caller may see a job; its report names documents, which access lists may hide."""
    of_caller = caller.principal.groups is None or job.tenant == caller.tenant
    return of_caller and caller.principal.may_use(job.collection)


async def readable_job(
    service: ServiceDep, library: LibraryDep, caller: Caller, ingest_id: str
) -> Job:
    """Return the job of the path, which the key may see."""
    return await _job(service, library, caller, ingest_id, write=False)


async def writable_job(
    service: ServiceDep, library: LibraryDep, caller: Caller, ingest_id: str
) -> Job:
    """Return the job of the path, which the key may stop."""
    return await _job(service, library, caller, ingest_id, write=True)


ReadableJob = Annotated[Job, Depends(readable_job)]
WritableJob = Annotated[Job, Depends(writable_job)]


async def in_time(caller: Context, work: Awaitable[Result]) -> Result:
    """Return what the work gives.

    Raises:
        StepError: `deadline_exceeded`, other changes were in its way until the deadline.
    """
    try:
        async with asyncio.timeout(caller.remaining_s()):
            return await work
    except TimeoutError:
        raise StepError(
            "deadline_exceeded",
            "it did not come to its turn in time, because other changes are under way; try again",
        ) from None


@router.get("/v1/collections", summary="List the collections")
async def collections(library: LibraryDep, caller: Caller) -> Collections:
    """List the collections this key may use, with how many documents and passages they hold."""
    found = await in_time(caller, library.collections())
    return Collections(collections=[one for one in found if caller.principal.may_use(one.name)])


@router.delete("/v1/collections/{name}", summary="Delete a collection")
async def delete_collection(
    library: LibraryDep, collection: WritableCollectionInPath, caller: Caller
) -> DeletedCollection:
    """Delete a collection and all it holds."""
    sees_all(caller)
    await in_time(caller, library.delete_collection(collection, caller.tenant))
    return DeletedCollection(collection=collection, deleted=True)


@router.post(
    "/v1/collections/{name}/reindex",
    summary="Build a collection anew",
    response_model=IngestReport,
    responses=INGESTED,
)
async def reindex(
    request: Request,
    service: ServiceDep,
    library: LibraryDep,
    collection: WritableCollectionInPath,
    wait: Wait = True,
) -> Response:
    """Build a collection anew from its documents, with the settings of now; answers as an ingest.

    Questions are answered from the old one until the new one is complete.
    """
    sees_all(context_of(request.scope))
    await request.body()  # it is empty; the next message is that the client went away
    job = library.reindex(collection, context_of(request.scope).tenant)
    return await _followed(service, request, job, wait=wait)


# -- documents ------------------------------------------------------------------------------


@router.get("/v1/documents", summary="List the documents of a collection")
async def documents(
    library: LibraryDep,
    collection: ReadableCollection,
    caller: Caller,
    limit: Limit = MAX_PAGE,
    after: Annotated[str, Query(description="The `next` of the page before.")] = "",
) -> Documents:
    """List documents by id, a page at a time; `next` is null on the last page."""
    found = await in_time(caller, library.documents(collection))
    groups = caller.principal.groups
    found = [info for info in found if may_read(groups, info.metadata)]
    page = [info for info in found if info.document_id > after][: limit + 1]
    more = page[limit - 1].document_id if len(page) > limit else None
    return Documents(documents=page[:limit], next=more)


@router.get(
    "/v1/documents/{document_id:path}", summary="Show a document", operation_id="show_document"
)
async def document(
    library: LibraryDep, collection: ReadableCollection, caller: Caller, document_id: str
) -> StoredDocument:
    """Show a document with its text; its id may hold slashes, as a path does."""
    return await readable_document(library, caller, collection, document_id)


async def readable_document(
    library: Library, caller: Context, collection: str, document_id: str
) -> StoredDocument:
    """Return a document; one that the caller may not read looks as if it did not exist.

    Raises:
        StepError: `document_not_found`.
    """
    found = await in_time(caller, library.document(collection, document_id))
    if not may_read(caller.principal.groups, found.metadata):
        raise _no_document(collection, document_id)
    return found


def _no_document(collection: str, document_id: str) -> StepError:
    return StepError(
        "document_not_found",
        f"collection '{collection}' has no document '{document_id[:200]}'",
        param="document_id",
        step="retrieve",
    )


@router.delete(
    "/v1/documents/{document_id:path}",
    summary="Delete a document",
    operation_id="delete_document",
    response_model=Report,
)
async def delete_document(
    library: LibraryDep, collection: WritableCollection, caller: Caller, document_id: str
) -> reports.IngestReport:
    """Delete a document; no answer finds it from then on."""
    if caller.principal.groups is not None:
        await readable_document(library, caller, collection, document_id)
    report = await in_time(
        caller, library.delete_documents(collection, [document_id], caller.tenant)
    )
    if report.missing:
        raise _no_document(collection, document_id)
    return report


@router.post(
    "/v1/documents",
    summary="Add documents to a collection",
    response_model=IngestReport,
    responses={**INGESTED, 200: {**INGESTED[200], "links": ADDED}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                FORM: form_schema(),
                **takes(DocumentsRequest)["requestBody"]["content"],
            },
        },
    },
)
async def add_documents(
    request: Request,
    service: ServiceDep,
    library: LibraryDep,
    collection: WritableCollection,
    wait: Wait = True,
    idempotency_key: IdempotencyKey = None,
    allowed_groups: AllowedGroups = (),
) -> Response:
    """Add files or texts; a document whose content did not change costs nothing.

    Answers with the report once it is done, with 202 when that takes longer than a request may,
    with progress as server-sent events when they are accepted. What cannot be read is in the
    report's `failed`; when nothing can be read, the status is that of the first failure. The
    ingest goes on when the client goes away; `DELETE /v1/ingests/{id}` stops it.
    """
    items = for_groups(await read_items(request), allowed_groups)
    caller = context_of(request.scope)
    if idempotency_key is None:
        job = library.ingest(collection, items, caller.tenant)
        return await _followed(service, request, job, wait=wait)
    job, replayed = await _begin_once(library, caller, idempotency_key, collection, items)
    response = await _followed(service, request, job, wait=wait)
    if replayed:
        response.headers["idempotency-replayed"] = "true"
    return response


async def _begin_once(
    library: Library, caller: Context, key: str, collection: str, items: Items
) -> tuple[Job, bool]:
    """Start the ingest, or return the job of an equal request before, and which of both it is."""
    try:
        digest = await asyncio.to_thread(digest_of, collection, items)
        job = library.replays.find(caller.principal.name, key, digest)
    except BaseException:
        _close(items)
        raise
    if job is not None:
        _close(items)
        return job, True
    job = library.ingest(collection, items, caller.tenant)
    library.replays.keep(caller.principal.name, key, digest, job)
    return job, False


def _close(items: Items) -> None:
    for item in items:
        item.close()


# -- ingests --------------------------------------------------------------------------------


@router.get("/v1/ingests/{ingest_id}", summary="Show an ingest", response_model=Ingest)
async def ingest(request: Request, job: ReadableJob) -> dict[str, Any]:
    """Show how far an ingest is, or how it ended."""
    return _state(request, job)


@router.delete(
    "/v1/ingests/{ingest_id}",
    summary="Stop an ingest",
    status_code=202,
    response_model=Ingest,
)
async def stop_ingest(request: Request, job: WritableJob) -> dict[str, Any]:
    """Stop an ingest; the documents it has added are taken back.

    Documents that it has replaced by then keep the new content; its `error` names them.
    """
    job.stop()
    return _state(request, job)


@router.get(
    "/v1/ingests/{ingest_id}/events",
    summary="Follow an ingest",
    response_class=StreamingResponse,
    responses={200: {**EVENT_STREAM, "description": "Its events."}},
)
async def ingest_events(request: Request, service: ServiceDep, job: ReadableJob) -> Response:
    """Follow an ingest from where it is: `progress`…, then `report` or `error`."""
    await request.body()
    return await streamed(service, request, _events(job, len(job.progress) - 1))


def _state(request: Request, job: Job) -> dict[str, Any]:
    error = envelope(for_callers(job.error), step="retrieve")["error"] if job.error else None
    return {
        "id": job.id,
        "collection": job.collection,
        "status": job.status,
        "ahead": job.ahead,
        "progress": job.progress[-1],
        "report": job.report,
        "error": error,
        "events": f"{_path(request, job)}/events",
    }


def _report(job: Job) -> dict[str, Any]:
    assert job.report is not None
    return {"id": job.id, **job.report.model_dump()}


async def _events(job: Job, seen: int) -> AsyncGenerator[Event, None]:
    async for progress in job.follow(seen):
        yield Event("progress", pydantic_core.to_json({"id": job.id, **progress}).decode())
    await job.wait()  # raises what made it fail
    yield Event("report", pydantic_core.to_json(_report(job)).decode())


async def _followed(service: Service, request: Request, job: Job, *, wait: bool) -> Response:
    """Return a job's end, its events, or where to find it, as the client wishes."""
    headers = {"location": _path(request, job)}
    await job.recorded.wait()  # from here on a restart does not forget it
    if not wait:
        return _json(_accepted(request, job), 202, headers)
    if EVENTS in request.headers.get("accept", ""):
        response = await streamed(service, request, _events(job, 0))
        response.headers.update(headers)
        return response
    left = max(0.0, context_of(request.scope).deadline - time.monotonic())
    try:
        async with asyncio.timeout(left):
            await while_connected(request, job.wait())
    except TimeoutError:
        return _json(_accepted(request, job), 202, headers)
    _refuse_nothing_read(job)
    return _json(_report(job), 200, headers)


def _json(value: Any, status: int, headers: dict[str, str]) -> Response:
    return Response(pydantic_core.to_json(value), status, headers, media_type=JSON)


def _path(request: Request, job: Job) -> str:
    return f"{request.scope['root_path']}/v1/ingests/{job.id}"


def _accepted(request: Request, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.status,
        "ahead": job.ahead,
        "events": f"{_path(request, job)}/events",
    }


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
