"""The real application in this process, asked over ASGI: no socket, so that any that opens is seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from service_kit import environment

from rag_service.app import create_app
from rag_service.settings import ServiceSettings

Result = TypeVar("Result")
TENANTS = 50
KEYS: list[dict[str, Any]] = [
    {"name": "all", "key": "key-of-all-0123456789", "write": True},
    *(
        {
            "name": f"t{at}",
            "key": f"key-of-t{at}-0123456789",
            "collections": [f"t{at}-*"],
            "write": True,
        }
        for at in range(TENANTS)
    ),
]


MCP = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


def questions(collection: str, query: str, filters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The same question on every interface that asks a collection."""
    ask = {"query": query, "collection": collection, "filters": filters, "top_k": 20}
    chat = {"messages": [{"role": "user", "content": query}], "filters": filters}
    tool = {"query": query, "collection": collection, "filters": filters, "top_k": 20}
    calls = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": name, "arguments": tool},
        }
        for name in ("ask", "search")
    ]
    vector = f"/v1/vector_stores/{collection}/search"
    return [
        {"url": "/rag_modules", "json": ask},
        {"url": "/rag_modules?stream=true", "json": ask},
        {"url": "/v1/search", "json": ask},
        {"url": "/v1/chat/completions", "json": {"model": f"rag/{collection}", **chat}},
        {"url": "/v1/chat/completions", "json": {"stream": True, "collection": collection, **chat}},
        {"url": vector, "json": {"query": query, "max_num_results": 20}},
        {"url": "/retrieval", "json": {"knowledge_id": collection, "query": query}},
        *({"url": "/mcp", "json": call, "headers": MCP} for call in calls),
    ]


def bearer(name: str) -> dict[str, str]:
    """Return the header with the key of this name."""
    key = next(one["key"] for one in KEYS if one["name"] == name)
    return {"authorization": f"Bearer {key}"}


class Inside:
    """A service whose event loop is a thread of its own; a context manager.

    Args:
        settings: Of the service.
        home: What `service_kit.fill` returned, or an empty folder.
        env: `RAG_…` variables for the steps.
    """

    def __init__(
        self, settings: ServiceSettings, home: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._settings, self.home = settings, home
        self._env = {"RAG_CHUNK_TOKENS": "64", "RAG_HOME": str(home / "store"), **(env or {})}
        self._opened: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.app: Any = None
        self.requests = 0

    async def _serve(self) -> None:
        ended = asyncio.Event()
        try:
            async with self.app.router.lifespan_context(self.app):
                while (missing := self.app.state.service.missing) is not None:
                    assert missing.code == "not_ready", missing.message
                    await asyncio.sleep(0.01)
                transport = httpx.ASGITransport(app=self.app)
                self._client = httpx.AsyncClient(
                    transport=transport, base_url="http://localhost", timeout=None
                )
                async with self._client:
                    self._opened.set_result((asyncio.get_running_loop(), ended))
                    await ended.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            raise

    def __enter__(self) -> Self:
        with environment(self._env):
            self.app = create_app(self._settings)
            self._thread.start()
            self._loop, self._ended = self._opened.result(60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what this gives on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Send a request and return the whole response."""
        self.requests += 1
        return self.run(self._client.request(method, url, **more))

    def metric(self, name: str) -> float:
        """Return the sum of a counter over its labels."""
        text = self.app.state.service.metrics.text().decode()
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)
