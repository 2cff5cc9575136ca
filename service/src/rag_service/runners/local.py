"""The composite in this process: the embedded default."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Any

import anyio

from rag_kit.errors import errors_of
from rag_kit.handler import Event
from rag_kit.workers import processors
from rag_pipeline.settings import read_settings
from rag_pipeline.step import read_reply
from rag_pipeline.steps.local import LocalPipeline, open_local

from .base import Say


class LocalRunner:
    """Holds model, collections and connections; a request meets them loaded."""

    name = "local"

    def __init__(self) -> None:
        self._context: AbstractContextManager[LocalPipeline] | None = None
        self.pipeline: LocalPipeline | None = None

    async def start(self, say: Say) -> None:
        """Load the model and open every collection."""
        began = time.perf_counter()
        say(f"loading the model and the collections of {read_settings().home}")
        self._context = open_local(preload=True)
        self.pipeline = await anyio.to_thread.run_sync(self._context.__enter__)
        say(f"loaded in {time.perf_counter() - began:.1f} s")

    @property
    def breakers(self) -> tuple[Any, ...]:
        """Return those of what the steps depend on, by `name`: `open` or not, and `on_call`."""
        return self.pipeline.breakers if self.pipeline is not None else ()

    @property
    def at_once(self) -> int | None:
        """Return how many questions are worth answering at once; None: any number.

        Where nothing is waited for, more than keep the processors busy only take longer each, and
        whose turn is next is decided too early.
        """
        return None if self.breakers else 4 * processors()

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

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer a request piece by piece."""
        async with aclosing(self._open.handler.events(text)) as events:
            async for event in events:
                if event.name == "error":
                    _checked(event.data)
                yield event

    async def ready(self) -> None:
        """Return when the store answers; what is loaded stays."""
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
