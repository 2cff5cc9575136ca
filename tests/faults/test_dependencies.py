"""What a dependency behind a network can do to the service: slow, broken, gone."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import toxiproxy
from dependency_kit import ANSWER, Doubles, Reply, Rig, doubles, rig
from llm_stub import chunk

from rag_kit.background import BackgroundLoop

pytestmark = pytest.mark.xdist_group("dependencies")  # one set of servers

DEADLINE_S = 8.0
OWN_S = 1.5  # seconds a call of a dependency may take
PATIENT_S = 4.0  # seconds of a request that has less time than its calls
TOXICS: dict[str, dict[str, int]] = {
    "latency": {"latency": 60_000},
    "bandwidth": {"rate": 1},  # kB a second
    "slicer": {"average_size": 1, "size_variation": 0, "delay": 20_000},  # microseconds a byte
    "timeout": {"timeout": 0},  # nothing passes
    "timeout then closed": {"timeout": 50},
    "reset_peer": {"timeout": 0},
    "limit_data": {"bytes": 60},
    "slow_close": {"delay": 20_000},
}
SLOW = ("latency", "bandwidth", "slicer", "timeout")
CODES = {
    # dependency: too slow, broken off
    "qdrant": ((504, "deadline_exceeded"), (503, "retriever_unavailable")),
    "embedder": ((504, "deadline_exceeded"), (503, "embedder_unavailable")),
    "llm": ((504, "llm_timeout"), (502, "llm_upstream_error")),
}


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doubles]:
    """The dependencies."""
    with doubles(tmp_path_factory.mktemp("documents")) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy(on: Doubles) -> Iterator[None]:
    """Let every test begin and end with dependencies that work."""
    script = list(on.llm.script)
    yield
    for double in (on.qdrant.faults, on.embedder):
        if double.hold is not None:
            double.hold.set()
            double.hold = None
    on.qdrant.faults.status = None
    on.embedder.status = 200
    on.llm.script = script


Through = tuple[Rig, dict[str, toxiproxy.Proxy]]


@contextmanager
def proxied(on: Doubles, own_s: float, deadline_s: float) -> Iterator[Through]:
    """Serve with a proxy before each dependency."""
    if reason := toxiproxy.missing():
        pytest.skip(reason)
    with toxiproxy.toxiproxy() as server:
        proxies = {
            "qdrant": server.before(on.qdrant.url),
            "embedder": server.before(on.embedder.url),
            "llm": server.before(on.llm.url),
        }
        limits = {
            "QDRANT_TIMEOUT_S": own_s,
            "EMBEDDING_TIMEOUT_S": own_s,
            "LLM_FIRST_TOKEN_S": own_s,
            "LLM_IDLE_S": own_s,
        }
        urls = {name: proxy.url for name, proxy in proxies.items()}
        urls |= {name: f"{urls[name]}/v1" for name in ("embedder", "llm")}
        with rig(on, urls=urls, service={"deadline_s": deadline_s}, **limits) as running:
            yield running, proxies


@pytest.fixture(scope="module")
def hasty(on: Doubles) -> Iterator[Through]:
    """A service that gives up soon a call that does not end."""
    with proxied(on, OWN_S, DEADLINE_S) as given:
        yield given


@pytest.fixture(scope="module")
def calm(on: Doubles) -> Iterator[Through]:
    """A service whose limits are far: what ends a call here is what broke."""
    with proxied(on, own_s=30, deadline_s=60) as given:
        yield given


def cases() -> Iterator[Any]:
    """Every toxic in both directions at every dependency; what takes long, once in the fast lane."""
    for dependency in CODES:
        for toxic in TOXICS:
            for stream in ("upstream", "downstream"):
                first = "downstream" if toxic in ("latency", "timeout") else "upstream"
                marks = [pytest.mark.full] if toxic in SLOW and stream != first else []
                yield pytest.param(dependency, toxic, stream, marks=marks)


def expected(dependency: str, toxic: str) -> set[tuple[int, str]]:
    if toxic == "slow_close":
        return {(200, "")}
    late, broken = CODES[dependency]
    if toxic not in SLOW:
        return {broken}
    # an answer that trickles without a pause ends when the request's time is over
    return {late, (504, "deadline_exceeded")} if toxic == "bandwidth" else {late}


@pytest.mark.parametrize(("dependency", "toxic", "stream"), list(cases()))
def test_threat_slow_dependency_or_broken_has_its_code(
    request: pytest.FixtureRequest,
    lane: Callable[[int, int], int],
    dependency: str,
    toxic: str,
    stream: str,
) -> None:
    """Each request ends in time with the code of its fault; without the toxic the next succeeds.

    The model is asked once a request at most, whatever happens to the connection.
    """
    running, proxies = request.getfixturevalue("hasty" if toxic in SLOW else "calm")
    attributes = TOXICS[toxic]

    with proxies[dependency].toxic(toxic.partition(" ")[0], stream, **attributes):
        reply = running.ask()

    assert (reply.status, reply.code) in expected(dependency, toxic), reply.body
    assert reply.seconds <= DEADLINE_S + lane(5000, 100) / 1000
    if reply.code:
        assert reply.step == ("generate" if dependency == "llm" else "retrieve")
    if toxic in SLOW and toxic != "bandwidth":
        said = reply.body["error"]["message"]
        assert "RAG_DEADLINE_S" not in said, (
            "the call ends by its own limit, long before the request"
        )
    assert any(running.ask().status == 200 for _ in range(lane(3, 1)))
    assert max(running.llm_calls().values()) == 1


def test_fault_llm_stream_broken_by_the_network(calm: Through) -> None:
    """A connection that ends after the first words is an error, never an answer."""
    running, proxies = calm

    with proxies["llm"].toxic("limit_data", "downstream", bytes=1500):
        reply = running.ask()

    assert (reply.status, reply.code) == (502, "llm_stream_broken")


# -- the request's own time -------------------------------------------------------------------


def hang(on: Doubles, dependency: str) -> threading.Event:
    """Let a dependency answer nothing until the event is set."""
    event = threading.Event()
    if dependency == "llm":

        def wait(handler: Any) -> None:
            event.wait()
            handler.close_connection = True

        on.llm.script = [wait]
    elif dependency == "embedder":
        on.embedder.hold = event
    else:
        on.qdrant.faults.hold = event
    return event


@pytest.fixture(scope="module")
def patient(on: Doubles) -> Iterator[Rig]:
    """A service whose requests have less time than any of its calls."""
    limits = {
        f"{name}_S": 100
        for name in (
            "QDRANT_TIMEOUT", "EMBEDDING_TIMEOUT", "LLM_CONNECT", "LLM_FIRST_TOKEN", "LLM_IDLE",
        )
    }  # fmt: skip
    service = {"deadline_s": PATIENT_S, "max_concurrency": 48}
    with rig(on, service=service, LLM_TOTAL_S=100, **limits) as running:
        yield running


@pytest.mark.parametrize("dependency", CODES)
def test_fault_deadline_exceeded_names_the_step(
    patient: Rig, on: Doubles, lane: Callable[[int, int], int], dependency: str
) -> None:
    """The request's time is over before the dependency's: 504, in time, with the step at work."""
    assert patient.ask().status == 200
    event = hang(on, dependency)

    reply = patient.ask()

    event.set()
    assert reply.status == 504
    assert reply.code in ("deadline_exceeded", "llm_timeout")
    assert reply.code == "deadline_exceeded" or dependency == "llm"
    assert reply.step == ("generate" if dependency == "llm" else "retrieve")
    assert reply.seconds <= PATIENT_S + lane(5000, 100) / 1000


@pytest.mark.parametrize("dependency", ["qdrant", "embedder", "llm"])
def test_threat_slow_dependency_is_seen_in_the_seconds_of_its_calls(
    patient: Rig, on: Doubles, dependency: str
) -> None:
    """A call that was given up counts with the time it took until then, beside those that ended."""

    def calls() -> tuple[float, float]:
        text = patient.http.get("/metrics").text
        found = [
            re.search(rf'^rag_dep_seconds_{part}{{dep="{dependency}"}} (\S+)$', text, re.MULTILINE)
            for part in ("count", "sum")
        ]
        return tuple(float(one[1]) if one else 0.0 for one in found)  # type: ignore[return-value]

    none = calls()
    assert patient.ask().status == 200
    answered = calls()
    event = hang(on, dependency)

    assert patient.ask().status == 504

    end = time.monotonic() + 60
    while (given_up := calls())[1] - answered[1] <= 0.5 and time.monotonic() < end:
        time.sleep(0.01)  # who is told of the deadline does not wait for the call's end
    event.set()
    assert answered[0] > none[0]
    assert given_up[0] > answered[0]
    assert given_up[1] - answered[1] > 0.5


def test_threat_slow_dependency_keeps_no_thread(patient: Rig, on: Doubles) -> None:
    """More requests than there are threads run into a dependency that never answers.

    Each would hold a thread for 100 s if the request's end did not end the call. Then all of them
    answer again, at once.
    """
    for dependency in ("qdrant", "embedder"):
        event = hang(on, dependency)
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(patient.ask) for _ in range(40)]
            end = time.monotonic() + 60
            while not waiting_threads() and time.monotonic() < end:
                time.sleep(0.01)
            assert waiting_threads(), "there is something to count"
            replies = [future.result() for future in asked]
        assert [reply.code for reply in replies] == ["deadline_exceeded"] * 40
        hanging = on.embedder if dependency == "embedder" else on.qdrant.faults
        hanging.hold = None  # what waits there goes on waiting

        assert any(patient.ask().status == 200 for _ in range(3))

        end = time.monotonic() + 60
        while waiting_threads() and time.monotonic() < end:
            time.sleep(0.01)
        assert waiting_threads() == 0
        event.set()


def waiting_threads() -> int:
    """Count the threads of requests that wait for a call of a dependency."""
    wait = BackgroundLoop.run.__code__
    frames = sys._current_frames()
    return sum(
        any(one.f_code is wait for one, _ in traceback.walk_stack(frames[thread.ident]))
        for thread in threading.enumerate()
        if thread.name.startswith("rag_") and thread.ident in frames
    )


# -- somebody else's requests -----------------------------------------------------------------

KEYS = [{"name": name, "key": f"{name}-" + "k" * 16} for name in ("busy", "other")]


def test_threat_slow_dependency_does_not_hold_up_others(
    on: Doubles, lane: Callable[[int, int], int]
) -> None:
    """One key's requests all wait for a model; another key's, which need none, go on as before."""
    service = {"api_keys": json.dumps(KEYS)}
    busy, other = (key["key"] for key in KEYS)
    extractive = {"generate": {"target": "extractive"}}
    limits = {"LLM_FIRST_TOKEN_S": 100, "LLM_IDLE_S": 100}
    with rig(on, service=service, **limits) as running, ThreadPoolExecutor(32) as pool:

        def p99() -> float:
            replies = [running.ask(key=other, **extractive) for _ in range(lane(8, 200))]
            assert [reply.code for reply in replies] == [""] * len(replies)
            return sorted(reply.seconds for reply in replies)[int(0.99 * len(replies)) - 1]

        ratios = []
        for _ in range(lane(1, 3)):
            before = p99()
            event = hang(on, "llm")
            called = on.llm.calls
            waiting = [pool.submit(running.ask, key=busy) for _ in range(32)]
            end = time.monotonic() + 60
            while on.llm.calls < called + 4 and time.monotonic() < end:
                time.sleep(0.01)
            assert on.llm.calls >= called + 4, "they did not reach the model"
            ratios.append(p99() / before)
            on.llm.script = [on.llm.text("x [1].")]
            event.set()
            for future in waiting:
                future.result()
        assert lane(1, 0) or min(ratios) <= 1.2, ratios


# -- the rows, one by one ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(on: Doubles) -> Iterator[Rig]:
    """The service with short waits and no breaker."""
    waits = {"LLM_RETRY_MIN_S": 0, "LLM_RETRY_MAX_S": 0.001}
    with rig(on, LLM_FIRST_TOKEN_S=20, LLM_IDLE_S=20, **waits) as running:
        yield running


def refused(on: Doubles, running: Rig, behaviour: Any, **more: Any) -> Reply:
    """Ask while the model's server does this."""
    on.llm.script = [behaviour]
    reply = running.ask(**more)
    error = reply.body["error"]
    assert (error["step"], error["request_id"]) == ("generate", reply.request_id)
    assert "canary" not in error["message"] and "127.0.0.1" not in error["message"]
    return reply


