"""The runner `local`: the pipeline in this process, the default."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING

import anyio

from rag_kit.breaker import Breaker
from rag_kit.errors import StepError, errors_of
from rag_kit.handler import Event
from rag_kit.workers import processors
from rag_pipeline.outputs import read_reply
from rag_pipeline.settings import read_settings
from rag_pipeline.stages import Stage
from rag_pipeline.steps.local import LocalPipeline, open_local

from .base import Notify, Runner

if TYPE_CHECKING:
    from rag_pipeline.steps.local import Retriever

PER_PROCESSOR = 4  # requests at the same time, where nothing but processors is waited for


class LocalRunner(Runner):
    """Keeps model, collections and connections loaded between requests.

    Args:
        stages: The stages of the pipeline in their order; None: as configured.
    """

    name = "local"

    def __init__(self, stages: Sequence[Stage] | None = None) -> None:
        self._stages = stages
        self._context: AbstractContextManager[LocalPipeline] | None = None
        self.pipeline: LocalPipeline | None = None

    async def start(self, notify: Notify) -> None:
        """Load the model and open every collection."""
        began = time.perf_counter()
        notify(f"loading the model and the collections of {read_settings().home}")
        stages = self._stages or read_settings().stages()
        self._context = open_local(preload=True, stages=stages)
        self.pipeline = await anyio.to_thread.run_sync(self._context.__enter__)
        notify(f"loaded in {time.perf_counter() - began:.1f} s")

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """Circuit breakers of the store's and the model's server; none before it has started."""
        return self.pipeline.breakers if self.pipeline is not None else ()

    @property
    def max_concurrency(self) -> int | None:
        """Four requests a processor where no server is waited for; else any number.

        More would only make each of them slower, and take the order of turns out of the queue.
        """
        return None if self.breakers else PER_PROCESSOR * processors()

    def documents(self) -> Callable[[], Retriever]:
        """Return what gives the retriever; it raises `not_ready` until this runner has started."""
        return self._retriever

    def _retriever(self) -> Retriever:
        if self.pipeline is None:
            raise StepError("not_ready", "the service is starting")
        return self.pipeline.retriever

    @property
    def _open(self) -> LocalPipeline:
        assert self.pipeline is not None, "start it first"
        return self.pipeline

    async def answer(self, text: str) -> str:
        """Answer a request."""
        return _checked(await self._open.handler.serve(text))

    async def search(self, text: str) -> str:
        """Find passages for a request."""
        return _checked(await self._open.search_handler.serve(text))

    async def rerank(self, text: str) -> str:
        """Rank passages again."""
        return _checked(await self._open.handler.also["rerank"].serve(text))

    async def generate(self, text: str) -> str:
        """Have a model answer a prompt."""
        return _checked(await self._open.handler.also["generate"].serve(text))

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer a request piece by piece."""
        async with aclosing(self._open.handler.events(text)) as events:
            async for event in events:
                if event.name == "error":
                    _checked(event.data)
                yield event

    async def ready(self) -> None:
        """Return when the store answers; what is loaded stays loaded."""
        await anyio.to_thread.run_sync(self._check)

    def _check(self) -> None:
        with errors_of("retrieve"):
            self._open.retriever.check()

    async def close(self) -> None:
        """Close what was opened."""
        if self._context is not None:
            context, self._context, self.pipeline = self._context, None, None
            await anyio.to_thread.run_sync(context.__exit__, None, None, None)


def _checked(text: str) -> str:
    """Return a response, or raise the error it holds."""
    if text.startswith('{"error"'):
        read_reply("rag", text)
    return text
