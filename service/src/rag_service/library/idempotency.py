"""The header `Idempotency-Key`: the same request sent twice is done once."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport

from .database import transaction
from .jobs import Job

LOG = logging.getLogger(__name__)
KEPT_S = 24 * 3600.0
MAX_KEYS = 1000
MAX_KEY_CHARACTERS = 255
TABLE = """CREATE TABLE IF NOT EXISTS outcomes (
  tenant TEXT, key TEXT, digest BLOB, job TEXT, at REAL, report TEXT, PRIMARY KEY (tenant, key)
)"""
SELECT = "SELECT tenant, key, digest, job, at, report FROM outcomes ORDER BY at"
INSERT = "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)"
EXPIRE = """DELETE FROM outcomes WHERE at <= ?
  OR rowid NOT IN (SELECT rowid FROM outcomes ORDER BY at DESC LIMIT ?)"""


class _Entry(NamedTuple):
    digest: bytes  # of the request
    job: Job
    at: float  # seconds since the epoch


class Replays:
    """Remembers for a day which job a key began; a job that failed is forgotten.

    Args:
        registry: Where outcomes are counted.
        clock: Seconds since the epoch.
        path: SQLite database that keeps outcomes over a restart; the service works without one
            that cannot be written.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
        path: Path | None = None,
    ) -> None:
        self._clock, self._path = clock, path
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # oldest first
        self._lock = threading.Lock()
        self._outcomes = Counter(
            "rag_idem_total", "Requests with an Idempotency-Key.", ("outcome",), registry=registry
        )
        if path is not None and path.exists():
            self._load(path)

    def find(self, tenant: str, key: str, digest: bytes) -> Job | None:
        """Return the finished job of an equal request, or None when this is the first one.

        Args:
            tenant: Name of the API key.
            key: The idempotency key.
            digest: Of all that the request asks for.

        Raises:
            StepError: `in_progress`; `idempotency_mismatch` when the key came with another request.
        """
        if not key.isprintable() or not 0 < len(key) <= MAX_KEY_CHARACTERS:
            text = f"Idempotency-Key: send 1 to {MAX_KEY_CHARACTERS} printable characters"
            raise StepError("invalid_request", text, param="Idempotency-Key")
        with self._lock:
            self._expire()
            entry = self._entries.get((tenant, key))
        if entry is None or entry.job.error is not None:
            self._outcomes.labels("new").inc()
            return None
        if entry.digest != digest:
            self._outcomes.labels("mismatch").inc()
            raise StepError(
                "idempotency_mismatch",
                "this Idempotency-Key came with other documents before; use a new one",
                param="Idempotency-Key",
            )
        if not entry.job.finished:
            self._outcomes.labels("in_progress").inc()
            raise StepError(
                "in_progress",
                "the first request with this Idempotency-Key is at work; see "
                f"/v1/ingests/{entry.job.id}",
                param="Idempotency-Key",
            )
        self._outcomes.labels("replay").inc()
        return entry.job

    def keep(self, tenant: str, key: str, digest: bytes, job: Job) -> None:
        """Remember the job that a key began."""
        with self._lock:
            self._entries[tenant, key] = _Entry(digest, job, self._clock())
            self._entries.move_to_end((tenant, key))

    def record(self, job: Job, report: IngestReport) -> None:
        """Make the outcome of a key's job durable, before any client learns of it; may block."""
        with self._lock:
            keys = (key for key, entry in self._entries.items() if entry.job is job)
            if self._path is None or (found := next(keys, None)) is None:
                return
            entry = self._entries[found]
            row = (*found, entry.digest, job.id, entry.at, report.model_dump_json())
            try:
                with transaction(self._path, TABLE) as database:
                    database.execute(INSERT, row)
                    database.execute(EXPIRE, (self._clock() - KEPT_S, MAX_KEYS))
            except (OSError, sqlite3.Error) as error:
                LOG.warning("%s: %s; a restart will forget this key", self._path, error)

    def _load(self, path: Path) -> None:
        try:
            with transaction(path, TABLE) as database:
                rows = database.execute(SELECT).fetchall()
        except (OSError, sqlite3.Error) as error:
            LOG.warning("%s: %s; earlier idempotency keys are not known", path, error)
            return
        for tenant, key, digest, job_id, at, text in rows:
            report = IngestReport.model_validate_json(text)
            job = Job(report.collection, 0, id=job_id)
            job.finish(report)
            self._entries[tenant, key] = _Entry(digest, job, at)

    def _expire(self) -> None:
        """Forget keys that are older than a day, and the oldest of more than `MAX_KEYS`."""
        while self._entries:
            oldest = next(iter(self._entries))
            young = self._clock() - self._entries[oldest].at < KEPT_S
            if young and len(self._entries) <= MAX_KEYS:
                return
            del self._entries[oldest]
