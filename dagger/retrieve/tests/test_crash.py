"""What survives: kill -9 at each named moment of a commit, a full disk, a second process, threads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_kit import STEPS, VISIBLE_FROM, HashedWords, whole
from disk_kit import mounted_disk

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.stores.embedded.locks import has_ended, this_process

LONG = "\n\n".join(f"Paragraph {n} of the handbook tells about topic {n}. " * 8 for n in range(12))


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from crash_kit import HashedWords
    from rag_retrieve import Retriever, RetrieveSettings
    home, folder, step, occurrence, action = sys.argv[1:]
    seen = 0
    def strike(name):
        global seen
        seen += name == step
        if name == step and seen == int(occurrence):
            os.kill(os.getpid(), signal.SIGKILL)
    settings = RetrieveSettings(home=Path(home))
    with Retriever(settings, embedder=HashedWords(), on_step=strike) as retriever:
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
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", ["embedded", "journal", *STEPS[4:7], *STEPS[8:]])
def test_fault_ingestion_killed_at_each_step_loses_nothing_and_shows_nothing_torn(
    settings: RetrieveSettings, folder: Path, step: str
) -> None:
    """Acknowledged documents stay, each document is one whole version, and a retry converges."""
    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest([folder])
    before = {f"notes/{path.name}": path.read_text() for path in folder.iterdir()}
    (folder / "tea.txt").write_text(LONG)
    (folder / "new.txt").write_text(LONG.replace("handbook", "guide"))
    after = {f"notes/{path.name}": path.read_text() for path in folder.iterdir()}

    die(settings, folder, step, "ingest")

    with Retriever(settings, embedder=HashedWords()) as retriever:
        found = whole(retriever)
        assert found in (before, after)
        assert (found == after) == (STEPS.index(step) >= VISIBLE_FROM)
        retriever.ingest([folder])
        assert whole(retriever) == after
        digest = retriever.collections()[0].corpus_digest
    fresh = settings.model_copy(update={"home": settings.home / "fresh"})
    with Retriever(fresh, embedder=HashedWords()) as retriever:
        retriever.ingest([folder])
        assert retriever.collections()[0].corpus_digest == digest


@pytest.mark.parametrize("step", ["journal", "published", "swept"])
def test_kill_during_delete_leaves_the_document_whole_or_gone(
    settings: RetrieveSettings, folder: Path, step: str
) -> None:
    """There is no half-deleted document."""
    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest([folder])

    die(settings, folder, step, "delete")

    with Retriever(settings, embedder=HashedWords()) as retriever:
        assert ("notes/tea.txt" in whole(retriever)) == (step == "journal")


def test_kill_during_reindex_keeps_the_old_collection(
    settings: RetrieveSettings, folder: Path
) -> None:
    """A draft that was never published leaves no trace in what is found."""
    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest([folder])

    die(settings, folder, "committed", "reindex")

    with Retriever(settings, embedder=HashedWords()) as retriever:
        assert set(whole(retriever)) == {"notes/mars.md", "notes/moon.md", "notes/tea.txt"}
        retriever.reindex("default")
        assert set(whole(retriever)) == {"notes/mars.md", "notes/moon.md", "notes/tea.txt"}


def test_fault_store_locked_names_the_process_that_has_it(
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


def documents(count: int, word: str = "") -> list[LoadedDocument]:
    texts = [f"Text {n} of {count}. {word if n == count - 1 else ''}" for n in range(count)]
    return [LoadedDocument(f"d{n}", "", "d", text, "text/plain") for n, text in enumerate(texts)]


def test_only_a_process_that_surely_ended_counts_as_ended() -> None:
    """This one has not, nor one elsewhere; one that ended, or whose id another has now, has."""
    here = this_process()
    place, _, started = here.rsplit(" ", 2)
    with subprocess.Popen([sys.executable, "-c", ""]) as short:
        short.wait()
    assert not has_ended(here)
    assert not has_ended("") and not has_ended("what no version wrote")
    assert not has_ended(f"elsewhere {place} {short.pid} {started}")
    assert has_ended(f"{place} {short.pid} {started}")
    assert has_ended(f"{place} {os.getpid()} 0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MiB."""
    with mounted_disk(tmp_path / "disk") as disk:
        yield disk


def test_threat_disk_full_refuses_writes_and_keeps_answering(
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


@pytest.fixture
def someone() -> Iterator[Path]:
    """A folder of this process, which for the test is not root's: root may write anywhere."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid():
        yield folder
    else:
        os.chown(folder, 12345, 12345)
        os.seteuid(12345)
        try:
            yield folder
        finally:
            os.seteuid(0)
    shutil.rmtree(folder)


def test_fault_storage_full_is_what_a_read_only_folder_answers(someone: Path) -> None:
    """What is open still answers; writing, and making a collection, say `storage_full` (507)."""
    with Retriever(RetrieveSettings(home=someone), embedder=HashedWords()) as retriever:
        retriever.ingest_documents(documents(3))
        folders = [someone / "collections", someone / "collections/default"]
        for folder in folders:
            folder.chmod(0o500)
        for change in (
            lambda: retriever.ingest_documents(documents(5)),
            lambda: retriever.delete_documents("default", ["d0"]),
        ):
            with pytest.raises(StepError) as caught:
                change()
            assert (caught.value.code, caught.value.status) == ("storage_full", 507)
            assert "read-only" in caught.value.message
        assert len(retriever.retrieve(RetrieveRequest(query="Text 1 of 3.")).results) == 3
        for folder in folders:
            folder.chmod(0o700)
        assert len(retriever.ingest_documents(documents(5)).added) == 2
        assert len(whole(retriever)) == 5


def test_threat_ingestion_during_queries_never_shows_a_mixture_of_versions(
    retriever: Retriever, folder: Path
) -> None:
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
