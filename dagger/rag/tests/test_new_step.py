"""A step more: one row in a copy of the pipeline, and every way to run it takes it along."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import Field, JsonValue
from rag_command import write_documents
from rag_doubles import resident

from rag_kit.errors import StepError
from rag_kit.handler import Event, Handler
from rag_pipeline.models import RagRequest
from rag_pipeline.outputs import RetrieveOutput
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.quality.blocking import replay_answer
from rag_pipeline.quality.conformance import check_step
from rag_pipeline.stages import PIPELINE, STEPS, Stage, search_stages
from rag_pipeline.step import answer, search
from rag_pipeline.steps.local import LocalPipeline, open_local
from rag_pipeline.steps.remote import open_remote

FIRST, *REST = [stage for stage in PIPELINE if not stage.optional]
STAGES = (FIRST, Stage("reverse", RetrieveOutput), *REST)
NAMES = [stage.name for stage in STAGES]
QUESTION = {"query": "Who keeps the accounts and signs contracts?", "request_id": "r1"}


class RequestWithOptions(RagRequest):
    """The request with the field that a new step adds."""

    reverse: dict[str, JsonValue] = Field(default_factory=dict)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """The four steps in this process, over two documents."""
    folder = tmp_path_factory.mktemp("reverse")
    with open_local(home=folder / "home", stages=STAGES) as opened:
        opened.retriever.ingest([write_documents(folder)])
        yield opened


@pytest.fixture(scope="module")
def urls(local: LocalPipeline) -> Iterator[dict[str, str]]:
    """The same steps, each behind its own server on loopback."""
    with ExitStack() as stack:
        served = {}
        for name, step in local.steps.items():
            handler: Handler = step.__self__  # type: ignore[attr-defined]
            served[name] = stack.enter_context(resident(partial(nullcontext, handler), name))
        yield served


@pytest.fixture(scope="module")
def remote(urls: dict[str, str]) -> Iterator[Pipeline]:
    """The pipeline over these servers."""
    with open_remote(urls, deadline_s=30, wait=True, stages=STAGES) as pipeline:
        yield pipeline


@pytest.fixture(params=["local", "remote"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """The pipeline with the new step, run in both ways."""
    opened: Pipeline = request.getfixturevalue(request.param)
    return opened


def ranked(pipeline: Pipeline) -> list[str]:
    """Return the chunk ids as retrieve alone ranks them."""
    found = pipeline.portal.call(search, RagRequest(**QUESTION), pipeline.steps)
    return [result.chunk_id for result in found.results]


async def events_of(handler: Handler, request: dict[str, Any]) -> list[Event]:
    return [event async for event in handler.events(json.dumps(request))]


def test_every_step_has_a_field_for_its_options() -> None:
    """The request takes the options of each step under its name."""
    assert set(STEPS) <= RagRequest.model_fields.keys()


def test_the_stages_of_a_search_are_those_that_give_passages() -> None:
    """The new step is one of them; a prompt is not passages."""
    assert [stage.name for stage in search_stages(STAGES)] == ["retrieve", "reverse"]
    assert [stage.name for stage in search_stages(PIPELINE)] == ["retrieve", "rerank"]


def test_an_answer_rests_on_the_reordered_passages(pipeline: Pipeline) -> None:
    """Contexts are in the new order; provenance, timings and warnings name the step."""
    response = pipeline.answer(QUESTION)
    before = ranked(pipeline)

    assert [context["chunk_id"] for context in response["contexts"]] == before[::-1]
    assert list(response["provenance"]) == [*NAMES, "rag"]
    assert list(response["timings_ms"]) == [*NAMES, "total"]
    assert response["warnings"] == ["reversed"]
    assert len(before) > 1 and response["answerable"]


def test_a_search_takes_the_new_step_along(pipeline: Pipeline) -> None:
    """Passages are the reordered ones, with their new scores."""
    response = pipeline.search(QUESTION)
    results = response["results"]

    assert [result["chunk_id"] for result in results] == ranked(pipeline)[::-1]
    assert [result["score"] for result in results] == [1 / n for n in range(1, len(results) + 1)]
    assert list(response["timings_ms"]) == ["retrieve", "reverse", "total"]
    assert list(response["provenance"]) == ["retrieve", "reverse", "rag"]


def test_a_stream_shows_the_reordered_passages_first(pipeline: Pipeline) -> None:
    """The search results are those of a search, the end is the answer."""
    events = pipeline.portal.call(events_of, pipeline.handler, QUESTION)
    first, last = json.loads(events[0].data), json.loads(events[-1].data)

    assert (events[0].name, events[-1].name) == ("search_results", "final_answer")
    assert first["results"] == pipeline.search(QUESTION)["results"]
    assert list(last["timings_ms"]) == [*NAMES, "total"]
    assert {**last, "timings_ms": None} == {**pipeline.answer(QUESTION), "timings_ms": None}


def test_a_server_of_the_pipeline_runs_it(urls: dict[str, str], remote: Pipeline) -> None:
    """A server over the four servers, as `python -m rag_pipeline serve` is, runs all of them."""

    @contextmanager
    def opened() -> Iterator[Handler]:
        with open_remote(urls, deadline_s=30, wait=True, stages=STAGES) as pipeline:
            yield pipeline.handler

    with resident(opened, "rag", ("run", "search")) as url, httpx.Client(trust_env=False) as client:
        while client.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.01)
        answered = client.post(f"{url}/run", json=QUESTION).json()
        found = client.post(f"{url}/search", json=QUESTION).json()

    assert answered["answer"] == remote.answer(QUESTION)["answer"]
    assert list(answered["timings_ms"]) == [*NAMES, "total"]
    assert list(found["timings_ms"]) == ["retrieve", "reverse", "total"]


def test_conformance_checks_the_new_step(local: LocalPipeline) -> None:
    """The promises of a step that gives passages, and those of every step; one broken is told."""

    async def drops_a_field(text: str) -> str:
        reply = json.loads(await local.steps["reverse"](text))
        return json.dumps({key: value for key, value in reply.items() if key != "augment"})

    async def report(step: Any) -> list[tuple[str, bool]]:
        checked = await check_step("reverse", step, stages=STAGES)
        return [(check.id, check.passed) for check in checked.checks]

    good = local.portal.call(report, local.steps["reverse"])
    bad = local.portal.call(report, drops_a_field)

    assert [name for name, passed in good if not passed] == []
    assert {"answers", "best-first", "carries-unknown-fields", "blank-query"} <= dict(good).keys()
    assert [name for name, passed in bad if not passed] == ["carries-unknown-fields"]


def test_its_options_reach_it_and_are_part_of_a_search(local: LocalPipeline) -> None:
    """One field of the request, checked by the step, recorded for a replay."""
    request = RequestWithOptions(**QUESTION, reverse={"keep": 1})

    async def ask() -> Any:
        return await answer(request, local.steps, stages=STAGES)

    response = local.portal.call(ask)

    assert len(response.contexts) == 1
    assert response.provenance["rag"]["request"]["reverse"] == {"keep": 1}


def test_a_replay_repeats_the_new_step(local: LocalPipeline) -> None:
    """The same passages are identical; another version of the step is named."""
    response = local.answer(QUESTION)
    same = json.loads(replay_answer(local, json.dumps(response).encode()))
    response["provenance"]["reverse"]["version"] = "0.9"
    changed = json.loads(replay_answer(local, json.dumps(response).encode()))

    assert (same["identical"], same["differences"]) == (True, [])
    assert [item["message"] for item in changed["differences"]] == [
        "another version of reverse answered: 0.9, now 1.0"
    ]


def test_an_error_names_the_new_step(local: LocalPipeline) -> None:
    """A response off contract is put down to the step that gave it."""

    async def off_contract(_: str) -> str:
        return '{"results": "none"}'

    async def ask() -> Any:
        steps = {**local.steps, "reverse": off_contract}
        return await answer(RagRequest(**QUESTION), steps, stages=STAGES)

    with pytest.raises(StepError, match="the step reverse is off contract: results") as caught:
        asyncio.run(ask())

    assert caught.value.step == "reverse"
