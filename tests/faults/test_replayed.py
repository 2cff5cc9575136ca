"""Uploads that are sent again, late, out of order and over a crash count once."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from crash_lane import load_once, memory
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from rag_kit.errors import StepError
from rag_kit.reports import IngestReport
from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.documents import LoadedDocument, load
from rag_service.library import idempotency
from rag_service.library.idempotency import KEPT_S, MAX_KEYS, Replays
from rag_service.library.jobs import Job
from rag_service.library.library import OUTCOMES, Library


@dataclass(frozen=True)
class Text:
    """What an upload consists of."""

    name: str
    text: str

    @property
    def size(self) -> int:
        return len(self.text)

    def load(self) -> list[LoadedDocument]:
        return load(self.name, self.text.encode())

    def close(self) -> None:
        """It holds nothing."""


class Service:
    """A library and its outcomes on a disk, which a crash leaves as they are."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.applied: dict[str, int] = {}
        self.retriever: Retriever
        self.library: Library
        self.start()

    def start(self) -> None:
        self.retriever = Retriever(RetrieveSettings(home=self.home), embedder=HashedWords())
        replays = Replays(CollectorRegistry(), path=self.home / OUTCOMES)
        self.library = Library(lambda: self.retriever, replays)

    async def crash(self) -> None:
        """Lose all that is in memory; the store's locks go as they do with a process."""
        await self.library.close()
        self.retriever.close()
        self.start()

    async def upload(self, key: str, item: Text) -> str:
        """Send a request with a key, as the route does; returns how it was answered."""
        digest = hashlib.sha256(f"{item}".encode()).digest()
        try:
            job = self.library.replays.find("ann", key, digest)
        except StepError as error:
            return error.code
        if job is not None:
            assert job.report is not None
            assert [*job.report.added, *job.report.updated] == [item.name]
            return "replayed"
        job = self.library.ingest("c", [item])
        self.library.replays.keep("ann", key, digest, job)
        await job.wait()
        self.applied[key] = self.applied.get(key, 0) + 1
        return "done"


@contextmanager
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        yield Path(folder)


ACTIONS = st.lists(
    st.one_of(st.tuples(st.just("send"), st.integers(0, 3)), st.just(("crash", 0))), max_size=14
)


def test_threat_replayed_ingestion_counts_once(lane: Any) -> None:
    """Duplicates, a stale request after a newer one, crashes: each key's documents go in once."""
    load_once()
    tried = 0

    @seed(lane.seed)
    @settings(
        max_examples=lane(12, 200),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ACTIONS)
    def check(actions: list[tuple[str, int]]) -> None:
        nonlocal tried

        async def work(folder: Path) -> None:
            service, sent = Service(folder), []
            for action, number in actions:
                if action == "crash":
                    await service.crash()
                    continue
                # each key is a version of one document: a stale retry would bring an old one back
                item = Text("bylaws.txt" if number else "other.txt", f"Version {number}.")
                outcome = await service.upload(f"key {number}", item)
                assert outcome == ("replayed" if number in sent else "done")
                if number not in sent:
                    sent.append(number)
                mismatch = await service.upload(f"key {number}", Text(item.name, "Forged."))
                assert mismatch == "idempotency_mismatch"
            last = next((number for number in reversed(sent) if number), None)
            wanted = {} if last is None else {"bylaws.txt": f"Version {last}."}
            wanted |= {"other.txt": "Version 0."} if 0 in sent else {}
            if sent:
                found = await asyncio.to_thread(whole, service.retriever, "c")
                assert {name: text.strip() for name, text in found.items()} == wanted
            assert set(service.applied.values()) <= {1}
            await service.library.close()
            service.retriever.close()

        with home() as folder:
            asyncio.run(work(folder))
        tried += 1

    check()
    assert tried >= lane(12, 200)


@pytest.mark.parametrize("spilled", [False, True])
def test_threat_replayed_ingestion_forgets_only_what_a_crash_cut_off(
    spilled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut before the second commit, its pages written or not: the first key still counts."""
    left: dict[str, bytes] = {}

    @contextmanager
    def cut_off(path: Path, table: str) -> Iterator[sqlite3.Connection]:
        """Give a transaction whose files are kept as they are before its commit."""
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA cache_size = 1")
            yield database
            if spilled:  # more than fits into memory: pages go to the file before the commit
                rows = [("bob", f"{n}", b"", "", 0.0, "x" * 4096) for n in range(100)]
                database.executemany(idempotency.INSERT, rows)
            left.update(
                {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
            )
            database.rollback()

    async def work(folder: Path) -> None:
        service = Service(folder)
        assert await service.upload("key 0", Text("0.txt", "Text.")) == "done"
        file = folder / OUTCOMES
        assert file.stat().st_mode & 0o777 == 0o600
        with monkeypatch.context() as patch:
            patch.setattr(idempotency, "transaction", cut_off)
            assert await service.upload("key 1", Text("1.txt", "Text.")) == "done"
        assert left.keys() == {OUTCOMES, f"{OUTCOMES}-journal"}
        await service.library.close()
        service.retriever.close()
        for name, content in left.items():
            (folder / name).write_bytes(content)
        service.start()
        known = [await service.upload(f"key {n}", Text(f"{n}.txt", "Text.")) for n in range(2)]
        assert known == ["replayed", "done"]
        await service.library.close()
        service.retriever.close()

    with home() as folder:
        asyncio.run(work(folder))


def test_storage_that_cannot_be_read_costs_only_the_keys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A database that is none: a warning at the start and at each key, and uploads go on."""

    async def work(folder: Path) -> None:
        (folder / OUTCOMES).write_bytes(b"no database at all" * 100)
        service = Service(folder)
        assert await service.upload("key 0", Text("0.txt", "Text.")) == "done"
        assert await service.upload("key 0", Text("0.txt", "Text.")) == "replayed"
        await service.library.close()
        service.retriever.close()

    with home() as folder:
        asyncio.run(work(folder))

    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [
        "earlier idempotency keys are not known",
        "a restart will forget this key",
    ]


def test_the_number_of_keys_on_the_disk_is_bounded() -> None:
    """By age and by number, whenever one is added."""
    now = 0.0

    async def work(folder: Path) -> None:
        nonlocal now
        path = folder / OUTCOMES
        replays = Replays(CollectorRegistry(), clock=lambda: now, path=path)
        report = IngestReport(collection="c")

        def add(key: str) -> None:
            job = Job("c", 1)
            replays.keep("ann", key, b"1", job)
            replays.record(job, report)

        for number in range(4):
            now = float(number)
            add(f"key {number}")
        database = sqlite3.connect(path)
        with closing(database), database:
            keys = [key for (key,) in database.execute("SELECT key FROM outcomes ORDER BY at")]
            database.executemany(
                idempotency.INSERT,
                [("bob", f"{n}", b"", "j", 4.0, report.model_dump_json()) for n in range(MAX_KEYS)],
            )
        assert keys == ["key 0", "key 1", "key 2", "key 3"]
        now = 5.0
        add("last")
        assert _keys(path)[0] == MAX_KEYS
        now = 4.0 + KEPT_S
        add("the next day")
        assert _keys(path) == (2, {"last", "the next day"})

    with home() as folder:
        asyncio.run(work(folder))


def _keys(path: Path) -> tuple[int, set[str]]:
    with closing(sqlite3.connect(path)) as database:
        found = [key for (key,) in database.execute("SELECT key FROM outcomes")]
    return len(found), set(found)
