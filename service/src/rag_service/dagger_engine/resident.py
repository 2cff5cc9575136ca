"""The runner `resident`: the pipeline as a service of the engine, started once, asked over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from rag_kit.errors import StepError
from rag_kit.handler import Event

from ..runners.base import Notify
from ..runners.pipeline_client import PipelineClient
from .base import EngineRunner, probed
from .queries import configured, dependencies, load_module
from .session import Session
from .supervisor import Live

SERVE = "query ($rag: ID!) { node(id: $rag) { ... on Rag { serve { id } } } }"
TUNNEL = """query ($service: ID!) {
  host { tunnel(service: $service, ports: [{frontend: 0, backend: 8080}]) { id } }
}"""
START = "query ($service: ID!) { node(id: $service) { ... on Service { start } } }"
ENDPOINT = """query ($service: ID!) {
  node(id: $service) { ... on Service { endpoint(scheme: "http") } }
}"""
POLL_S = 0.1  # seconds between two calls of `/readyz` while the pipeline loads


@dataclass(frozen=True)
class Resident:
    """The running pipeline, through a tunnel."""

    pipeline: PipelineClient

    async def ping(self) -> None:
        """Return while it is ready; the caller sets the time limit."""
        await self.pipeline.ready(limit_s=None)

    async def close(self) -> None:
        """Close the connections; the pipeline ends with its session."""
        await self.pipeline.close()


class ResidentRunner(EngineRunner[Resident]):
    """All steps stay loaded in the engine's containers, and are asked over HTTP."""

    name = "resident"

    async def answer(self, text: str) -> str:
        """Answer a request."""
        async with self._leased() as live:
            return await live.session.guard(live.started.pipeline.answer(text))

    async def search(self, text: str) -> str:
        """Find passages for a request."""
        async with self._leased() as live:
            return await live.session.guard(live.started.pipeline.search(text))

    async def rerank(self, text: str) -> str:
        """Rank passages again."""
        async with self._leased() as live:
            return await live.session.guard(live.started.pipeline.rerank(text))

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer a request piece by piece."""
        async with self._leased() as live:
            pieces = live.session.relay(live.started.pipeline.stream(text))
            async with aclosing(pieces) as events:
                async for event in events:
                    yield event

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[Live[Resident]]:
        """Lease the session for one call; a pipeline that breaks off during it is `engine_lost`."""
        async with self._supervisor.lease() as live:
            try:
                yield live
            except StepError as error:
                raise _as_lost(live, error) from None

    async def _start(self, session: Session, notify: Notify) -> Resident:
        options = self._options
        await load_module(session, options, notify)
        rag = await configured(session, options, await dependencies(session, options))
        notify("dagger: building the steps, indexing the documents, starting the pipeline …")
        limit = options.load_s
        data = await session.ask(SERVE, {"rag": rag}, deadline_s=limit)
        service = {"service": data["node"]["serve"]["id"]}
        data = await session.ask(TUNNEL, service, deadline_s=limit)
        tunnel = {"service": data["host"]["tunnel"]["id"]}
        await session.ask(START, tunnel, deadline_s=limit)
        data = await session.ask(ENDPOINT, tunnel, deadline_s=limit)
        url = data["node"]["endpoint"]
        pipeline = PipelineClient(url, deadline_s=options.deadline_s)
        try:
            await _loaded(pipeline, limit, notify)
            notify(f"dagger: pipeline started at {url}")
            await probed(pipeline.answer(options.probe_request), notify)
        except BaseException:
            await pipeline.close()
            raise
        return Resident(pipeline)


async def _loaded(pipeline: PipelineClient, limit_s: float, notify: Notify) -> None:
    """Wait until the pipeline is ready; reports why it is not, and raises that after `limit_s`."""
    ends, reason = time.monotonic() + limit_s, ""
    while True:
        try:
            return await pipeline.ready()
        except StepError as error:
            if error.code != "not_ready" or time.monotonic() > ends:
                raise
            if error.message != reason:
                reason = error.message
                notify(f"dagger: waiting: {reason}")
        await asyncio.sleep(POLL_S)


def _as_lost(live: Live[Resident], error: StepError) -> StepError:
    """Return the error of a call: `engine_lost` when the pipeline cannot be reached any more."""
    if error.code not in ("not_ready", "llm_stream_broken"):
        return error
    live.session.doubt()
    if error.code == "llm_stream_broken":
        return error
    text = "the pipeline in the Dagger engine broke off before it answered; send the request again"
    return StepError("engine_lost", text, retry_after=2)
