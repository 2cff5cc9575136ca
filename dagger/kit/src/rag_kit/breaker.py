"""A circuit breaker with a retry budget, for a dependency that may fail."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .settings import BreakerSettings

RESERVE = 10  # retries in the budget at the start, and at most


class Breaker:
    """Refuses calls of a dependency while most of them fail; thread-safe.

    It is closed (every call passes) or open (one call every `breaker_probe_s` passes, as a probe); a
    probe that succeeds closes it.

    Args:
        name: The dependency, for people and metrics.
        settings: When it opens, and how many retries it allows.
        clock: Seconds since any fixed moment.

    Attributes:
        on_call: Called with the seconds of each call, on the thread that made it.
    """

    def __init__(
        self,
        name: str,
        settings: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.on_call: Callable[[float], None] = lambda seconds: None
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: deque[tuple[float, bool]] = deque()  # when, and whether it failed
        self._failed = 0
        self._next_probe: float | None = None  # None: closed
        self._retries = float(RESERVE)

    @property
    def open(self) -> bool:
        """Whether calls are refused."""
        return self._next_probe is not None

    def refused_for(self) -> float:
        """Return the seconds until a call may be tried, or 0: make it now, then `record` its end."""
        with self._lock:
            now = self._clock()
            if self._next_probe is not None:
                if now < self._next_probe:
                    return self._next_probe - now
                self._next_probe = now + self._settings.breaker_probe_s
            self._retries = min(RESERVE, self._retries + self._settings.retry_share)
            return 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time a call, whether it succeeds, fails or is cancelled."""
        started = self._clock()
        try:
            yield
        finally:
            self.on_call(self._clock() - started)

    def record(self, *, failed: bool) -> None:
        """Count a call that ended; one that was cancelled says nothing and is not counted."""
        with self._lock:
            now = self._clock()
            if self._next_probe is not None:
                if not failed:
                    self._next_probe, self._failed = None, 0
                    self._calls.clear()
                return
            self._calls.append((now, failed))
            self._failed += failed
            while self._calls[0][0] <= now - self._settings.breaker_window_s:
                self._failed -= self._calls.popleft()[1]
            calls = len(self._calls)
            if (
                calls >= self._settings.breaker_calls
                and self._failed >= self._settings.breaker_share * calls
            ):
                self._next_probe = now + self._settings.breaker_probe_s

    def may_retry(self) -> bool:
        """Take one retry from the budget; returns whether there was one."""
        with self._lock:
            if self._next_probe is not None or self._retries < 1:
                return False
            self._retries -= 1
            return True
