"""What the runners on a Dagger engine share: one supervised session."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic

from rag_kit.errors import StepError
from rag_kit.handler import Event

from ..runners.base import Notify, Runner
from ..runners.responses import response_events
from .options import EngineOptions
from .session import Session
from .supervisor import Started, Supervisor


class EngineRunner(Runner, Generic[Started]):
    """A runner whose requests lease the session of a supervisor.

    Args:
        options: The engine and its limits.
    """

    poll_s = 0.1  # `ready` asks the supervisor, not the engine, and costs nothing
    on_engine = True

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._supervisor = Supervisor(options, self._start)

    @abstractmethod
    async def _start(self, session: Session, notify: Notify) -> Started:
        """Load, start and probe in a new session what requests need."""

    def on_session_event(self, notify: Callable[[str], None]) -> None:
        """Call `notify` with `open`, `failed`, `lost` or `replaced`."""
        self._supervisor.on_event = notify

    async def start(self, notify: Notify) -> None:
        """Return when the probe was answered in a first session."""
        await self._supervisor.start(notify)

    @abstractmethod
    async def answer(self, text: str) -> str:
        """Answer a request."""

    @abstractmethod
    async def search(self, text: str) -> str:
        """Find passages for a request."""

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer as events, written from the complete answer."""
        for event in response_events(await self.answer(text)):
            yield event

    async def ready(self) -> None:
        """Return when there is a session and its engine answers in time."""
        self._supervisor.ready()

    async def close(self) -> None:
        """Close the session, and what was started in it."""
        await self._supervisor.close()


async def probed(answer: Awaitable[object], notify: Notify) -> None:
    """Wait for the answer to the probe; a collection that does not exist yet is no failure.

    Raises:
        StepError: Why it was not answered.
    """
    began = time.perf_counter()
    try:
        await answer
    except StepError as error:
        # a new installation has no documents yet, and must be able to accept some
        if error.code != "collection_not_found":
            raise
    notify(f"dagger: probe answered in {time.perf_counter() - began:.2f} s")
