"""The service's three runners on a Dagger engine: equal answers, a lost session, a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_kit import CALL_S

from rag_kit.errors import StepError
from rag_pipeline.steps.local import open_local
from rag_service.dagger_engine.call import CallRunner
from rag_service.dagger_engine.containers import ContainersRunner
from rag_service.dagger_engine.options import EngineOptions
from rag_service.dagger_engine.resident import ResidentRunner

QUESTIONS = ["How much does the kettle on the third floor hold?", "Where are bicycles parked?"]
HOSTILE = 'Kettle """ } { host { directory(path: "/") } } cmd://touch PWNED \\u0000 $rag ${HOME}?'
RUNNERS = {"resident": ResidentRunner, "call": CallRunner, "containers": ContainersRunner}


@asynccontextmanager
async def running(name: str, repository: Path, docs: Path) -> AsyncIterator[Any]:
    options = EngineOptions(
        module=str(repository / "dagger/rag"), docs=docs, load_s=CALL_S, deadline_s=CALL_S
    )
    runner = RUNNERS[name](options)
    try:
        await asyncio.wait_for(runner.start(print), 2 * CALL_S)
        yield runner
    finally:
        await asyncio.wait_for(runner.close(), 60)


def request(query: str) -> str:
    return json.dumps({"query": query, "request_id": "the-same"})


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be equal whoever answers: all but the time it took."""
    return {name: value for name, value in answer.items() if name != "timings_ms"}


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service") / "my-docs"
    folder.mkdir()
    (folder / "kettle.md").write_text(
        "# Kettle\n\nThe kettle on the third floor holds 1.7 litres.\n"
    )
    (folder / "bicycles.md").write_text("# Bicycles\n\nBicycles are parked behind the east gate.\n")
    return folder


@pytest.fixture(scope="module")
def expected(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the pipeline in one process answers over the same documents."""
    with open_local(home=tmp_path_factory.mktemp("home")) as rag:
        rag.retriever.ingest([docs])
        asked = [json.loads(request(query)) for query in [*QUESTIONS, HOSTILE]]
        return [told(rag.answer(each)) for each in asked]


@pytest.mark.parametrize("name", RUNNERS)
def test_every_runner_answers_as_the_pipeline_in_one_process(
    name: str, repository: Path, docs: Path, expected: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with running(name, repository, docs) as runner:
            await runner.ready()
            for query, local in zip([*QUESTIONS, HOSTILE], expected, strict=True):
                answer = told(json.loads(await runner.answer(request(query))))
                for field in ("answer", "citations", "contexts", "query", "finish_reason"):
                    assert answer[field] == local[field], field
                assert answer["provenance"]["rag"] == local["provenance"]["rag"]
            found = json.loads(await runner.search(request(QUESTIONS[0])))
            assert found["results"][0]["document_id"].endswith("kettle.md")
            events = [event async for event in runner.stream(request(QUESTIONS[0]))]
            assert events[0].name == "search_results"
            assert json.loads(events[-1].data)["answer"] == expected[0]["answer"]
            with pytest.raises(StepError) as caught:
                await runner.answer(json.dumps({"query": "x", "collection": "nope"}))
            assert caught.value.code == "collection_not_found"
        assert not list(repository.rglob("PWNED")) and not Path("PWNED").exists()

    asyncio.run(main())


def test_a_killed_session_is_noticed_and_built_anew_and_close_ends_it(
    repository: Path, docs: Path, expected: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with running("resident", repository, docs) as runner:
            [first] = children()
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(5):
                while await is_ready(runner):
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(CALL_S):
                while not await is_ready(runner):
                    await asyncio.sleep(0.1)
            answer = json.loads(await runner.answer(request(QUESTIONS[0])))
            assert answer["answer"] == expected[0]["answer"]
            [second] = children()
            assert second != first
        assert children() == []

    asyncio.run(main())


async def is_ready(runner: Any) -> bool:
    try:
        await runner.ready()
    except StepError:
        return False
    return True


def children() -> list[int]:
    """The `dagger session` processes of this one."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in listed for pid in file.read_text().split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return [pid for pid, line in lines.items() if b"\0session" in line]
