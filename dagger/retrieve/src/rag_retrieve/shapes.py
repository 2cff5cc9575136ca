"""The shapes around a step: JSON handler and command; `serving.py` has the resident server.

    request JSON -> Handler -> the step's pure function -> response JSON

The handler is the only place that validates. The command and the server only carry its text.
This file is the same in every step package (`make sync` copies it from `rag_retrieve`,
`make check` fails when a copy differs): steps never import each other.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from inspect import isasyncgenfunction, iscoroutinefunction
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from .errors import StepError, envelope

MAX_BODY_BYTES = 4 * 1024 * 1024  # a step's input carries passages; a question alone is far smaller
MAX_QUERY_BYTES = 8 * 1024
MAX_DEPTH = 32  # nesting of JSON containers
WAITING = 32  # a step's requests at once that wait for a server, which costs little
NICE = 10  # of 19
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
EVENTS = "text/event-stream"  # media type of an answer piece by piece
LOG = logging.getLogger(__name__)
_JOINERS = "\u200c\u200d"
_INVISIBLE = re.compile(
    # joiners shape Persian, Arabic and Indic words; elsewhere they only hide text
    rf"(?<![^\W\d_a-zA-Z])[{_JOINERS}]|[{_JOINERS}](?![^\W\d_a-zA-Z])"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 and C1 controls, without tab and newline
    r"|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f]"
    r"|[\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]"
    r"|[\U000e0000-\U000e0fff]"  # tags and variation selectors: whole hidden sentences
)
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
Result = TypeVar("Result")


class Event(NamedTuple):
    """A piece of an answer that is given as it comes.

    Args:
        name: `message` (`{"delta": {"content": …}}`), at the end `final_answer` (the response) or
            `error` (an envelope); the composite has more.
        data: JSON text.
    """

    name: str
    data: str


def message(content: str, **more: str) -> Event:
    """Return a piece of an answer's text as an event."""
    data = {**more, "delta": {"content": content}}
    return Event("message", pydantic_core.to_json(data).decode())


class Cancellation:
    """Carries "given up" from whoever waits for a thread to what that thread waits for."""

    def __init__(self) -> None:
        self._stops: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self.requested = False

    def add(self, stop: Callable[[], object]) -> None:
        """Call `stop` when the work is given up; now, when it was already."""
        with self._lock:
            if not self.requested:
                self._stops.append(stop)
                return
        stop()

    def cancel(self) -> None:
        """Give the work up."""
        with self._lock:
            self.requested = True
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()


_CANCELLATION: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


def on_cancel(stop: Callable[[], object]) -> None:
    """Call `stop` when the request this thread works for is given up."""
    cancellation = _CANCELLATION.get()
    if cancellation is not None:
        cancellation.add(stop)


def parse(raw: str | bytes, *, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse a JSON object; NaN, Infinity, invalid UTF-8 and too deep or too large input are refused.

    Args:
        raw: The text.
        depth: How deep objects and arrays may nest.

    Raises:
        StepError: `invalid_request` or `body_too_large`, with what to change.
    """
    size = len(raw) if isinstance(raw, bytes) else len(raw.encode("utf-8", "surrogatepass"))
    if size > MAX_BODY_BYTES:
        raise StepError(
            "body_too_large", f"the request has {size} bytes; at most {MAX_BODY_BYTES} are accepted"
        )
    try:
        data = pydantic_core.from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise StepError("invalid_request", f"the request is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise StepError(
            "invalid_request", f"the request must be a JSON object, but is {_json_type(data)}"
        )
    _check_values(data, depth)
    return data


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _check_values(data: dict[str, Any], depth: int) -> None:
    layer: list[Any] = [data]
    for _ in range(depth):
        values = [
            child for item in layer for child in (item.values() if isinstance(item, dict) else item)
        ]
        if any(isinstance(value, float) and not isfinite(value) for value in values):
            raise StepError("invalid_request", "a number is too large for a 64-bit float")
        layer = [value for value in values if isinstance(value, (dict, list))]
        if not layer:
            return
    raise StepError("invalid_request", f"the request nests deeper than {depth} levels")


def check_query(value: str) -> str:
    """Return the query, or raise ValueError when it is blank, too long or not valid Unicode."""
    if not value.strip():
        raise ValueError('the query is empty; ask something, e.g. "Who may sign?"')
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("the query holds a lone surrogate; send valid Unicode") from None
    if size > MAX_QUERY_BYTES:
        raise ValueError(f"the query has {size} bytes; at most {MAX_QUERY_BYTES} are accepted")
    return value


def clean(text: str) -> str:
    """Return `text` without characters nobody sees: controls, bidi, zero-width, tags.

    Line ends become newlines. Joiners stay between letters that are not ASCII.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))


def refuse_misplaced(data: Any, step: str, options: type[BaseModel]) -> Any:
    """Raise ValueError when an option of the step stands where it would be ignored."""
    if isinstance(data, dict):
        for name in options.model_fields:
            if name in data:
                raise ValueError(
                    f'\'{name}\' is an option of {step}: send it as {{"{step}": {{"{name}": …}}}}'
                )
    return data


