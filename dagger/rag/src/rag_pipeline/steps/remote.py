"""The steps as running servers: one HTTP POST each, over connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import anyio
import httpx
import pydantic_core
from anyio.from_thread import start_blocking_portal
from httpx_sse import EventSource

from rag_kit.errors import StepError, error_of
from rag_kit.handler import EVENTS, Event

from ..pipeline import Pipeline
from ..settings import RagSettings

CONNECT_S = 2.0  # seconds
READY_S = 120.0  # seconds a step may take to load
CLOSE_S = 5.0  # seconds connections may take to close
POLL_S = 0.05  # seconds between two looks whether it has
KEEP_OPEN_S = 4.0  # seconds; below the 5 s after which uvicorn closes, so no request meets a close


def new_client(deadline_s: float) -> httpx.AsyncClient:
    """Return a client for servers of ours.

    Args:
        deadline_s: Seconds a read may take.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(deadline_s, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP_OPEN_S),
        trust_env=False,  # a proxy is for the outside; the steps are ours
    )


class Clients:
    """One HTTP client per event loop: a connection belongs to the loop it was opened on.

    Args:
        deadline_s: Seconds a read may take.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def __call__(self) -> httpx.AsyncClient:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = new_client(self._deadline_s)
        return client

    def close(self) -> None:
        """Close the connections on the loops that still run; call it from another thread."""
        for loop, client in self._clients.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(CLOSE_S)
        self._clients.clear()


@dataclass(frozen=True)
class RemoteStep:
    """A step behind a URL, callable from any event loop.

    Args:
        name: The step, for errors.
        url: Where it serves; `/run` is added.
        client: Gives the running loop's connections to it.
        deadline_s: Seconds one call may take in all.
    """

    name: str
    url: str
    client: Callable[[], httpx.AsyncClient]
    deadline_s: float

    async def events(self, text: str) -> AsyncGenerator[Event, None]:
        """Send one request and yield the answer as it comes; one event where it does not stream."""
        client = self.client()  # made at the first call, which takes long
        try:
            async with (
                asyncio.timeout(self.deadline_s),
                client.stream("POST", **self._request(text, accept=EVENTS)) as response,
            ):
                if not response.headers.get("content-type", "").startswith(EVENTS):
                    await response.aread()
                    self._check(response)
                    failed = _envelope(response.content)
                    yield Event("error" if failed else "final_answer", response.text)
                    return
                async for event in EventSource(response).aiter_sse():
                    if event.data != "[DONE]":
                        yield Event(event.event, event.data)
        except TimeoutError:
            raise self._late() from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def ready(self) -> None:
        """Return when the step answers `GET /readyz` with 200.

        Raises:
            StepError: Why it never will, or `not_ready` after READY_S seconds.
        """
        said = "it cannot be reached"
        with anyio.move_on_after(READY_S):
            while True:
                try:
                    response = await self.client().get(f"{self.url.rstrip('/')}/readyz")
                except httpx.TransportError:
                    await anyio.sleep(POLL_S)
                    continue
                if response.status_code == 200:
                    return
                failed = _envelope(response.content)
                said = str((failed or {}).get("message", f"HTTP {response.status_code}"))
                if failed and failed.get("code") != "not_ready":
                    raise StepError("not_ready", f"the step {self.name} cannot start: {said}")
                await anyio.sleep(POLL_S)
        raise StepError(
            "not_ready", f"the step {self.name} is not ready after {READY_S:g} s: {said}"
        )

    async def __call__(self, text: str) -> str:
        """Send one request and return the response, an error envelope included."""
        client = self.client()
        try:
            async with asyncio.timeout(self.deadline_s):
                response = await client.request("POST", **self._request(text))
        except TimeoutError:
            raise self._late() from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        self._check(response)
        return response.text

    def _request(self, text: str, *, accept: str = "application/json") -> dict[str, Any]:
        return {
            "url": f"{self.url.rstrip('/')}/run",
            "content": text.encode(),
            "headers": {"content-type": "application/json", "accept": accept},
        }

    def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200 and _envelope(response.content) is None:
            raise StepError(
                "module_bad_output",
                f"the step {self.name} answered HTTP {response.status_code} without an error "
                f"envelope; does RAG_{self.name.upper()}_URL point to it?",
                step=self.name,
            )

    def _late(self) -> StepError:
        return StepError(
            "deadline_exceeded",
            f"the step {self.name} did not answer within {self.deadline_s:g} s "
            "(RAG_STEP_DEADLINE_S)",
            step=self.name,
        )

    def _unreachable(self, error: httpx.TransportError) -> StepError:
        code = "retriever_unavailable" if self.name == "retrieve" else "not_ready"
        return StepError(
            code,
            f"the step {self.name} cannot be reached ({type(error).__name__}); start its server "
            f"or mend RAG_{self.name.upper()}_URL",
            step=self.name,
        )


def _envelope(content: bytes) -> dict[str, Any] | None:
    """Return the error a body holds, or None when it holds none."""
    try:
        data = pydantic_core.from_json(content)
    except ValueError:
        return None
    return error_of(data) if isinstance(data, dict) else None


@contextmanager
def open_remote(
    settings: RagSettings, urls: Mapping[str, str], *, wait: bool = False
) -> Iterator[Pipeline]:
    """Yield the composite over the servers at `urls` (by step).

    Args:
        settings: Holds the deadline of one call.
        urls: `retrieve`, `augment` and `generate`.
        wait: First wait until all three are ready; otherwise nothing is sent before a request.

    Raises:
        StepError: `not_ready`, when one of them does not become ready.
    """
    clients = Clients(settings.step_deadline_s)
    loops = {"use_uvloop": find_spec("uvloop") is not None}  # not on Windows
    with start_blocking_portal(backend_options=loops) as portal, closing(clients):
        steps = {
            name: RemoteStep(name, url, clients, settings.step_deadline_s)
            for name, url in urls.items()
        }
        if wait:
            for step in steps.values():
                portal.call(step.ready)
        generate = steps["generate"]
        yield Pipeline(steps["retrieve"], steps["augment"], generate, generate.events, portal)
