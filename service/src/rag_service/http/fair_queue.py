"""How many requests are answered at once, how many may wait and in which order, and the rate of one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache

from rag_kit.errors import StepError

from .metrics import Metrics

CLIENTS = 10_000  # clients whose rate is remembered
BURST_S = 10.0  # seconds of a rate that may be used at once
RETRY_S = 4.0  # Retry-After of who is refused is spread over so many seconds
RECENT = 0.1  # weight of the last request in how long one takes
SURE = 0.5  # of the longest wait: who is expected to wait longer may wait in vain
COMING_S = 0.05  # seconds in which a request that was let in asks for its place
LOOK_S = 0.1  # seconds until it is looked again whose share has grown
IDLE = 100  # tenants with nothing here that are remembered; all are looked at for each request
KEEP_S = 30.0  # seconds for which places that a tenant needed are kept for it


@dataclass
class _Tenant:
    """What one tenant has here: places, and requests that wait, oldest first.

    Args:
        coming: When requests were let in that have not asked for their place yet.
        needed: The most places it had use for in the last seconds.
        until: When that is forgotten.
    """

    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    coming: deque[float] = field(default_factory=deque)
    needed: int = 0
    until: float = 0.0

    def here(self, now: float) -> bool:
        """Whether it has something here, or had in the last seconds."""
        return bool(self.held or self.waiting) or now <= self.until

    def note(self, now: float) -> None:
        """Remember how many places it has use for now."""
        need = self.held + len(self.waiting)
        if need >= self.needed or now > self.until:
            self.needed, self.until = need, now + KEEP_S


class Admission:
    """A bounded number of requests at work and a bounded queue, fair between tenants.

    Tenants that were here in the last seconds have equal shares of the places; what one of them
    had no use for, the others may have. A place that becomes free goes to the tenant that holds
    the fewest, and there to its oldest request. When the queue is full, room is made at the cost
    of the tenant that has most in it. Who would wait longer than it may is refused at once.

    Args:
        limit: Requests at work.
        queue: Requests that may wait.
        wait_s: Seconds one may wait.
        metrics: Counts what is refused.
        reserve: Places that are kept for a tenant that was not here lately.
        clock: Seconds.
    """

    def __init__(
        self,
        limit: int,
        queue: int,
        wait_s: float,
        metrics: Metrics,
        *,
        reserve: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._free, self._reserve = limit, limit, reserve
        self._clock = clock
        self._queue, self._wait_s, self._metrics = queue, wait_s, metrics
        self._counter = cache(metrics.shed.labels)
        self._tenants: dict[str, _Tenant] = {}  # whose turn was longest ago comes first
        self._waiting = 0
        self._took_s = self._look = 0.0
        self.draining = False

    @property
    def free(self) -> int:
        """Places nobody holds."""
        return self._free

    def narrow(self, limit: int) -> None:
        """Have this many places at most from now on; who is at work stays."""
        less = max(0, self._limit - limit)
        self._limit -= less
        self._free -= less

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def check(self, tenant: str, left_s: float) -> None:
        """Return when a request would get a place or a place in the queue now.

        Raises:
            StepError: `overloaded` or `draining`.
        """
        mine = self._tenants.get(tenant) or _Tenant()
        self._check(mine, left_s, self._coming(mine))

    def _check(self, mine: _Tenant, left_s: float, coming: int) -> None:
        """Check for one more of a tenant of whom `coming` were let in before it, and wait nowhere."""
        if self.draining:
            text = "the service is shutting down; ask another one"
            raise self._shed("draining", "draining", text)
        if self._clock() >= self._look:  # a share may have grown since somebody left
            self._look = self._clock() + LOOK_S
            self._hand_on()
        most = self._most_of(mine)
        places = max(0, min(self._free, most - mine.held))
        if coming < places:
            return
        ahead = coming - places  # of them will have to wait
        if self._waiting + ahead >= self._queue and self._fattest(mine, ahead) is None:
            raise self._shed("queue_full", "overloaded", "too many requests are waiting already")
        wait_s = self._wait_of(mine, most, ahead)
        if wait_s > SURE * self._wait_s or wait_s + self._took_s > left_s:
            text = "too many requests are waiting already for this one to get its turn in time"
            raise self._shed("too_late", "overloaded", text)

    def expect(self, tenant: str, left_s: float) -> float:
        """Let a request in that has yet to be read, as `check` does; those after it count it.

        Until it asks for its place, or `forget` is told what this returns.

        Raises:
            StepError: `overloaded` or `draining`.
        """
        self.check(tenant, left_s)
        now = self._clock()
        self._tenants.setdefault(tenant, _Tenant()).coming.append(now)
        return now

    def forget(self, tenant: str, expected: float) -> None:
        """No longer expect a request that may have ended without asking for a place."""
        mine = self._tenants.get(tenant)
        if mine is not None and expected in mine.coming:
            mine.coming.remove(expected)

    @asynccontextmanager
    async def slot(self, tenant: str, left_s: float) -> AsyncIterator[None]:
        """Hold one place.

        Args:
            tenant: Who asks.
            left_s: Seconds until it is of no use any more.

        Raises:
            StepError: `overloaded` or `draining`, at once or after the wait.
        """
        await self._enter(tenant, left_s)
        began = self._clock()
        try:
            yield
        finally:
            took_s = self._clock() - began
            self._took_s += (RECENT if self._took_s else 1) * (took_s - self._took_s)
            self._leave(tenant)

    async def _enter(self, tenant: str, left_s: float) -> None:
        mine = self._tenants.get(tenant) or _Tenant()
        if mine.coming:
            mine.coming.popleft()
        self._check(mine, left_s, 0)  # those that are still coming are behind it
        now = self._clock()
        self._forget_idle(now)
        mine = self._tenants.setdefault(tenant, _Tenant())
        if self._free > 0 and mine.held < self._most_of(mine):
            self._give(tenant, mine)
            mine.note(now)
            return
        if self._waiting >= self._queue:
            self._drop_newest(self._fattest(mine, 0))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.waiting.append(turn)
        mine.note(now)
        self._count(1)
        try:
            async with asyncio.timeout(min(self._wait_s, left_s)):
                await turn
        except BaseException as error:
            given = turn.done() and not turn.cancelled() and turn.exception() is None
            if given:  # in the moment in which it was given up
                self._leave(tenant)
            elif turn in mine.waiting:
                mine.waiting.remove(turn)
                self._count(-1)
            if isinstance(error, TimeoutError):
                text = f"no capacity became free within {self._wait_s:g} s"
                raise self._shed("queue_wait", "overloaded", text) from None
            raise

    def _forget_idle(self, now: float) -> None:
        """Forget who was not here lately, and of the others with nothing here all but the last."""
        gone = [name for name, one in self._tenants.items() if not one.here(now)]
        for name in gone:
            del self._tenants[name]
        idle = [name for name, one in self._tenants.items() if not (one.held or one.waiting)]
        for name in idle[:-IDLE]:
            del self._tenants[name]

    def _leave(self, tenant: str) -> None:
        """Give a place back."""
        mine = self._tenants[tenant]
        mine.held -= 1
        self._free += 1
        self._metrics.inflight.dec()
        self._hand_on()

    def _hand_on(self) -> None:
        """Give the free places to those whose turn it is."""
        while self._free > 0 and self._waiting:
            ready = [
                (name, one)
                for name, one in self._tenants.items()
                if one.waiting and one.held < self._most_of(one)
            ]
            if not ready:
                return
            name, one = min(ready, key=lambda each: each[1].held)
            turn = one.waiting.popleft()
            self._count(-1)
            if not turn.done():  # or it was given up, and nobody was told yet
                self._give(name, one)
                turn.set_result(None)

    def _give(self, name: str, one: _Tenant) -> None:
        one.held += 1
        self._free -= 1
        self._metrics.inflight.inc()
        self._tenants[name] = self._tenants.pop(name)  # its turn was last

    def _most_of(self, mine: _Tenant) -> int:
        """Return how many places a tenant may hold now."""
        now = self._clock()
        others = [one for one in self._tenants.values() if one is not mine and one.here(now)]
        share = -(-self._limit // (len(others) + 1))
        kept = sum(min(share, one.needed) for one in others)
        return min(max(1, self._limit - self._reserve), max(share, self._limit - kept))

    def _count(self, more: int) -> None:
        self._waiting += more
        self._metrics.queued.set(self._waiting)

    def _coming(self, mine: _Tenant) -> int:
        """Return how many requests of a tenant were let in a moment ago and are on their way."""
        while mine.coming and mine.coming[0] < self._clock() - COMING_S:
            mine.coming.popleft()
        return len(mine.coming)

    def _fattest(self, mine: _Tenant, ahead: int) -> _Tenant | None:
        """Return who has more in the queue than `mine` would have with `ahead` and one more."""
        most = max(self._tenants.values(), key=lambda one: len(one.waiting), default=mine)
        return most if len(most.waiting) > len(mine.waiting) + ahead + 1 else None

    def _drop_newest(self, tenant: _Tenant | None) -> None:
        assert tenant is not None, "check() made sure"
        turn = tenant.waiting.pop()
        self._count(-1)
        if not turn.done():
            text = "too many requests of this client are waiting already"
            turn.set_exception(self._shed("queue_share", "overloaded", text))

    def _wait_of(self, mine: _Tenant, most: int, ahead: int) -> float:
        """Return about how many seconds one more request of a tenant would wait.

        Behind those that wait, and `ahead` of its own. In turns, `k` of its own before it cost a
        place in each of the queues at most; and those of its own have no more than `most` of the
        places, its share.
        """
        sharing = sum(1 for one in self._tenants.values() if one.waiting and one is not mine) + 1
        own = len(mine.waiting) + ahead
        before = min(self._waiting + ahead, own * sharing + sharing - 1)
        turns = max((before + 1) / self._limit, (own + 1) / most)
        return turns * self._took_s

    def _shed(self, reason: str, code: str, message: str) -> StepError:
        self._counter(reason).inc()
        # spreading retries, not cryptography
        return StepError(code, message, retry_after=random.uniform(0, RETRY_S))  # noqa: S311


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
