"""A step that runs as a server elsewhere: `POST /run`, `GET /readyz`, over connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pydantic_core
from httpx_sse import EventSource

from .errors import StepError, error_of
from .handler import EVENTS, Event

CONNECT_S = 2.0  # seconds
READY_S = 120.0  # seconds a step may take to load
CLOSE_S = 5.0  # seconds connections may take to close
POLL_S = 0.05  # seconds between two requests to /readyz
KEEP_OPEN_S = 4.0  # seconds; below the 5 s after which uvicorn closes, so no request meets a close


def new_client(deadline_s: float) -> httpx.AsyncClient:
    """Return an HTTP client for servers of this project.

    Args:
        deadline_s: Seconds a read may take.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(deadline_s, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP_OPEN_S),
        trust_env=False,  # a proxy is for the outside; these servers are inside
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
class Wording:
    """What the errors of a client say of its server.

    Args:
        subject: Begins each message, e.g. "the step retrieve".
        step: The `step` of the errors, or None.
        unreachable: Code of the error when there is no connection.
        retry_after: Seconds to wait then, or None.
        start: What to do then.
        check: Follows "without an error envelope".
        limit: Follows the seconds of the deadline, e.g. the setting.
    """

    subject: str
    step: str | None = None
    unreachable: str = "not_ready"
    retry_after: float | None = None
    start: str = "is it running?"
    check: str = ""
    limit: str = ""


@dataclass(frozen=True)
class StepClient:
    """Sends requests to one server, from any event loop.

    Args:
        url: Where it serves, e.g. http://127.0.0.1:8080.
        client: Returns the HTTP client of the running event loop.
        deadline_s: Seconds one call may take in all.
        wording: What its errors say.
    """

    url: str
    client: Callable[[], httpx.AsyncClient]
    deadline_s: float
    wording: Wording

    async def __call__(self, text: str, verb: str = "run") -> str:
        """Send one request and return the response, which may be an error envelope.

        Raises:
            StepError: `deadline_exceeded`, the code for an unreachable server, or
                `module_bad_output` for an HTTP error without an envelope.
        """
        client = self.client()  # made at the first call, which takes long
        with self._transport_errors():
            async with asyncio.timeout(self.deadline_s):
                response = await client.request("POST", **self._request(verb, text))
        self._check(response)
        return response.text

    async def events(self, text: str) -> AsyncGenerator[Event, None]:
        """Send one request and yield the answer piece by piece; raises as a call does.

        Yields:
            The server's events; one `final_answer` or `error` where it does not stream.
        """
        client = self.client()
        request = self._request("run", text, accept=EVENTS)
        with self._transport_errors():
            async with (
                asyncio.timeout(self.deadline_s),
                client.stream("POST", **request) as response,
            ):
                if not response.headers.get("content-type", "").startswith(EVENTS):
                    await response.aread()
                    self._check(response)
                    failed = _error_in(response.content)
                    yield Event("error" if failed else "final_answer", response.text)
                    return
                async for event in EventSource(response).aiter_sse():
                    if event.data != "[DONE]":
                        yield Event(event.event, event.data)

    async def probe(self, limit_s: float | None = CONNECT_S) -> str | None:
        """Send `GET /readyz` once; return None when the server is ready, else its error envelope.

        Args:
            limit_s: Seconds it may take; None: no limit.

        Raises:
            StepError: As a call does.
        """
        with self._transport_errors():
            response = await self.client().get(self._readyz, timeout=limit_s)
        self._check(response)
        return None if response.status_code == 200 else response.text

    async def ready(self, limit_s: float | None = READY_S) -> None:
        """Return when `GET /readyz` answers 200.

        Args:
            limit_s: Seconds it may take; None: no limit.

        Raises:
            StepError: `not_ready`: the server cannot start, or is not ready in time.
        """
        reason = "it cannot be reached"
        with anyio.move_on_after(limit_s):
            while True:
                try:
                    response = await self.client().get(self._readyz)
                except httpx.TransportError:
                    await anyio.sleep(POLL_S)
                    continue
                if response.status_code == 200:
                    return
                failed = _error_in(response.content)
                reason = str((failed or {}).get("message", f"HTTP {response.status_code}"))
                if failed and failed.get("code") != "not_ready":
                    raise StepError("not_ready", f"{self.wording.subject} cannot start: {reason}")
                await anyio.sleep(POLL_S)
        raise StepError(
            "not_ready", f"{self.wording.subject} is not ready after {limit_s:g} s: {reason}"
        )

    @property
    def _readyz(self) -> str:
        return f"{self.url.rstrip('/')}/readyz"

    def _request(self, verb: str, text: str, *, accept: str = "application/json") -> dict[str, Any]:
        return {
            "url": f"{self.url.rstrip('/')}/{verb}",
            "content": text.encode(),
            "headers": {"content-type": "application/json", "accept": accept},
        }

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        """Turn a timeout and a failed connection into errors of the server."""
        words = self.wording
        try:
            yield
        except TimeoutError:
            text = f"{words.subject} did not answer within {self.deadline_s:g} s{words.limit}"
            raise StepError("deadline_exceeded", text, step=words.step) from None
        except httpx.TransportError as error:
            text = f"{words.subject} cannot be reached ({type(error).__name__}); {words.start}"
            raise StepError(
                words.unreachable, text, step=words.step, retry_after=words.retry_after
            ) from None

    def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200 and _error_in(response.content) is None:
            text = (
                f"{self.wording.subject} answered HTTP {response.status_code} without an error "
                f"envelope{self.wording.check}"
            )
            raise StepError("module_bad_output", text, step=self.wording.step)


def _error_in(content: bytes) -> dict[str, Any] | None:
    """Return the error in a body that is an envelope, else None."""
    try:
        data = pydantic_core.from_json(content)
    except ValueError:
        return None
    return error_of(data) if isinstance(data, dict) else None
