"""The guides, their blocks that are not run and why, and doubles of the reader's own servers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from guide_kit import Session
from llm_stub import LLMStub
from service_kit import Collector
from superlinked_double import SuperlinkedDouble
from superlinked_kit import superlinked_process

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [
    *sorted((ROOT / "docs/guides").glob("[!R]*.md")),
    ROOT / "docs/evaluation.md",
    ROOT / "docs/superlinked.md",
]
INSTALLS = "installs from the network; tests/test_make_run.py sets up"
SHAPE = "the shape of a request; the commands of the guide send it"
LEFT: dict[str, dict[str, str]] = {
    "quick-start.md": {"git clone": INSTALLS},
    "one-module.md": {"pip install": INSTALLS},
    "superlinked.md": {
        "scripts/uv sync": "starts the server: the test does, or its double",
        '{"query": "How many days of leave?"': SHAPE,
    },
}
"""By guide, how a block that is not run begins, and why."""
MODEL_ANSWER = "Only the board may sign such contracts [1], as the chair likes to say [7]."
Meant = Mapping[str, str]
Look = Callable[[Session], None]


def guide_named(name: str) -> Path:
    """Return a guide."""
    [found] = [guide for guide in GUIDES if guide.name == name]
    return found


@contextmanager
def standing_in(guide: Path) -> Iterator[tuple[Meant, Meant, Look]]:
    """Run doubles of the servers that a guide's reader has.

    Yields:
        What the reader's text means here; variables; and a look at what the double was sent.
    """
    doubles = {
        "language-model.md": model_server,
        "operate.md": collector,
        "superlinked.md": superlinked_server,
    }
    if guide.name not in doubles:
        yield {}, {}, lambda reader: None
        return
    with doubles[guide.name]() as given:
        yield given


@contextmanager
def model_server() -> Iterator[tuple[Meant, Meant, Look]]:
    """The double of the reader's model server; it answers with a number that points to nothing."""
    stub = LLMStub()
    stub.script = [stub.text(*re.findall(r"\S+\s*", MODEL_ANSWER))]
    port = stub.url.rpartition(":")[2].removesuffix("/v1")

    def look(reader: Session) -> None:
        assert stub.calls >= 3
        sent = {header["authorization"] for header in stub.headers}
        assert sent == {"Bearer the-key-of-the-model-server"}
        assert {body["model"] for body in stub.bodies} == {"my-model"}

    try:
        said = {f"{host}:8001": f"{host}:{port}" for host in ("127.0.0.1", "localhost", "llm")}
        yield said, {}, look
    finally:
        stub.close()


@contextmanager
def superlinked_server() -> Iterator[tuple[Meant, Meant, Look]]:
    """The double of the Superlinked server: its responses, ranked by a plain sum."""
    with SuperlinkedDouble() as server:

        def look(reader: Session) -> None:
            assert any(each.endswith("/search") for each in server.requests)

        yield {"http://127.0.0.1:8090": server.url}, {}, look


@contextmanager
def real_superlinked(python: Path) -> Iterator[Meant]:
    """The real Superlinked server, in memory, on a free port; `python` is of its environment."""
    with superlinked_process(python) as url:
        while httpx.get(f"{url}/readyz", trust_env=False).status_code != 200:
            time.sleep(0.2)
        yield {"http://127.0.0.1:8090": url}


@contextmanager
def collector() -> Iterator[tuple[Meant, Meant, Look]]:
    """A double of the reader's OpenTelemetry collector."""
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def look(reader: Session) -> None:
        traces = b"".join(server.bodies)
        assert b"POST /rag_modules" in traces
        assert b"rag.retrieve" in traces
        assert b"contracts" not in traces

    try:
        yield {"127.0.0.1:4318": f"127.0.0.1:{server.server_address[1]}"}, {}, look
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
