"""The Dagger caller against a double of a session: real HTTP, a real child process, real faults."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from graphql import build_client_schema, extend_schema, parse, validate
from graphql_double import (
    BAD_ID,
    BUILD_ERROR,
    EXEC_ERROR,
    FUNCTION_ERROR,
    MISFIT,
    STOPPING,
    Cli,
    EngineDouble,
    Fault,
    engine_double,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from runner_kit import (
    PING,
    ROOT,
    RUN,
    RUNNERS,
    SOON,
    Runner,
    command_line,
    composite,
    composite_server,
    options,
    refused,
    request,
    running,
    until,
    until_ready,
)

import rag_service
from rag_kit.errors import StepError, envelope
from rag_pipeline.models import RagRequest
from rag_service.dagger_engine import call, containers, queries, resident, session
from rag_service.dagger_engine.call import CallRunner
from rag_service.dagger_engine.containers import ContainersRunner
from rag_service.dagger_engine.options import EngineOptions
from rag_service.dagger_engine.resident import ResidentRunner
from rag_service.dagger_engine.session import Session

SOURCES = sorted((Path(rag_service.__file__).parent / "dagger_engine").glob("*.py"))
QUERIES = {
    f"{module.__name__}.{name}": text
    for module in (session, queries, call, containers, resident)
    for name, text in vars(module).items()
    if name.isupper() and isinstance(text, str) and text.lstrip().startswith(("query", "{"))
}
SDL = """
extend type Rag {
  run(query: String = "", topK: Int = 0, filters: String = "", inputJson: String = ""): String!
  search(query: String = "", topK: Int = 0, filters: String = "", inputJson: String = ""): String!
  serve: Service!
  index: Directory!
}
type Retrieve implements Node { id: ID! container: Container! }
type Rerank implements Node { id: ID! container: Container! }
type Augment implements Node { id: ID! container: Container! }
type Generate implements Node { id: ID! container: Container! }
extend type Query {
  rag(
    docs: ID, store: ID, docsName: String! = "docs", collection: String! = "default",
    qdrantUrl: String! = "", qdrant: ID, qdrantApiKey: ID, llmBaseUrl: String! = "",
    llmModel: String! = "", llmApiKey: ID, llm: ID, rerank: String! = "", rerankKind: String! = "",
    rerankModel: String! = "", rerankApiKey: ID, reranker: ID, llmPace: String! = "",
    rewriting: String! = ""
  ): Rag!
  retrieve: Retrieve!
  rerank: Rerank!
  augment: Augment!
  generate: Generate!
}
"""
"""What the modules add to a session, as the engine shows it."""


@pytest.fixture
def double() -> Iterator[EngineDouble]:
    with composite_server() as url, engine_double(composite, url) as running:
        yield running


@pytest.fixture
def cli(double: EngineDouble) -> Iterator[Cli]:
    with command_line(double) as made:
        yield made


async def session_with(cli: Cli, **more: Any) -> Session:
    return await Session.open(options(cli, **more))


# what is sent


@given(text=st.text(), name=st.text(), number=st.integers() | st.floats(allow_nan=False))
@hypothesis_settings(max_examples=25, deadline=None)
def test_threat_graphql_injection_values_travel_as_variables_only(
    text: str, name: str, number: float
) -> None:
    hostile = [text, '"', '"""', "}", "\u0000", "$rag", "\ud800", "cmd://touch PWNED", name]

    async def main(double: EngineDouble) -> None:
        session = await Session.open(EngineOptions(session_port=double.port))
        try:
            for value in hostile:
                given = {"rag": "id", "request": json.dumps({"query": value, "n": number})}
                await session.ask(call.SEARCH, given, deadline_s=SOON)
        finally:
            await session.close()
        _, *sent = double.asked
        assert {each.query for each in sent} == {call.SEARCH}
        assert [json.loads(each.variables["request"])["query"] for each in sent] == hostile

    with engine_double(lambda verb, text: "{}") as double:
        asyncio.run(main(double))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_threat_graphql_injection_no_query_text_is_built(path: Path) -> None:
    """A query is a module constant, one literal or built of the steps' names; `ask` takes it by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = ("*STEPS", "*NEEDED", "*SEARCHING", "STEPS[0]")
    of_steps = [f"{built}({name})" for built in ("images", "chain") for name in names]
    constants = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and (isinstance(statement.value, ast.Constant) or ast.unparse(statement.value) in of_steps)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    asked = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute | ast.Name)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        in ("ask", "extend")
    ]
    names = constants | {"query"}
    for query in asked:
        by_name = isinstance(query, ast.Name) and query.id in names
        held = isinstance(query, ast.Attribute) and query.attr == "_query"
        assert by_name or held, ast.unparse(query)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            text = ast.unparse(node)
            assert "query (" not in text and "node(" not in text, text


def test_the_queries_are_found() -> None:
    assert len(QUERIES) >= 18, sorted(QUERIES)


@pytest.mark.data
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_fits_the_recorded_schema(name: str) -> None:
    folder = Path(os.environ.get("RAG_DATA", ROOT.parent / "shared/data")) / "dagger_schema"
    if not folder.is_dir():
        pytest.skip(f"no recorded schema at {folder}")
    recorded = json.loads(gzip.decompress(next(folder.glob("*.json.gz")).read_bytes()))
    for each in recorded["__schema"]["types"]:  # the trial module gives way to this project's
        if each["name"] == "Rag":
            each["fields"] = [field for field in each["fields"] if field["name"] == "id"]
        if each["name"] == "Query":
            each["fields"] = [field for field in each["fields"] if field["name"] != "rag"]
    schema = extend_schema(build_client_schema(recorded), parse(SDL))
    assert validate(schema, parse(QUERIES[name])) == []


# the start


def test_the_resident_runner_says_what_its_pipeline_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that starts later: the operator reads its name, and the pipeline comes by itself."""
    monkeypatch.setattr("rag_kit.server.RETRY_S", 0.05)
    gone = StepError("not_ready", "the step retrieve cannot start: no Qdrant at RAG_QDRANT_URL")
    said: list[str] = []

    def missing() -> StepError | None:
        return None if any(gone.message in line for line in said) else gone

    async def main(cli: Cli) -> None:
        runner = ResidentRunner(options(cli))
        try:
            await runner.start(said.append)
        finally:
            await runner.close()

    with (
        composite_server(missing=missing) as url,
        engine_double(composite, url) as double,
        command_line(double) as cli,
    ):
        asyncio.run(main(cli))

    assert said.count(f"dagger: waiting: {gone.message}") == 1
    assert said[-1].startswith("dagger: probe answered in ")


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_a_new_installation_without_documents_gets_ready(kind: type[Runner]) -> None:
    """The probe meets no collection: documents must be able to come in; no model is asked."""
    none_yet = StepError(
        "collection_not_found", "collection 'default' does not exist", step="retrieve"
    )
    probes = []

    def empty(asked: RagRequest) -> RagRequest:
        probes.append(asked.generate["target"])
        raise none_yet

    def composite_of_nothing(verb: str, text: str) -> str:
        if verb != "run" and "error" not in json.loads(text):
            probes.append(json.loads(text)["generate"]["target"])
        return json.dumps(envelope(none_yet, step="retrieve"))

    async def main(cli: Cli) -> StepError:
        async with running(cli, kind) as (runner, said):
            assert said[-1].startswith("dagger: probe answered in ")
            with pytest.raises(StepError) as caught:
                await runner.answer(request(generate={"target": "extractive"}))
            return caught.value

    with (
        composite_server(seen=empty) as url,
        engine_double(composite_of_nothing, url) as double,
        command_line(double) as cli,
    ):
        refused = asyncio.run(main(cli))

    assert refused.code == "collection_not_found"
    assert set(probes) <= {"extractive"}


