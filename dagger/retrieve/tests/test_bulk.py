"""Ingest by several workers: what one process would store, each text embedded once, also after a kill."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from embedding_stub import embedding_server
from qdrant_kit import Qdrant
from s3_double import S3Double, running

from rag_kit.errors import StepError
from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.bulk import Done, Part, Worker, read_part
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.sources import Access, open_source
from rag_retrieve.sources.sync import SyncOptions


class OnThisProcess:
    """A double of Ray: tasks and workers in this process, everything between them pickled.

    Attributes:
        started: The workers of all runs.
        end_after: Results after which the run dies; None: never.
    """

    started: list[Worker]
    end_after: int | None = None

    def __init__(self) -> None:
        self.started = []

    def __call__(self, opener: Any, collection: str, *, workers: int, threads: int) -> Any:
        def run(parts: Sequence[Part[Any]]) -> Iterator[Done]:
            self.started += [Worker(copied(opener), collection) for _ in range(workers)]
            turns = cycle(self.started[-workers:])
            items = (item for part in map(copied, parts) for item in read_part(part))
            done = (copied(next(turns).work(copied(item))) for item in items)
            yield from islice(done, self.end_after)
            if self.end_after is not None:
                raise KeyboardInterrupt

        return run

    def close(self) -> None:
        for worker in self.started:
            worker.indexer.close()


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnThisProcess]:
    """A double in place of Ray."""
    double = OnThisProcess()
    monkeypatch.setattr("rag_retrieve.bulk.on_ray", double)
    monkeypatch.setattr("rag_retrieve.bulk.find_spec", lambda name: object())
    yield double
    double.close()


@pytest.fixture
def settings(qdrant: Qdrant) -> Iterator[RetrieveSettings]:
    """Settings with a server of embeddings, a double, so that each worker opens its own embedder."""
    with embedding_server() as server:
        yield qdrant.settings(
            embedder="openai", embedding_base_url=server.url, embedding_model="letters"
        )


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder of texts, records and a table, with two faults."""
    root = tmp_path / "papers"
    root.mkdir()
    for number in range(6):
        (root / f"note{number}.md").write_text(f"# Note {number}\n\nMoon {number} is far away.\n")
    records = [
        json.dumps({"id": f"r{n}", "text": f"River {n} is long.", "km": n}) for n in range(34)
    ]
    (root / "rivers.jsonl").write_text("\n".join([*records[:9], "{broken", *records[9:]]))
    (root / "towns.csv").write_text("Town,People\nUlm,120000\nAalen,68000\n")
    (root / "scan.pdf").write_bytes(b"%PDF-broken")
    (root / "image.raw").write_bytes(b"x")
    return root


def stored(retriever: Retriever, name: str) -> dict[str, Any]:
    """All passages by id, with payload and vector; the marks of the commits that wrote them are left out."""
    pages = retriever._collection(name).passages(100)
    points = [point for page in pages for point in page]
    return {
        point.id: (
            {key: value for key, value in point.payload.items() if key != "write"},
            None if point.dense is None else list(point.dense),
        )
        for point in points
    }


def in_order(report: Any) -> dict[str, Any]:
    fields = report.model_dump(exclude={"collection"})
    return {
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in fields.items()
    }


def test_workers_store_what_one_process_stores(
    qdrant: Qdrant, ray: OnThisProcess, papers: Path, settings: RetrieveSettings
) -> None:
    """Same report, passages, vectors, digest and roots; each worker loads the model once."""
    seen = []
    one, many = qdrant.name + "-one", qdrant.name + "-many"
    with Retriever(settings) as retriever:
        alone = retriever.ingest([papers], collection=one)
        spread = retriever.ingest([papers], collection=many, workers=2, progress=seen.append)
        again = retriever.ingest([papers], collection=many, workers=2)

        assert in_order(spread) == in_order(alone)
        assert (len(spread.added), len(spread.failed), len(spread.warnings)) == (41, 1, 1)
        assert spread.skipped == alone.skipped and spread.skipped[0].ending == ".raw"
        assert stored(retriever, many) == stored(retriever, one)
        manifests = [retriever._collection(name).manifest for name in (one, many)]
        assert manifests[0].corpus_digest == manifests[1].corpus_digest
        assert manifests[0].roots == manifests[1].roots
        assert manifests[0].languages == manifests[1].languages
        assert (again.embeddings, len(again.unchanged)) == (0, 41)
    assert (seen[-1].done, seen[-1].passages) == (41, spread.chunks)
    assert all(state.done <= state.total for state in seen)
    loads = [worker.indexer.counters.model_loads for worker in ray.started]
    assert loads == [1] * 4


def test_a_run_that_was_killed_goes_on_where_it_was(
    qdrant: Qdrant, ray: OnThisProcess, papers: Path, settings: RetrieveSettings
) -> None:
    """Over both runs each text is embedded once; what was reported is stored."""
    with Retriever(settings) as retriever:
        ray.end_after = 6
        with pytest.raises(KeyboardInterrupt):
            retriever.ingest([papers], collection=qdrant.name, workers=2)
        before = len(retriever.documents(qdrant.name))
        ray.end_after = None
        report = retriever.ingest([papers], collection=qdrant.name, workers=2)
        embedded = sum(worker.indexer.counters.texts_embedded for worker in ray.started)

        assert 0 < before < 41
        assert (len(report.unchanged), len(report.added)) == (before, 41 - before)
        assert embedded == retriever.collections()[-1].chunks
        assert len(retriever.documents(qdrant.name)) == 41


