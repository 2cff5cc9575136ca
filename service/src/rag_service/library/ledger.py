"""The ledger of ingests: which ones were accepted, and how each ended, over a restart.

An upload's bytes are not kept: one that was under way when the service ended is reported as lost.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pydantic_core

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport

from .database import transaction
from .jobs import Job

LOG = logging.getLogger(__name__)
KEPT_S = 24 * 3600.0
MAX_ENTRIES = 10_000
MAX_ENTRIES_OF_TENANT = 1000
LOST = (
    "the service ended before this was done, and its upload is lost; send it again: documents that "
    "were stored already cost nothing"
)
TABLE = """CREATE TABLE IF NOT EXISTS ingests (
  id TEXT PRIMARY KEY, tenant TEXT, collection TEXT, at REAL, outcome TEXT
)"""
BEGIN = "INSERT INTO ingests VALUES (?, ?, ?, ?, NULL)"
END = "UPDATE ingests SET outcome = ? WHERE id = ?"
FIND = "SELECT tenant, collection, outcome FROM ingests WHERE id = ?"
EXPIRE = """DELETE FROM ingests WHERE at <= ?
  OR id IN (SELECT id FROM ingests WHERE tenant = ? ORDER BY at DESC LIMIT -1 OFFSET ?)
  OR id IN (SELECT id FROM ingests ORDER BY at DESC LIMIT -1 OFFSET ?)"""


class Ledger:
    """Keeps ingests for a day; the service works without one that cannot be written.

    Its methods block.

    Args:
        path: SQLite database; None: nothing is kept.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def begin(self, job: Job) -> None:
        """Note that a job was accepted, and forget old ones."""
        now = self._clock()
        expired = (now - KEPT_S, job.tenant, MAX_ENTRIES_OF_TENANT - 1, MAX_ENTRIES - 1)
        self._write((EXPIRE, expired), (BEGIN, (job.id, job.tenant, job.collection, now)))

    def end(self, job: Job, result: IngestReport | StepError) -> None:
        """Note how a job ended."""
        self._write((END, (_text(result), job.id)))

    def find(self, job_id: str) -> Job | None:
        """Return a job of before, ended; None when it is not known."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with transaction(self._path, TABLE) as database:
                row = database.execute(FIND, (job_id,)).fetchone()
        except (OSError, sqlite3.Error) as error:
            LOG.warning("%s: %s; earlier ingests are not known", self._path, error)
            return None
        if row is None:
            return None
        tenant, collection, outcome = row
        job = Job(collection, 0, id=job_id, tenant=tenant)
        job.finish(_result(outcome))
        return job

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        if self._path is None:
            return
        try:
            with transaction(self._path, TABLE) as database:
                for statement, values in statements:
                    database.execute(statement, values)
        except (OSError, sqlite3.Error) as error:
            LOG.warning("%s: %s; a restart will forget this ingest", self._path, error)


def _text(result: IngestReport | StepError) -> str:
    if isinstance(result, IngestReport):
        return result.model_dump_json()
    return pydantic_core.to_json({"code": result.code, "message": result.message}).decode()


def _result(outcome: str | None) -> IngestReport | StepError:
    if outcome is None:
        return StepError("draining", LOST)
    values = pydantic_core.from_json(outcome)
    if "code" in values:
        return StepError(values["code"], values["message"])
    return IngestReport.model_validate(values)
