"""An event loop on a thread of its own, so that blocking code can start and cancel coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from .handler import on_cancel

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines on a daemon thread until closed."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._loop.is_closed()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result; cancelling the request cancels it.

        Raises:
            CancelledError: It was cancelled; the class of `concurrent.futures`.
        """
        future = self.submit(coroutine)
        on_cancel(future.cancel)
        return future.result()

    def close(self, last: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        """Cancel running coroutines, wait for them, and end the thread; closing twice is fine.

        Args:
            last: Runs after every cancelled task has ended, e.g. closes the client they used: a
                connection opened in a closed client would stay open.
        """
        if self.closed:
            return
        self.submit(self._drain(last)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drain(self, last: Callable[[], Coroutine[Any, Any, object]] | None) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if last is not None:
            await last()
        await self._loop.shutdown_asyncgens()
