"""What survives: kill -9 at each named moment of a commit, a full disk, a second process, threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.embedders import Embedder

STEPS = ["embedded", "journal", "upserted", "published", "swept", "manifest", "committed"]
LONG = "\n\n".join(f"Paragraph {n} of the handbook tells about topic {n}. " * 8 for n in range(12))


def whole(retriever: Retriever) -> dict[str, str]:
    """Return the text of each document, after checking that its passages are all of it and nothing else."""
    texts = {}
    collection = retriever._collection("default")
    points = list(collection._store.scroll({"kind": "chunk"}))
    for info in retriever.documents("default"):
        own = [point for point in points if point.payload["document_id"] == info.document_id]
        assert {point.payload["version"] for point in own} == {info.content_hash}
        assert len(own) == info.chunks
        texts[info.document_id] = retriever.document("default", info.document_id).text
    assert {point.payload["document_id"] for point in points} == set(texts)
    manifest = collection.manifest
    assert (manifest.documents, manifest.chunks) == (len(texts), len(points))
    return texts


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from rag_retrieve import Retriever, RetrieveSettings
    home, folder, step, occurrence, action = sys.argv[1:]
    seen = 0
    def strike(name):
        global seen
        seen += name == step
        if name == step and seen == int(occurrence):
            os.kill(os.getpid(), signal.SIGKILL)
    with Retriever(RetrieveSettings(home=Path(home)), on_step=strike) as retriever:
        if action == "delete":
            retriever.delete_documents("default", ["notes/tea.txt"])
        elif action == "reindex":
            retriever.reindex("default")
        else:
            retriever.ingest([Path(folder)])
"""


def die(settings: RetrieveSettings, folder: Path, step: str, action: str) -> None:
    """Run an action in a child that is killed at the first occurrence of a step."""
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), settings.home, folder, step, "1", action],
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_kill_during_ingest_loses_nothing_and_shows_nothing_torn(
    settings: RetrieveSettings, minilm: Embedder, folder: Path, step: str
) -> None:
    """Acknowledged documents stay, each document is one whole version, and a retry converges."""
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder])
    before = {f"notes/{path.name}": path.read_text() for path in folder.iterdir()}
    (folder / "tea.txt").write_text(LONG)
    (folder / "new.txt").write_text(LONG.replace("handbook", "guide"))
    after = {f"notes/{path.name}": path.read_text() for path in folder.iterdir()}

    die(settings, folder, step, "ingest")

    with Retriever(settings, embedder=minilm) as retriever:
        found = whole(retriever)
        assert found in (before, after)
        assert (found == after) == (step in ("published", "swept", "manifest", "committed"))
        retriever.ingest([folder])
        assert whole(retriever) == after
        digest = retriever.collections()[0].corpus_digest
    fresh = settings.model_copy(update={"home": settings.home / "fresh"})
    with Retriever(fresh, embedder=minilm) as retriever:
        retriever.ingest([folder])
        assert retriever.collections()[0].corpus_digest == digest


@pytest.mark.parametrize("step", ["journal", "published", "swept"])
def test_kill_during_delete_leaves_the_document_whole_or_gone(
    settings: RetrieveSettings, minilm: Embedder, folder: Path, step: str
) -> None:
    """There is no half-deleted document."""
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder])

    die(settings, folder, step, "delete")

    with Retriever(settings, embedder=minilm) as retriever:
        assert ("notes/tea.txt" in whole(retriever)) == (step == "journal")


def test_kill_during_reindex_keeps_the_old_collection(
    settings: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """A draft that was never published leaves no trace in what is found."""
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder])

    die(settings, folder, "committed", "reindex")

    with Retriever(settings, embedder=minilm) as retriever:
        assert set(whole(retriever)) == {"notes/mars.md", "notes/moon.md", "notes/tea.txt"}
        retriever.reindex("default")
        assert set(whole(retriever)) == {"notes/mars.md", "notes/moon.md", "notes/tea.txt"}


def test_a_second_process_is_refused_with_the_id_of_the_first(
    retriever: Retriever, settings: RetrieveSettings, folder: Path
) -> None:
    """An embedded collection belongs to one process; the command says which."""
    retriever.ingest([folder])

    child = subprocess.run(
        [sys.executable, "-m", "rag_retrieve", "--input", "-"],
        input=b'{"query": "moons"}',
        env={**os.environ, "RAG_HOME": str(settings.home)},
        capture_output=True,
        check=False,
        timeout=60,
    )

    error = json.loads(child.stdout)["error"]
    assert child.returncode == 1
    assert error["code"] == "store_locked"
    assert str(os.getpid()) in error["message"]
    assert b"Traceback" not in child.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_refuses_writes_and_keeps_answering(
    small_disk: Path, minilm: Embedder, folder: Path
) -> None:
    """Writing says storage_full; what was acknowledged is found; with space it goes on."""
    ballast = small_disk / "ballast"
    with Retriever(RetrieveSettings(home=small_disk / "home"), embedder=minilm) as retriever:
        retriever.ingest([folder])
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 65536)
        document = LoadedDocument("big", "", "big", LONG * 3, "text/plain")

        with pytest.raises(StepError) as caught:
            retriever.ingest_documents([document])

        assert caught.value.code == "storage_full"
        results = retriever.retrieve(RetrieveRequest(query="How many moons has Mars?")).results
        assert results[0].document_id == "notes/mars.md"
        assert "big" not in {result.document_id for result in results}
        ballast.unlink()
        assert retriever.ingest_documents([document]).added == ["big"]
        assert len(whole(retriever)) == 4


def test_readers_never_see_a_mixture_of_versions(retriever: Retriever, folder: Path) -> None:
    """While one document is replaced again and again, every answer is one whole version of it."""
    retriever.ingest([folder])
    versions = [
        "\n\n".join(f"Release {n} rule {rule}: the limit is {n}. " * 10 for rule in range(6))
        for n in range(12)
    ]
    seen: list[set[str]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            request = RetrieveRequest(query="release rule limit", top_k=50)
            results = retriever.retrieve(request).results
            texts = [r.text for r in results if r.document_id == "rules"]
            seen.append({text.split()[1] for text in texts})

    reader = threading.Thread(target=read)
    reader.start()
    for text in versions:
        retriever.ingest_documents([LoadedDocument("rules", "", "rules", text, "text/plain")])
    done.set()
    reader.join()

    assert len(seen) > len(versions)
    assert all(len(version) <= 1 for version in seen)
    first = next(index for index, version in enumerate(seen) if version)
    assert all(version for version in seen[first:]), "a replaced document vanished for a moment"
