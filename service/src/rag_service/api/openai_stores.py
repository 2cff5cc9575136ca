"""Vector stores for OpenAI clients: create, list, show, delete; files in them, one by one or in batches.

A vector store is a collection, whoever made it: also what was indexed otherwise is listed, with the id of a
document in place of a file's. Files are ingested as uploads are; their state is that of the ingest.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION
from rag_kit.reports import DocumentInfo

from ..access import may_read
from ..http.context import Context
from ..http.errors import for_callers
from ..http.openapi import FAILURES, failures
from ..http.requests import CollectionName, otherwise, takes
from ..library.files import (
    Attachment,
    Files,
    FileToAttach,
    StoredFile,
    VectorStore,
    is_supported,
)
from ..library.jobs import Job
from ..library.library import Library
from ..service import Service
from .dependencies import Caller, ServiceDep, authorized, json_body, sees_all
from .documents import FilesDep, LibraryDep, in_time, readable_document
from .openai_input import ignored, warned
from .openai_lists import Page, PagingDep
from .openai_vector_stores import file_id_of

router = APIRouter(
    prefix="/v1/vector_stores",
    tags=["OpenAI"],
    responses={
        **FAILURES,
        **failures(
            {409: "The collection was built with other settings.", 507: "The disk is full."}
        ),
    },
)

MAX_ATTRIBUTES = 16
MAX_FILES = 500  # in one request
MAX_NAME = 63  # characters of a collection's name
Status = Literal["in_progress", "completed", "failed", "cancelled"]
Attributes = dict[
    str,
    Annotated[str | int | float | bool, otherwise("send a text, a number, true or false")],
]
StoreName = Annotated[
    str,
    Field(max_length=256),
    AfterValidator(lambda name: name.encode("utf-8", "replace").decode()),  # no half characters
]
LASTING = {
    "expires_after": "vector stores do not expire here; leave it out, and delete one that is not wanted"
}
IN_STORE = "it is not in the vector store; attach it again"


class FileCounts(BaseModel):
    """Files by state."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0

    @classmethod
    def of(cls, files: Iterable[StoreFile]) -> FileCounts:
        """Count files."""
        counted: Counter[str] = Counter(file.status for file in files)
        return cls(**counted, total=counted.total())


class StoreObject(BaseModel):
    """A vector store as OpenAI describes one; its id is the collection's name."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int = Field(description="Seconds since the epoch; 0: not known.")
    name: str
    usage_bytes: int = Field(description="Characters of its documents.")
    file_counts: FileCounts
    status: Literal["in_progress", "completed"]
    last_active_at: int
    metadata: dict[str, JsonValue]
    expires_after: None = None
    expires_at: None = None


class LastError(BaseModel):
    """Why a file is not in a vector store."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StoreFile(BaseModel):
    """A file in a vector store as OpenAI describes one."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: Status
    last_error: LastError | None = None
    usage_bytes: int = Field(description="Characters of its documents.")
    attributes: dict[str, JsonValue] = Field(default_factory=dict)


class Batch(BaseModel):
    """Files that were attached together."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Status
    file_counts: FileCounts


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True] = True


class TextPart(BaseModel):
    """A text of a file."""

    type: Literal["text"] = "text"
    text: str


class FileContent(BaseModel):
    """The texts of a file in a vector store."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextPart]
    has_more: Literal[False] = False
    next_page: None = None


class FileToAdd(BaseModel):
    """A file to attach; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow")

    file_id: str = Field(description="As POST /v1/files gave it.")
    attributes: Attributes | None = Field(
        None, max_length=MAX_ATTRIBUTES, description="Metadata of its documents, to filter on."
    )