def test_what_is_gone_is_reported_then_pruned(
    qdrant: Qdrant, ray: OnThisProcess, papers: Path, settings: RetrieveSettings
) -> None:
    """A file that cannot be read any more keeps its documents."""
    with Retriever(settings) as retriever:
        retriever.ingest([papers], collection=qdrant.name, workers=2)
        (papers / "note3.md").unlink()
        (papers / "towns.csv").write_bytes(b"\x00\x01")
        told = retriever.ingest([papers], collection=qdrant.name, workers=2)
        plan = retriever.plan_ingest([papers], collection=qdrant.name)
        done = retriever.ingest([papers], collection=qdrant.name, workers=2, prune=True)

        assert told.missing == ["papers/note3.md"] == plan.removed == done.deleted
        assert "papers/towns.csv" in {one.document_id for one in retriever.documents(qdrant.name)}


def test_an_error_of_the_store_ends_the_run_with_its_words(
    ray: OnThisProcess, qdrant: Qdrant, papers: Path, settings: RetrieveSettings
) -> None:
    """What a worker meets is what the caller gets."""
    refused = StepError("storage_full", "the disk is full", param="x", retry_after=3.0)

    def full(*args: Any, **options: Any) -> None:
        raise refused

    with (
        Retriever(settings) as retriever,
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StepError, match="the disk is full") as raised,
    ):
        patch.setattr(Retriever, "ingest_documents", full)
        retriever.ingest([papers], collection=qdrant.name, workers=2)
    assert (raised.value.code, raised.value.param) == ("storage_full", "x")
    assert raised.value.retry_after == 3.0


def test_one_store_has_one_writer(tmp_path: Path, papers: Path, minilm: Embedder) -> None:
    """The embedded store refuses several workers before anything is read."""
    with Retriever(RetrieveSettings(home=tmp_path / "home"), embedder=minilm) as retriever:
        with pytest.raises(StepError, match="RAG_STORE=qdrant") as refused:
            retriever.ingest([papers], workers=2)

        assert (refused.value.code, refused.value.param) == ("invalid_request", "workers")
        assert retriever.collections() == []


def test_without_ray_the_error_names_the_extra(
    qdrant: Qdrant, papers: Path, settings: RetrieveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_retrieve.bulk.find_spec", lambda name: None)
    with (
        Retriever(settings) as retriever,
        pytest.raises(StepError, match=r"pip install 'rag-retrieve\[bulk\]'") as refused,
    ):
        retriever.ingest([papers], collection=qdrant.name, workers=2)

    assert refused.value.code == "misconfigured"


@pytest.fixture
def bucket() -> Iterator[S3Double]:
    """A public bucket of twenty objects."""
    with running(None) as double:
        double.objects = {f"docs/{n}.md": f"# {n}\n\nLake {n}.".encode() for n in range(20)}
        double.objects["docs/lines.jsonl"] = b'{"text": "one"}\n{"text": "two"}\n'
        yield double


def test_a_bucket_is_read_by_the_workers(
    qdrant: Qdrant, ray: OnThisProcess, bucket: S3Double, settings: RetrieveSettings
) -> None:
    """As by `rag sync`; a second run reads only what has changed."""
    access = Access(endpoint=bucket.url, region=bucket.region)
    address = f"s3://{bucket.bucket}/docs"

    def sync(collection: str, workers: int) -> Any:
        source = open_source(address, access=access)
        with Retriever(settings) as retriever:
            planned = retriever.plan_sync(source, SyncOptions(prune=True), collection=collection)
            report = retriever.sync(planned, workers=workers)
            source.close()
            return report, stored(retriever, collection)

    one, many = qdrant.name + "-one", qdrant.name + "-many"
    alone, spread = sync(one, 1), sync(many, 2)
    bucket.objects["docs/3.md"] = b"# 3\n\nLake 3 has dried up."
    bucket.objects["docs/lines.jsonl"] = b'{"text": "one"}\n'
    del bucket.objects["docs/4.md"]
    changed = [sync(one, 1), sync(many, 2)]

    assert in_order(spread[0]) == in_order(alone[0]) and len(spread[0].added) == 22
    assert spread[1] == alone[1]
    assert in_order(changed[1][0]) == in_order(changed[0][0])
    assert changed[1][0].updated == ["docs/3.md"]
    assert sorted(changed[1][0].deleted) == ["docs/4.md", "docs/lines.jsonl#2"]
    assert changed[1][1] == changed[0][1]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_ray_stores_what_one_process_stores(
    qdrant: Qdrant, papers: Path, settings: RetrieveSettings
) -> None:
    """Two processes on Ray itself, then again: nothing is embedded."""
    pytest.importorskip("ray.data", reason="the extra bulk is not installed")
    one, many = qdrant.name + "-one", qdrant.name + "-many"
    with Retriever(settings) as retriever:
        alone = retriever.ingest([papers], collection=one)
        spread = retriever.ingest([papers], collection=many, workers=2)
        again = retriever.ingest([papers], collection=many, workers=2)

        assert in_order(spread) == in_order(alone)
        assert stored(retriever, many) == stored(retriever, one)
        assert (again.embeddings, len(again.unchanged)) == (0, 41)
