"""Files for OpenAI clients: `/v1/files`. A file is kept as it is, for the key that uploaded it alone."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from rag_kit.errors import StepError

from ..http.openapi import FAILURES, failures
from ..library.files import StoredFile
from ..library.uploads import FORM, safe_name
from .dependencies import Caller, ServiceDep
from .documents import FilesDep
from .openai_input import warned
from .openai_lists import Page, PagingDep
from .openai_stores import StoreAccessDep, detach

router = APIRouter(
    prefix="/v1", tags=["OpenAI"], responses={**FAILURES, **failures({507: "The disk is full."})}
)

MAX_FIELDS = 16
PURPOSE = "^[ -~]{1,64}$"
UPLOAD = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {
                "type": "string",
                "pattern": PURPOSE,
                "description": "Returned as it is; default: assistants.",
            },
        },
    }
}


class FileObject(BaseModel):
    """A file as OpenAI describes one."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: None = None

    @classmethod
    def of(cls, file: StoredFile) -> FileObject:
        """Return a stored file as OpenAI describes it."""
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=file.created,
            filename=file.filename,
            purpose=file.purpose,
        )


class DeletedFile(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


async def own_file(files: FilesDep, caller: Caller, file_id: str) -> StoredFile:
    """Return the file of the path, which the key has uploaded."""
    return await asyncio.to_thread(files.file, caller.principal.name, file_id)


OwnFile = Annotated[StoredFile, Depends(own_file)]


@router.post(
    "/files",
    summary="Upload a file, as OpenAI's API",
    openapi_extra={"requestBody": {"required": True, "content": {FORM: UPLOAD}}},
)
async def upload_file(
    request: Request, response: Response, service: ServiceDep, files: FilesDep, caller: Caller
) -> FileObject:
    """Keep a file, to be attached to a vector store."""
    service.authorize_writing(caller)
    if not request.headers.get("content-type", "").lower().startswith(FORM):
        raise StepError("unsupported_media_type", f"send the file as {FORM}, in the field `file`")
    try:
        form = await request.form(max_files=1, max_fields=MAX_FIELDS)
    except HTTPException as error:
        text = f"the form cannot be read: {error.detail}"
        raise StepError("invalid_request", text, param="file") from None
    try:
        file, purpose = form.get("file"), form.get("purpose", "assistants")
        if not isinstance(file, UploadFile):
            text = "file: the form holds no file; send one in the field `file`"
            raise StepError("invalid_request", text, param="file")
        if not isinstance(purpose, str) or not re.fullmatch(PURPOSE, purpose):
            text = "purpose: send 1 to 64 printable ASCII characters, e.g. assistants"
            raise StepError("invalid_request", text, param="purpose")
        warned(response, [name for name in form if name not in ("file", "purpose")])
        name = safe_name(file.filename or "")
        kept = await asyncio.to_thread(
            files.add, caller.principal.name, name, purpose, file.file, file.size or 0
        )
    finally:
        await form.close()
    return FileObject.of(kept)


@router.get("/files", summary="List the files of a key")
async def list_files(
    files: FilesDep,
    caller: Caller,
    paging: PagingDep,
    purpose: Annotated[str, Query(description="Only these.")] = "",
) -> Page[FileObject]:
    """List the files this key has uploaded."""
    found = await asyncio.to_thread(files.files, caller.principal.name)
    shown = [FileObject.of(file) for file in found if purpose in ("", file.purpose)]
    return paging.page(shown, lambda file: file.id)


@router.get("/files/{file_id}", summary="Describe a file")
async def show_file(file: OwnFile) -> FileObject:
    """Describe a file this key has uploaded."""
    return FileObject.of(file)


@router.get(
    "/files/{file_id}/content",
    summary="Download a file",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def file_content(files: FilesDep, file: OwnFile) -> FileResponse:
    """Return a file as it was uploaded; a browser saves it and never shows it."""
    name = file.filename.rpartition("/")[2]
    return FileResponse(
        files.path(file), media_type="application/octet-stream", filename=name or file.id
    )


@router.delete("/files/{file_id}", summary="Delete a file")
async def delete_file(access: StoreAccessDep, file: OwnFile) -> DeletedFile:
    """Delete a file, and its documents in each vector store that the key may change."""
    access.service.authorize_writing(access.caller)
    for one in await asyncio.to_thread(access.files.attachments_of, file.id):
        if access.caller.principal.may_use(one.store):
            await detach(access, one.store, file.id)
    await asyncio.to_thread(access.files.delete, file)
    return DeletedFile(id=file.id)
