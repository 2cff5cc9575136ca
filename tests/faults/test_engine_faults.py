"""A Dagger engine that dies, hangs, is swapped or is exposed: on the double of a session."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql_double import DIGEST, Cli, EngineDouble, engine_double
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
from service_kit import environment, serving, settings

from rag_kit.errors import StepError
from rag_pipeline.models import RagRequest
from rag_pipeline.steps.local import open_local
from rag_service.dagger_engine.call import CallRunner
from rag_service.dagger_engine.containers import ContainersRunner
from rag_service.dagger_engine.options import RUNNER_HOST, EngineOptions
from rag_service.dagger_engine.queries import check_pin

RAG = Path(sys.executable).with_name("rag")
TYPED = {"engine_lost", "engine_unavailable", "deadline_exceeded"}
NOTICED_S = 1.0
DEATHS = ("die", "kill", "gateway", "reset")


@pytest.fixture
def double() -> Iterator[EngineDouble]:
    with composite_server() as url, engine_double(composite, url) as running:
        yield running


@pytest.fixture
def cli(double: EngineDouble) -> Iterator[Cli]:
    with command_line(double) as made:
        yield made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["call", "resident"])
def test_threat_engine_crash_at_random_moments(name: str, lane: Any) -> None:
    """Under load: the caller's own answer or a typed 503/504, one pipeline run a request at most."""
    random_ = random.Random(lane.seed)
    runs: Counter[str] = Counter()
    answered, failed = [0], Counter[str]()

    def seen(asked: RagRequest) -> RagRequest:
        runs[asked.request_id or ""] += 1
        return asked

    def counted(verb: str, text: str) -> str:
        runs[json.loads(text).get("request_id", "")] += 1
        return composite(verb, text)

    async def client(runner: Any, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            mine = f"client {number}, turn {turn}"
            try:
                answer = json.loads(await runner.answer(request(mine, request_id=mine)))
            except StepError as error:
                assert error.code in TYPED, (lane.seed, error.code, error.message)
                failed[error.code] += 1
                await asyncio.sleep(0.01)
            else:
                assert (answer["id"], answer["query"]) == (mine, mine), lane.seed
                answered[0] += 1

    async def main(stack: ExitStack) -> None:
        url = stack.enter_context(composite_server(seen))
        double = stack.enter_context(engine_double(counted, url))
        cli = stack.enter_context(command_line(double))
        async with running(cli, RUNNERS[name], ping_s=0.02) as (runner, _):
            clients = [asyncio.create_task(client(runner, number)) for number in range(3)]
            for _ in range(lane(15, 250)):
                wanted = answered[0] + 3
                await until(lambda wanted=wanted: answered[0] >= wanted)
                await asyncio.sleep(random_.uniform(0, 0.01))
                how = random_.choice(DEATHS)
                if how == "die":
                    double.die()
                elif how == "kill":
                    os.kill(cli.pids[-1], signal.SIGKILL)
                else:
                    double.fail("", how, times=None)
                error = await until_ready(runner, ready=False)
                assert error is not None and error.code == "engine_unavailable", lane.seed
                if how == "die":
                    double = stack.enter_context(engine_double(counted, url))
                    cli.use(double)
                double.faults.clear()
                await until_ready(runner)
            for each in clients:
                each.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended

    with ExitStack() as stack:
        asyncio.run(main(stack))
    runs.pop("", None)  # the probes
    assert max(runs.values()) == 1, (lane.seed, runs.most_common(3))
    assert sum(failed.values()) > 0


@contextmanager
def service_over(cli: Cli, **more: Any) -> Iterator[httpx.Client]:
    """A service whose runner `call` asks the double."""
    runner = CallRunner(options(cli, **{"ping_s": EngineOptions.ping_s, **more}))
    given = settings(runner="call", drain_s=1)
    with (
        serving(given, runner=runner) as url,
        httpx.Client(
            base_url=url, trust_env=False, timeout=60, limits=httpx.Limits(max_connections=100)
        ) as client,
    ):
        yield client


def until_answered(client: httpx.Client, status: int) -> float:
    """Return the seconds until /readyz gives a status."""
    began, pause = time.monotonic(), threading.Event()
    while client.get("/readyz").status_code != status:
        assert time.monotonic() - began < SOON
        pause.wait(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["die", "gateway", "wait"])
def test_fault_engine_unavailable_over_http(
    how: str, double: EngineDouble, cli: Cli, lane: Any
) -> None:
    """Noticed with the default pings, in the full lane within a second; 503 with Retry-After; back again."""
    with service_over(cli) as client:
        if how == "die":
            double.die()
        else:
            double.fail("", how, times=None)
        noticed = until_answered(client, 503)
        assert lane(1, 0) or noticed < NOTICED_S, noticed  # measured where nothing else works
        refusal = client.post("/rag_modules", json={"query": "x"})
        assert refusal.status_code == 503 and int(refusal.headers["retry-after"]) >= 1
        assert refusal.json()["error"]["code"] == "engine_unavailable"
        assert client.get("/healthz").status_code == 200
        with engine_double(composite, double.url) as other:
            cli.use(other)
            until_answered(client, 200)
            assert client.post("/rag_modules", json={"query": "x"}).status_code == 200


@pytest.mark.parametrize("how", ["die", "wait", "gateway"])
def test_threat_engine_crash_shutdown_under_load(how: str, double: EngineDouble, cli: Cli) -> None:
    """Whatever the engine does, the service ends, and leaves no process."""
    over = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(trust_env=False, timeout=SOON) as client:
            while not over.is_set():
                try:
                    response = client.post(url, json={"query": "x"})
                except httpx.TransportError:
                    return  # the service has ended
                assert response.status_code in (200, 503, 504) or over.is_set(), response.text

    with ThreadPoolExecutor(3) as pool:
        with service_over(cli, stop_s=0.5) as client:
            asking = [pool.submit(ask, f"{client.base_url}/rag_modules") for _ in range(3)]
            fault = double.fail("", how, times=None)
            assert fault.met.wait(SOON)
            over.set()
            began = time.monotonic()
        took = time.monotonic() - began
        for each in asking:
            each.result(SOON)
    assert took < SOON


def test_threat_session_leak_a_process_that_grew_is_replaced(
    double: EngineDouble, cli: Cli
) -> None:
    async def main() -> None:
        async with running(cli, CallRunner, rotate_mib=32.0) as (runner, said):
            for _ in range(3):
                await runner.answer(request())
            assert len(cli.pids) == 1
            os.kill(cli.pids[0], signal.SIGUSR1)  # it takes 64 MiB
            while not any("took over" in line for line in said):
                await runner.answer(request())
            await until(lambda: len(cli.running) == 1)

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc tells a process's memory here")
    asyncio.run(asyncio.wait_for(main(), SOON))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://10.0.0.7:1234", "plain tcp://"),
        ("TCP://engine.internal:1234", "plain tcp://"),
        ("tcp://127.0.0.1@evil.example:1234", "plain tcp://"),
        ("tcp://[2001:db8::1]:1234", "plain tcp://"),
        (" tcp://0.0.0.0:1234", "plain tcp://"),
        ("tcp://", "plain tcp://"),
        ("tcp://127.0.0.1:1234", ""),
        ("tcp://[::1]:1234", ""),
        ("unix:///run/dagger/engine.sock", ""),
        ("tls://engine.internal:1234", ""),
        ("kube-pod://dagger-engine?namespace=dagger", ""),
        ("docker-container://dagger-engine", ""),
        ("", ""),
    ],
)
def test_threat_exposed_engine(double: EngineDouble, cli: Cli, address: str, said: str) -> None:
    """Plain TCP beyond this machine is refused before anything is started."""

    async def main() -> None:
        runner = CallRunner(options(cli))
        if said:
            error = await refused(runner.start(print))
            assert error.code == "misconfigured" and said in error.message
            assert "10.0.0.7" not in error.message and cli.pids == []
            return
        try:
            await asyncio.wait_for(runner.start(lambda _: None), SOON)
            await runner.answer(request())
        finally:
            await runner.close()

    with environment({RUNNER_HOST: address} if address else {}):
        asyncio.run(main())


