"""What OpenAPI says of answers: their models where a route writes JSON itself, failures, keys.

The documents' models are those of `rag_retrieve.index.reports`, which may not be installed here; a test
holds them equal.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.errors import ErrorBody, ErrorEnvelope
from rag_kit.handler import EVENTS

Responses = dict[int | str, dict[str, Any]]
RETRY = {"Retry-After": {"description": "Seconds to wait.", "required": True}}
BEARER = {"WWW-Authenticate": {"description": "Bearer.", "required": True}}
EVENT = {
    "type": "object",
    "description": "One of the events.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAM = {"content": {EVENTS: {"schema": EVENT}}}


def failures(texts: dict[int, str], model: type[BaseModel] = ErrorEnvelope) -> Responses:
    """Return what OpenAPI says of failures with these statuses."""
    headers = {401: BEARER, 429: RETRY, 503: RETRY}
    return {
        status: {
            "model": model,
            "description": text,
            "headers": {
                name: {**header, "schema": {"type": "string"}}
                for name, header in headers.get(status, {}).items()
            },
        }
        for status, text in texts.items()
    }


def answers(model: type[BaseModel], about: str = "The answer.", *, streams: bool = False) -> Any:
    """Return what OpenAPI says of an answer, which may also come as server-sent events."""
    return {"model": model, "description": about, **(STREAM if streams else {})}


class Failure(BaseModel):
    """A document that could not be ingested; what was stored of it before stays."""

    document_id: str
    code: str
    message: str


class FileWarning(BaseModel):
    """Something in a file that was read otherwise than it stands there, or left out."""

    document_id: str = Field(description="The file; for its records, too.")
    message: str = Field(description="What and where, and what was done about it.")


class Report(BaseModel):
    """What a change did, by document id."""

    collection: str
    added: list[str]
    updated: list[str]
    unchanged: list[str]
    deleted: list[str]
    missing: list[str]
    failed: list[Failure]
    warnings: list[FileWarning] = Field(
        description="Parts of files that were read otherwise, or left out."
    )
    chunks: int = Field(description="Passages written.")
    embeddings: int = Field(description="Texts embedded.")


class IngestReport(Report):
    """How an ingest ended."""

    id: str = Field(description="As in `/v1/ingests/{id}`.")


class Accepted(BaseModel):
    """An ingest that goes on."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    events: str = Field(description="Path of its events.")


class Progress(BaseModel):
    """How far it is; `total` counts the documents known so far."""

    done: int
    total: int
    document_id: str


class Ingest(Accepted):
    """An ingest, under way or ended."""

    collection: str
    progress: Progress
    report: Report | None
    error: ErrorBody | None


class DocumentInfo(BaseModel):
    """A document in a collection."""

    document_id: str
    title: str
    source: str
    content_type: str
    content_hash: str
    characters: int
    chunks: int
    metadata: dict[str, JsonValue]


class StoredDocument(DocumentInfo):
    """A document with its text."""

    text: str
    pages: list[int] = Field(description="Offset at which each page starts; empty without pages.")


class Documents(BaseModel):
    """A page of documents."""

    documents: list[DocumentInfo]
    next: str | None = Field(description="For `after`; null on the last page.")


class CollectionInfo(BaseModel):
    """A collection and what it was built with."""

    name: str
    documents: int
    chunks: int
    embedding_model: str
    corpus_digest: str


class Collections(BaseModel):
    """The collections a key may use."""

    collections: list[CollectionInfo]


class DeletedCollection(BaseModel):
    """What was deleted."""

    collection: str
    deleted: Literal[True]


class Model(BaseModel):
    """A collection as OpenAI describes a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """The models a key may use."""

    object: Literal["list"]
    data: list[Model]


class Completion(BaseModel):
    """OpenAI's chat completion, with citations beside it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, JsonValue]] = Field(min_length=1, max_length=1)
    usage: dict[str, int]
    citations: list[dict[str, JsonValue]]


class VectorSearch(BaseModel):
    """OpenAI's page of search results."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[dict[str, JsonValue]]
    has_more: Literal[False]
    next_page: None


class Record(BaseModel):
    """A passage as Dify takes it."""

    content: str
    score: float
    title: str
    metadata: dict[str, JsonValue]


class Records(BaseModel):
    """What was found, for Dify."""

    records: list[Record]


class DifyFailure(ErrorEnvelope):
    """The envelope, with what Dify shows."""

    error_code: int
    error_msg: str


class Alive(BaseModel):
    """This process runs."""

    status: Literal["ok"]


class Ready(BaseModel):
    """A question can be answered."""

    status: Literal["ready"]
    runner: str


class Info(BaseModel):
    """What this service is and can do."""

    version: str
    runner: str
    collection: str
    documents: bool
    authentication: bool


def describe(app: FastAPI, opened: tuple[str, ...], *, keyed: bool) -> None:
    """Let the application's OpenAPI document say that a key is wanted, where it is.

    Args:
        app: The application.
        opened: Paths that want none.
        keyed: Whether keys are configured.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            if keyed:
                made["components"]["securitySchemes"] = {
                    "key": {"type": "http", "scheme": "bearer"}
                }
                for path, methods in made["paths"].items():
                    for operation in methods.values():
                        operation["security"] = [] if path in opened else [{"key": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
