"""The steps as running servers: one HTTP POST each, over connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import anyio
import httpx
import pydantic_core
from anyio.from_thread import start_blocking_portal

from .errors import StepError
from .pipeline import Pipeline
from .settings import RagSettings
from .shapes import error_of

CONNECT_S = 2.0  # seconds
READY_S = 120.0  # seconds a step may take to load
POLL_S = 0.05  # seconds between two looks whether it has
KEEP_OPEN_S = 4.0  # seconds; below the 5 s after which uvicorn closes, so no request meets a close


@dataclass(frozen=True)
class RemoteStep:
    """A step behind a URL, callable from any event loop.

    Args:
        name: The step, for errors.
        url: Where it serves; `/run` is added.
        client: Connections to it.
        loop: The event loop they belong to.
        deadline_s: Seconds one call may take in all.
    """

    name: str
    url: str
    client: httpx.AsyncClient
    loop: asyncio.AbstractEventLoop
    deadline_s: float

    async def __call__(self, text: str) -> str:
        """Send one request and return the response, an error envelope included."""
        if asyncio.get_running_loop() is self.loop:
            return await self._post(text)
        posted = asyncio.run_coroutine_threadsafe(self._post(text), self.loop)
        return await asyncio.wrap_future(posted)

    async def ready(self) -> None:
        """Return when the step answers `GET /readyz` with 200.

        Raises:
            StepError: Why it never will, or `not_ready` after READY_S seconds.
        """
        said = "it cannot be reached"
        with anyio.move_on_after(READY_S):
            while True:
                try:
                    response = await self.client.get(f"{self.url.rstrip('/')}/readyz")
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

    async def _post(self, text: str) -> str:
        try:
            async with asyncio.timeout(self.deadline_s):
                response = await self.client.post(
                    f"{self.url.rstrip('/')}/run",
                    content=text.encode(),
                    headers={"content-type": "application/json"},
                )
        except TimeoutError:
            raise self._late() from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.status_code != 200 and _envelope(response.content) is None:
            raise StepError(
                "module_bad_output",
                f"the step {self.name} answered HTTP {response.status_code} without an error "
                f"envelope; does RAG_{self.name.upper()}_URL point to it?",
                step=self.name,
            )
        return response.text

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
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(settings.step_deadline_s, connect=CONNECT_S),
        limits=httpx.Limits(keepalive_expiry=KEEP_OPEN_S),
        trust_env=False,  # a proxy is for the outside; the steps are ours
    )
    loops = {"use_uvloop": find_spec("uvloop") is not None}  # not on Windows
    with (
        start_blocking_portal(backend_options=loops) as portal,
        portal.wrap_async_context_manager(client),
    ):
        loop = portal.call(_running_loop)
        steps = {
            name: RemoteStep(name, url, client, loop, settings.step_deadline_s)
            for name, url in urls.items()
        }
        if wait:
            for step in steps.values():
                portal.call(step.ready)
        yield Pipeline(steps["retrieve"], steps["augment"], steps["generate"], portal)


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
