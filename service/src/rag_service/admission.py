"""How many requests are answered at once, how many may wait, and the rate of one client."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rag_pipeline.errors import StepError

from .metrics import Metrics

CLIENTS = 10_000  # clients whose rate is remembered
BURST_S = 10.0  # seconds of a rate that may be used at once


class Admission:
    """A bounded number of requests at work and a bounded queue before them.

    Args:
        limit: Requests at work.
        queue: Requests that may wait.
        wait_s: Seconds one may wait.
        metrics: Counts what is refused.
    """

    def __init__(self, limit: int, queue: int, wait_s: float, metrics: Metrics) -> None:
        self._free = asyncio.Semaphore(limit)
        self._queue, self._wait_s, self._metrics = queue, wait_s, metrics
        self._waiting = 0
        self.draining = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place.

        Raises:
            StepError: `overloaded` or `draining`, at once or after the wait.
        """
        await self._enter()
        self._metrics.inflight.inc()
        try:
            yield
        finally:
            self._metrics.inflight.dec()
            self._free.release()

    async def _enter(self) -> None:
        if self.draining:
            raise self._shed(
                "draining", "draining", "the service is shutting down; ask another one"
            )
        if not self._free.locked():
            await self._free.acquire()
            return
        if self._waiting >= self._queue:
            raise self._shed("queue_full", "overloaded", "too many requests are waiting already")
        self._waiting += 1
        self._metrics.queued.set(self._waiting)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            text = f"no capacity became free within {self._wait_s:g} s"
            raise self._shed("queue_wait", "overloaded", text) from None
        finally:
            self._waiting -= 1
            self._metrics.queued.set(self._waiting)

    def _shed(self, reason: str, code: str, message: str) -> StepError:
        self._metrics.shed.labels(reason).inc()
        # spreading retries, not cryptography
        return StepError(code, message, retry_after=1 + random.random())  # noqa: S311


class Rates:
    """A token bucket per client: `per_minute` on average, ten seconds of it at once.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, per_minute: int) -> None:
        """Count one request.

        Raises:
            StepError: `quota_exceeded`, with the seconds until the next one.
        """
        now, rate = self._clock(), per_minute / 60
        most = max(1.0, rate * BURST_S)
        tokens, at = self._buckets.pop(client, (most, now))
        tokens = min(most, tokens + (now - at) * rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise StepError(
                "quota_exceeded",
                f"more than {per_minute} requests a minute; wait",
                retry_after=(1 - tokens) / rate,
            )
