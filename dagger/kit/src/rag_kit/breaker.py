"""How a step treats a dependency that fails: a circuit breaker and a budget for retries."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RESERVE = 10  # retries a breaker starts with and can save up; a quiet service may retry, too


@dataclass(frozen=True)
class Rules:
    """When a breaker opens, and how much is tried again.

    Args:
        share: Share of failed calls that opens it, 0 to 1.
        calls: Calls needed to judge.
        window_s: Seconds a call counts.
        probe_s: Seconds between two calls while it is open.
        retries: Retries per call, on average, 0 to 1.
    """

    share: float = 0.5
    calls: int = 20
    window_s: float = 10.0
    probe_s: float = 2.0
    retries: float = 0.1


class Breaker:
    """Refuses calls of a dependency while most of them fail; safe to use from many threads.

    It is closed (everything passes) or open (one call every `probe_s` passes, to try); one call
    that succeeds closes it.

    Args:
        name: The dependency, for people and metrics.
        rules: When it opens.
        clock: Seconds since any fixed moment.

    Attributes:
        on_call: Told the seconds of each call, from whatever thread made it.
    """

    def __init__(
        self, name: str, rules: Rules | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.on_call: Callable[[float], None] = lambda seconds: None
        self._rules = rules or Rules()
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
                self._next_probe = now + self._rules.probe_s
            self._retries = min(RESERVE, self._retries + self._rules.retries)
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
            while self._ended[0][0] <= now - self._rules.window_s:
                self._failed -= self._ended.popleft()[1]
            calls = len(self._ended)
            if calls >= self._rules.calls and self._failed >= self._rules.share * calls:
                self._next_probe = now + self._rules.probe_s

    def may_retry(self) -> bool:
        """Take one retry from the budget, where there is one."""
        with self._lock:
            if self._next_probe is not None or self._retries < 1:
                return False
            self._retries -= 1
            return True