def explain(error: ValidationError) -> StepError:
    """Turn a validation error into `invalid_request`: the field at fault, its value, the rule."""
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        text = "unknown option; see the request schema in contract/ for the known ones"
    elif first["type"] == "missing":
        text = "required, but missing"
    else:
        text = f"{first['msg']}, but got {_short(first['input'])}"
    return StepError("invalid_request", f"{param}: {text}" if param else text, param=param)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def threads(*, waiting: bool) -> ThreadPoolExecutor:
    """Return threads for the work of steps: one a processor, or many where they wait for servers.

    More that compute at once make all slower, and the event loop wait for the interpreter's lock.
    """
    number = WAITING if waiting else processors()
    return ThreadPoolExecutor(number, thread_name_prefix="rag", initializer=stand_back)


def processors() -> int:
    """Return how many processors this process may use, by its affinity and its cgroup's quota."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return min(allowed, ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return allowed


def stand_back() -> None:
    """Let this thread have the processor only when nobody with more right to it wants it.

    Steps compute for milliseconds; the event loop, which refuses, reads and tells that it lives,
    needs microseconds, but at once.
    """
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


@dataclass(frozen=True)
class Handler:
    """A step as JSON in, JSON out: always a response or an error envelope, never an exception.

    Args:
        step: Name of the step, for the envelope.
        request: Model the input is validated against.
        run: The step's function bound to its resident parts; plain or a coroutine function.
        stream: The same as a generator (plain or async) of events, where the step has one.
        also: What the step does besides, by the verb it is served under.
        pool: Threads for plain functions; None: the event loop's own.
        breakers: Of the dependencies behind a network: each has a `name` and is `open` or not.
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
        """Answer one request piece by piece; the last event is `final_answer` or `error`.

        Closing it early gives the answer up.
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
        """Run a plain generator in one thread and hand its events over as they come."""
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
            raise explain(error) from None

    @contextmanager
    def _envelope(self) -> Iterator[_Answer]:
        answer = _Answer()
        try:
            yield answer
        except StepError as error:
            answer.text = dump_error(error, step=self.step, request_id=answer.request_id)
        except CancelledError:
            gone = StepError("client_cancelled", "the request was given up before it was answered")
            answer.text = dump_error(gone, step=self.step, request_id=answer.request_id)
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


def dump_error(error: StepError, *, step: str, request_id: str | None = None) -> str:
    """Return the error envelope of `error` as JSON text."""
    return pydantic_core.to_json(envelope(error, step=step, request_id=request_id)).decode()


def error_of(response: dict[str, Any]) -> dict[str, Any] | None:
    """Return the `error` object when `response` is an error envelope, else None."""
    error = response.get("error")
    only = response.keys() == {"error"} and isinstance(error, dict) and "code" in error
    return error if only else None


Open = Callable[[], AbstractContextManager[Handler]]
"""Opens the step's resident parts (model, store) once and gives its handler while they are open."""


def command(
    step: str,
    prog: str,
    about: str,
    open_step: Open,
    argv: list[str] | None = None,
    *,
    verbs: tuple[str, ...] = ("run",),
) -> int:
    """Run the step's command line; returns the exit code (0, 1 error envelope written, 2 usage).

    `--input in.json --output out.json` answers one request; `-` is standard input or output.
    `serve` keeps the step resident behind HTTP, one POST route a verb.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=about, epilog=f"`{prog} serve --help` tells how to keep it running."
    )
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["serve"]:
        parser = argparse.ArgumentParser(
            prog=f"{prog} serve",
            description=f"Keep the step resident: {', '.join(f'POST /{verb}' for verb in verbs)}, "
            f"GET /healthz, GET /readyz. {about}",
        )
        parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8080, help="port (default: %(default)s)")
        options = parser.parse_args(arguments[1:])
        from .serving import serve

        return serve(open_step, step=step, host=options.host, port=options.port, verbs=verbs)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="request JSON, - for standard input"
    )
    parser.add_argument(
        "--output", default="-", metavar="FILE", help="response JSON (default: standard output)"
    )
    options = parser.parse_args(arguments)
    try:
        raw = sys.stdin.buffer.read() if options.input == "-" else Path(options.input).read_bytes()
    except OSError as error:
        print(f"{prog}: cannot read --input {options.input}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        with open_step() as handler:
            text = handler(raw)
    except StepError as error:
        text = dump_error(error, step=step)
    try:
        _write(options.output, text)
    except OSError as error:
        print(f"{prog}: cannot write --output {options.output}: {error.strerror}", file=sys.stderr)
        return 2
    failed = error_of(pydantic_core.from_json(text))
    if failed:
        print(f"{prog}: {failed['code']}: {failed['message']}", file=sys.stderr)
    return 1 if failed else 0


def _write(target: str, text: str) -> None:
    if target == "-":
        print(text)
        return
    path = Path(target)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