class BatchToAdd(BaseModel):
    """Files to attach: by their ids, or each with attributes."""

    model_config = ConfigDict(extra="allow")

    file_ids: list[str] | None = Field(None, min_length=1, max_length=MAX_FILES)
    files: list[FileToAdd] | None = Field(None, min_length=1, max_length=MAX_FILES)
    attributes: Attributes | None = Field(
        None, max_length=MAX_ATTRIBUTES, description="Of those in `file_ids`."
    )

    def all(self) -> list[FileToAdd]:
        """Return the files; raises `invalid_request` when there are none."""
        ids = [FileToAdd(file_id=one, attributes=self.attributes) for one in self.file_ids or []]
        if not (found := [*ids, *(self.files or [])]):
            text = "file_ids: name at least one file"
            raise StepError("invalid_request", text, param="file_ids")
        return found


class StoreToCreate(BaseModel):
    """A vector store to create; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow")

    name: StoreName | None = Field(None, description="Its id is made of it; null: one is chosen.")
    metadata: dict[str, str] | None = Field(None, max_length=16, description="Returned as it is.")
    file_ids: list[str] | None = Field(None, max_length=MAX_FILES, description="Files to attach.")


def _lasting(schema: dict[str, Any]) -> None:
    """Add to the schema what a vector store cannot be given."""
    schema["properties"]["expires_after"] = {"enum": [None]}


class StoreToUpdate(BaseModel):
    """What to change of a vector store; null leaves it as it is, other fields are ignored and named."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_lasting)

    name: StoreName | None = Field(None, description="What it is called; its id stays.")
    metadata: dict[str, str] | None = Field(
        None, max_length=16, description="In place of all it has; {}: none."
    )


# -- who asks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreAccess:
    """Who asks for vector stores, and what keeps their documents and files."""

    service: Service
    library: Library
    files: Files
    caller: Context

    def authorize(self, store: str, *, write: bool = False) -> None:
        """Check that the caller may use a vector store; errors as of `authorized`."""
        authorized(self.service, self.caller, store, write=write)

    async def known(self, store: str) -> VectorStore | None:
        """Return a vector store that was created as such; None for another collection."""
        return (await asyncio.to_thread(self.files.stores)).get(store)


async def store_access(
    service: ServiceDep, library: LibraryDep, files: FilesDep, caller: Caller
) -> StoreAccess:
    """Return what a request about vector stores needs."""
    return StoreAccess(service, library, files, caller)


StoreAccessDep = Annotated[StoreAccess, Depends(store_access)]


# -- vector stores --------------------------------------------------------------------------------


@router.post("", summary="Create a vector store", openapi_extra=takes(StoreToCreate))
async def create_store(
    response: Response,
    access: StoreAccessDep,
    body: Annotated[StoreToCreate, Depends(json_body(StoreToCreate))],
) -> StoreObject:
    """Create a vector store; questions find it as the model `rag/<id>` once it holds a file."""
    warned(response, ignored(body.model_extra, {}, {}))
    access.service.authorize_writing(access.caller)
    added = [FileToAdd(file_id=one) for one in body.file_ids or []]
    found = await _own_files(access, added, "file_ids.{}")
    taken = {one.name for one in await in_time(access.caller, access.library.collections())}
    store = await _register(access, body, taken)
    access.authorize(store.id, write=True)
    if found:
        await _attach(access, store.id, found)
    return await _store(access, store.id, store)


async def _register(access: StoreAccess, body: StoreToCreate, taken: set[str]) -> VectorStore:
    """Remember a vector store under the first free id of its name.

    Raises:
        StepError: `forbidden`, the key may not use such a name.
    """
    wanted = re.sub(r"[^A-Za-z0-9_.-]+", "-", body.name or "").strip("-.")[:MAX_NAME]
    names = [wanted] if re.fullmatch(COLLECTION, wanted) else []
    unique = uuid.uuid4().hex
    names += [f"{wanted[: MAX_NAME - 7]}-{unique[:6]}"] if names else [f"vs_{unique[:24]}"]
    for name in names:
        if not access.caller.principal.may_use(name):
            patterns = ", ".join(access.caller.principal.collections)
            text = f"name: the key may use the collections {patterns}, and not '{name}'"
            raise StepError("forbidden", text, param="name")
        store = VectorStore(name, body.name or name, body.metadata or {}, int(time.time()))
        if name not in taken and await asyncio.to_thread(access.files.create_store, store):
            return store
    raise StepError("in_progress", "another vector store of this name was just created; try again")


