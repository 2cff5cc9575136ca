"""A step as JSON in, JSON out: blocking, async or as a stream of events; requests are validated here only.

request JSON -> Handler -> the step's pure function -> response JSON
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, NamedTuple, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from .errors import StepError, dump_error, error_of
from .request import explain, parse

EVENTS = "text/event-stream"  # media type of a streamed answer
LOG = logging.getLogger(__name__)
Result = TypeVar("Result")


class Event(NamedTuple):
    """One event of a streamed answer.

    Args:
        name: `message` (`{"delta": {"content": …}}`), at the end `final_answer` (the response) or
            `error` (an envelope); the pipeline has more.
        data: JSON text.
    """

    name: str
    data: str


def message_event(content: str, **more: str) -> Event:
    """Return the event of a piece of the answer's text."""
    data = {**more, "delta": {"content": content}}
    return Event("message", pydantic_core.to_json(data).decode())


class Cancellation:
    """Passes the cancellation of a request on to the thread that works for it."""

    def __init__(self) -> None:
        self._stops: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self.requested = False

    def add(self, stop: Callable[[], object]) -> None:
        """Call `stop` on cancellation; at once, if it was cancelled already."""
        with self._lock:
            if not self.requested:
                self._stops.append(stop)
                return
        stop()

    def cancel(self) -> None:
        """Cancel the work."""
        with self._lock:
            self.requested = True
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()


_CANCELLATION: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


def on_cancel(stop: Callable[[], object]) -> None:
    """Call `stop` when the request this thread works for is cancelled."""
    cancellation = _CANCELLATION.get()
    if cancellation is not None:
        cancellation.add(stop)


@dataclass(frozen=True)
class Handler:
    """A step as JSON in, JSON out: always a response or an error envelope, never an exception.

    Args:
        step: Name of the step, for the envelope.
        request: Model the input is validated against.
        run: The step's function bound to its resident parts; plain or a coroutine function.
        stream: The same as a generator (plain or async) of events, if the step can stream.
        also: Handlers of further verbs, by verb.
        pool: Threads for plain functions; None: the event loop's default executor.
        breakers: Circuit breakers of the dependencies behind a network.
    """

    step: str
    request: type[BaseModel]
    run: Callable[[Any], Any]
    stream: Callable[[Any], Any] | None = None
    also: Mapping[str, Handler] = field(default_factory=dict)
    pool: Executor | None = None
    breakers: tuple[Any, ...] = ()

    def __call__(self, raw: str | bytes) -> str:
        """Answer one request, blocking."""
        if iscoroutinefunction(self.run):
            return asyncio.run(self.serve(raw))
        with self._envelope() as answer:
            answer.text = self.run(self._accept(raw, answer)).model_dump_json()
        return answer.text

    async def serve(self, raw: str | bytes) -> str:
        """Answer one request from an event loop; a plain function runs in a worker thread."""
        if not iscoroutinefunction(self.run):
            return await self._in_thread(lambda: self(raw))
        with self._envelope() as answer:
            response = await self.run(self._accept(raw, answer))
            answer.text = response.model_dump_json()
        return answer.text

    async def events(self, raw: str | bytes) -> AsyncGenerator[Event, None]:
        """Answer one request as events; the last one is `final_answer` or `error`.

        Closing the generator early cancels the answer.
        """
        if self.stream is None:
            text = await self.serve(raw)
            failed = error_of(pydantic_core.from_json(text))
            yield Event("error" if failed else "final_answer", text)
            return
        with self._envelope() as answer:
            request = self._accept(raw, answer)
            if isasyncgenfunction(self.stream):
                async with aclosing(self.stream(request)) as events:
                    async for event in events:
                        yield event
            else:
                async for event in self._events_of_thread(request):
                    yield event
        if answer.text:
            yield Event("error", answer.text)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        cancellation, context = Cancellation(), copy_context()
        context.run(_CANCELLATION.set, cancellation)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.pool, context.run, work)
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    async def _events_of_thread(self, request: BaseModel) -> AsyncGenerator[Event, None]:
        """Run a plain generator in one thread and pass its events to the event loop."""
        assert self.stream is not None
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException | None]()
        cancellation, context = Cancellation(), copy_context()
        context.run(_CANCELLATION.set, cancellation)
        generator = self.stream(request)

        def produce() -> None:
            end: BaseException | None = None
            try:
                with closing(generator) as events:
                    for event in events:
                        if cancellation.requested:
                            return
                        loop.call_soon_threadsafe(queue.put_nowait, event)
            except Exception as error:
                end = error
            if not cancellation.requested:
                loop.call_soon_threadsafe(queue.put_nowait, end)

        loop.run_in_executor(self.pool, context.run, produce)
        try:
            while isinstance(item := await queue.get(), Event):
                yield item
            if item is not None:
                raise item
        finally:
            cancellation.cancel()

    def _accept(self, raw: str | bytes, answer: _Answer) -> BaseModel:
        data = parse(raw)
        request_id = data.get("request_id")
        answer.request_id = request_id if isinstance(request_id, str) else None
        try:
            return self.request.model_validate(data, strict=True)
        except ValidationError as error:
            raise explain(error, self.request) from None

    @contextmanager
    def _envelope(self) -> Iterator[_Answer]:
        answer = _Answer()
        try:
            yield answer
        except StepError as error:
            answer.text = dump_error(error, step=self.step, request_id=answer.request_id)
        except CancelledError:
            cancelled = StepError(
                "client_cancelled", "the request was given up before it was answered"
            )
            answer.text = dump_error(cancelled, step=self.step, request_id=answer.request_id)
        except Exception as error:
            LOG.exception("%s: unexpected error", self.step)
            unexpected = StepError(
                "internal_error",
                f"{self.step} failed unexpectedly ({type(error).__name__}); its log has the details",
            )
            answer.text = dump_error(unexpected, step=self.step, request_id=answer.request_id)


@dataclass
class _Answer:
    text: str = ""
    request_id: str | None = None


OpenStep = Callable[[], AbstractContextManager[Handler]]
"""Opens the step's resident parts (model, store) and yields its handler while they are open."""
