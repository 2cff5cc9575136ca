"""A step as a resident server: one POST route per verb, GET /healthz, GET /readyz."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pydantic_core
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .errors import CODES, StepError, envelope, error_of
from .handler import EVENTS, Event, Handler, OpenStep
from .origins import foreign_header, host_name, is_loopback
from .request import MAX_BODY_BYTES
from .workers import threads

if TYPE_CHECKING:
    from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

LOG = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # events pass nginx at once
RETRY_S = 2.0  # between two attempts to load
Result = TypeVar("Result")


def serve(
    open_step: OpenStep, *, step: str, host: str, port: int, verbs: tuple[str, ...] = ("run",)
) -> int:
    """Serve the step until a signal; returns the exit code.

    `/healthz` answers at once, `/readyz` with 200 when the parts are open. Opening is retried while it
    fails for a temporary reason, such as a database that starts later. A server of this machine alone
    answers to the names of this machine alone.
    """
    import uvicorn

    app = application(open_step, step=step, verbs=verbs, local=is_loopback(host))
    config = uvicorn.Config(app, host=host, port=port, log_level="info", access_log=False)
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def application(
    open_step: OpenStep,
    *,
    step: str,
    verbs: tuple[str, ...] = ("run",),
    local: bool = False,
) -> Starlette:
    """Return the step's ASGI application; it refuses requests from pages of other sites.

    Args:
        open_step: Opens the resident parts; the handler answers `run`, those in `also` other verbs.
        step: Name of the step.
        verbs: One POST route each. A client that accepts `text/event-stream` gets the answer as
            server-sent events if the handler can stream, then `data: [DONE]`.
        local: Answer only to this machine's own names in the Host header.
    """
    resident = _Resident(open_step, step)
    routes = [Route(f"/{verb}", resident.endpoint(verb), methods=["POST"]) for verb in verbs]
    known = ", ".join([f"POST /{verb}" for verb in verbs])

    async def unknown(request: Request, _: Exception) -> Response:
        text = f"there is no {request.url.path}; use {known}, GET /healthz or GET /readyz"
        return resident.refuse(StepError("not_found", text))

    async def wrong_method(request: Request, error: Exception) -> Response:
        text = f"{request.url.path} does not take {request.method}"
        answer = resident.refuse(StepError("method_not_allowed", text))
        answer.headers["Allow"] = (getattr(error, "headers", None) or {}).get("Allow", "")
        return answer

    handlers: dict[Any, ExceptionHandler] = {404: unknown, 405: wrong_method}
    return Starlette(
        exception_handlers=handlers,
        middleware=[Middleware(BrowserGuard, local=local, refuse=resident.refuse)],
        routes=[
            *routes,
            Route("/healthz", resident.healthz, methods=["GET"]),
            Route("/readyz", resident.readyz, methods=["GET"]),
        ],
        lifespan=resident.lifespan,
    )


class BrowserGuard:
    """Refuses what a browser sends for a page of another site, or under a name that is not ours.

    Args:
        app: What it stands in front of.
        local: Answer only to this machine's own names in the Host header.
        refuse: Returns the response for an error.
    """

    def __init__(
        self, app: ASGIApp, *, local: bool, refuse: Callable[[StepError], Response]
    ) -> None:
        self._app, self._local, self._refuse = app, local, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        fault = self._fault(scope) if scope["type"] == "http" else None
        answer = self._refuse(StepError("forbidden", fault)) if fault else self._app
        await answer(scope, receive, send)

    def _fault(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        if self._local and not is_loopback(host_name(headers.get("host", ""))):
            return "only requests to 127.0.0.1 and localhost are answered"
        foreign = foreign_header(headers, scheme=scope["scheme"])
        if scope["method"] in ("GET", "HEAD") or foreign is None:
            return None
        return f"the request comes from a page of another site ({foreign[:200]})"


class _Resident:
    """The resident step behind the routes, from loading to closing."""

    def __init__(self, open_step: OpenStep, step: str) -> None:
        self._open_step = open_step
        self._step = step
        self._context: Any = None
        self._handler: Handler | None = None
        self._error: StepError | None = None

    def refuse(self, error: StepError) -> Response:
        return _reply(envelope(error, step=self._step), error.status, error.retry_after)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._load)
            yield
            tasks.cancel_scope.cancel()
        if self._handler is not None:
            await anyio.to_thread.run_sync(self._context.__exit__, None, None, None)

    async def _load(self) -> None:
        while not await self._try_load():
            await anyio.sleep(RETRY_S)

    async def _try_load(self) -> bool:
        """Load; return False when another attempt may succeed."""
        try:
            await anyio.to_thread.run_sync(self._enter)
        except StepError as error:
            if self._error is None or self._error.message != error.message:
                LOG.error("%s: %s: %s", self._step, error.code, error.message)
            self._error = error
            return not CODES[error.code].retryable
        except Exception as error:
            LOG.exception("%s: cannot start", self._step)
            text = f"{self._step} cannot start ({type(error).__name__}); see its log"
            self._error = StepError("internal_error", text)
        return True

    def _enter(self) -> None:
        self._context = self._open_step()
        handler: Handler = self._context.__enter__()
        pool = threads(io_bound=bool(handler.breakers))
        also = {verb: replace(other, pool=pool) for verb, other in handler.also.items()}
        self._handler = replace(handler, pool=pool, also=also)

    def _loading(self) -> StepError:
        text = f"{self._step} is still loading; ask /readyz"
        return self._error or StepError("not_ready", text)

    async def healthz(self, _: Request) -> Response:
        return _reply({"status": "ok", "step": self._step})

    async def readyz(self, _: Request) -> Response:
        if self._handler is not None:
            return _reply({"status": "ready", "step": self._step})
        return self.refuse(self._loading())

    def endpoint(self, verb: str) -> Any:
        async def answer(request: Request) -> Response:
            if self._handler is None:
                return self.refuse(self._loading())
            handler = self._handler if verb == "run" else self._handler.also[verb]
            body = bytearray()
            try:
                async for block in request.stream():
                    body += block
                    if len(body) > MAX_BODY_BYTES:
                        text = f"the request has more than {MAX_BODY_BYTES} bytes"
                        return self.refuse(StepError("body_too_large", text))
                if handler.stream is not None and EVENTS in request.headers.get("accept", ""):
                    return await _streamed(request, handler.events(bytes(body)))
                return _answered(await while_connected(request, handler.serve(bytes(body))))
            except ClientDisconnect:
                return Response(status_code=CODES["client_cancelled"].status)

        return answer


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Await the work; when the client disconnects, cancel it and wait for its end.

    Raises:
        ClientDisconnect: The client disconnected.
    """
    working = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(request.receive())  # nothing else follows the body
    try:
        await asyncio.wait((working, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        disconnect.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, StepError):
                await working


async def _streamed(request: Request, events: AsyncGenerator[Event, None]) -> Response:
    """Send events; a failure before the first one has its HTTP status."""
    queue = EventQueue(events)
    try:
        first = await while_connected(request, queue.next())
    except BaseException:
        queue.stop()
        raise
    assert first is not None
    if first.name == "error":
        return _answered(first.data)

    async def blocks() -> AsyncIterator[bytes]:
        event: Event | None = first
        try:
            while event is not None:
                yield sse(event)
                last, event = event, await queue.next()
            if last.name != "error":
                yield DONE
        finally:
            queue.stop()

    return StreamingResponse(blocks(), media_type=EVENTS, headers=UNBUFFERED)


class EventQueue:
    """The events of a generator, which runs in a task of its own until it ends or is stopped.

    Args:
        events: The generator; `next` raises what it raises.
        maxsize: Events that may wait; then the generator does (back-pressure). 0: any number.
    """

    def __init__(self, events: AsyncGenerator[Event, None], *, maxsize: int = 0) -> None:
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(maxsize)
        self._task = asyncio.create_task(self._run(events))

    async def _run(self, events: AsyncGenerator[Event, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    await self._queue.put(event)
        except Exception as error:
            end = error
        await self._queue.put(end)

    async def next(self) -> Event | None:
        """Return the next event, or None after the last."""
        event = await self._queue.get()
        if isinstance(event, Exception):
            raise event
        return event

    def stop(self) -> None:
        """Cancel the generator."""
        self._task.cancel()

    async def close(self) -> None:
        """Cancel the generator and wait for its end."""
        self.stop()
        await asyncio.wait((self._task,))


def sse(event: Event) -> bytes:
    """Return an event in the format of server-sent events; JSON text has no line breaks."""
    return f"event: {event.name}\ndata: {event.data}\n\n".encode()


def _answered(text: str) -> Response:
    failed = error_of(pydantic_core.from_json(text)) if text.startswith('{"error"') else None
    if failed is None:
        return _reply(text)
    return _reply(text, CODES[failed["code"]].status, failed.get("retry_after"))


def _reply(body: object, status: int = 200, retry_after: float | None = None) -> Response:
    text = body if isinstance(body, str) else pydantic_core.to_json(body)
    wait = str(max(1, math.ceil(retry_after or 1)))
    headers = {"Retry-After": wait} if status in (429, 503) else None
    return Response(text, status, headers, media_type="application/json")
