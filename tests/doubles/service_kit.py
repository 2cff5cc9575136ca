"""The real application on a free port, over an embedded store with a few small documents."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llm_stub import LLMStub
from rag_doubles import app_served

from rag_pipeline.steps.local import open_local
from rag_service.app import create_app
from rag_service.http.uvicorn_protocol import protocol_with
from rag_service.settings import ServiceSettings

__all__ = [
    "DOCUMENTS",
    "QUESTION",
    "Collector",
    "LLMStub",
    "environment",
    "fill",
    "free_port",
    "running",
    "serving",
    "settings",
]

QUESTION = "Who signs travel requests above 2,000 euros?"
DOCUMENTS: dict[str, dict[str, str]] = {
    "default": {
        "travel.md": "---\ntitle: Travel rules\nyear: 2024\ntopic: travel\nowner: finance\n---\n"
        "# Travel rules\n\nEvery journey needs a travel request before anything is booked. "
        "The head of the team signs travel requests up to 2,000 euros; above that the finance "
        "director signs as well.\n\n## Meals\n\nThe daily allowance for meals is 28 euros. "
        "Receipts are kept for ten years.\n",
        "hours.md": "---\ntitle: Working hours\nyear: 2023\ntopic: work\n---\n"
        "# Working hours\n\nThe week has 38 hours. Core time is from ten to three o'clock, when "
        "everybody can be reached. Overtime is taken as free time within three months.\n",
        "building.txt": "The building in Zürich\n\nThe front door opens at half past six in the "
        "morning. A lost badge is reported to the porter at once, on extension 112.\n",
    },
    "hr": {
        "leave.md": "---\ntitle: Leave\nyear: 2022\ntopic: leave\n---\n"
        "# Leave\n\nEverybody has 25 days of leave a year. Up to five days may be carried over "
        "until the end of March.\n",
    },
}
"""Collection, file name, text."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables, and no other `RAG_…`, until the block ends."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RAG_")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(saved)


def fill(home: Path, documents: Mapping[str, Mapping[str, str]] = DOCUMENTS) -> Path:
    """Make an embedded store of these documents at `home`; returns `home`."""
    with (
        environment({"RAG_CHUNK_TOKENS": "64"}),
        open_local(home=home / "store") as rag,
    ):
        for collection, files in documents.items():
            folder = home / "files" / collection
            folder.mkdir(parents=True)
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
            paths = sorted(folder.iterdir())
            report = rag.retriever.ingest(paths, collection=collection)
            assert not report.failed, report.failed
    return home


def settings(**given: Any) -> ServiceSettings:
    """Return settings for a test: the defaults, with these over them."""
    with environment({}):
        return ServiceSettings(**given)


def copy_home(filled: Path, target: Path) -> Path:
    """Copy a home for one server; the holes of a store's files stay holes: 1 MB in place of 400."""
    subprocess.run(["cp", "-r", "--sparse=always", str(filled), str(target)], check=True)
    return target


@contextmanager
def serving(
    given: ServiceSettings | None = None,
    *,
    home: Path | None = None,
    env: Mapping[str, str] | None = None,
    until: str = "/readyz",
    **more: Any,
) -> Iterator[str]:
    """Serve the real application on a free port of 127.0.0.1 and give its base URL.

    Args:
        given: Settings of the service; None: the defaults.
        home: What `fill` returned; one server at a time may have it.
        env: `RAG_…` variables for the steps, as they start.
        until: Wait until this path answers 200.
        more: For `create_app`.
    """
    values = {"RAG_CHUNK_TOKENS": "64", **(env or {})}
    if home is not None:
        values["RAG_HOME"] = str(home / "store")
    with ExitStack() as stack:
        with environment(values):  # the runner reads it while it starts
            app = create_app(given or ServiceSettings(), **more)
            served = app_served(
                app,
                until=until,
                http=protocol_with(app.state.gate),
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
            url = stack.enter_context(served)
        yield url


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(app: Any, port: int, home: Path | None = None) -> Iterator[str]:
    """Serve an application on a port until the block ends."""
    values = {"RAG_HOME": str(home / "store"), "RAG_CHUNK_TOKENS": "64"} if home else {}
    with environment(values), app_served(app, until="/readyz", port=port) as url:
        yield url


class Collector(ThreadingHTTPServer):
    """A double of an OpenTelemetry collector; keeps what it receives."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Collect)


class _Collect(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
