"""Three small steps for the tests of the pipeline, with the contract's JSON; any step as a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from rag_kit.handler import OpenStep
from rag_kit.server import application

TEXT = "Only the board may sign."
PASSAGE = {
    "chunk_id": "c7",
    "document_id": "bylaws.md",
    "title": "By-laws",
    "source": "bylaws.md",
    "text": TEXT,
    "span": [100, 100 + len(TEXT)],
    "page": 4,
    "score": 0.81,
    "scores": {"dense": 0.8},
    "metadata": {"year": 2024},
}
CITATION = {
    **{
        key: PASSAGE[key] for key in ("chunk_id", "document_id", "title", "source", "page", "score")
    },
    "marker": 1,
    "spans": [PASSAGE["span"]],
    "quote": TEXT,
}


def retrieve_body(request: dict[str, Any]) -> dict[str, Any]:
    """Find the one passage there is; carry everything else."""
    made = {"retrieve": {"version": "0.1.0", "corpus_digest": "sha256:1"}}
    return {**request, "results": [PASSAGE], "warnings": ["slow store"], "provenance": made}


def augment_body(request: dict[str, Any]) -> dict[str, Any]:
    """Number the passages; drop `results`."""
    request = dict(request)
    results = request.pop("results")
    return {
        **request,
        "prompt": [{"role": "user", "content": request["query"]}],
        "contexts": [{**result, "marker": i} for i, result in enumerate(results, 1)],
        "left_out": [
            {"chunk_id": "c8", "document_id": "d", "score": 0.1, "reason": "empty"},
        ],
        "decision": {"answerable": True, "reason": "a passage"},
        "context_usage": {"context_tokens": 6, "prompt_tokens": 9},
        "warnings": [*request["warnings"], "one passage left out"],
        "provenance": {**request["provenance"], "augment": {"version": "0.1.0"}},
    }


def generate_body(request: dict[str, Any]) -> dict[str, Any]:
    """Answer with the first passage."""
    return {
        "query": request["query"],
        "answer": f"{TEXT[:-1]} [1].",
        "answerable": True,
        "finish_reason": "stop",
        "llm_generated": False,
        "support": 0.9,
        "citations": [CITATION],
        "citation_check": {"removed_markers": [], "uncited_sentences": 0},
        "contexts": request["contexts"],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "llm_calls": 0},
        "warnings": request["warnings"],
        "provenance": {**request["provenance"], "generate": {"version": "0.1.0"}},
    }


BODIES = {"retrieve": retrieve_body, "augment": augment_body, "generate": generate_body}


class StepDouble:
    """A step made of one function on JSON objects; keeps the requests it was sent."""

    def __init__(self, body: Callable[[dict[str, Any]], Any]) -> None:
        self.body = body
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, text: str) -> str:
        self.requests.append(json.loads(text))
        answer = self.body(dict(self.requests[-1]))
        return answer if isinstance(answer, str) else json.dumps(answer)


@contextmanager
def app_served(app: Any, *, until: str | None = None, **config: Any) -> Iterator[str]:
    """Serve an application on a free port of 127.0.0.1 until the block ends, and yield its URL.

    Args:
        app: The application.
        until: Wait until this path answers 200; None: until the server listens.
        config: For `uvicorn.Config`.
    """
    defaults = {"port": 0, "log_level": "warning", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, **{**defaults, **config}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the server did not start"
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        if until:
            wait(f"{url}{until}")
        yield url
    finally:
        server.should_exit = True
        thread.join()


def wait(url: str) -> None:
    """Wait until this answers 200; fail when it reports a permanent error."""
    pause = threading.Event()
    with httpx.Client(trust_env=False, timeout=60) as client:
        while (answer := client.get(url)).status_code != 200:
            assert answer.json()["error"]["retryable"], f"{url} answers {answer.text}"
            pause.wait(0.01)


@contextmanager
def resident(open_step: OpenStep, name: str, verbs: tuple[str, ...] = ("run",)) -> Iterator[str]:
    """Serve a step as its own resident server, and yield its URL."""
    app = application(open_step, step=name, verbs=verbs)
    with app_served(app, timeout_graceful_shutdown=1) as url:
        yield url
