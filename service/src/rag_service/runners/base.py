"""Who answers: one small protocol, five ways. The configuration chooses, never a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from rag_kit.handler import Event

from ..settings import ServiceSettings

Say = Callable[[str], None]
"""Takes one line of progress."""


class Runner(Protocol):
    """The composite, wherever it runs: JSON text in, JSON text out.

    Every method raises `StepError` for what it cannot do; a response is never an error envelope.
    """

    name: str

    async def start(self, say: Say) -> None:
        """Load everything a request needs; returns when a request may come."""

    async def answer(self, text: str) -> str:
        """Answer a `RagRequest` with a `RagResponse`."""

    def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer piece by piece: `search_results`, `message`…, `citation`…, `final_answer`."""

    async def search(self, text: str) -> str:
        """Answer a `RagRequest` with a `SearchResponse`."""

    async def ready(self) -> None:
        """Return when it can answer now; raises what is missing."""

    async def close(self) -> None:
        """Give back what it holds; never hangs."""


def open_runner(settings: ServiceSettings) -> Runner:
    """Return the configured runner, not started.

    Raises:
        StepError: `misconfigured`, a setting it needs is missing.
    """
    if settings.runner == "local":
        from .local import LocalRunner

        return LocalRunner()
    if settings.runner == "remote":
        from .remote import RemoteRunner

        return RemoteRunner(settings)
    from ..dagger_engine.open import open_dagger_runner

    return open_dagger_runner(settings)
