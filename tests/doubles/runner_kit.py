"""A small pipeline behind the double of an engine, and a runner that asks it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from graphql_double import Cli, EngineDouble
from rag_doubles import BODIES, StepDouble, resident

from rag_kit.errors import StepError
from rag_kit.handler import Event, Handler, message_event
from rag_pipeline.models import RagRequest, RagResponse, SearchResponse
from rag_pipeline.step import answer, search, stream
from rag_service.dagger_engine.call import CallRunner
from rag_service.dagger_engine.containers import ContainersRunner
from rag_service.dagger_engine.options import EngineOptions
from rag_service.dagger_engine.resident import ResidentRunner

ROOT = Path(__file__).resolve().parents[2]
SOON = 20.0  # seconds; far more than anything here takes
RUN = "run(inputJson"
PING = "{ version }"
RUNNERS = {"call": CallRunner, "resident": ResidentRunner, "containers": ContainersRunner}
Runner = CallRunner | ResidentRunner | ContainersRunner


def request(query: str = "Who may sign?", **more: Any) -> str:
    return json.dumps({"query": query, **more})


async def pipeline_answer(asked: RagRequest) -> RagResponse:
    return await answer(asked, {step: StepDouble(body) for step, body in BODIES.items()})


async def pipeline_search(asked: RagRequest) -> SearchResponse:
    return await search(asked, {"retrieve": StepDouble(BODIES["retrieve"])})


async def generate_events(text: str) -> AsyncGenerator[Event, None]:
    reply = BODIES["generate"](json.loads(text))
    for piece in (reply["answer"][:9], reply["answer"][9:]):
        yield message_event(piece)
    yield Event("final_answer", json.dumps(reply))


async def pipeline_events(asked: RagRequest) -> AsyncGenerator[Event, None]:
    steps = {step: StepDouble(BODIES[step]) for step in ("retrieve", "augment")}
    async for event in stream(asked, steps, generate_events):
        yield event


HANDLERS = {
    "run": Handler("rag", RagRequest, pipeline_answer),
    "search": Handler("rag", RagRequest, pipeline_search),
}


def composite(verb: str, text: str) -> str:
    """The pipeline of small steps, as the module's functions and containers give it."""
    if verb in BODIES:
        asked = json.loads(text)
        return text if "error" in asked else json.dumps(BODIES[verb](asked))
    return HANDLERS[verb](text)


@contextmanager
def composite_server(
    seen: Callable[[RagRequest], RagRequest] = lambda asked: asked,
    missing: Callable[[], StepError | None] = lambda: None,
) -> Iterator[str]:
    """The same pipeline as the server the tunnel leads to.

    Args:
        seen: What it takes a request for.
        missing: What keeps it from loading now.
    """

    async def run(asked: RagRequest) -> RagResponse:
        return await pipeline_answer(seen(asked))

    async def find(asked: RagRequest) -> SearchResponse:
        return await pipeline_search(seen(asked))

    async def events(asked: RagRequest) -> AsyncGenerator[Event, None]:
        async with aclosing(pipeline_events(seen(asked))) as pieces:
            async for event in pieces:
                yield event

    also = {"search": Handler("rag", RagRequest, find)}

    @contextmanager
    def opened() -> Iterator[Handler]:
        if error := missing():
            raise error
        yield Handler("rag", RagRequest, run, stream=events, also=also)

    with resident(opened, "rag", ("run", "search")) as url:
        yield url


def options(cli: Cli, /, **more: Any) -> EngineOptions:
    given: dict[str, Any] = {
        "cli": str(cli.path),
        "module": str(ROOT / "dagger/rag"),
        "provision_s": 10,
        "ping_s": 0.05,
        "retry_s": 0.05,
        "stop_s": 2.0,
        "deadline_s": 10.0,
    }
    return EngineOptions(**{**given, **more})


@asynccontextmanager
async def running(
    cli: Cli, kind: type[Runner] = CallRunner, /, **more: Any
) -> AsyncIterator[tuple[Any, list[str]]]:
    """A started runner and its log; closed at the end."""
    runner, said = kind(options(cli, **more)), list[str]()
    try:
        async with asyncio.timeout(SOON):
            await runner.start(said.append)
        yield runner, said
    finally:
        async with asyncio.timeout(SOON):
            await runner.close()


async def until(condition: Callable[[], Any]) -> None:
    """Return when something has become true."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.005)


async def until_ready(runner: Any, *, ready: bool = True) -> StepError | None:
    """Return when a runner is ready, or is not; gives its reason then."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await runner.ready()
            except StepError as error:
                if not ready:
                    return error
            else:
                if ready:
                    return None
            await asyncio.sleep(0.005)


async def refused(work: Awaitable[Any]) -> StepError:
    """Return the error that this raises, with a limit of time."""
    async with asyncio.timeout(SOON):
        with pytest.raises(StepError) as caught:
            await work
    return caught.value


@contextmanager
def command_line(double: EngineDouble) -> Iterator[Cli]:
    """The command line that opens sessions on a double; none of its processes may be left."""
    with tempfile.TemporaryDirectory() as folder:
        made = Cli(Path(folder), double)
        yield made
        left = made.running
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, "a child process was left"
