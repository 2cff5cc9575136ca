"""What the runners on a Dagger engine have in common: one supervised session."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic

from rag_kit.errors import StepError
from rag_kit.handler import Event

from ..runners.base import Say
from ..runners.whole import whole_as_events
from .session import EngineOptions, Session
from .supervisor import Started, Supervisor


class OnEngine(ABC, Generic[Started]):
    """A runner whose requests lease the session of a supervisor.

    Args:
        options: The engine and its limits.
    """

    name: str
    look_s = 0.1  # seconds between two looks whether it is there, which cost nothing

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._supervisor = Supervisor(options, self._start)

    @abstractmethod
    async def _start(self, session: Session, say: Say) -> Started:
        """Load, start and probe in a new session what requests need."""

    def report(self, tell: Callable[[str], None]) -> None:
        """Tell of each session that is open, failed to open, was lost, or was replaced by another."""
        self._supervisor.on_event = tell

    async def start(self, say: Say) -> None:
        """Return when a question was answered."""
        await self._supervisor.start(say)

    @abstractmethod
    async def answer(self, text: str) -> str:
        """Answer a request."""

    @abstractmethod
    async def search(self, text: str) -> str:
        """Find passages for a request."""

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Give the whole answer as events, where there are no pieces."""
        for event in whole_as_events(await self.answer(text)):
            yield event

    async def ready(self) -> None:
        """Return when what was started is there and the engine answers."""
        self._supervisor.ready()

    async def close(self) -> None:
        """End the session, and what was started with it."""
        await self._supervisor.close()


async def probed(answer: Awaitable[object], say: Say) -> None:
    """Return when the probe was answered, or met a collection that does not exist yet.

    Raises:
        StepError: Why it was not answered.
    """
    began = time.perf_counter()
    try:
        await answer
    except StepError as error:
        # a new installation has no documents yet, and must be able to take some
        if error.code != "collection_not_found":
            raise
    say(f"dagger: probe answered in {time.perf_counter() - began:.2f} s")
