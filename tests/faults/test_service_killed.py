"""`rag serve` is killed while it stores an upload, or cannot store one; then it answers again."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_kit import whole
from disk_kit import mounted_disk
from rag_doubles import wait
from service_kit import QUESTION, fill, serving
from test_serve import Served, serve

from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.index.embedders import open_embedder


def upload(client: httpx.Client, texts: dict[str, str]) -> httpx.Response:
    files = [("files", (name, text.encode())) for name, text in texts.items()]
    return client.post("/v1/documents", params={"collection": "default"}, files=files)


def notes(mark: str, count: int, parts: int = 3) -> dict[str, str]:
    return {
        f"{mark}/{n:03}.txt": "\n\n".join(
            f"Note {n} of {mark}, part {part}: the number is {n * part}. " * 6
            for part in range(parts)
        )
        for n in range(count)
    }


def killed_in_a_commit(
    served: Served, home: Path, texts: dict[str, str], *, wait_s: float, closing: bool
) -> dict[str, Any]:
    """Kill the service while its journal tells of a commit of these texts; returns the journal."""
    path = home / "store/collections/default/journal.json"

    def journal() -> Any:
        with suppress(OSError, ValueError):
            return json.loads(path.read_text())["journal"]
        return None

    def send() -> None:
        with (
            suppress(httpx.HTTPError),
            httpx.Client(base_url=served.url, trust_env=False, timeout=120) as client,
        ):
            upload(client, texts)

    sender = threading.Thread(target=send)
    sender.start()
    deadline = time.monotonic() + 120
    while not journal():
        assert time.monotonic() < deadline, "the upload never came to a commit"
        time.sleep(0.001)
    if closing:
        served.process.send_signal(signal.SIGTERM)
    time.sleep(wait_s)
    served.process.kill()
    served.ended()
    sender.join()
    return dict(journal() or {})


def restarted(home: Path, acknowledged: dict[str, str], offered: dict[str, str]) -> float:
    """Start again: what was acknowledged is there, all is whole; returns seconds to ready."""
    began = time.monotonic()
    with serve(home) as served:
        wait(f"{served.url}/readyz")
        took = time.monotonic() - began
        with httpx.Client(base_url=served.url, trust_env=False, timeout=30) as client:
            answer = client.post("/rag_modules", json={"query": "What is the number of note 1?"})
            listed = client.get("/v1/documents?limit=1000").json()["documents"]
        served.process.send_signal(signal.SIGTERM)
        assert served.ended() == 0
    assert answer.status_code == 200, answer.text
    assert set(acknowledged) <= {one["document_id"] for one in listed}
    settings = RetrieveSettings(home=home / "store", chunk_tokens=64)
    with Retriever(settings, embedder=open_embedder(settings)) as retriever:
        found = whole(retriever)
    for name, text in found.items():
        assert text.strip() == {**offered, **acknowledged}[name].strip()
    return took


@pytest.mark.timeout(600)
def test_fault_ingestion_killed_with_the_whole_service(lane: Any, tmp_path: Path) -> None:
    """Uploads that were answered are there after kill -9, the one under way is whole or not there."""
    rng = random.Random(lane.seed)
    acknowledged: dict[str, str] = {}
    offered: dict[str, str] = {}
    ready = []
    for number in range(lane(1, 5)):
        with serve(tmp_path) as served:
            wait(f"{served.url}/readyz")
            with httpx.Client(base_url=served.url, trust_env=False, timeout=120) as client:
                kept = notes(f"kept{number}", 3)
                assert upload(client, kept).status_code == 200
            acknowledged |= kept
            more = notes(f"more{number}", 40)
            offered |= more
            killed_in_a_commit(served, tmp_path, more, wait_s=rng.uniform(0, 0.05), closing=False)
        ready.append(restarted(tmp_path, acknowledged, offered))
    assert max(ready) <= lane(60, 15), "seconds from a dead service to a ready one"


@pytest.mark.full
@pytest.mark.timeout(600)
def test_fault_ingestion_killed_while_the_service_closes(tmp_path: Path) -> None:
    """A huge document's commit outlasts the closing; killed in it, the document is not there."""
    huge = notes("huge", 1, parts=1200)
    with serve(tmp_path) as served:
        wait(f"{served.url}/readyz")
        with httpx.Client(base_url=served.url, trust_env=False, timeout=120) as client:
            kept = notes("kept", 3)
            assert upload(client, kept).status_code == 200
        journal = killed_in_a_commit(served, tmp_path, huge, wait_s=0.0, closing=True)
    assert [version[0] for version in journal["versions"]] == ["huge/000.txt"]
    restarted(tmp_path, kept, huge)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MiB."""
    with mounted_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.full
def test_fault_storage_full_refuses_uploads_and_answers_questions(small_disk: Path) -> None:
    """507 `storage_full` for what changes documents, 200 for a question; with space it goes on."""
    home = fill(small_disk / "home")
    ballast = small_disk / "ballast"
    with (
        serving(home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 65536)
        refused = upload(client, notes("more", 2))
        asked = client.post("/rag_modules", json={"query": QUESTION})
        ready = client.get("/readyz")
        ballast.unlink()
        accepted = upload(client, notes("more", 2))

    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
    assert refused.json()["error"]["retryable"] is True
    assert (asked.status_code, ready.status_code) == (200, 200)
    assert asked.json()["citations"]
    assert accepted.status_code == 200
