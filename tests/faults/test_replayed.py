"""Uploads that are sent again, late, out of order and over a crash count once."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.documents import LoadedDocument, load
from rag_service.library.idempotency import Replays
from rag_service.library.library import Library


@dataclass(frozen=True)
class Text:
    """What an upload consists of."""

    name: str
    text: str

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
        replays = Replays(CollectorRegistry(), path=self.home / "idempotency.jsonl")
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


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_threat_replayed_ingestion_forgets_only_what_a_crash_cut_off(keep: int) -> None:
    """A line that was being written when the power went is left out; those before it count."""

    async def work(folder: Path) -> None:
        service = Service(folder)
        for number in range(2):
            assert await service.upload(f"key {number}", Text(f"{number}.txt", "Text.")) == "done"
        await service.library.close()
        service.retriever.close()
        file = folder / "idempotency.jsonl"
        assert file.stat().st_mode & 0o777 == 0o600
        first = file.read_bytes().index(b"\n") + 1
        file.write_bytes(file.read_bytes()[: (0, first, len(file.read_bytes()) - 10)[keep]])
        service.start()
        known = [await service.upload(f"key {n}", Text(f"{n}.txt", "Text.")) for n in range(2)]
        assert known == [["done", "done"], ["replayed", "done"], ["replayed", "done"]][keep]
        await service.library.close()
        service.retriever.close()

    with home() as folder:
        asyncio.run(work(folder))
