"""Under load, in time, and when somebody goes away; a model server on loopback sets the pace."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rag_doubles import wait
from service_kit import QUESTION, LLMStub, free_port, running, serving, settings

from rag_kit.errors import StepError
from rag_kit.server import application
from rag_pipeline.wire import open_step
from rag_service.http.fair_queue import Rates
from rag_service.runners.base import Runner

BEGINNING = (
    "The finance director signs travel requests above that amount [1]. The "  # part is held back
)
ANSWER = "The finance director signs as well [1]."


@contextmanager
def with_model(
    llm: LLMStub, home: Path, env: Mapping[str, str] | None = None, **given: Any
) -> Iterator[str]:
    """Serve with a language model that answers as scripted."""
    model = {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub", "RAG_LLM_ATTEMPTS": "1"}
    with serving(settings(**given), home=home, env={**model, **(env or {})}) as url:
        yield url


def gauge(url: str, name: str, **labels: str) -> float:
    """Read one sample of /metrics; 0 when it was never counted."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def until(url: str, name: str, value: float, **labels: str) -> None:
    """Return once a sample has this value."""
    pause = threading.Event()
    for _ in range(2000):
        if gauge(url, name, **labels) == value:
            return
        pause.wait(0.005)
    raise AssertionError(f"{name} is {gauge(url, name, **labels)}, not {value}")


def ask(url: str, **more: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/rag_modules", json={"query": QUESTION, **more}, trust_env=False, timeout=30
    )


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_fault_deadline_exceeded_ends_the_models_call(llm: LLMStub, home: Path) -> None:
    """A model that never answers: 504, and its connection is closed."""
    llm.script = [llm.hang]
    with with_model(llm, home, deadline_s=2) as url:
        late = ask(url)
        assert llm.client_gone.wait(10)
        until(url, "rag_inflight", 0)
        counted = gauge(url, "rag_requests_total", status="504")

    assert late.status_code == 504
    assert late.json()["error"]["code"] in ("deadline_exceeded", "llm_timeout")
    assert late.json()["error"]["retryable"] is True
    assert (llm.calls, counted) == (1, 1)


def test_the_steps_are_told_the_time_that_is_left(llm: LLMStub, home: Path) -> None:
    """A longer deadline asked for in the body is cut to the service's own."""
    llm.script = [llm.hang]
    with with_model(llm, home, deadline_s=0.5) as url:
        late = ask(url, generate={"deadline_s": 60})

    assert late.status_code == 504


def test_the_operators_limit_for_the_model_holds_within_a_longer_deadline(
    llm: LLMStub, home: Path
) -> None:
    """RAG_LLM_TOTAL_S ends the call before the request's own time is over, and is named."""
    llm.script = [llm.hang]
    with with_model(llm, home, {"RAG_LLM_TOTAL_S": "0.5"}, deadline_s=10) as url:
        late = ask(url)
        asked_for = ask(url, generate={"deadline_s": 5})

    assert code(late) == code(asked_for) == (504, "llm_timeout")
    assert "(total: 0.5 s)" in late.json()["error"]["message"]
    assert "(total: 0.5 s)" in asked_for.json()["error"]["message"]


def test_fault_overloaded_or_draining_more_than_fit_are_refused_at_once(
    llm: LLMStub, home: Path
) -> None:
    """One at work, none may wait: the second gets 503 with Retry-After, and costs no model call."""
    llm.script = [llm.hang]
    with with_model(llm, home, max_concurrency=1, max_queue=0) as url:
        with httpx.Client(trust_env=False, timeout=30) as client:
            busy = threading.Thread(target=lambda: ask(url, generate={"deadline_s": 2}))
            busy.start()
            until(url, "rag_inflight", 1)
            refused = client.post(f"{url}/rag_modules", json={"query": QUESTION})
            health = client.get(f"{url}/healthz")
        busy.join()
        shed = gauge(url, "rag_shed_total", reason="queue_full")

    assert code(refused) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert health.status_code == 200
    assert (shed, llm.calls) == (1, 1)


