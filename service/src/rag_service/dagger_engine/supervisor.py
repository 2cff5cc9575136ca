"""Supervisor of sessions: builds one, watches it, replaces it; requests lease it."""

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

from ..runners.base import Notify
from .errors import unavailable
from .options import EngineOptions
from .session import Session

LOG = logging.getLogger(__name__)
FATAL = ("misconfigured", "module_pin_mismatch")  # a retry does not help


class Prepared(Protocol):
    """What a runner has started in a session."""

    async def ping(self) -> None:
        """Return while it runs; raises `StepError` when it has ended."""

    async def close(self) -> None:
        """Release what it holds in this process; never hangs."""


Started = TypeVar("Started", bound=Prepared)


@dataclass(eq=False)
class Live(Generic[Started]):
    """A session with what was started in it.

    Args:
        session: The session.
        started: What the runner started in it.
        since: When it was ready, on `time.monotonic`'s clock.
        memory_mib: Memory of its process then.
        calls: Leases so far.
        in_flight: Leases now.
        last_error: Message of the last internal error.
        errors: How often it came in a row.
        idle: Set while nothing is in flight.
    """

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
        """Close both, the session first: it ends the calls of the other."""
        try:
            await self.session.close()
        finally:
            await self.started.close()


class Supervisor(Generic[Started]):
    """Keeps one session ready: builds it, watches it, replaces it.

    Args:
        options: The engine and its limits.
        start: Loads, starts and probes in a new session what requests need.
    """

    def __init__(
        self, options: EngineOptions, start: Callable[[Session, Notify], Awaitable[Started]]
    ) -> None:
        self._options, self._start = options, start
        self._current: Live[Started] | None = None
        self._why = "the Dagger session is starting"
        self._wanted, self._ready = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lives: set[Live[Started]] = set()
        self._notify: Notify = LOG.info
        self.on_event: Callable[[str], None] = lambda event: None  # open, failed, lost or replaced
        self._closing = False
        self._fatal: StepError | None = None

    async def start(self, notify: Notify) -> None:
        """Return when the first session is ready; failed attempts are reported and repeated.

        Raises:
            StepError: No attempt can succeed: no CLI, no module, or not the pinned one.
        """
        self._options.check()
        self._notify = notify
        self._why = "the Dagger session is starting"
        self._wanted.set()
        self._spawn(self._build_on_demand())
        await self._ready.wait()
        if self._fatal is not None:
            raise self._fatal
        if self._current is None and self._closing:
            raise unavailable(self._why)

    def ready(self) -> None:
        """Check that a request can be answered now.

        While the engine builds the next session it is slow to ping; then only a lost session counts.

        Raises:
            StepError: `engine_unavailable` says why not.
        """
        if self._live().session.late and not self._wanted.is_set():
            raise unavailable("the Dagger engine is slow to answer")

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Live[Started]]:
        """Lease the current session for one call; it stays open until the call has ended.

        Raises:
            StepError: `engine_unavailable`, there is no session.
        """
        live = self._live()
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

    def _live(self) -> Live[Started]:
        live = self._current
        if live is None:
            raise unavailable(self._why)
        if live.session.lost.done():
            raise unavailable(f"the Dagger session was lost: {live.session.lost.result()}")
        return live

    async def close(self) -> None:
        """Close every session; never hangs."""
        self._why, self._closing = "the service is closing", True
        self._current = None
        self._ready.set()  # `start` returns, too
        for task in self._tasks:
            task.cancel()
        ending = [asyncio.create_task(live.close()) for live in self._lives]
        if ending or self._tasks:
            await asyncio.wait((*self._tasks, *ending), timeout=3 * self._options.stop_s)

    def _count(self, live: Live[Started], error: StepError) -> None:
        """Count equal internal errors in a row: the session itself may be broken."""
        if error.code not in ("module_error", "module_bad_output", "internal_error"):
            return
        same = error.message == live.last_error
        live.errors, live.last_error = (live.errors + 1 if same else 1), error.message

    def _age(self, live: Live[Started]) -> None:
        """Have the current session replaced when it is due."""
        own = self._options.session_port is None  # another's session cannot be replaced
        if live is self._current and own and self._due(live):
            self._wanted.set()

    def _due(self, live: Live[Started]) -> bool:
        age = time.monotonic() - live.since
        broken = live.errors >= self._options.same_errors and age >= self._options.mend_s
        grown = live.session.memory_mib - live.memory_mib >= self._options.rotate_mib
        worn = live.calls >= self._options.rotate_calls or age >= self._options.rotate_s
        return broken or worn or grown

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
                reason = error.message if isinstance(error, StepError) else repr(error)
                if self._current is None:
                    self._why = reason
                if not self._ready.is_set() and getattr(error, "code", "") in FATAL:
                    self._fatal = cast(StepError, error)
                    self._ready.set()
                    return
                wait = min(self._options.retry_s, 2.0**attempts) * random.uniform(0.5, 1)  # noqa: S311
                self._notify(f"dagger: {reason} (again in {wait:.1f} s)")
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
                self._notify("dagger: the new session took over")
                self._spawn(self._retire(old))

    async def _build(self) -> Live[Started]:
        began = time.perf_counter()
        session = await Session.open(self._options)
        self._notify(f"dagger: session open ({time.perf_counter() - began:.1f} s)")
        try:
            started = await session.guard(self._start(session, self._notify))
        except BaseException:
            await session.close()
            raise
        session.serving = True
        return Live(session, started, memory_mib=session.memory_mib)

    async def _watch(self, live: Live[Started]) -> None:
        """Ping a session until it is lost; if it is the current one, have a new one built."""
        timer = asyncio.get_running_loop().call_later(self._options.rotate_s, self._age, live)
        try:
            await live.session.watch(live.started.ping)
            if live is self._current:
                self.on_event("lost")
                self._current = None
                self._why = f"the Dagger session was lost: {live.session.lost.result()}"
                self._notify(
                    f"dagger: session lost: {live.session.lost.result()}; building a new one"
                )
                self._wanted.set()
        finally:
            timer.cancel()
            await live.close()
            self._lives.discard(live)

    async def _retire(self, live: Live[Started]) -> None:
        """Close a replaced session once its calls have ended, or after `drain_s`."""
        try:
            if live.in_flight:
                with suppress(TimeoutError):
                    await asyncio.wait_for(live.idle.wait(), self._options.drain_s)
        finally:
            await live.session.close()  # ends `_watch`, which closes the rest