ECHO = {"error": {"message": "canary prompt", "code": "canary"}}


def test_fault_llm_rate_limited_hands_on_the_wait(plain: Rig, on: Doubles) -> None:
    """The model's Retry-After reaches the client; one beyond reason is cut to a minute."""
    reply = refused(on, plain, on.llm.status(429, ECHO, Retry_After="37"))
    assert (reply.status, reply.code) == (503, "llm_rate_limited")
    assert (reply.headers["retry-after"], reply.body["error"]["retry_after"]) == ("37", 37.0)
    assert plain.llm_calls()[reply.request_id] == 1, "37 s are longer than the request has"

    reply = refused(on, plain, on.llm.status(429, ECHO, Retry_After="999999"))
    assert (reply.headers["retry-after"], reply.body["error"]["retryable"]) == ("60", True)

    on.llm.script = [on.llm.status(429, ECHO, Retry_After="0"), on.llm.text("x [1].")]
    reply = plain.ask()
    assert (reply.status, plain.llm_calls()[reply.request_id]) == (200, 2)


def test_fault_llm_upstream_error_after_two_retries(plain: Rig, on: Doubles) -> None:
    """What failed by its own account is tried three times, what was lost once."""
    reply = refused(on, plain, on.llm.status(503, ECHO))
    assert (reply.status, reply.code) == (502, "llm_upstream_error")
    assert plain.llm_calls()[reply.request_id] == 3

    reply = refused(on, plain, on.llm.reset)
    assert (reply.status, reply.code) == (502, "llm_upstream_error")
    assert plain.llm_calls()[reply.request_id] == 1