@router.get("", summary="List the vector stores of a key")
async def list_stores(access: StoreAccessDep, paging: PagingDep) -> Page[StoreObject]:
    """List the collections this key may use as vector stores."""
    known = await asyncio.to_thread(access.files.stores)
    collections = await in_time(access.caller, access.library.collections())
    damaged = {one.name for one in collections if one.problem is not None}
    names = {*known, *(one.name for one in collections)} - damaged
    usable = sorted(
        filter(access.caller.principal.may_use, names),
        key=lambda name: (known[name].created if name in known else 0, name),
    )
    stores = [await _store(access, name, known.get(name)) for name in usable]
    return paging.page(stores, lambda store: store.id)


@router.get("/{store}", summary="Describe a vector store")
async def show_store(access: StoreAccessDep, store: CollectionName) -> StoreObject:
    """Describe a vector store and how far its files are."""
    access.authorize(store)
    return await _store(access, store, await access.known(store))


@router.post("/{store}", summary="Update a vector store", openapi_extra=takes(StoreToUpdate))
async def update_store(
    response: Response,
    access: StoreAccessDep,
    store: CollectionName,
    body: Annotated[StoreToUpdate, Depends(json_body(StoreToUpdate))],
) -> StoreObject:
    """Change the name and the metadata of a vector store, also of one that was indexed elsewhere."""
    warned(response, ignored(body.model_extra, {"expires_after": ()}, LASTING))
    access.authorize(store, write=True)
    known = await access.known(store)
    found = await _store(access, store, known)
    before = known or VectorStore(store, found.name, {}, found.created_at)
    name = before.name if body.name is None else body.name or store
    metadata = before.metadata if body.metadata is None else body.metadata
    changed = replace(before, name=name, metadata=metadata)
    await asyncio.to_thread(access.files.update_store, changed)
    return await _store(access, store, changed)


@router.delete("/{store}", summary="Delete a vector store")
async def delete_store(access: StoreAccessDep, store: CollectionName) -> Deleted:
    """Delete a vector store and all it holds; the files stay."""
    access.authorize(store, write=True)
    sees_all(access.caller)
    known = await asyncio.to_thread(access.files.stores)
    for one in await asyncio.to_thread(access.files.attachments, store):
        await _stop(access, one)
    try:
        await in_time(access.caller, access.library.delete_collection(store, access.caller.tenant))
    except StepError as error:
        if error.code != "collection_not_found" or store not in known:
            raise
    await asyncio.to_thread(access.files.delete_store, store)
    return Deleted(id=store, object="vector_store.deleted")


async def _store(access: StoreAccess, name: str, known: VectorStore | None) -> StoreObject:
    """Return a vector store; raises `collection_not_found`."""
    found = await _store_files(access, name, known)
    counts = FileCounts.of(found)
    created = known.created if known else 0
    return StoreObject(
        id=name,
        created_at=created,
        name=known.name if known else name,
        usage_bytes=sum(file.usage_bytes for file in found),
        file_counts=counts,
        status="in_progress" if counts.in_progress else "completed",
        last_active_at=max([created, *(file.created_at for file in found)]),
        metadata=known.metadata if known else {},
    )


# -- files in a vector store ----------------------------------------------------------------------


