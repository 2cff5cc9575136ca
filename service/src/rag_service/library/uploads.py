"""Uploads: files of a form or texts of a JSON body, under safe names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import SEEK_END
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rag_kit.errors import StepError
from rag_kit.passages import ALLOWED_GROUPS

from ..http.requests import NOT_BLANK, read
from .originals import KEPT

if TYPE_CHECKING:
    from rag_retrieve.documents import LoadedDocument

MAX_FILES = 1000
MAX_PART_BYTES = 255  # of a folder's or file's name, as file systems have it
MAX_NAME_BYTES = 1024
FORM = "multipart/form-data"
# Control characters, lone surrogates, and marks that make a name look like another one.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
DRIVE = re.compile(r"^(?:[A-Za-z]:)+")


def safe_name(name: str) -> str:
    """Return a file's name as a relative path, e.g. `papers/a.md`; "unnamed" when none is left.

    No root, drive, `..`, control or direction character; no part over 255 bytes.
    """
    text = UNSAFE.sub("", unicodedata.normalize("NFC", name)).replace("\\", "/")
    parts = (DRIVE.sub("", part.strip()).strip() for part in text.split("/"))
    kept = [_short(part) for part in parts if part not in ("", ".", "..")]
    return "/".join(kept) or "unnamed"


def _short(part: str) -> str:
    """Cut a name to MAX_PART_BYTES, before its extension."""
    encoded = part.encode()
    if len(encoded) <= MAX_PART_BYTES:
        return part
    suffix = PurePosixPath(part).suffix.encode()
    suffix = suffix if len(suffix) <= 16 else b""
    return (encoded[: MAX_PART_BYTES - len(suffix)]).decode(errors="ignore") + suffix.decode()


@dataclass(frozen=True)
class FileItem:
    """A file of a form; its bytes are in memory or in an anonymous temporary file."""

    name: str
    file: BinaryIO
    allowed_groups: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.seek(0, SEEK_END)

    def load(self) -> list[LoadedDocument]:
        """Return its documents; raises `document_unreadable`."""
        from rag_retrieve.documents import load

        if len(self.name.encode()) > MAX_NAME_BYTES:
            text = f"its path has more than {MAX_NAME_BYTES} bytes; use shorter names"
            raise StepError("document_unreadable", text)
        self.file.seek(0)
        documents = load(self.name, self.file.read())
        if not self.allowed_groups:
            return documents
        groups: dict[str, JsonValue] = {ALLOWED_GROUPS: list(self.allowed_groups)}
        return [replace(one, metadata={**one.metadata, **groups}) for one in documents]

    def original(self) -> BinaryIO | None:
        """Return the file if it is one whose pages are shown, else None."""
        if not self.name.lower().endswith(KEPT):
            return None
        self.file.seek(0)
        return self.file

    def digest(self) -> bytes:
        """Return a digest of name and content."""
        self.file.seek(0)
        content = hashlib.sha256(self.file.read()).digest()
        groups = pydantic_core.to_json(self.allowed_groups) if self.allowed_groups else b""
        return hashlib.sha256(self.name.encode() + b"\0" + content + groups).digest()

    def close(self) -> None:
        """Remove the temporary file."""
        self.file.close()


class TextDocument(BaseModel):
    """A document given as text."""

    model_config = ConfigDict(extra="forbid")

    document_id: str = Field(
        min_length=1,
        max_length=MAX_NAME_BYTES,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Its id; a document with this id is replaced.",
    )
    text: str = Field(json_schema_extra=NOT_BLANK, description="All of its text.")
    title: str | None = Field(None, max_length=200, description="null: its id.")
    metadata: dict[str, JsonValue] = Field(
        default_factory=dict, description="What can be filtered on."
    )

    @property
    def name(self) -> str:
        """Its id."""
        return self.document_id

    @property
    def size(self) -> int:
        """About its bytes."""
        return len(self.text)

    def load(self) -> list[LoadedDocument]:
        """Return it as a loader does; raises `document_unreadable`."""
        from rag_retrieve.documents import LoadedDocument
        from rag_retrieve.documents.document import check_text, stem, tidy

        title = tidy(self.title) or stem(self.document_id)
        return [
            LoadedDocument(
                self.document_id,
                title,
                self.document_id,
                check_text(self.document_id, self.text),
                "text/plain",
                metadata=self.metadata,
            )
        ]

    def original(self) -> None:
        """Return nothing: it is no file."""

    def digest(self) -> bytes:
        """Return a digest of all its fields."""
        return hashlib.sha256(pydantic_core.to_json(self.model_dump())).digest()

    def close(self) -> None:
        """Do nothing: it holds no file."""


class DocumentsRequest(BaseModel):
    """Documents given as text."""

    model_config = ConfigDict(extra="forbid")

    documents: list[TextDocument] = Field(min_length=1, max_length=MAX_FILES)


Items = Sequence[FileItem | TextDocument]


async def read_items(request: Request) -> Items:
    """Return the items of the body; the caller closes them.

    Raises:
        StepError: `unsupported_media_type`, `body_too_large`, `invalid_request`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return await _files_of(request)
    if kind == "application/json" or kind.endswith("+json"):
        return (await read(request, DocumentsRequest)).documents
    raise StepError(
        "unsupported_media_type",
        f"send files as {FORM}, in the field `files`, or texts as application/json; this is "
        f"{kind[:80] or 'nothing'}",
    )


async def _files_of(request: Request) -> list[FileItem]:
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=8)
    except HTTPException as error:
        text = f"the form cannot be read: {error.detail}"
        raise StepError("invalid_request", text, param="files") from None
    found = form.multi_items()
    if wrong := next((name for name, value in found if name != "files"), None):
        await form.close()
        text = f"send files in the field `files`, but got {wrong[:80]!r}"
        raise StepError("invalid_request", text, param=wrong[:80])
    files = [value for _, value in found if isinstance(value, UploadFile)]
    if not files:
        text = "the form holds no file; send some in the field `files`"
        raise StepError("invalid_request", text, param="files")
    return [FileItem(safe_name(file.filename or ""), file.file) for file in files]


def for_groups(items: Items, groups: Sequence[str]) -> Items:
    """Return an upload's items with these groups as the ones that may read them, if there are any."""
    if not groups:
        return items
    allowed: list[JsonValue] = list(groups)
    return [
        replace(item, allowed_groups=tuple(groups))
        if isinstance(item, FileItem)
        else item.model_copy(update={"metadata": {**item.metadata, ALLOWED_GROUPS: allowed}})
        for item in items
    ]


def digest_of(collection: str, items: Items) -> bytes:
    """Return a digest of an upload; it reads all files, so run it in a thread."""
    digest = hashlib.sha256(collection.encode())
    for item in items:
        digest.update(item.digest())
    return digest.digest()


def form_schema() -> dict[str, Any]:
    """Return the OpenAPI media type of the form."""
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": MAX_FILES,
    }
    return {"schema": {"type": "object", "required": ["files"], "properties": {"files": files}}}
