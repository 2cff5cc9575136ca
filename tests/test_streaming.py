"""Streamed answers, in one process and over servers; cancellation reaches the model."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from llm_stub import LLMStub
from rag_doubles import app_served

from rag_kit.handler import Event, Handler
from rag_kit.server import application
from rag_pipeline.settings import RagSettings
from rag_pipeline.stages import NEEDED
from rag_pipeline.steps.local import LocalPipeline, open_local
from rag_pipeline.wire import open_step

REQUEST = {"query": "Who may sign contracts?", "request_id": "r1"}
VERBS = ("run", "search")


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    stub = LLMStub()
    yield stub
    stub.close()


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    text = "# By-laws\n\nOnly the board may sign contracts. The accounts are audited every March.\n"
    (folder / "bylaws.md").write_text(text)
    return folder


@pytest.fixture
def local(papers: Path, tmp_path: Path) -> Iterator[LocalPipeline]:
    with open_local(home=tmp_path / "home") as rag:
        rag.retriever.ingest([papers])
        yield rag


def opens(handler: Handler) -> Callable[[], AbstractContextManager[Handler]]:
    return lambda: contextlib.nullcontext(handler)


@contextmanager
def servers(local: LocalPipeline) -> Iterator[str]:
    """Serve the steps of a local pipeline one by one, and a composite over them."""

    with ExitStack() as stack:
        urls = {}
        for name in NEEDED:
            step = local.steps[name].__self__  # the handler behind the step
            urls[f"{name}_url"] = stack.enter_context(
                app_served(application(opens(step), step=name), until="/readyz")
            )
        app = application(lambda: open_step(RagSettings(**urls)), step="rag", verbs=VERBS)
        yield stack.enter_context(app_served(app, until="/readyz"))


async def gathered(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def streamed(url: str, request: dict[str, Any]) -> list[Event]:
    """Ask a server for events; `[DONE]` is checked and left out."""
    headers = {"accept": "text/event-stream"}
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        client.stream("POST", f"{url}/run", json=request, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, last = list(EventSource(response).iter_sse())
    assert last.data == "[DONE]"
    return [Event(event.event, event.data) for event in events]


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "timings_ms": None}


def test_a_stream_is_the_answer_in_pieces(local: LocalPipeline) -> None:
    """Results first, then text, the citations and the same answer as in one piece."""
    events = asyncio.run(gathered(local.handler.events(json.dumps(REQUEST))))
    names = [event.name for event in events]
    data = [json.loads(event.data) for event in events]
    answer = local.answer(REQUEST)

    assert names == ["search_results", "message", "citation", "final_answer"]
    assert data[0]["results"] == local.search(REQUEST)["results"]
    assert data[1] == {"id": "r1", "delta": {"content": answer["answer"]}}
    assert [data[2]["citation"]] == answer["citations"]
    assert timeless(data[3]) == timeless(answer)


def test_servers_stream_what_one_process_streams(local: LocalPipeline) -> None:
    """Four servers give the same events as the process they were made from."""
    events = asyncio.run(gathered(local.handler.events(json.dumps(REQUEST))))
    with servers(local) as url:
        over_http = streamed(url, REQUEST)

    assert [event.name for event in over_http] == [event.name for event in events]
    for one, other in zip(events, over_http, strict=True):
        mine, theirs = json.loads(one.data), json.loads(other.data)
        assert mine | {"timings_ms": None} == theirs | {"timings_ms": None}


def test_the_composites_server_searches(local: LocalPipeline) -> None:
    """POST /search gives the passages alone."""
    with servers(local) as url:
        found = httpx.post(f"{url}/search", json=REQUEST, trust_env=False, timeout=60).json()

    assert timeless(found) == timeless(local.search(REQUEST))


def test_a_request_that_fails_keeps_its_status(local: LocalPipeline) -> None:
    """A bad request is 422 although events were asked for; a later failure is an event."""
    headers = {"accept": "text/event-stream"}
    with servers(local) as url:
        bad = httpx.post(
            f"{url}/run", json={"query": ""}, headers=headers, trust_env=False, timeout=60
        )
        asked = {**REQUEST, "generate": {"target": "nobody"}}
        late = httpx.post(f"{url}/run", json=asked, headers=headers, trust_env=False, timeout=60)

    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "invalid_request")
    assert late.status_code == 200
    assert "event: error" in late.text
    assert "[DONE]" not in late.text
    assert '"param":"generate.target"' in late.text


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_leaves_ends_the_models_call(
    accept: str,
    llm: LLMStub,
    papers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hops away, the model's connection is closed when the client closes its own."""
    monkeypatch.setenv("RAG_LLM_BASE_URL", llm.url)
    monkeypatch.setenv("RAG_LLM_MODEL", "stub")
    llm.script = [llm.hang]

    async def leave(url: str) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            headers = {"accept": accept}
            await llm.leave(client.post(f"{url}/run", json=REQUEST, headers=headers))

    with open_local(home=tmp_path / "home") as local:
        local.retriever.ingest([papers])
        with servers(local) as url:
            asyncio.run(leave(url))
            assert llm.client_gone.wait(10)

    assert llm.calls == 1


def test_giving_up_a_stream_ends_the_models_call(
    llm: LLMStub, papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, closing the events after the first ones closes the model's connection."""
    monkeypatch.setenv("RAG_LLM_BASE_URL", llm.url)
    monkeypatch.setenv("RAG_LLM_MODEL", "stub")
    llm.script = [llm.hang]

    async def give_up(rag: LocalPipeline) -> None:
        async with aclosing(rag.handler.events(json.dumps(REQUEST))) as events:
            assert (await anext(events)).name == "search_results"
            waiting = asyncio.ensure_future(anext(events))
            while not llm.calls:
                await asyncio.sleep(0.005)
            waiting.cancel()
            await asyncio.wait((waiting,))

    with open_local(home=tmp_path / "home") as rag:
        rag.retriever.ingest([papers])
        asyncio.run(give_up(rag))
        assert llm.client_gone.wait(10)
