"""Turns at the embedder: one batch at a time, fair between tenants and between a tenant's runs."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Gives turns round robin: a tenant that just had one goes behind all others that wait.

    Only tenants that wait are remembered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()  # next one first

    @contextmanager
    def turn(self, tenant: str) -> Iterator[None]:
        """Hold the turn for the block; waits until it is this tenant's; not reentrant."""
        with self._lock:
            granted = None if not self._taken else threading.Event()
            self._taken = True
            if granted is not None:
                self._waiting.setdefault(tenant, deque()).append(granted)
        if granted is not None:
            granted.wait()
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the first waiting tenant, to its run that has waited longest."""
        with self._lock:
            if not self._waiting:
                self._taken = False
                return
            tenant, runs = self._waiting.popitem(last=False)
            runs.popleft().set()
            if runs:
                self._waiting[tenant] = runs