@pytest.mark.parametrize("name", RUNNERS)
def test_fault_module_pin_mismatch(double: EngineDouble, cli: Cli, name: str) -> None:
    """Another module than the pinned one is not even loaded; the message has the digest to pin."""
    kind: type[Runner] = RUNNERS[name]

    async def main() -> None:
        runner = kind(options(cli, module_digest="xxh3:0000000000000000"))
        error = await refused(runner.start(lambda _: None))
        assert error.code == "module_pin_mismatch" and error.status == 500
        assert DIGEST in error.message and "RAG_DAGGER_MODULE_DIGEST" in error.message
        await runner.close()
        assert double.asked_with("asModule") == []
        async with running(cli, kind, module_digest=DIGEST) as (runner, said):
            await runner.answer(request())
        assert any(DIGEST in line for line in said)

    asyncio.run(main())


def test_fault_module_pin_mismatch_of_a_git_reference() -> None:
    """A commit pins, too: a tag that was moved is another module."""
    commit, moved = "a" * 40, "b" * 40
    options = EngineOptions(module="github.com/o/r/dagger/rag@v1.0.0", module_digest=commit)
    check_pin(options, DIGEST, commit)
    with pytest.raises(StepError, match=moved) as caught:
        check_pin(options, DIGEST, moved)
    assert caught.value.code == "module_pin_mismatch"


