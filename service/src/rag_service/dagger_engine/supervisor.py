"""Keeps one Dagger session ready: builds it, watches it, replaces it; requests lease it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

from rag_kit.errors import StepError

from ..runners.base import Say
from .errors import unavailable
from .options import EngineOptions
from .session import Session

LOG = logging.getLogger(__name__)
NEVER = ("misconfigured", "module_pin_mismatch")  # waiting does not help


class Prepared(Protocol):
    """What a runner started in a session."""

    async def ping(self) -> None:
        """Return while it runs; a `StepError` says that it is gone."""

    async def close(self) -> None:
        """Give back what it holds on this side; never hangs."""


Started = TypeVar("Started", bound=Prepared)


@dataclass(eq=False)
class Live(Generic[Started]):
    """A session with what was started in it."""

    session: Session
    started: Started
    since: float = field(default_factory=time.monotonic)
    memory_mib: float = 0.0
    calls: int = 0
    in_flight: int = 0
    last_error: str = ""
    errors: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        """End both, the session first: what is under way through the other ends with it."""
        try:
            await self.session.close()
        finally:
            await self.started.close()


class Supervisor(Generic[Started]):
    """Keeps one session ready: builds it, watches it, replaces it.

    Args:
        options: The engine and its limits.
        start: Loads and starts in a new session what requests need, and probes it.
    """

    def __init__(
        self, options: EngineOptions, start: Callable[[Session, Say], Awaitable[Started]]
    ) -> None:
        self._options, self._start = options, start
        self._current: Live[Started] | None = None
        self._why = "the Dagger session is starting"
        self._wanted, self._ready = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lives: set[Live[Started]] = set()
        self._say: Say = LOG.info
        self.on_event: Callable[[str], None] = lambda event: None  # open, failed, lost, replaced
        self._closing = False
        self._never: StepError | None = None

    async def start(self, say: Say) -> None:
        """Return when the first session is ready; a failed attempt is said and repeated.

        Raises:
            StepError: It can never be: no CLI, no module, or not the pinned one.
        """
        self._options.check()
        self._say = say
        self._why = "the Dagger session is starting"
        self._wanted.set()
        self._spawn(self._build_on_demand())
        await self._ready.wait()
        if self._never is not None:
            raise self._never
        if self._current is None and self._closing:
            raise unavailable(self._why)

    def ready(self) -> None:
        """Return when a request may come.

        An engine that builds the next session is slow by our own doing: then only a loss counts.

        Raises:
            StepError: `engine_unavailable` says why not.
        """
        if self._open().session.late and not self._wanted.is_set():
            raise unavailable("the Dagger engine is slow to answer")

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Live[Started]]:
        """Yield the current session for one call; it stays open until the call is done.

        Raises:
            StepError: `engine_unavailable`, there is none.
        """
        live = self._open()
        live.calls += 1
        live.in_flight += 1
        live.idle.clear()
        try:
            yield live
        except StepError as error:
            self._count(live, error)
            raise
        else:
            live.errors, live.last_error = 0, ""
        finally:
            live.in_flight -= 1
            if not live.in_flight:
                live.idle.set()
            self._age(live)

    def _open(self) -> Live[Started]:
        live = self._current
        if live is None:
            raise unavailable(self._why)
        if live.session.lost.done():
            raise unavailable(f"the Dagger session was lost: {live.session.lost.result()}")
        return live

    async def close(self) -> None:
        """End every session; never hangs."""
        self._why, self._closing = "the service is closing", True
        self._current = None
        self._ready.set()  # who waits for the first session learns why there is none
        for task in self._tasks:
            task.cancel()
        ending = [asyncio.create_task(live.close()) for live in self._lives]
        if ending or self._tasks:
            await asyncio.wait((*self._tasks, *ending), timeout=3 * self._options.stop_s)

    def _count(self, live: Live[Started], error: StepError) -> None:
        """Note an internal error: the same again and again may be one that the engine keeps."""
        if error.code not in ("module_error", "module_bad_output", "internal_error"):
            return
        same = error.message == live.last_error
        live.errors, live.last_error = (live.errors + 1 if same else 1), error.message

    def _age(self, live: Live[Started]) -> None:
        """Have the current session replaced when it is due."""
        given = self._options.session_port is not None  # it cannot be replaced
        if live is self._current and not given and self._due(live):
            self._wanted.set()

    def _due(self, live: Live[Started]) -> bool:
        age = time.monotonic() - live.since
        sick = live.errors >= self._options.same_errors and age >= self._options.mend_s
        grown = live.session.memory_mib - live.memory_mib >= self._options.rotate_mib
        worn = live.calls >= self._options.rotate_calls or age >= self._options.rotate_s
        return sick or worn or grown

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _build_on_demand(self) -> None:
        attempts = 0
        while True:
            await self._wanted.wait()
            try:
                live = await self._build()
            except Exception as error:
                self.on_event("failed")
                if not isinstance(error, StepError):
                    LOG.exception("dagger: unexpected error")
                said = error.message if isinstance(error, StepError) else repr(error)
                if self._current is None:
                    self._why = said
                if not self._ready.is_set() and getattr(error, "code", "") in NEVER:
                    self._never = cast(StepError, error)
                    self._ready.set()
                    return
                wait = min(self._options.retry_s, 2.0**attempts) * random.uniform(0.5, 1)  # noqa: S311
                self._say(f"dagger: {said} (again in {wait:.1f} s)")
                attempts += 1
                await asyncio.sleep(wait)
                continue
            attempts = 0
            self._wanted.clear()
            old, self._current = self._current, live
            self._lives.add(live)
            self._ready.set()
            self.on_event("open")
            self._spawn(self._watch(live))
            if old is not None:
                self.on_event("replaced")
                self._say("dagger: the new session took over")
                self._spawn(self._retire(old))

    async def _build(self) -> Live[Started]:
        began = time.perf_counter()
        session = await Session.open(self._options)
        self._say(f"dagger: session open ({time.perf_counter() - began:.1f} s)")
        try:
            started = await session.guard(self._start(session, self._say))
        except BaseException:
            await session.close()
            raise
        session.serving = True
        return Live(session, started, memory_mib=session.memory_mib)

    async def _watch(self, live: Live[Started]) -> None:
        """Ping the session until it is lost; when it is the current one, have it replaced."""
        timer = asyncio.get_running_loop().call_later(self._options.rotate_s, self._age, live)
        try:
            await live.session.watch(live.started.ping)
            if live is self._current:
                self.on_event("lost")
                self._current = None
                self._why = f"the Dagger session was lost: {live.session.lost.result()}"
                self._say(f"dagger: session lost: {live.session.lost.result()}; building a new one")
                self._wanted.set()
        finally:
            timer.cancel()
            await live.close()
            self._lives.discard(live)

    async def _retire(self, live: Live[Started]) -> None:
        """Let the calls of a replaced session end, then close it."""
        try:
            if live.in_flight:
                with suppress(TimeoutError):
                    await asyncio.wait_for(live.idle.wait(), self._options.drain_s)
        finally:
            await live.session.close()  # ends its watch, which closes the rest
