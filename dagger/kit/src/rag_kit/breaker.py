"""How a step treats a dependency that fails: a circuit breaker and a budget for retries."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .settings import BreakerSettings

RESERVE = 10  # retries a breaker starts with and can save up; a quiet service may retry, too


class Breaker:
    """Refuses calls of a dependency while most of them fail; safe to use from many threads.

    It is closed (every call passes) or open (one call every `breaker_probe_s` passes, as a probe); a
    probe that succeeds closes it.

    Args:
        name: The dependency, for people and metrics.
        settings: When it opens, and how many retries it allows.
        clock: Seconds since any fixed moment.

    Attributes:
        on_call: Told the seconds of each call, from whatever thread made it.
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
        self._ended: deque[tuple[float, bool]] = deque()  # when, and whether it failed
        self._failed = 0
        self._next_probe: float | None = None  # None: closed
        self._retries = float(RESERVE)

    @property
    def open(self) -> bool:
        """Whether calls are refused."""
        return self._next_probe is not None

    def refuses(self) -> float:
        """Return the seconds until a call may be tried, or 0: make it now, then tell `ended`."""
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
        """Time a call, however it ends: with an answer, an error, or given up."""
        began = self._clock()
        try:
            yield
        finally:
            self.on_call(self._clock() - began)

    def ended(self, *, failed: bool) -> None:
        """Count a call that was made; one that was given up tells nothing and is not counted."""
        with self._lock:
            now = self._clock()
            if self._next_probe is not None:
                if not failed:
                    self._next_probe, self._failed = None, 0
                    self._ended.clear()
                return
            self._ended.append((now, failed))
            self._failed += failed
            while self._ended[0][0] <= now - self._settings.breaker_window_s:
                self._failed -= self._ended.popleft()[1]
            calls = len(self._ended)
            if (
                calls >= self._settings.breaker_calls
                and self._failed >= self._settings.breaker_share * calls
            ):
                self._next_probe = now + self._settings.breaker_probe_s

    def may_retry(self) -> bool:
        """Take one retry from the budget, where there is one."""
        with self._lock:
            if self._next_probe is not None or self._retries < 1:
                return False
            self._retries -= 1
            return True