# one call


def test_answers_searches_and_streams(double: EngineDouble, cli: Cli) -> None:
    async def main(kind: type[Runner]) -> dict[str, Any]:
        async with running(cli, kind) as (runner, said):
            assert said[0].startswith("dagger: session open (")
            assert said[-1].startswith("dagger: probe answered in ")
            whole = json.loads(await runner.answer(request(request_id="r1", debug=True)))
            found = json.loads(await runner.search(request(request_id="r1")))
            events = [event async for event in runner.stream(request(request_id="r1"))]
        names = [event.name for event in events]
        assert names[0] == "search_results" and names[-2:] == ["citation", "final_answer"]
        assert [each["chunk_id"] for each in found["results"]] == ["c7"]
        last = json.loads(events[-1].data)
        assert last["answer"] == whole["answer"]
        whole.pop("timings_ms")
        return whole

    answers = {name: asyncio.run(main(kind)) for name, kind in RUNNERS.items()}
    assert answers["call"] == answers["resident"] == answers["containers"]
    assert answers["call"]["answer"].endswith("[1].")


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_a_stream_given_up_gives_its_lease_back(
    double: EngineDouble, cli: Cli, kind: type[Runner]
) -> None:
    async def main() -> None:
        async with running(cli, kind) as (runner, _):
            live = runner._supervisor._current
            events = runner.stream(request())
            # another task than the one that goes on, as a server does it
            first = await asyncio.create_task(anext(events))
            assert first.name == "search_results"
            assert (await anext(events)).name == "message"
            await events.aclose()
            assert live.in_flight == 0
            assert [event.name async for event in runner.stream(request())][-1] == "final_answer"

    asyncio.run(main())