def test_fault_module_pin_mismatch_has_exit_code_78(cli: Cli, tmp_path: Path) -> None:
    """`rag serve` ends, says how to pin, and its exit code tells that starting again is no use."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAG_")}
    given = {
        "RAG_HOME": str(tmp_path),
        "RAG_DAGGER_CLI": str(cli.path),
        "RAG_DAGGER_MODULE": str(ROOT / "dagger/rag"),
        "RAG_DAGGER_MODULE_DIGEST": "xxh3:0000000000000000",
    }
    ran = subprocess.run(
        [RAG, "serve", "--port", "0", "--runner", "call"],
        env={**kept, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 78, ran.stderr
    assert f"{DIGEST}; deploy the pinned module, or set" in ran.stderr


@pytest.mark.parametrize("name", ["call", "containers"])
def test_threat_joined_callers_stay_apart(double: EngineDouble, cli: Cli, name: str) -> None:
    """Two equal calls are two queries, told apart by what they carry; one given up harms no other."""
    part = RUN if name == "call" else "redirectStdout"

    async def main() -> None:
        async with running(cli, RUNNERS[name]) as (runner, _):
            before = len(double.asked_with(part))
            slow = double.fail(part, "wait", times=2)
            first = asyncio.create_task(runner.answer(request("equal", request_id="r1")))
            second = asyncio.create_task(runner.answer(request("equal", request_id="r2")))
            await until(lambda: len(double.asked_with(part)) == before + 2)
            first.cancel()
            slow.go_on.set()
            assert json.loads(await second)["id"] == "r2"
            one, other = double.asked_with(part)[before:]
            assert one.variables != other.variables
            if name == "containers":
                assert one.variables["run"] != other.variables["run"]

    asyncio.run(asyncio.wait_for(main(), SOON))


def test_threat_engine_exhaustion_is_capped(double: EngineDouble, cli: Cli) -> None:
    """Of 64 questions at once no more than RAG_MAX_CONCURRENCY are in the engine; each ends typed."""
    lock, at_once, most = threading.Lock(), [0], [0]

    def counted(verb: str, text: str) -> str:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.02)
        try:
            return composite(verb, text)
        finally:
            with lock:
                at_once[0] -= 1

    double.composite = counted
    patient = service_over(cli, ping_timeout_s=SOON)  # 64 clients of one process hold up its pings
    with patient as client, ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(client.post, "/rag_modules", json={"query": "x"}) for _ in range(64)]
        responses = [each.result() for each in asked]
    codes = Counter(
        response.status_code
        if response.status_code == 200
        else f"{response.status_code} {response.json()['error']['code']}"
        for response in responses
    )
    assert set(codes) <= {200, "503 overloaded"} and codes[200] >= 8, codes
    assert 1 < most[0] <= settings().max_concurrency


@pytest.mark.timeout(1800)
def test_threat_stale_cached_answer_after_each_ingestion(lane: Any, tmp_path: Path) -> None:
    """Ingest a new fact, ask the same question, again and again: the newest is cited each time."""
    file = tmp_path / "kettle.md"
    with environment({"RAG_CHUNK_TOKENS": "64"}), open_local(home=tmp_path / "home") as rag:
        for turn in range(lane(8, 1000)):
            file.write_text(
                f"# Kettle\n\nThe kettle on the third floor holds {turn} millilitres.\n"
            )
            report = rag.retriever.ingest([file])
            assert not report.failed
            answer = rag.answer({"query": "How much does the kettle on the third floor hold?"})
            assert f"holds {turn} millilitres" in answer["answer"], (turn, answer["answer"])
            assert f"holds {turn} millilitres" in answer["citations"][0]["quote"]


def test_fault_engine_lost_is_never_asked_again(double: EngineDouble, cli: Cli) -> None:
    """A request whose engine died may have paid a model: it is told, not sent again."""

    async def main() -> None:
        async with running(cli, ContainersRunner) as (runner, _):
            before = len(double.asked_with("redirectStdout"))
            double.fail("redirectStdout", "reset")
            double.fail(PING, "gateway")
            error = await refused(runner.answer(request()))
            assert (error.code, error.status, error.retry_after) == ("engine_lost", 503, 2)
            await until_ready(runner, ready=False)
            await until_ready(runner)
            sent = [each.variables["request"] for each in double.asked_with("redirectStdout")]
            assert len(sent) == before + 2  # it, and the probe of the next session
            assert sent[before] != sent[before + 1]

    asyncio.run(main())
