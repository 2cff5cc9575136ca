"""Fixtures: the real server on loopback, over Superlinked's memory and over a Qdrant server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from news import Serve
from qdrant_double import QdrantDouble

from rag_superlinked import SuperlinkedSettings, application, sdk  # noqa: F401, loaded once

REAL = os.environ.get("RAG_TEST_QDRANT_URL")


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings() -> Iterator[None]:
    """Take the caller's own settings out of the environment; those of the tests stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("RAG_") and not name.startswith("RAG_TEST_"):
                patch.delenv(name)
        yield


class _Uvicorn(uvicorn.Server):
    """Tells when it is up, so that nobody has to poll."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextmanager
def serving(settings: SuperlinkedSettings) -> Iterator[httpx.Client]:
    """Run the server on a free loopback port; gives a client of it."""
    server = _Uvicorn(uvicorn.Config(application(settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.up.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        while client.get("/readyz").json().get("error", {}).get("code") == "not_ready":
            pass
        yield client
    server.should_exit = True
    thread.join()


@pytest.fixture
def double() -> Iterator[QdrantDouble]:
    """A double of the Qdrant REST API on loopback."""
    with QdrantDouble() as running:
        yield running


@pytest.fixture(params=["memory", "double", "real"])
def settings(request: pytest.FixtureRequest) -> SuperlinkedSettings:
    """Settings for each database; a real Qdrant when RAG_TEST_QDRANT_URL names one."""
    if request.param == "memory":
        return SuperlinkedSettings()
    if request.param == "real" and not REAL:
        pytest.skip("RAG_TEST_QDRANT_URL names no real Qdrant server")
    url = REAL if request.param == "real" else request.getfixturevalue("double").url
    return SuperlinkedSettings(qdrant_url=url)


@pytest.fixture
def client(settings: SuperlinkedSettings) -> Iterator[httpx.Client]:
    """A client of the server over each database, without a collection `test-news`."""
    with serving(settings) as running:
        yield running
        running.delete("/collections/test-news")


@pytest.fixture
def serve() -> Serve:
    """Start a server with settings of the test's own."""
    return serving