@router.post("/{store}/files", summary="Attach a file", openapi_extra=takes(FileToAdd))
async def add_file(
    response: Response,
    access: StoreAccessDep,
    store: CollectionName,
    body: Annotated[FileToAdd, Depends(json_body(FileToAdd))],
) -> StoreFile:
    """Begin to ingest a file into a vector store; GET tells when it is done."""
    warned(response, ignored(body.model_extra, {}, {}))
    access.authorize(store, write=True)
    found = await _own_files(access, [body], "file_id")
    (attached,) = await _attach(access, store, found)
    return await _store_file(access, store, attached.file)


@router.get("/{store}/files", summary="List the files of a vector store")
async def list_store_files(
    access: StoreAccessDep,
    store: CollectionName,
    paging: PagingDep,
    status: Annotated[Status | None, Query(alias="filter", description="Only these.")] = None,
) -> Page[StoreFile]:
    """List the files of a vector store, and the documents that were indexed otherwise."""
    access.authorize(store)
    found = await _files_in(access, store)
    shown = [file for file in found if status in (None, file.status)]
    return paging.page(shown, lambda file: file.id)


@router.get("/{store}/files/{file_id:path}/content", summary="Read a file of a vector store")
async def store_file_content(
    access: StoreAccessDep, store: CollectionName, file_id: str
) -> FileContent:
    """Return the text of each document of a file."""
    access.authorize(store)
    infos = await _documents_of(access, store, file_id)
    texts = [
        await readable_document(access.library, access.caller, store, info.document_id)
        for info in infos
    ]
    if not texts:
        raise _no_file(store, file_id)
    return FileContent(data=[TextPart(text=one.text) for one in texts])


@router.get("/{store}/files/{file_id:path}", summary="Describe a file of a vector store")
async def show_store_file(
    access: StoreAccessDep,
    store: CollectionName,
    file_id: str,
) -> StoreFile:
    """Describe a file of a vector store, and whether it is ingested."""
    access.authorize(store)
    return await _store_file(access, store, file_id)


@router.delete("/{store}/files/{file_id:path}", summary="Take a file out of a vector store")
async def delete_store_file(
    access: StoreAccessDep,
    store: CollectionName,
    file_id: str,
) -> Deleted:
    """Delete the documents of a file from a vector store; the file itself stays."""
    access.authorize(store, write=True)
    await _store_file(access, store, file_id)
    await detach(access, store, file_id)
    return Deleted(id=file_id, object="vector_store.file.deleted")


async def detach(access: StoreAccess, store: str, file_id: str) -> None:
    """Take a file out of a vector store: end its ingest, delete its documents that the key may read."""
    for one in await asyncio.to_thread(access.files.attachments, store):
        if one.file == file_id:
            await _stop(access, one)
    infos = await _documents_of(access, store, file_id)
    if infos:
        ids = [info.document_id for info in infos]
        await in_time(
            access.caller, access.library.delete_documents(store, ids, access.caller.tenant)
        )
    await asyncio.to_thread(access.files.detach, store, file_id)


async def _stop(access: StoreAccess, attachment: Attachment) -> None:
    """End the ingest of an attachment, and wait until it has taken back what it added."""
    job = await access.library.job(attachment.job)
    if job is not None and not job.finished:
        job.stop()
        ended = job
        await in_time(access.caller, ended.wait_until(lambda: ended.finished))


# -- batches --------------------------------------------------------------------------------------


@router.post(
    "/{store}/file_batches", summary="Attach several files", openapi_extra=takes(BatchToAdd)
)
async def add_batch(
    response: Response,
    access: StoreAccessDep,
    store: CollectionName,
    body: Annotated[BatchToAdd, Depends(json_body(BatchToAdd))],
) -> Batch:
    """Begin to ingest files into a vector store, in one go."""
    warned(response, ignored(body.model_extra, {}, {}))
    access.authorize(store, write=True)
    found = await _own_files(access, body.all(), "file_ids.{}")
    attached = await _attach(access, store, found)
    return await _batch(access, store, attached[0].batch)