def test_who_waits_gets_the_place_that_becomes_free(llm: LLMStub, home: Path) -> None:
    """Three at once on one place, two may wait: all are answered, one after the other."""
    llm.script = [llm.text(ANSWER)]
    with with_model(llm, home, max_concurrency=1, max_queue=2, queue_wait_s=10) as url:

        async def all_three() -> list[int]:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                body = {"query": QUESTION}
                asked = [client.post(f"{url}/rag_modules", json=body) for _ in range(3)]
                return [response.status_code for response in await asyncio.gather(*asked)]

        statuses = asyncio.run(all_three())

    assert statuses == [200, 200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_fault_client_cancelled_ends_the_models_call(
    stream: bool, llm: LLMStub, home: Path
) -> None:
    """Closing the connection while the model works closes the model's; the place is free again."""
    llm.script = [llm.hang]
    with with_model(llm, home, max_concurrency=1) as url:

        async def leave() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                body = {"query": QUESTION, "stream": stream}
                await llm.leave(client.post(f"{url}/rag_modules", json=body))

        asyncio.run(leave())
        assert llm.client_gone.wait(10)
        until(url, "rag_inflight", 0)
        until(url, "rag_cancel_total", 1)
        assert gauge(url, "rag_requests_total", status="499", code="client_cancelled") == 1

    assert llm.calls == 1


def test_a_model_that_fails_before_its_first_word_keeps_its_status(
    llm: LLMStub, home: Path
) -> None:
    """A stream that cannot begin is an error with a real HTTP status."""
    llm.script = [llm.status(500)]
    with with_model(llm, home) as url:
        failed = ask(url, stream=True)

    assert code(failed) == (502, "llm_upstream_error")


def test_a_stream_that_breaks_ends_with_an_error(llm: LLMStub, home: Path) -> None:
    """After the first word the status is sent: an error event, and no end mark."""
    first = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": BEGINNING}}]})
    llm.script = [llm.events(first, then=llm.reset)]
    with with_model(llm, home) as url:
        broken = ask(url, stream=True)
        aborted = gauge(url, "rag_stream_abort_total")

    assert broken.status_code == 200
    assert '"content":"The finance' in broken.text
    last = broken.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    assert '"code":"llm_stream_broken"' in last
    assert "[DONE]" not in broken.text
    assert aborted == 1


def test_silence_is_filled_with_pings(llm: LLMStub, home: Path) -> None:
    """While the model thinks, comments keep the connection alive."""
    first = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": BEGINNING}}]})
    enough = threading.Event()

    def think(handler: Any) -> None:
        assert enough.wait(30)
        llm.drop(handler)

    llm.script = [llm.events(first, then=think)]
    with (
        with_model(llm, home, heartbeat_s=0.05) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        body = {"query": QUESTION, "stream": True}
        with client.stream("POST", f"{url}/rag_modules", json=body) as response:
            text = ""
            for block in response.iter_text():
                text += block
                if text.count(": ping\n\n") >= 3:
                    enough.set()

    assert text.count(": ping\n\n") >= 3
    assert "event: error" in text


def test_text_arrives_while_the_model_writes(llm: LLMStub, home: Path) -> None:
    """The first piece is read before the model sent its last."""
    first = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": BEGINNING}}]})
    llm.script = [llm.events(first, then=llm.hang)]
    with with_model(llm, home) as url, httpx.Client(trust_env=False, timeout=30) as client:
        body = {"query": QUESTION, "stream": True}
        with client.stream("POST", f"{url}/rag_modules", json=body) as response:
            read, blocks = "", response.iter_text()  # held: let go, it hangs up
            for block in blocks:
                read += block
                if '"content":"The finance' in read:
                    break
            assert not llm.client_gone.is_set()
        assert llm.client_gone.wait(10)


def test_a_rate_is_kept_per_client(home: Path) -> None:
    """Over the rate: 429 with the seconds to wait; health is not counted."""
    with (
        serving(settings(rate_per_minute=12), home=home) as url,
        httpx.Client(trust_env=False) as client,
    ):
        answers = [client.post(f"{url}/v1/search", json={"query": "x"}) for _ in range(4)]
        health = [client.get(f"{url}/healthz").status_code for _ in range(20)]

    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 429, 429]
    assert code(answers[-1]) == (429, "quota_exceeded")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 5
    assert set(health) == {200}


def test_a_bucket_fills_with_time() -> None:
    """Ten seconds of the rate at once, then one request each 1/rate seconds."""
    now = 0.0
    rates = Rates(clock=lambda: now)
    for _ in range(10):
        rates.take("a", 60)
    with pytest.raises(StepError) as refused:
        rates.take("a", 60)
    rates.take("b", 60)  # somebody else's bucket is full
    now = 1.0
    rates.take("a", 60)

    assert refused.value.retry_after == pytest.approx(1.0)


def test_ready_only_after_a_question_passed(home: Path, tmp_path: Path) -> None:
    """Until the composite answers: alive, 503 with what is missing; then ready, then not again."""
    port = free_port()
    given = settings(runner="remote", composite_url=f"http://127.0.0.1:{port}", probe_retry_s=0.05)
    with serving(given, until="/healthz") as url:
        before = httpx.get(f"{url}/readyz", trust_env=False)
        asked = ask(url)
        app = application(open_step, step="rag", verbs=("run", "search"))
        with running(app, port, home):
            wait(f"{url}/readyz")
            answered = ask(url)
        until(url, "rag_ready", 0)
        after = httpx.get(f"{url}/readyz", trust_env=False)

    assert code(before) == code(asked) == code(after) == (503, "not_ready")
    assert "retry-after" in before.headers
    assert "composite" in before.json()["error"]["message"]
    assert answered.json()["citations"]


class Slow(Runner):
    """A runner that says what it does and never comes to an end. A test double."""

    name = "remote"

    async def start(self, say: Callable[[str], None]) -> None:
        say("building the step augment")
        await asyncio.Event().wait()

    async def answer(self, text: str) -> str:
        raise AssertionError("nobody may ask before it is ready")

    async def close(self) -> None:
        """Hold nothing."""


def test_until_it_is_ready_it_says_what_it_is_doing() -> None:
    """The last line of progress is what `/readyz` and a question are told."""
    with serving(settings(), runner=Slow(), until="/healthz") as url:
        waiting = httpx.get(f"{url}/readyz", trust_env=False)
        asked = ask(url)

    for response in (waiting, asked):
        assert code(response) == (503, "not_ready")
        assert "building the step augment" in response.json()["error"]["message"]
