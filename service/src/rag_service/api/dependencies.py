"""What routes have injected: the service, who calls, a body in JSON, a collection the key may use."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, WithJsonSchema

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION

from ..http.context import Context, context_of
from ..http.requests import FLAGS, CollectionName, read, to_flag
from ..service import Service

Model = TypeVar("Model", bound=BaseModel)
Flag = Annotated[
    bool,
    BeforeValidator(to_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "enum": list(FLAGS)}]}),
]
"""A query parameter that is true or false; its name alone means true."""


async def service(request: Request) -> Service:
    """Return the service behind the application."""
    found: Service = request.app.state.service
    return found


async def caller(request: Request) -> Context:
    """Return the request's context: its id, its deadline, and the key it came with."""
    return context_of(request.scope)


async def home(request: Request) -> Path:
    """Return RAG_HOME as it was when the service started."""
    found: Path = request.app.state.home
    return found


Home = Annotated[Path, Depends(home)]
ServiceDep = Annotated[Service, Depends(service)]
Caller = Annotated[Context, Depends(caller)]


def json_body(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """Return the dependency that reads a body in JSON; it raises as `read`.

    FastAPI's own body parameters convert types and read the body before any other dependency.
    """

    async def body(request: Request) -> Model:
        return await read(request, model)

    return body


CollectionQuery = Annotated[
    str | None,
    Query(description="Where; default: RAG_COLLECTION."),
    WithJsonSchema({"type": "string", "pattern": COLLECTION}),
]


async def readable(service: ServiceDep, caller: Caller, collection: CollectionQuery = None) -> str:
    """Return the collection that is meant, which the key may read."""
    return authorized(service, caller, collection)


async def writable(service: ServiceDep, caller: Caller, collection: CollectionQuery = None) -> str:
    """Return the collection that is meant, which the key may change."""
    return authorized(service, caller, collection, write=True)


async def writable_by_path(service: ServiceDep, caller: Caller, name: CollectionName) -> str:
    """Return the collection of the path, which the key may change."""
    return authorized(service, caller, name, write=True)


def authorized(
    service: Service, caller: Context, collection: str | None, *, write: bool = False
) -> str:
    """Return a collection's name, the configured one's for None.

    Raises:
        StepError: `draining`; `invalid_request`, no such name; those of `Service.authorize`.
    """
    if write and service.admission.draining:
        raise StepError("draining", "the service is shutting down; ask another one")
    name = service.settings.collection if collection is None else collection
    if not re.fullmatch(COLLECTION, name):
        raise StepError(
            "invalid_request",
            f"collection: {name[:80]!r} is no name of a collection; it matches {COLLECTION}",
            param="collection",
        )
    service.authorize(caller, name, write=write)
    return name


def sees_all(caller: Context) -> None:
    """Refuse what concerns documents that the caller may not even see.

    Raises:
        StepError: `forbidden`.
    """
    if caller.principal.groups is not None:
        raise StepError(
            "forbidden", "this is for keys that may read every document of the collection"
        )


ReadableCollection = Annotated[str, Depends(readable)]
WritableCollection = Annotated[str, Depends(writable)]
WritableCollectionInPath = Annotated[str, Depends(writable_by_path)]
