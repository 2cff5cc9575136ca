"""Admission control: slots, a bounded queue that is fair between tenants, and rate limits."""

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

MAX_CLIENTS = 10_000  # token buckets kept
BURST_S = 10.0  # seconds of a rate that may be used at once
RETRY_S = 4.0  # Retry-After of refused requests is spread over so many seconds
SMOOTHING = 0.1  # weight of the last request in the average duration
MAX_WAIT_SHARE = 0.5  # refuse when the predicted wait exceeds this share of the limit
ADMITTED_S = 0.05  # seconds an admitted request may take to reach the queue
RESHARE_S = 0.1  # seconds between two checks whether a tenant's share has grown
MAX_IDLE_TENANTS = 100  # tenants without requests that are remembered; each request scans them
DEMAND_S = 30.0  # seconds for which the slots that a tenant needed are reserved for it


@dataclass
class _Tenant:
    """One tenant's slots and its requests in the queue, oldest first.

    Args:
        admitted: When requests were admitted that have not reached the queue yet.
        demand: The most slots it could have used within the last `DEMAND_S`.
        until: When `demand` expires.
    """

    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    admitted: deque[float] = field(default_factory=deque)
    demand: int = 0
    until: float = 0.0

    def active(self, now: float) -> bool:
        """Whether it has requests now, or had some within the last `DEMAND_S`."""
        return bool(self.held or self.waiting) or now <= self.until

    def note_demand(self, now: float) -> None:
        """Remember how many slots it could use now."""
        demand = self.held + len(self.waiting)
        if demand >= self.demand or now > self.until:
            self.demand, self.until = demand, now + DEMAND_S