@router.get("/{store}/file_batches/{batch}", summary="Describe a batch")
async def show_batch(
    access: StoreAccessDep,
    store: CollectionName,
    batch: str,
) -> Batch:
    """Describe a batch and how far its files are."""
    access.authorize(store)
    return await _batch(access, store, batch)


@router.post("/{store}/file_batches/{batch}/cancel", summary="Stop a batch")
async def stop_batch(
    access: StoreAccessDep,
    store: CollectionName,
    batch: str,
) -> Batch:
    """Stop the ingest of a batch; what it has added is taken back."""
    access.authorize(store, write=True)
    for one in await _of_batch(access, store, batch):
        await _stop(access, one)
    return await _batch(access, store, batch)


@router.get("/{store}/file_batches/{batch}/files", summary="List the files of a batch")
async def list_batch_files(
    access: StoreAccessDep,
    store: CollectionName,
    batch: str,
    paging: PagingDep,
    status: Annotated[Status | None, Query(alias="filter", description="Only these.")] = None,
) -> Page[StoreFile]:
    """List the files of a batch."""
    access.authorize(store)
    found = await _batch_files(access, store, batch)
    shown = [file for file in found if status in (None, file.status)]
    return paging.page(shown, lambda file: file.id)


async def _of_batch(access: StoreAccess, store: str, batch: str) -> list[Attachment]:
    """Return what a batch has attached; raises `not_found`."""
    attached = await asyncio.to_thread(access.files.attachments, store)
    if not (found := [one for one in attached if one.batch == batch]):
        text = f"the vector store '{store}' has no batch {batch[:80]!r}"
        raise StepError("not_found", text, param="batch_id")
    return found


async def _batch_files(access: StoreAccess, store: str, batch: str) -> list[StoreFile]:
    ids = {one.file for one in await _of_batch(access, store, batch)}
    found = await _files_in(access, store)
    return [file for file in found if file.id in ids]


async def _batch(access: StoreAccess, store: str, batch: str) -> Batch:
    attached = await _of_batch(access, store, batch)
    counts = FileCounts.of(await _batch_files(access, store, batch))
    status: Status = "completed"
    if counts.in_progress:
        status = "in_progress"
    elif counts.total in (counts.cancelled, counts.failed):
        status = "cancelled" if counts.cancelled else "failed"
    return Batch(
        id=batch,
        created_at=attached[0].created,
        vector_store_id=store,
        status=status,
        file_counts=counts,
    )


# -- what they share ------------------------------------------------------------------------------


async def _own_files(
    access: StoreAccess, added: Sequence[FileToAdd], where: str
) -> list[tuple[StoredFile, FileToAdd]]:
    """Return the key's files of a request; raises `not_found`, with the place of the id."""
    owner = access.caller.principal.name
    return [
        (await asyncio.to_thread(access.files.file, owner, one.file_id, where.format(at)), one)
        for at, one in enumerate(added)
    ]


async def _attach(
    access: StoreAccess,
    store: str,
    found: Sequence[tuple[StoredFile, FileToAdd]],
) -> list[Attachment]:
    """Begin one ingest of files; raises `overloaded`, `draining`."""
    items = [
        FileToAttach(file, access.files.path(file), one.attributes or {}) for file, one in found
    ]
    job = access.library.ingest(store, items, access.caller.tenant)
    await job.recorded.wait()
    batch, now = f"vsfb_{uuid.uuid4().hex[:24]}", int(time.time())
    attached = [
        Attachment(store, file.id, job.id, batch, dict(one.attributes or {}), now)
        for file, one in found
    ]
    await asyncio.to_thread(access.files.attach, attached)
    return attached


async def _documents(
    access: StoreAccess, store: str, *, may_be_missing: bool
) -> list[DocumentInfo]:
    """Return the documents that the caller may read; raises `collection_not_found`."""
    try:
        found = await in_time(access.caller, access.library.documents(store))
    except StepError as error:
        if error.code != "collection_not_found" or not may_be_missing:
            raise
        return []
    return [info for info in found if may_read(access.caller.principal.groups, info.metadata)]