CallFault = tuple[str, dict[str, Any], str, str]
"""What goes wrong, its arguments, the code it is told by, part of the message."""


def a_fault_of_a_call(double: EngineDouble, cli: Cli, fault: CallFault) -> None:
    """A typed error, the call sent once; the next call is answered."""
    kind, more, code, part = fault

    async def main() -> None:
        async with running(cli) as (runner, _):
            before = len(double.asked_with(RUN))
            double.fail(RUN, kind, **more)
            error = await refused(runner.answer(request()))
            assert error.code == code and part in error.message
            assert "traceparent" not in error.message and "inputJson" not in error.message
            assert len(double.asked_with(RUN)) == before + 1  # never sent again by itself
            await until_ready(runner)
            await runner.answer(request())

    asyncio.run(main())


@pytest.mark.parametrize(
    "fault",
    [
        ("answer", {"answer": FUNCTION_ERROR}, "module_error", "FunctionError: the index is"),
        ("answer", {"answer": EXEC_ERROR}, "module_oom", "out of memory"),
        ("answer", {"answer": MISFIT, "status": 422}, "module_error", 'query field "runn"'),
        ("answer", {"answer": BAD_ID}, "module_error", 'parse field "node"'),
    ],
)
def test_fault_module_raised_or_killed(double: EngineDouble, cli: Cli, fault: CallFault) -> None:
    a_fault_of_a_call(double, cli, fault)


@pytest.mark.parametrize(
    "fault",
    [
        ("text", {}, "module_bad_output", "no JSON"),
        ("no data", {}, "module_bad_output", "without data"),
        *(
            ("answer", {"answer": {"data": {"node": {"run": reply}}}}, "module_bad_output", part)
            for reply, part in (
                (None, "no text"),
                ("<html>", "is not valid JSON"),
                ("[]", "is not a JSON object"),
                ('{"id": "r1"}', "off contract"),
                ('{"error": {"code": "odd", "message": "x"}}', "unknown code 'odd'"),
            )
        ),
    ],
)
def test_fault_module_bad_output(double: EngineDouble, cli: Cli, fault: CallFault) -> None:
    a_fault_of_a_call(double, cli, fault)


@pytest.mark.parametrize(
    "fault",
    [
        ("answer", {"answer": STOPPING}, "engine_lost", "engine is shutting down"),
        ("short", {}, "engine_lost", "ended before it answered"),
        ("reset", {}, "engine_lost", "ended before it answered"),
        ("gateway", {}, "engine_lost", "HTTP 502"),
    ],
)
def test_fault_engine_lost_in_a_call(double: EngineDouble, cli: Cli, fault: CallFault) -> None:
    a_fault_of_a_call(double, cli, fault)


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_fault_module_bad_output_one_to_another_request(
    double: EngineDouble, cli: Cli, kind: type[Runner]
) -> None:
    """An answer under another id is dropped: it may be anybody's."""

    def another(asked: RagRequest) -> RagRequest:
        mixed_up = asked.request_id == "r1"  # not the probe
        return asked.model_copy(update={"request_id": "r2"}) if mixed_up else asked

    async def main() -> None:
        with composite_server(another) as url:
            double.url = url
            double.composite = lambda verb, text: composite(verb, text.replace('"r1"', '"r2"'))
            async with running(cli, kind) as (runner, _):
                for ask in (runner.answer, runner.search):
                    error = await refused(ask(request(request_id="r1")))
                    assert error.code == "module_bad_output" and "another request" in error.message
                with pytest.raises(StepError) as caught:
                    _ = [event async for event in runner.stream(request(request_id="r1"))]
                assert caught.value.code == "module_bad_output"

    asyncio.run(main())


