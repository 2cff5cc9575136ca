"""The HTTP interface. One thread does all the work: Superlinked keeps an event loop per thread."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from rag_kit.errors import CODES, StepError, envelope
from rag_kit.request import MAX_BODY_BYTES, explain, parse
from rag_kit.server import BrowserGuard
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .collections import Collections
from .models import NAME, Batch, Publication, Search, Spaces
from .settings import SuperlinkedSettings

RETRY_S = 2.0  # between two attempts to load
STEP = "retrieve"  # in error envelopes: this server is a part of that step
LOG = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[object]]


class Server:
    """The endpoints over one `Collections`, which one thread uses."""

    def __init__(self, settings: SuperlinkedSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="superlinked")
        self._collections: Collections | None = None
        self._error: StepError | None = None

    # -- life -----------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load in the background while the port answers; close at the end."""
        loading = asyncio.create_task(self._loading())
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _loading(self) -> None:
        while not await asyncio.get_running_loop().run_in_executor(self._thread, self._load):
            await asyncio.sleep(RETRY_S)

    def _load(self) -> bool:
        """Load; return False when another attempt may succeed, e.g. for a database that starts later."""
        collections = None
        try:
            collections = Collections(self._settings)
            collections.load()
        except StepError as error:
            if self._error is None or self._error.message != error.message:
                LOG.error("%s: %s", error.code, error.message)
            self._error = error
            if collections is not None:
                collections.close()
            return not CODES[error.code].retryable
        except Exception as error:
            LOG.exception("cannot start")
            self._error = StepError(
                "internal_error", f"the server cannot start ({type(error).__name__}); see its log"
            )
        else:
            self._collections = collections
        return True

    def _close(self) -> None:
        if self._collections is None:
            return
        try:
            self._collections.close()
        except StepError as error:
            LOG.warning("closing: %s: %s", error.code, error.message)

    async def _run(self, work: Callable[[Collections], Any]) -> Any:
        collections = self._collections
        if collections is None:
            raise self._error or StepError("not_ready", "Superlinked is still loading; ask /readyz")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, collections)

    # -- endpoints ------------------------------------------------------------------------

    async def begin(self, request: Request) -> object:
        """PUT /collections/{name}."""
        name, spaces = _name(request), await _body(request, Spaces)
        generation = await self._run(lambda all_: all_.begin(name, spaces))
        return {"generation": generation}

    async def put(self, request: Request) -> object:
        """POST /collections/{name}/chunks."""
        name, batch = _name(request), await _body(request, Batch)
        count = await self._run(lambda all_: all_.put(name, batch.generation, batch.chunks))
        return {"chunks": count}

    async def publish(self, request: Request) -> object:
        """POST /collections/{name}/publish."""
        name, asked = _name(request), await _body(request, Publication)
        return await self._run(lambda all_: all_.publish(name, asked.generation, asked.chunks))

    async def info(self, request: Request) -> object:
        """GET /collections/{name}."""
        name = _name(request)
        return await self._run(lambda all_: all_.info(name))

    async def delete(self, request: Request) -> object:
        """DELETE /collections/{name}."""
        name = _name(request)
        await self._run(lambda all_: all_.delete(name))
        return {"deleted": name}

    async def search(self, request: Request) -> object:
        """POST /collections/{name}/search."""
        name, asked = _name(request), await _body(request, Search)
        return await self._run(lambda all_: all_.search(name, asked))

    async def healthz(self, _: Request) -> object:
        """GET /healthz: the process runs."""
        return {"status": "ok"}

    async def readyz(self, _: Request) -> object:
        """GET /readyz: Superlinked is loaded and the database answered."""
        await self._run(lambda all_: None)
        return {"status": "ready"}


def application(settings: SuperlinkedSettings | None = None, *, local: bool = False) -> Starlette:
    """Return the server as an ASGI application.

    Args:
        settings: None: from the environment.
        local: Answer only to this machine's own names in the Host header.
    """
    server = Server(settings or SuperlinkedSettings.read())

    def route(path: str, method: str, endpoint: Endpoint) -> Route:
        async def answer(request: Request) -> Response:
            try:
                return _reply(await endpoint(request))
            except StepError as error:
                return _refuse(error)
            except Exception as error:
                LOG.exception("unexpected error")
                text = f"unexpected error ({type(error).__name__}); the log has the details"
                return _refuse(StepError("internal_error", text))

        return Route(path, answer, methods=[method])

    async def unknown(request: Request, _: Exception) -> Response:
        return _refuse(StepError("not_found", f"there is no {request.url.path}"))

    async def wrong_method(request: Request, _: Exception) -> Response:
        text = f"{request.url.path} does not take {request.method}"
        return _refuse(StepError("method_not_allowed", text))

    return Starlette(
        lifespan=server.lifespan,
        exception_handlers={404: unknown, 405: wrong_method},
        middleware=[Middleware(BrowserGuard, local=local, refuse=_refuse)],
        routes=[
            route("/healthz", "GET", server.healthz),
            route("/readyz", "GET", server.readyz),
            route("/collections/{name}", "PUT", server.begin),
            route("/collections/{name}", "GET", server.info),
            route("/collections/{name}", "DELETE", server.delete),
            route("/collections/{name}/chunks", "POST", server.put),
            route("/collections/{name}/publish", "POST", server.publish),
            route("/collections/{name}/search", "POST", server.search),
        ],
    )


def _name(request: Request) -> str:
    name = str(request.path_params["name"])
    if not re.fullmatch(NAME, name):
        raise StepError(
            "invalid_request", f"'{name[:80]}' cannot name a collection", param="collection"
        )
    return name


async def _body(request: Request, model: type[Model]) -> Model:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise StepError("body_too_large", f"the request has more than {MAX_BODY_BYTES} bytes")
    try:
        return model.model_validate(parse(bytes(body)), strict=True)
    except ValidationError as error:
        raise explain(error) from None


def _reply(body: object, status: int = 200) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(pydantic_core.to_json(body), status, headers, media_type="application/json")


def _refuse(error: StepError) -> Response:
    return _reply(envelope(error, step=STEP), error.status)