async def _documents_of(access: StoreAccess, store: str, file_id: str) -> list[DocumentInfo]:
    found = await _documents(access, store, may_be_missing=True)
    return [info for info in found if file_id_of(info.document_id) == file_id]


async def _store_files(
    access: StoreAccess, store: str, known: VectorStore | None
) -> list[StoreFile]:
    """Return what is in a vector store: attached files, oldest first, behind all other documents."""
    attached = await asyncio.to_thread(access.files.attachments, store)
    empty = known is not None or bool(attached)
    infos = await _documents(access, store, may_be_missing=empty)
    by_file: dict[str, list[DocumentInfo]] = {}
    for info in infos:
        by_file.setdefault(file_id_of(info.document_id), []).append(info)
    theirs = {one.file for one in attached}
    others = [
        _completed(store, file_id, found, 0)
        for file_id, found in by_file.items()
        if file_id not in theirs
    ]
    own = {
        file.id
        for file in await asyncio.to_thread(access.files.files, access.caller.principal.name)
    }
    mine = [
        await _attached(access, one, by_file.get(one.file, []))
        for one in attached
        if one.file in by_file or one.file in own or access.caller.principal.groups is None
    ]
    return [*others, *mine]


async def _files_in(access: StoreAccess, store: str) -> list[StoreFile]:
    """Return what is in a vector store; as `_store_files`."""
    return await _store_files(access, store, await access.known(store))


async def _store_file(access: StoreAccess, store: str, file_id: str) -> StoreFile:
    """Return a file of a vector store; raises `not_found`."""
    for file in await _files_in(access, store):
        if file.id == file_id:
            return file
    raise _no_file(store, file_id)


def _no_file(store: str, file_id: str) -> StepError:
    text = f"the vector store '{store}' has no file {file_id[:80]!r}"
    return StepError("not_found", text, param="file_id")


async def _attached(
    access: StoreAccess, attachment: Attachment, infos: list[DocumentInfo]
) -> StoreFile:
    """Return an attached file: as its ingest says while that is known, later by its documents."""
    store, file_id, created = attachment.store, attachment.file, attachment.created
    job = await access.library.job(attachment.job)
    if job is not None and not job.finished:
        return _unfinished(attachment, "in_progress", None)
    if infos:
        return _completed(store, file_id, infos, created)
    error = _failure(job, file_id)
    status: Status = "cancelled" if job and job.error and job.stopped.is_set() else "failed"
    return _unfinished(attachment, status, error)


def _completed(store: str, file_id: str, infos: list[DocumentInfo], created: int) -> StoreFile:
    plain = {
        name: value
        for name, value in infos[0].metadata.items()
        if isinstance(value, (str, int, float, bool))
    }
    return StoreFile(
        id=file_id,
        created_at=created,
        vector_store_id=store,
        status="completed",
        usage_bytes=sum(info.characters for info in infos),
        attributes=plain,
    )


def _unfinished(attachment: Attachment, status: Status, error: LastError | None) -> StoreFile:
    return StoreFile(
        id=attachment.file,
        created_at=attachment.created,
        vector_store_id=attachment.store,
        status=status,
        last_error=error,
        usage_bytes=0,
        attributes=attachment.attributes,
    )


def _failure(job: Job | None, file_id: str) -> LastError:
    """Return why a file's ingest left nothing."""
    if job is not None and job.error is not None:
        return LastError(code="server_error", message=for_callers(job.error).message)
    for failed in job.report.failed if job is not None and job.report is not None else ():
        if failed.document_id.startswith(f"{file_id}/"):
            known = is_supported(failed.document_id)
            return LastError(
                code="invalid_file" if known else "unsupported_file", message=failed.message
            )
    return LastError(code="server_error", message=IN_STORE)
