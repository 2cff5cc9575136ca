"""An answer as server-sent events: early failures keep their status, silence is filled with pings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import StreamingResponse

from rag_kit.errors import StepError
from rag_kit.handler import EVENTS, Event
from rag_kit.server import DONE, Pump, sse, while_connected

from ..http.context import context_of
from ..http.errors import to_body
from ..service import Service

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
    pump = Pump(events)
    first: list[Event] = []
    try:
        while not first or first[-1].name in EARLY:
            event = await while_connected(http, pump.next())
            if event is None:
                break
            first.append(event)
    except BaseException:
        pump.stop()
        raise
    return StreamingResponse(_blocks(service, http, pump, first, write, done), media_type=EVENTS)


async def _blocks(
    service: Service,
    http: Request,
    pump: Pump,
    first: list[Event],
    write: Write,
    done: bytes,
) -> AsyncIterator[bytes]:
    waiting: asyncio.Future[Event | None] | None = None
    try:
        for event in first:
            yield write(event)
        while True:
            waiting = waiting or asyncio.ensure_future(pump.next())
            ready, _ = await asyncio.wait((waiting,), timeout=service.settings.heartbeat_s)
            if not ready:
                yield PING
                continue
            following, waiting = waiting.result(), None
            if following is None:
                break
            yield write(following)
        yield done
    except StepError as error:
        service.metrics.stream_aborts.inc()
        yield write(Event("error", to_body(error, context_of(http.scope)).decode()))
    finally:
        pump.stop()
        if waiting is not None:
            waiting.cancel()
