"""The header `Idempotency-Key`: the same request sent twice is done once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter

from rag_pipeline.errors import StepError

if TYPE_CHECKING:
    from .library import Job

KEPT_S = 24 * 3600.0
MAX_KEYS = 1000
MAX_KEY_CHARACTERS = 255


class Replays:
    """Remembers for a day which job a key began; a job that failed is forgotten.

    Args:
        registry: Where outcomes are counted.
        clock: Seconds.
    """

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[bytes, Job, float]] = OrderedDict()
        self._outcomes = Counter(
            "rag_idem_total", "Requests with an Idempotency-Key.", ("outcome",), registry=registry
        )

    def find(self, who: str, key: str, digest: bytes) -> Job | None:
        """Return the finished job of an equal request, or None when this is the first one.

        Args:
            who: Name of the API key.
            key: What the client sent.
            digest: Of all that the request asks for.

        Raises:
            StepError: `in_progress`; `idempotency_mismatch` when the key came with another request.
        """
        if not key.isprintable() or not 0 < len(key) <= MAX_KEY_CHARACTERS:
            text = f"Idempotency-Key: send 1 to {MAX_KEY_CHARACTERS} printable characters"
            raise StepError("invalid_request", text, param="Idempotency-Key")
        self._forget()
        known, job, _ = self._known.get((who, key), (b"", None, 0.0))
        if job is None or job.error is not None:
            self._outcomes.labels("new").inc()
            return None
        if known != digest:
            self._outcomes.labels("mismatch").inc()
            raise StepError(
                "idempotency_mismatch",
                "this Idempotency-Key came with other documents before; use a new one",
                param="Idempotency-Key",
            )
        if not job.finished:
            self._outcomes.labels("in_progress").inc()
            raise StepError(
                "in_progress",
                f"the first request with this Idempotency-Key is at work; see /v1/ingests/{job.id}",
                param="Idempotency-Key",
            )
        self._outcomes.labels("replay").inc()
        return job

    def keep(self, who: str, key: str, digest: bytes, job: Job) -> None:
        """Remember what a key began."""
        self._known[who, key] = (digest, job, self._clock())
        self._known.move_to_end((who, key))

    def _forget(self) -> None:
        while self._known:
            oldest = next(iter(self._known))
            young = self._clock() - self._known[oldest][2] < KEPT_S
            if young and len(self._known) <= MAX_KEYS:
                return
            del self._known[oldest]