def test_the_error_envelope_keeps_its_step(double: EngineDouble, cli: Cli) -> None:
    failed = {
        "error": {
            "type": "invalid_request_error",
            "code": "collection_not_found",
            "message": "there is none",
            "step": "retrieve",
            "param": "collection",
            "retryable": False,
            "request_id": "r1",
        }
    }

    async def main() -> None:
        async with running(cli) as (runner, _):
            double.fail(RUN, "answer", answer={"data": {"node": {"run": json.dumps(failed)}}})
            error = await refused(runner.answer(request()))
            assert (error.code, error.step, error.param) == (
                *("collection_not_found", "retrieve"),
                "collection",
            )

    asyncio.run(main())


def test_a_deadline_ends_a_call_and_not_the_session(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        # no ping is late: not even for a moment is it not ready
        async with running(cli, deadline_s=0.2, ping_timeout_s=SOON) as (runner, _):
            late = double.fail(RUN, "wait")
            error = await refused(runner.answer(request()))
            late.go_on.set()
            assert error.code == "deadline_exceeded" and "0.2 s" in error.message
            runner._options = replace(runner._options, deadline_s=SOON)
            await runner.ready()
            await runner.answer(request())
        assert len(cli.pids) == 1

    asyncio.run(main())


def test_many_requests_share_one_session_and_a_cancelled_one_harms_no_other(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        async with running(cli) as (runner, _):
            late = double.fail(RUN, "wait")
            given_up = asyncio.create_task(runner.answer(request("given up")))
            await asyncio.to_thread(late.met.wait, SOON)
            asked = [runner.answer(request(f"question {n}", request_id=f"r{n}")) for n in range(20)]
            given_up.cancel()
            answers = [json.loads(text) for text in await asyncio.gather(*asked)]
            late.go_on.set()
            assert [each["id"] for each in answers] == [f"r{n}" for n in range(20)]
            assert [each["query"] for each in answers] == [f"question {n}" for n in range(20)]
        assert len(cli.pids) == 1

    asyncio.run(main())


# start


def test_without_a_command_line_it_says_what_to_install(cli: Cli) -> None:
    runner = CallRunner(options(cli, cli="no-such-dagger"))
    error = asyncio.run(refused(runner.start(print)))
    assert error.code == "engine_unavailable"
    for part in ("'no-such-dagger'", "docs.dagger.io/install", "RUNNER_HOST", "RAG_RUNNER=local"):
        assert part in error.message


@pytest.mark.parametrize(
    ("more", "part"),
    [({"module": "nowhere"}, "RAG_DAGGER_MODULE"), ({"docs": Path("/no")}, "RAG_DOCS")],
)
def test_a_missing_folder_is_said_at_once(cli: Cli, more: dict[str, Any], part: str) -> None:
    error = asyncio.run(refused(CallRunner(options(cli, **more)).start(print)))
    assert error.code == "misconfigured" and part in error.message


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("fails", "failed to run command [docker version]: exit status 1; install"),
        ("silent", "within 0.3 s"),
    ],
)
def test_fault_engine_unavailable_is_tried_again_until_there_is_one(
    double: EngineDouble, cli: Cli, how: str, part: str
) -> None:
    async def main() -> None:
        cli.use(double, how)
        limit_s = 0.3 if how == "silent" else SOON
        runner = CallRunner(options(cli, provision_s=limit_s, connect_s=limit_s))
        said: list[str] = []
        starting = asyncio.create_task(runner.start(said.append))
        try:
            await until(lambda: len(said) > 1)
            error = await refused(runner.ready())
            assert error.code == "engine_unavailable" and part in error.message
            assert "(again in" in said[-1]
            assert (await refused(runner.answer(request()))).code == "engine_unavailable"
            cli.use(double)
            runner._supervisor._options = runner._options
            await asyncio.wait_for(starting, SOON)
            await runner.answer(request())
        finally:
            await runner.close()

    asyncio.run(main())


