"""Answers as server-sent events: early failures keep their status, silence is filled with pings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pydantic_core
from starlette.requests import Request
from starlette.responses import StreamingResponse

from rag_kit.errors import StepError
from rag_kit.handler import EVENTS, Event
from rag_kit.server import DONE, UNBUFFERED, EventQueue, sse, while_connected

from ..http.context import context_of
from ..http.errors import to_body
from ..service import Service

PING = b": ping\n\n"
PROVISIONAL = ("search_results",)  # the answer may still fail, so no status is sent yet
Write = Callable[[Event], bytes]
"""Turns an event into bytes; b"" leaves it out."""


def unnamed(data: Any) -> bytes:
    """Return a value as a server-sent event without a name, as OpenAI's clients read them."""
    return b"data: " + pydantic_core.to_json(data) + b"\n\n"


async def streamed(
    service: Service, request: Request, events: AsyncGenerator[Event, None], write: Write = sse
) -> StreamingResponse:
    """Return a response that sends events as they come, and `data: [DONE]` after the last.

    Args:
        service: Has the heartbeat and the metrics.
        request: When its client goes away, the events are given up.
        events: Errors before the first piece of the answer are raised here, later ones are sent.
        write: Writes one event.

    Raises:
        StepError: What failed before the first piece of the answer.
        ClientDisconnect: The client went away before it.
    """
    queue = EventQueue(events)
    first: list[Event] = []
    try:
        while not first or first[-1].name in PROVISIONAL:
            event = await while_connected(request, queue.next())
            if event is None:
                break
            first.append(event)
    except BaseException:
        queue.stop()
        raise
    blocks = _blocks(service, request, queue, first, write)
    return StreamingResponse(blocks, media_type=EVENTS, headers=UNBUFFERED)


async def _blocks(
    service: Service, request: Request, queue: EventQueue, first: list[Event], write: Write
) -> AsyncIterator[bytes]:
    pending: asyncio.Future[Event | None] | None = None
    try:
        for event in first:
            yield write(event)
        while True:
            pending = pending or asyncio.ensure_future(queue.next())
            ready, _ = await asyncio.wait((pending,), timeout=service.settings.heartbeat_s)
            if not ready:
                yield PING
                continue
            following, pending = pending.result(), None
            if following is None:
                break
            yield write(following)
        yield DONE
    except StepError as error:
        service.metrics.stream_aborts.inc()
        yield write(Event("error", to_body(error, context_of(request.scope)).decode()))
    finally:
        queue.stop()
        if pending is not None:
            pending.cancel()
