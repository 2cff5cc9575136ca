"""A step more in a copy of the pipeline: the runners that need no engine take it along."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rag_command import write_documents
from rag_doubles import resident
from runner_kit import until_ready

from rag_kit.handler import Handler
from rag_pipeline.outputs import RetrieveOutput
from rag_pipeline.stages import PIPELINE, Stage
from rag_pipeline.steps.local import open_local
from rag_service.runners.base import Runner
from rag_service.runners.local import LocalRunner
from rag_service.runners.remote import RemoteRunner
from rag_service.settings import ServiceSettings

FIRST, *REST = [stage for stage in PIPELINE if not stage.optional]
STAGES = (
    FIRST,
    Stage("reverse", RetrieveOutput),
    *REST,
)  # the double in dagger/rag/tests/rag_reverse
NAMES = [stage.name for stage in STAGES]
REQUEST = json.dumps({"query": "Who keeps the accounts and signs contracts?", "request_id": "r1"})


@pytest.fixture(params=["local", "remote"])
def runner(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    """A runner over two documents: in this process, or over a server of the pipeline."""
    home = tmp_path / "home"
    with open_local(home=home) as pipeline:
        pipeline.retriever.ingest([write_documents(tmp_path)])
    monkeypatch.setenv("RAG_HOME", str(home))
    if request.param == "local":
        yield LocalRunner(STAGES)
        return

    @contextmanager
    def opened() -> Iterator[Handler]:
        with open_local(preload=True, stages=STAGES) as pipeline:
            yield pipeline.handler

    with resident(opened, "rag", ("run", "search")) as url:
        yield RemoteRunner(ServiceSettings(composite_url=url))


def test_answers_searches_and_streams_have_the_new_step(runner: Runner) -> None:
    """Timings and provenance name it, and the passages are in its order."""

    async def ask() -> list[dict[str, object]]:
        await runner.start(lambda line: None)
        try:
            await until_ready(runner)
            answered, found = await runner.answer(REQUEST), await runner.search(REQUEST)
            events = [event async for event in runner.stream(REQUEST)]
        finally:
            await runner.close()
        return [json.loads(text) for text in (answered, found, events[-1].data)]

    answer, found, streamed = asyncio.run(ask())

    assert list(answer["timings_ms"]) == list(streamed["timings_ms"]) == [*NAMES, "total"]
    assert list(found["timings_ms"]) == ["retrieve", "reverse", "total"]
    assert list(answer["provenance"]) == [*NAMES, "rag"]
    scores = [result["score"] for result in found["results"]]
    assert scores == [1 / rank for rank in range(1, len(scores) + 1)] and len(scores) > 1
    assert [each["score"] for each in answer["contexts"]] == scores