def test_a_module_that_does_not_build_is_the_reason(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        double.fail("moduleSource", "answer", answer=BUILD_ERROR)
        async with running(cli) as (_, said):
            failed = [line for line in said if "(again in" in line]
            assert len(failed) == 1 and "Failed to download `httpx-sse==0.4.3`" in failed[0]

    asyncio.run(main())


def test_close_ends_a_start_that_waits(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        waits = double.fail("moduleSource", "wait")
        runner = CallRunner(options(cli))
        starting = asyncio.create_task(runner.start(lambda _: None))
        await asyncio.to_thread(waits.met.wait, SOON)
        async with asyncio.timeout(SOON):
            await runner.close()
            assert (await refused(starting)).code == "engine_unavailable"

    asyncio.run(main())


def test_what_the_pipeline_is_over_is_handed_on(double: EngineDouble, cli: Cli) -> None:
    given = {
        "docs": ROOT / "docs",
        "collection": "handbook",
        "qdrant_url": "http://localhost:7333",
        "qdrant_api_key": SecretStr("qdrant-canary"),
        "llm_base_url": "http://127.0.0.1:9000/v1",
        "llm_model": "small",
        "llm_api_key": SecretStr("llm-canary"),
        "llm_pace": "local",
        "rewriting": "off",
    }

    async def main() -> None:
        async with running(cli, ContainersRunner, **given) as (runner, said):
            await runner.answer(request())
        async with running(cli, CallRunner, **given) as (_, more_said):
            pass
        assert "canary" not in " ".join(said + more_said)

    asyncio.run(main())
    [made] = [each.variables for each in double.asked_with("  rag(")]
    assert made["docsName"] == "docs" and made["collection"] == "handbook"
    assert made["qdrantUrl"] == "http://qdrant:7333" and made["llmBaseUrl"] == "http://llm:9000/v1"
    assert made["qdrant"] and made["llm"] and made["llmModel"] == "small"
    assert made["llmPace"] == "local" and made["rewriting"] == "off"
    [chained, *_] = [each.variables for each in double.asked_with("RAG_LLM_PACE")]
    assert chained["llmPace"] == "local"
    forwards = [each.variables for each in double.asked_with("service(host:")]
    assert {"frontend": 7333, "backend": 7333, "protocol": "TCP"} in forwards[0]["ports"]
    holders = [each.query for each in double.asked if "canary" in json.dumps(each.variables)]
    assert set(holders) == {queries.SET_SECRET}
    set_up = [each.variables["name"] for each in double.asked_with("with:")]
    assert set_up == ["RAG_STORE", "RAG_QDRANT_URL", "RAG_QDRANT_API_KEY", "qdrant", "llm"]


def test_keys_do_not_reach_the_command_line(
    double: EngineDouble, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_LLM_API_KEY", "canary")
    monkeypatch.setenv("DAGGER_SESSION_PORT", "1")

    async def main() -> None:
        async with running(cli):
            pass

    asyncio.run(main())
    assert "canary" not in json.dumps(cli.environment)
    assert "DAGGER_SESSION_PORT" not in cli.environment and cli.environment["DO_NOT_TRACK"] == "1"


def test_the_session_of_dagger_run_is_used_and_kept(double: EngineDouble, cli: Cli) -> None:
    given = {"session_port": double.port, "session_token": SecretStr("given"), "cli": "none"}

    async def main() -> None:
        async with running(cli, rotate_calls=1, **given) as (runner, _):
            for _ in range(3):
                await runner.answer(request())

    asyncio.run(main())
    assert {each.token for each in double.asked} == {"given"} and not cli.pids


# loss


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_fault_engine_unavailable_after_a_killed_child_ends_by_itself(
    double: EngineDouble, cli: Cli, kind: type[Runner]
) -> None:
    async def main() -> None:
        async with running(cli, kind, ping_s=60.0) as (runner, said):  # no ping helps
            os.kill(cli.pids[0], signal.SIGKILL)
            error = await until_ready(runner, ready=False)
            assert error is not None and "exited with code -9" in error.message
            await until_ready(runner)
            await runner.answer(request())
            assert any("session lost" in line for line in said)
        assert len(cli.pids) == 2

    asyncio.run(main())


def test_the_sessions_are_told_of_one_by_one(double: EngineDouble, cli: Cli) -> None:
    """What an operator counts: opened, lost with failed attempts until the next, replaced."""

    async def main() -> list[str]:
        told: list[str] = []
        runner = CallRunner(options(cli, rotate_calls=3, retry_s=0.01))
        runner.on_session_event(told.append)
        try:
            async with asyncio.timeout(SOON):
                await runner.start(lambda line: None)
            cli.use(double, "fails")
            os.kill(cli.pids[0], signal.SIGKILL)
            await until(lambda: told.count("failed") > 1)
            cli.use(double)
            await until_ready(runner)
            for _ in range(3):
                await runner.answer(request())
            await until(lambda: "replaced" in told)
        finally:
            await runner.close()
        return told

    told = asyncio.run(main())
    between = told[2 : told.index("open", 1)]
    assert told[:2] == ["open", "lost"]
    assert len(between) > 1 and set(between) == {"failed"}
    assert told[2 + len(between) :] == ["open", "open", "replaced"]


def test_fault_engine_unavailable_is_noticed_by_a_ping(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli) as (runner, _):
            double.fail(PING, "gateway", times=None)
            error = await until_ready(runner, ready=False)
            assert error is not None and error.code == "engine_unavailable"
            double.faults.clear()
            await until_ready(runner)
            await runner.answer(request())

    asyncio.run(main())


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_fault_engine_lost_when_it_dies_in_a_call(
    double: EngineDouble, cli: Cli, kind: type[Runner]
) -> None:
    async def main() -> None:
        async with running(cli, kind) as (runner, _):
            if kind is ResidentRunner:  # its calls go past the engine: the session's end ends them
                live = runner._supervisor._current
                stuck = asyncio.create_task(live.session.guard(asyncio.Event().wait()))
                await asyncio.sleep(0)
                double.die()
                assert (await refused(stuck)).code == "engine_lost"
            else:
                part = RUN if kind is CallRunner else "redirectStdout"
                double.fail(part, "die")
                assert (await refused(runner.answer(request()))).code == "engine_lost"
            error = await until_ready(runner, ready=False)
            assert error is not None and error.code == "engine_unavailable"
            with engine_double(composite, double.url) as other:
                cli.use(other)
                await until_ready(runner)
                await runner.answer(request())
                await runner.close()

    asyncio.run(main())


def test_threat_engine_crash_a_hung_one_is_late_first_and_then_given_up(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        times = {"ping_timeout_s": 0.1, "hung_s": 3.0}
        async with running(cli, **times) as (runner, _):
            calls = double.fail(RUN, "wait")
            asked = asyncio.create_task(runner.answer(request()))
            await asyncio.to_thread(calls.met.wait, SOON)
            pings = double.fail(PING, "wait", times=None)
            error = await until_ready(runner, ready=False)
            assert error is not None and "slow to answer" in error.message
            error = await refused(asked)
            assert error.code == "engine_lost" and "has not answered for" in error.message
            double.faults.clear()
            pings.go_on.set()
            calls.go_on.set()
            await until_ready(runner)
            await runner.answer(request())

    asyncio.run(main())


def test_a_slow_ping_alone_costs_no_session(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli, ping_timeout_s=0.1, hung_s=60.0) as (runner, _):
            slow = double.fail(PING, "wait")
            await until_ready(runner, ready=False)
            await runner.answer(request())  # still served
            slow.go_on.set()
            await until_ready(runner)
        assert len(cli.pids) == 1

    asyncio.run(main())


def test_an_engine_that_is_slow_all_the_time_is_kept(double: EngineDouble, cli: Cli) -> None:
    """Each ping is late, none is missing: a busy machine costs readiness, not the session."""
    healthy = double.data

    def slow(query: str, given: dict[str, Any]) -> Any:
        threading.Event().wait(0.3 if query == PING else 0)
        return healthy(query, given)

    async def main() -> None:
        async with running(cli, ping_timeout_s=0.05, hung_s=2.0) as (runner, _):
            double.data = slow  # type: ignore[method-assign]
            await until_ready(runner, ready=False)
            ends = time.monotonic() + 3
            while time.monotonic() < ends:
                await runner.answer(request())
                await asyncio.sleep(0.05)
            assert len(cli.pids) == 1

    asyncio.run(main())


def test_an_engine_that_builds_the_next_session_may_be_slow(double: EngineDouble, cli: Cli) -> None:
    """Replacing a session refuses nobody, though the engine is too busy to be pinged in time."""

    async def main() -> None:
        async with running(cli, rotate_calls=1, ping_timeout_s=0.05, hung_s=60.0) as (runner, said):
            building = double.fail("moduleSource", "wait")
            await runner.answer(request())
            await asyncio.to_thread(building.met.wait, SOON)
            live = runner._supervisor._current
            slow = double.fail(PING, "wait")
            await until(lambda: live.session.late)
            await runner.ready()
            await runner.answer(request())
            building.go_on.set()
            slow.go_on.set()
            await until(lambda: any("took over" in line for line in said))

    asyncio.run(main())


def test_a_pipeline_that_is_gone_is_lost_though_the_engine_lives(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        with composite_server() as url:
            double.url = url
            runner = ResidentRunner(options(cli, ping_s=60.0))
            await asyncio.wait_for(runner.start(lambda _: None), SOON)
        try:  # the server has ended
            error = await refused(runner.answer(request()))
            assert error.code == "engine_lost"
            with composite_server() as other:
                double.url = other
                await until(lambda: len(cli.pids) > 1)  # the call made it look at once
                await until_ready(runner)
                await runner.answer(request())
                await runner.close()
        finally:
            await runner.close()

    asyncio.run(main())


# rotation


@pytest.mark.parametrize("kind", RUNNERS.values(), ids=RUNNERS)
def test_threat_session_leak_replaced_without_a_failed_request(
    double: EngineDouble, cli: Cli, kind: type[Runner]
) -> None:
    async def main() -> None:
        async with running(cli, kind, rotate_calls=20) as (runner, said):
            done = 0

            async def client() -> None:
                nonlocal done
                while len(cli.pids) < 4:
                    await runner.answer(request(f"question {done}"))
                    done += 1

            async with asyncio.timeout(60):
                await asyncio.gather(*(client() for _ in range(4)))
            await until(lambda: len(cli.running) == 1)
            assert sum("took over" in line for line in said) >= 2
        assert cli.running == []

    asyncio.run(main())


def test_a_call_goes_on_in_the_session_that_was_replaced(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli, rotate_calls=2) as (runner, said):
            slow = double.fail('"slow', "wait")
            slow.match = RUN
            asked = asyncio.create_task(runner.answer(request("slow")))
            await asyncio.to_thread(slow.met.wait, SOON)
            await runner.answer(request())
            await until(lambda: any("took over" in line for line in said))
            assert len(cli.running) == 2
            slow.go_on.set()
            assert json.loads(await asked)["query"] == "slow"
            await until(lambda: len(cli.running) == 1)
            assert cli.running == cli.pids[-1:]

    asyncio.run(main())


def test_a_drain_has_an_end(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli, rotate_calls=2, drain_s=0.1) as (runner, _):
            stuck = double.fail(RUN, "wait")
            asked = asyncio.create_task(runner.answer(request()))
            await asyncio.to_thread(stuck.met.wait, SOON)
            await runner.answer(request())
            assert (await refused(asked)).code == "engine_lost"
            stuck.go_on.set()
            await until(lambda: cli.running == cli.pids[1:2])

    asyncio.run(main())


def test_threat_session_leak_a_session_grows_old_without_calls(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        async with running(cli, rotate_s=0.3) as (runner, _):
            await until(lambda: len(cli.pids) > 2)
            await runner.answer(request())

    asyncio.run(main())


def test_a_failed_replacement_leaves_the_session_in_use(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli, rotate_calls=1, retry_s=0.01) as (runner, said):
            cli.use(double, "fails")
            for _ in range(5):
                await runner.answer(request())
            await until(lambda: sum("(again in" in line for line in said) > 1)
            await runner.ready()
            await runner.answer(request())
            cli.use(double)
            await until(lambda: any("took over" in line for line in said))

    asyncio.run(main())


def test_threat_cached_error_has_the_session_replaced(double: EngineDouble, cli: Cli) -> None:
    async def main() -> None:
        async with running(cli, same_errors=3, mend_s=0.0) as (runner, said):
            for _ in range(2):
                double.fail(RUN, "answer", answer=FUNCTION_ERROR)
                await refused(runner.answer(request()))
            await runner.answer(request())  # an answer between them counts
            for _ in range(3):
                assert len(cli.pids) == 1
                double.fail(RUN, "answer", answer=FUNCTION_ERROR)
                await refused(runner.answer(request()))
            await until(lambda: any("took over" in line for line in said))
            await runner.answer(request())

    asyncio.run(main())


# the end


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("how", ["works", "stubborn"])
def test_close_ends_the_child(double: EngineDouble, cli: Cli, how: str, loop: Any) -> None:
    async def main() -> None:
        cli.use(double, how)
        async with running(cli, stop_s=0.3) as (runner, _):
            assert len(cli.running) == 1
            async with asyncio.timeout(SOON):
                await runner.close()
            assert cli.running == []
            assert "closing" in (await refused(runner.answer(request()))).message

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("fault", ["wait", "die"])
def test_threat_engine_crash_close_does_not_wait(
    double: EngineDouble, cli: Cli, fault: str
) -> None:
    async def main() -> None:
        cli.use(double, "stubborn")
        async with running(cli, stop_s=0.3) as (runner, _):
            met: Fault = double.fail(RUN, fault, times=None)
            asked = asyncio.create_task(runner.answer(request()))
            await asyncio.to_thread(met.met.wait, SOON)
            async with asyncio.timeout(SOON):
                await runner.close()
            assert (await refused(asked)).code == "engine_lost"

    asyncio.run(main())


def test_close_waits_for_what_it_cancels_before_the_client_is_closed(double: EngineDouble) -> None:
    """A connection that comes up in a closed client would stay open."""
    closed: list[bool] = []

    async def main() -> None:
        session = await Session.open(EngineOptions(session_port=double.port))

        async def connecting() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # a cancelled connection takes a turn to end
                closed.append(session._client.is_closed)

        asked = [asyncio.create_task(session.guard(connecting())) for _ in range(3)]
        await asyncio.sleep(0)
        await session.close()
        assert closed == [False] * 3
        for each in asked:
            error = await refused(each)
            assert (error.code, "it was closed" in error.message) == ("engine_lost", True)
        assert (await refused(session.guard(connecting()))).code == "engine_lost"

    asyncio.run(main())


# containers


def test_fault_module_raised_or_killed_a_killed_step_is_out_of_memory(
    double: EngineDouble, cli: Cli
) -> None:
    def killed(verb: str, text: str) -> str:
        return "" if verb == "augment" and "kill" in text else composite(verb, text or "{}")

    async def main() -> None:
        double.composite = killed
        async with running(cli, ContainersRunner) as (runner, _):
            double.composite = lambda verb, text: (
                killed(verb, text) if verb != "generate" else '{"error": 1}'
            )
            error = await refused(runner.answer(request("kill it")))
            assert (error.code, error.step) == ("module_oom", "augment")

    asyncio.run(main())


def test_threat_stale_cached_answer_containers_run_anew_each_time(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        async with running(cli, ContainersRunner) as (runner, _):
            before = len([each for each in double.asked if each.query != PING])
            for _ in range(3):
                await runner.answer(request("the same"))
            sent = [each for each in double.asked if each.query != PING][before:]
            assert [each.query for each in sent] == [containers.RUN] * 3
            assert len({each.variables["run"] for each in sent}) == 3
            error = await refused(runner.answer(json.dumps({"query": " "})))
            assert error.code == "invalid_request" and error.param == "query"

    asyncio.run(main())


def test_containers_rerank_where_a_server_is_named(double: EngineDouble, cli: Cli) -> None:
    """The step has its server and key in its own container alone; a question can go without."""

    def rerank(text: str) -> str:
        asked = json.loads(text)
        return json.dumps({**asked, "results": asked["results"][::-1]})

    def with_rerank(verb: str, text: str) -> str:
        return rerank(text) if verb == "rerank" else composite(verb, text)

    async def main() -> None:
        double.composite = with_rerank
        named = {"reranker_url": "http://tei.test:80", "reranker": "tei"}
        async with running(
            cli, ContainersRunner, reranker_api_key=SecretStr("a-key-of-a-reranker"), **named
        ) as (runner, _):
            before = len(double.asked)
            await runner.answer(request("with"))
            await runner.answer(request("without", rerank={"enabled": False}))
            await runner.search(request("with"))
            sent = [each for each in double.asked[before:] if each.query != PING]
        assert [each.query for each in sent] == [
            containers.RUN_RERANKED,
            containers.RUN,
            containers.SEARCH_RERANKED,
        ]
        given = sent[0].variables
        assert (given["rerankUrl"], given["rerankKind"]) == ("http://tei.test:80", "tei")
        assert "a-key-of-a-reranker" not in json.dumps(given)
        assert not {"rerank", "rerankUrl", "rerankApiKey"} & sent[1].variables.keys()
        assert json.loads(given["request"])["rerank"]["top_n"] == 5

    asyncio.run(main())


def test_a_reranker_key_leaves_its_container_with_its_step() -> None:
    """The next steps run in the same container: the key is taken out before them."""
    query = containers.RUN_RERANKED
    left = query.index('withoutSecretVariable(name: "RAG_RERANKER_API_KEY")')

    assert query.index("rag_rerank") < left < query.index("rag_augment")


def test_the_double_has_the_shapes_of_the_command_line(cli: Cli) -> None:
    assert shutil.which(str(cli.path)) == str(cli.path)