class Admission:
    """A bounded number of slots and a bounded queue, fair between tenants.

    Active tenants have equal shares of the slots; what one of them does not use, the others may.
    A free slot goes to the tenant that holds the fewest, and there to its oldest request. When the
    queue is full, the tenant with most requests in it loses its newest one to a tenant with fewer.
    A request whose predicted wait is too long is refused at once.

    Args:
        limit: Slots: requests being answered.
        queue: Requests that may wait for a slot.
        wait_s: Seconds one may wait.
        metrics: Counts what is refused.
        reserve: Slots that one tenant alone never gets, kept for a new tenant.
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
        self._tenants: dict[str, _Tenant] = {}  # least recently served first
        self._waiting = 0
        self._mean_s = self._reshare_at = 0.0
        self.draining = False

    @property
    def free(self) -> int:
        """Free slots."""
        return self._free

    def narrow(self, limit: int) -> None:
        """Lower the limit to this many slots; requests being answered go on."""
        less = max(0, self._limit - limit)
        self._limit -= less
        self._free -= less

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def check(self, tenant: str, left_s: float) -> None:
        """Return when a request would now get a slot, or a place in the queue.

        Raises:
            StepError: `overloaded` or `draining`.
        """
        mine = self._tenants.get(tenant) or _Tenant()
        self._check(mine, left_s, self._admitted(mine))

    def _check(self, mine: _Tenant, left_s: float, admitted: int) -> None:
        """Check whether a tenant may have one more request.

        Args:
            mine: The tenant.
            left_s: Seconds until the request is of no use any more.
            admitted: Requests of the tenant that were admitted before and have not reached the
                queue yet.
        """
        if self.draining:
            text = "the service is shutting down; ask another one"
            raise self._shed("draining", "draining", text)
        if self._clock() >= self._reshare_at:  # a share may have grown since a tenant left
            self._reshare_at = self._clock() + RESHARE_S
            self._assign()
        share = self._share_of(mine)
        slots = max(0, min(self._free, share - mine.held))
        if admitted < slots:
            return
        ahead = admitted - slots  # admitted requests that will have to wait
        if self._waiting + ahead >= self._queue and self._longest_queue(mine, ahead) is None:
            raise self._shed("queue_full", "overloaded", "too many requests are waiting already")
        wait_s = self._predicted_wait_s(mine, share, ahead)
        if wait_s > MAX_WAIT_SHARE * self._wait_s or wait_s + self._mean_s > left_s:
            text = "too many requests are waiting already for this one to get its turn in time"
            raise self._shed("too_late", "overloaded", text)

    def admit(self, tenant: str, left_s: float) -> float:
        """Check as `check` does, and count the request until it reaches the queue or is forgotten.

        Returns:
            When it was admitted, for `forget`.

        Raises:
            StepError: `overloaded` or `draining`.
        """
        self.check(tenant, left_s)
        now = self._clock()
        self._tenants.setdefault(tenant, _Tenant()).admitted.append(now)
        return now

    def forget(self, tenant: str, admitted: float) -> None:
        """No longer count an admitted request; it may have ended before it reached the queue."""
        mine = self._tenants.get(tenant)
        if mine is not None and admitted in mine.admitted:
            mine.admitted.remove(admitted)
        if mine is not None and not (mine.admitted or mine.active(self._clock())):
            del self._tenants[tenant]  # it never reached the queue, where idle ones are forgotten

    @asynccontextmanager
    async def slot(self, tenant: str, left_s: float) -> AsyncIterator[None]:
        """Hold one slot.

        Args:
            tenant: Whose request it is.
            left_s: Seconds until the request is of no use any more.

        Raises:
            StepError: `overloaded` or `draining`, at once or after the wait.
        """
        await self._enter(tenant, left_s)
        began = self._clock()
        try:
            yield
        finally:
            duration_s = self._clock() - began
            self._mean_s += (SMOOTHING if self._mean_s else 1) * (duration_s - self._mean_s)
            self._leave(tenant)

    async def _enter(self, tenant: str, left_s: float) -> None:
        mine = self._tenants.get(tenant) or _Tenant()
        if mine.admitted:
            mine.admitted.popleft()
        self._check(mine, left_s, 0)  # admitted requests are behind it
        now = self._clock()
        self._forget_idle(now)
        mine = self._tenants.setdefault(tenant, _Tenant())
        if self._free > 0 and mine.held < self._share_of(mine):
            self._give(tenant, mine)
            mine.note_demand(now)
            return
        if self._waiting >= self._queue:
            self._drop_newest(self._longest_queue(mine, 0))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.waiting.append(turn)
        mine.note_demand(now)
        self._count(1)
        try:
            async with asyncio.timeout(min(self._wait_s, left_s)):
                await turn
        except BaseException as error:
            granted = turn.done() and not turn.cancelled() and turn.exception() is None
            if granted:  # at the moment of the timeout or cancellation
                self._leave(tenant)
            elif turn in mine.waiting:
                mine.waiting.remove(turn)
                self._count(-1)
            if isinstance(error, TimeoutError):
                text = f"no capacity became free within {self._wait_s:g} s"
                raise self._shed("queue_wait", "overloaded", text) from None
            raise

    def _forget_idle(self, now: float) -> None:
        """Forget inactive tenants, and all but the last `MAX_IDLE_TENANTS` without requests."""
        inactive = [name for name, one in self._tenants.items() if not one.active(now)]
        for name in inactive:
            del self._tenants[name]
        idle = [name for name, one in self._tenants.items() if not (one.held or one.waiting)]
        for name in idle[:-MAX_IDLE_TENANTS]:
            del self._tenants[name]

    def _leave(self, tenant: str) -> None:
        """Return a slot."""
        mine = self._tenants[tenant]
        mine.held -= 1
        self._free += 1
        self._metrics.inflight.dec()
        self._assign()

    def _assign(self) -> None:
        """Give free slots to waiting requests, in their order."""
        while self._free > 0 and self._waiting:
            ready = [
                (name, one)
                for name, one in self._tenants.items()
                if one.waiting and one.held < self._share_of(one)
            ]
            if not ready:
                return
            name, one = min(ready, key=lambda each: each[1].held)
            turn = one.waiting.popleft()
            self._count(-1)
            if not turn.done():  # else it was cancelled a moment ago
                self._give(name, one)
                turn.set_result(None)

    def _give(self, name: str, one: _Tenant) -> None:
        one.held += 1
        self._free -= 1
        self._metrics.inflight.inc()
        self._tenants[name] = self._tenants.pop(name)  # now the most recently served

    def _share_of(self, mine: _Tenant) -> int:
        """Return how many slots a tenant may hold now."""
        now = self._clock()
        others = [one for one in self._tenants.values() if one is not mine and one.active(now)]
        equal = -(-self._limit // (len(others) + 1))  # rounded up
        used = sum(min(equal, one.demand) for one in others)
        return min(max(1, self._limit - self._reserve), max(equal, self._limit - used))

    def _count(self, more: int) -> None:
        self._waiting += more
        self._metrics.queued.set(self._waiting)

    def _admitted(self, mine: _Tenant) -> int:
        """Return how many admitted requests of a tenant are still on their way to the queue."""
        while mine.admitted and mine.admitted[0] < self._clock() - ADMITTED_S:
            mine.admitted.popleft()
        return len(mine.admitted)

    def _longest_queue(self, mine: _Tenant, ahead: int) -> _Tenant | None:
        """Return the tenant with most requests in the queue, if `mine` with `ahead + 1` more has fewer."""
        most = max(self._tenants.values(), key=lambda one: len(one.waiting), default=mine)
        return most if len(most.waiting) > len(mine.waiting) + ahead + 1 else None

    def _drop_newest(self, tenant: _Tenant | None) -> None:
        assert tenant is not None, "`_check` has made sure of it"
        turn = tenant.waiting.pop()
        self._count(-1)
        if not turn.done():
            text = "too many requests of this client are waiting already"
            turn.set_exception(self._shed("queue_share", "overloaded", text))

    def _predicted_wait_s(self, mine: _Tenant, share: int, ahead: int) -> float:
        """Return about how many seconds one more request of a tenant would wait.

        Slots go round between the tenants that wait: each of the tenant's own requests before it
        lets at most one of every other tenant pass, and the own ones share `share` slots.

        Args:
            mine: The tenant.
            share: Slots it may hold.
            ahead: Its admitted requests that will reach the queue first.
        """
        sharing = sum(1 for one in self._tenants.values() if one.waiting and one is not mine) + 1
        own = len(mine.waiting) + ahead
        before = min(self._waiting + ahead, own * sharing + sharing - 1)
        turns = max((before + 1) / self._limit, (own + 1) / share)
        return turns * self._mean_s

    def _shed(self, reason: str, code: str, message: str) -> StepError:
        self._counter(reason).inc()
        # spreads retries; no cryptography
        return StepError(code, message, retry_after=random.uniform(0, RETRY_S))  # noqa: S311


class Rates:
    """A token bucket per client: `per_minute` on average, `BURST_S` seconds' worth at once.

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
        capacity = max(1.0, rate * BURST_S)
        tokens, at = self._buckets.pop(client, (capacity, now))
        tokens = min(capacity, tokens + (now - at) * rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise StepError(
                "quota_exceeded",
                f"more than {per_minute} requests a minute; wait",
                retry_after=(1 - tokens) / rate,
            )
