"""The protocol `Runner`: where the pipeline runs. The configuration chooses one, never a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Protocol

from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.handler import Event

if TYPE_CHECKING:
    from rag_pipeline.steps.local import Retriever

Notify = Callable[[str], None]
"""Takes one line of progress."""


class Runner(Protocol):
    """The pipeline, wherever it runs: JSON text in, JSON text out.

    Every method raises `StepError` for what it cannot do; a response is never an error envelope.
    A runner inherits this class, and with it the defaults of what it does not have.
    """

    name: str
    poll_s: float = 0.25  # seconds between two calls of `ready`
    on_engine: bool = False  # whether it has sessions on a Dagger engine
    runs_containers: bool = False  # whether a request runs a container a step, as `POST /rag`

    async def start(self, notify: Notify) -> None:
        """Load everything a request needs; returns when a request may come."""

    async def answer(self, text: str) -> str:
        """Answer a `RagRequest` with a `RagResponse`."""

    def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer piece by piece: `search_results`, `message`…, `citation`…, `final_answer`."""

    async def search(self, text: str) -> str:
        """Answer a `RagRequest` with a `SearchResponse`."""

    async def rerank(self, text: str) -> str:
        """Answer a request of the step `rerank` with its response."""
        raise StepError(
            "not_supported",
            f"the runner {self.name} ranks passages within a question only; use local, remote or "
            "resident (RAG_RUNNER)",
        )

    async def generate(self, text: str) -> str:
        """Answer a request of the step `generate` with its response."""
        raise StepError(
            "not_supported",
            f"the runner {self.name} asks a model about passages only; use local, remote or "
            "resident (RAG_RUNNER)",
        )

    async def ready(self) -> None:
        """Return when it can answer now; raises what is missing."""

    async def close(self) -> None:
        """Give back what it holds; never hangs."""

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """Circuit breakers of the dependencies it calls itself; known once it has started."""
        return ()

    @property
    def max_concurrency(self) -> int | None:
        """Requests worth answering at the same time; None: any number."""
        return None

    def on_session_event(self, notify: Callable[[str], None]) -> None:
        """Call `notify` with `open`, `failed`, `lost` or `replaced`, where there are sessions."""
        return

    def documents(self) -> Callable[[], Retriever] | None:
        """Return what gives its retriever once it has started; None: documents are kept elsewhere."""
        return None