def test_fault_llm_timeout_names_the_phase(plain: Rig, on: Doubles) -> None:
    """The total is the request's to shorten."""
    reply = refused(on, plain, on.llm.hang, generate={"deadline_s": 0.3})

    assert (reply.status, reply.code) == (504, "llm_timeout")
    assert "(total: 0.3 s)" in reply.body["error"]["message"]


def test_fault_llm_bad_response_is_none(plain: Rig, on: Doubles) -> None:
    """A page of HTML is no answer, and is not asked for again."""
    reply = refused(on, plain, on.llm.whole(b"<html>canary</html>", "text/html"))

    assert (reply.status, reply.code) == (502, "llm_bad_response")
    assert plain.llm_calls()[reply.request_id] == 1


@pytest.mark.parametrize("status", [401, 403])
def test_fault_llm_misconfigured_says_which_setting(plain: Rig, on: Doubles, status: int) -> None:
    """The operator's variable is named; what the server said is not repeated."""
    reply = refused(on, plain, on.llm.status(status, ECHO))

    assert (reply.status, reply.code) == (500, "llm_misconfigured")
    assert "RAG_LLM_API_KEY" in reply.body["error"]["message"]


def test_fault_llm_stream_broken_is_an_error_event_without_an_end(plain: Rig, on: Doubles) -> None:
    """After the first word the status is 200 already: an `error` event, and nothing after it."""
    said = [json.dumps(chunk(piece)) for piece in ANSWER[:4]]  # the end of a text is held back
    on.llm.script = [on.llm.events(*said, then=on.llm.drop)]

    response = plain.http.post("/rag_modules", json={"query": "Who signs?", "stream": True})

    events = [block for block in response.text.split("\n\n") if block and block[0] != ":"]
    assert response.status_code == 200
    assert any(block.startswith("event: message") for block in events)
    name, _, data = events[-1].partition("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "llm_stream_broken"
    assert "[DONE]" not in response.text and "final_answer" not in response.text


def test_fault_no_context_asks_no_model(plain: Rig, on: Doubles) -> None:
    """Nothing fits, so nothing is paid for and nothing is made up."""
    before = on.llm.calls

    reply = plain.ask(filters={"year": 1900})

    assert (reply.status, reply.body["finish_reason"]) == (200, "no_context")
    assert reply.body["answer"] == "I could not find an answer to this in the documents."
    assert (reply.body["answerable"], on.llm.calls - before) == (False, 0)


def test_fault_context_truncated_is_a_warning(on: Doubles) -> None:
    """The model's window is small: its last passages are left out, and the answer says so."""
    with rig(on, LLM_CONTEXT_WINDOW=420) as running:
        reply = running.ask(query="Who signs travel requests?")

    assert reply.status == 200
    assert "context_truncated" in reply.body["warnings"]
    assert "[left out]" in on.llm.bodies[-1]["messages"][-1]["content"]


def test_fault_retriever_unavailable_is_over_when_it_is(on: Doubles) -> None:
    """`/readyz` looks only now and then; a request finds out itself that Qdrant is back."""
    with rig(on, service={"probe_retry_s": 3600}) as running:
        on.qdrant.faults.status = 503
        end = time.monotonic() + 30
        while running.http.get("/readyz").status_code == 200 and time.monotonic() < end:
            time.sleep(0.02)
        assert running.http.get("/readyz").json()["error"]["code"] == "retriever_unavailable"
        assert running.ask().code == "retriever_unavailable"

        on.qdrant.faults.status = None

        assert running.ask().status == 200
        assert running.http.get("/readyz").status_code == 503


def test_threat_retriever_faults_breaker_opens_and_closes(on: Doubles) -> None:
    """A dead Qdrant is left alone and reported; when it is back, requests succeed by themselves."""
    with rig(on, BREAKER_CALLS=20, BREAKER_PROBE_S=2, RETRY_SHARE=0.1) as running:
        assert 'rag_breaker_state{dep="qdrant"} 0.0' in running.http.get("/metrics").text
        on.qdrant.faults.status = 503
        replies = [running.ask() for _ in range(30)]
        assert {(one.status, one.code) for one in replies} == {(503, "retriever_unavailable")}
        assert all(int(one.headers["retry-after"]) >= 1 for one in replies)
        assert 'rag_breaker_state{dep="qdrant"} 1.0' in running.http.get("/metrics").text
        refusals = [one for one in replies if one.body["error"]["retry_after"]]
        assert refusals, "who is refused without a call is told when to come back"
        assert all(0 < one.body["error"]["retry_after"] <= 2 for one in refusals)

        on.qdrant.faults.status = None
        end = time.monotonic() + 30
        while running.ask().status != 200 and time.monotonic() < end:
            time.sleep(0.05)

        assert 'rag_breaker_state{dep="qdrant"} 0.0' in running.http.get("/metrics").text
        assert running.ask().status == 200


def test_threat_retriever_faults_embedder_is_left_alone(on: Doubles) -> None:
    """The embedding service has a breaker of its own."""
    with rig(on, BREAKER_CALLS=10, BREAKER_PROBE_S=60, RETRY_SHARE=0) as running:
        on.embedder.status = 503
        replies = [running.ask() for _ in range(20)]
        assert {(one.status, one.code) for one in replies} == {(503, "embedder_unavailable")}
        before = on.embedder.calls
        assert running.ask().code == "embedder_unavailable"
        assert on.embedder.calls == before
        metrics = running.http.get("/metrics").text

    assert 'rag_breaker_state{dep="embedder"} 1.0' in metrics
    assert 'rag_breaker_state{dep="qdrant"} 0.0' in metrics
    assert 'rag_breaker_state{dep="llm"} 0.0' in metrics


def test_threat_llm_faults_breaker_lets_others_pass(on: Doubles) -> None:
    """A dead model is not asked again; what needs none is answered all the time."""
    waits = {"LLM_RETRY_MIN_S": 0, "LLM_RETRY_MAX_S": 0.001}
    with rig(on, BREAKER_CALLS=10, BREAKER_PROBE_S=60, RETRY_SHARE=0, **waits) as running:
        on.llm.script = [on.llm.reset]
        for _ in range(12):
            assert running.ask().code == "llm_upstream_error"
        before = on.llm.calls
        reply = running.ask()
        assert (reply.status, reply.code) == (502, "llm_upstream_error")
        assert 0 < reply.body["error"]["retry_after"] <= 60
        assert on.llm.calls == before
        assert running.ask(generate={"target": "extractive"}).status == 200
