"""The header `Idempotency-Key`: the same request sent twice is done once."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport

from .jobs import Job

LOG = logging.getLogger(__name__)
KEPT_S = 24 * 3600.0
MAX_KEYS = 1000
MAX_KEY_CHARACTERS = 255


class Replays:
    """Remembers for a day which job a key began; a job that failed is forgotten.

    Args:
        registry: Where outcomes are counted.
        clock: Seconds since the epoch.
        path: File that keeps outcomes over a restart; one that cannot be written is done without.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
        path: Path | None = None,
    ) -> None:
        self._clock, self._path = clock, path
        self._known: OrderedDict[tuple[str, str], tuple[bytes, Job, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._lines = 0  # in the file
        self._outcomes = Counter(
            "rag_idem_total", "Requests with an Idempotency-Key.", ("outcome",), registry=registry
        )
        if path is not None:
            self._load(path)

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
        with self._lock:
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
        with self._lock:
            self._known[who, key] = (digest, job, self._clock())
            self._known.move_to_end((who, key))

    def record(self, job: Job, report: IngestReport) -> None:
        """Make the outcome of a key's job durable, before anybody is told of it; may block."""
        if self._path is None:
            return
        with self._lock:
            known = ((name, entry) for name, entry in self._known.items() if entry[1] is job)
            if (found := next(known, None)) is None:
                return
            (who, key), (digest, _, at) = found
            line = _line(who, key, digest, job.id, at, report)
            try:
                if self._lines > 2 * MAX_KEYS:
                    self._write(self._path, self._finished())
                    self._lines = len(self._known)
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with _opened(self._path, os.O_APPEND) as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                self._lines += 1
            except OSError as error:
                LOG.warning("%s: %s; a restart will forget this key", self._path, error.strerror)

    def _load(self, path: Path) -> None:
        """Read what is kept, and write it anew without what is old or was cut off by a crash."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return
        for line in lines:
            try:
                who, key, digest, job, at = _entry(line)
            except (ValueError, KeyError, TypeError):
                continue
            self._known[who, key] = (digest, job, at)
            self._known.move_to_end((who, key))
        self._forget()
        try:
            self._write(path, self._finished())
            self._lines = len(self._known)
        except OSError as error:
            LOG.warning("%s: %s", path, error.strerror)

    def _finished(self) -> Iterator[str]:
        for (who, key), (digest, job, at) in self._known.items():
            if job.report is not None:
                yield _line(who, key, digest, job.id, at, job.report)

    def _write(self, path: Path, lines: Iterator[str]) -> None:
        partial = path.with_name(f"{path.name}.partial")
        with _opened(partial, os.O_TRUNC) as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _forget(self) -> None:
        while self._known:
            oldest = next(iter(self._known))
            young = self._clock() - self._known[oldest][2] < KEPT_S
            if young and len(self._known) <= MAX_KEYS:
                return
            del self._known[oldest]


def _opened(path: Path, flags: int) -> IO[str]:
    """Open a file to write that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "w", encoding="utf-8")


def _line(who: str, key: str, digest: bytes, job_id: str, at: float, report: IngestReport) -> str:
    kept: dict[str, Any] = {"who": who, "key": key, "digest": digest.hex(), "job": job_id, "at": at}
    kept["report"] = report.model_dump(mode="json")
    return f"{json.dumps(kept)}\n"


def _entry(line: str) -> tuple[str, str, bytes, Job, float]:
    kept = json.loads(line)
    report = IngestReport.model_validate(kept["report"])
    job = Job(report.collection, 0, id=kept["job"])
    job.finish(report)
    return kept["who"], kept["key"], bytes.fromhex(kept["digest"]), job, float(kept["at"])
