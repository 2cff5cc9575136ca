"""The steps as Dagger services: each resident in its own container, asked over HTTP.

A service is started once per session and runs until the session ends, so a second question in the
same session finds model and index loaded. A step may be another module's object instead; its
function is called.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Protocol

import dagger
import httpx
from pydantic import ValidationError

from rag_kit import container as image
from rag_kit.client import StepClient, new_client
from rag_kit.errors import StepError
from rag_kit.handler import Handler
from rag_kit.settings import misconfigured

from ..models import RagRequest, RagResponse, SearchResponse
from ..settings import RagSettings
from ..stages import PIPELINE, STEPS
from ..step import Step, answer, running, search
from .remote import step_client

CALL_S = 120.0  # seconds one call of a step may take, unless the model's pace gives it more
NONE: Mapping[str, str] = MappingProxyType({})


class ForeignStep(Protocol):
    """A step that is an object of another module."""

    async def run(self, input_json: str) -> str:
        """Take a request as JSON and give the response, or an error envelope, as JSON."""


Source = dagger.Service | ForeignStep


@asynccontextmanager
async def open_steps(
    sources: Mapping[str, Source], call_s: float = CALL_S
) -> AsyncIterator[dict[str, Step]]:
    """Start what is a service, wait until it is ready, and yield the steps as functions.

    Args:
        sources: By step: its service, or an object of another module.
        call_s: Seconds one call of a step may take.

    Raises:
        StepError: `module_error` or `not_ready`, a step does not start; it says why.
    """
    async with new_client(call_s) as client:
        opened = [_open(name, source, client, call_s) for name, source in sources.items()]
        yield dict(zip(sources, await asyncio.gather(*opened), strict=True))


async def _open(name: str, source: Source, client: httpx.AsyncClient, call_s: float) -> Step:
    if not isinstance(source, dagger.Service):
        return _module_step(name, source)
    try:
        url = await source.endpoint(port=image.PORT, scheme="http")
        step = step_client(name, url, lambda: client, call_s)
        await _ready(source, step)
    except dagger.QueryError as error:
        raise StepError(
            "module_error", f"the step {name} cannot be started: {_message(error)}", step=name
        ) from None
    return step


async def _ready(source: dagger.Service, step: StepClient) -> None:
    """Start a service and return when it answers `/readyz`, or raise what keeps it from starting.

    The engine looks at a service's port with growing pauses, so the service is asked meanwhile; the
    engine goes on with a start that nobody waits for.
    """
    starting = asyncio.ensure_future(source.start())
    early = asyncio.ensure_future(step.ready(None))  # its image may have to be built first
    try:
        await asyncio.wait((starting, early), return_when=asyncio.FIRST_COMPLETED)
        if early.done():
            await early
            return
        await starting
        await step.ready()
    finally:
        starting.cancel()
        early.cancel()
        await asyncio.wait((starting, early))


def _module_step(name: str, source: ForeignStep) -> Step:
    """Return a step of another module as a function; a failure of the module is an envelope."""

    async def step(text: str) -> str:
        try:
            return await source.run(text)
        except dagger.QueryError as error:
            return image.envelope_of(
                name,
                "module_error",
                f"the module given as {name} failed: {_message(error)}; check it with `conformance`",
            )

    return step


def _message(error: dagger.QueryError) -> str:
    """Return the engine's message without the place in its trace."""
    return str(error).partition(" [traceparent:")[0]


async def answer_with(
    sources: Mapping[str, Source], text: str, settings: Mapping[str, str] = NONE
) -> str:
    """Answer one request, as JSON; a step that does not start is an envelope, too.

    Args:
        sources: What runs each step, by its name; none is started for a bad request.
        text: The request.
        settings: Fields of `RagSettings`; the environment is not read.
    """
    # a function of another module costs seconds a call, and most have no model
    own = isinstance(sources[STEPS[-1]], dagger.Service)

    async def run(request: RagRequest) -> RagResponse:
        running(request, PIPELINE, sources)
        read = _read(settings, model=own)
        async with open_steps(sources, max(CALL_S, read.step_deadline_s)) as steps:
            return await answer(request, steps, rewriting=read.rewriting)

    return await Handler("rag", RagRequest, run).serve(text)


async def search_with(
    sources: Mapping[str, Source], text: str, settings: Mapping[str, str] = NONE
) -> str:
    """Find passages for one request, as JSON; `sources` holds the steps of a search."""

    async def run(request: RagRequest) -> SearchResponse:
        running(request, PIPELINE, sources)
        read = _read(settings, model=False)
        async with open_steps(sources) as steps:
            return await search(request, steps, rewriting=read.rewriting)

    return await Handler("rag", RagRequest, run).serve(text)


def _read(settings: Mapping[str, str], *, model: bool) -> RagSettings:
    """Return the settings; a follow-up is completed by the terms where no model can be asked.

    Raises:
        StepError: `misconfigured`, a value cannot be used.
    """
    try:
        read = RagSettings.model_validate(settings)
    except ValidationError as error:
        raise misconfigured(error) from None
    by_terms = read.rewriting == "model" and not model
    return read.model_copy(update={"rewriting": "terms"}) if by_terms else read


async def replay_with(sources: Mapping[str, Source], text: str) -> str:
    """Repeat the search of an answer, as JSON; `sources` holds the steps of a search."""
    from ..quality.replay import Recorded, ReplayReport, repeat_search

    async def run(recorded: Recorded) -> ReplayReport:
        running(recorded.request(), PIPELINE, sources)
        async with open_steps(sources) as steps:
            return await repeat_search(recorded, steps)

    return await Handler("rag", Recorded, run).serve(text)


def request_of(input_json: str, *, defaults: dict[str, Any], overrides: dict[str, Any]) -> str:
    """Return one request: `defaults`, overridden by `input_json`, overridden by `overrides`.

    Text that is not a JSON object is returned unchanged, for the handler to report.
    """
    try:
        request = json.loads(input_json or "{}")
    except ValueError:
        return input_json
    return (
        json.dumps({**defaults, **request, **overrides})
        if isinstance(request, dict)
        else input_json
    )
