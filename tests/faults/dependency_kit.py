"""The service over a Qdrant server, an embedding service and a model's server, all doubles."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from embedding_stub import EmbeddingServer, embedding_server
from qdrant_double import QdrantDouble
from service_kit import DOCUMENTS, QUESTION, LLMStub, serving, settings

from rag_retrieve import Retriever, RetrieveSettings

ANSWER = [
    "The finance director signs them [1]. ",
    *(
        f"Rule {n} says so, in {n * n} words of its own, which nobody wants to read from end to end. "
        * 2
        for n in range(40)
    ),
]
"""Pieces of a model's answer, 7 KB in all: too much for a connection that trickles."""
NUMBERS = itertools.count()  # of the requests of all services
NEVER = 10**6  # calls; a breaker that counts so many never opens


@dataclass
class Doubles:
    """What the service depends on, filled."""

    qdrant: QdrantDouble
    embedder: EmbeddingServer
    llm: LLMStub


@contextmanager
def doubles(folder: Path) -> Iterator[Doubles]:
    """Run the three, with the documents of the kit in the collection `default`."""
    for name, text in DOCUMENTS["default"].items():
        (folder / name).write_text(text, encoding="utf-8")
    llm = LLMStub()
    llm.script = [llm.text(*ANSWER)]
    try:
        with QdrantDouble() as qdrant, embedding_server() as embedder:
            embedder.more = 380
            given = RetrieveSettings(
                store="qdrant",
                qdrant_url=qdrant.url,
                qdrant_timeout_s=60,
                embedder="openai",
                embedding_base_url=embedder.url,
                embedding_model="letters",
                chunk_tokens=64,
            )
            with Retriever.open(given) as retriever:
                report = retriever.ingest(sorted(folder.iterdir()))
                assert not report.failed, report.failed
            yield Doubles(qdrant, embedder, llm)
    finally:
        llm.close()


@dataclass
class Reply:
    """What the service answered."""

    status: int
    body: dict[str, Any]
    seconds: float
    request_id: str
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The error's code, or ""."""
        return str(self.body.get("error", {}).get("code", ""))

    @property
    def step(self) -> str | None:
        """The step of the error."""
        step: str | None = self.body.get("error", {}).get("step")
        return step


@dataclass
class Rig:
    """The running service and its dependencies."""

    url: str
    on: Doubles
    http: httpx.Client

    def ask(self, path: str = "/rag_modules", *, key: str = "", **more: Any) -> Reply:
        """Ask something never asked before, so that no vector of it is kept."""
        number = next(NUMBERS)
        asked = {"query": f"{QUESTION} {number} " + "abcd " * 400, **more}
        given = {
            "X-Request-Id": f"ask-{number}",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        began = time.monotonic()
        response = self.http.post(path, json=asked, headers=given)
        seconds = time.monotonic() - began
        headers = dict(response.headers)
        return Reply(response.status_code, response.json(), seconds, given["X-Request-Id"], headers)

    def llm_calls(self) -> Counter[str]:
        """Calls of the model's server by the id of the request they were for."""
        return Counter(one["x-request-id"] for one in self.on.llm.headers)


@contextmanager
def rig(
    on: Doubles,
    *,
    urls: Mapping[str, str] | None = None,
    service: Mapping[str, Any] | None = None,
    **env: Any,
) -> Iterator[Rig]:
    """Serve over the doubles.

    Args:
        on: The doubles.
        urls: Where `qdrant`, `embedder` and `llm` are reached instead.
        service: Settings of the service.
        env: More variables of the steps, without `RAG_`.
    """
    urls = {"qdrant": on.qdrant.url, "embedder": on.embedder.url, "llm": on.llm.url, **(urls or {})}
    values = {
        "STORE": "qdrant",
        "QDRANT_URL": urls["qdrant"],
        "EMBEDDER": "openai",
        "EMBEDDING_BASE_URL": urls["embedder"],
        "EMBEDDING_MODEL": "letters",
        "LLM_BASE_URL": urls["llm"],
        "LLM_MODEL": "m",
        "MIN_RELEVANCE": -1,
        "BREAKER_CALLS": NEVER,
        "RETRY_SHARE": 1,
        **env,
    }
    variables = {f"RAG_{name}": str(value) for name, value in values.items()}
    with (
        serving(settings(**(service or {})), env=variables) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as http,
    ):
        yield Rig(url, on, http)
