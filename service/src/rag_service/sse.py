"""An answer as server-sent events: early failures keep their status, silence is filled with pings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from rag_pipeline.errors import StepError
from rag_pipeline.serving import DONE, EVENTS, Pump, sse
from rag_pipeline.shapes import Event

from .context import context_of
from .errors import to_body
from .service import Service

PING = b": ping\n\n"
EARLY = ("search_results",)  # not worth a 200 yet: the answer may still fail
Write = Callable[[Event], bytes]
"""Turns an event into bytes; b"" leaves it out."""

__all__ = ["DONE", "EVENTS", "Write", "sse", "streamed"]


async def streamed(
    service: Service,
    http: Request,
    events: AsyncGenerator[Event, None],
    *,
    write: Write = sse,
    done: bytes = DONE,
) -> StreamingResponse:
    """Return a response that sends events as they come.

    Args:
        service: For the heartbeat and what is counted.
        http: The request; when its client goes away, the events are given up.
        events: Its errors are raised here as long as nothing was sent, and are an event after that.
        write: Writes one event.
        done: Sent after the last event, not after an error.

    Raises:
        StepError: What failed before the first piece of the answer.
        ClientDisconnect: The client went away before it.
    """
    pump = Pump(_caught(http, events))
    first: list[Event] = []
    try:
        while not first or first[-1].name in EARLY:
            event = await _next(http, pump)
            if event is None:
                break
            if isinstance(event, _Failed):
                raise event.error
            first.append(event)
    except BaseException:
        pump.stop()
        raise
    return StreamingResponse(_blocks(service, http, pump, first, write, done), media_type=EVENTS)


class _Failed(Event):
    """An error on its way out; not text yet, because nothing may have been sent."""

    error: StepError


async def _caught(
    http: Request, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[Event, None]:
    try:
        async for event in events:
            yield event
    except StepError as error:
        failed = _Failed("error", to_body(error, context_of(http.scope)).decode())
        failed.error = error
        yield failed
    finally:
        await events.aclose()


async def _next(http: Request, pump: Pump) -> Event | None:
    waiting = asyncio.ensure_future(pump.next())
    gone = asyncio.ensure_future(http.receive())
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        waiting.cancel()
        gone.cancel()


async def _blocks(
    service: Service,
    http: Request,
    pump: Pump,
    first: list[Event],
    write: Write,
    done: bytes,
) -> AsyncIterator[bytes]:
    try:
        for event in first:
            yield write(event)
        waiting = None
        while True:
            waiting = waiting or asyncio.ensure_future(pump.next())
            ready, _ = await asyncio.wait((waiting,), timeout=service.settings.heartbeat_s)
            if not ready:
                yield PING
                continue
            following, waiting = waiting.result(), None
            if following is None:
                break
            if following.name == "error":
                service.metrics.stream_aborts.inc()
                yield write(following)
                return
            yield write(following)
        yield done
    finally:
        pump.stop()
