"""The service by itself: what a question is given on its way, and how it becomes and stays ready.

The runner is a double that notes what it is asked and does what it is told; no server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from service_kit import settings
from starlette.requests import Request

from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.settings import BreakerSettings
from rag_pipeline.models import RagRequest
from rag_service.http.context import Context, Principal
from rag_service.http.fair_queue import Admission
from rag_service.http.metrics import Metrics
from rag_service.runners.base import Runner
from rag_service.service import Service

CONTRACT = Path(__file__).resolve().parents[2] / "contract/examples/rag"
ANSWER: dict[str, Any] = json.loads((CONTRACT / "ok-question.response.json").read_text())


class Told(Runner):
    """A runner that notes what it is asked. A test double."""

    name = "told"
    breakers: tuple[Breaker, ...] = ()
    max_concurrency: int | None = None

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.work = work
        self.answers: dict[str, Any] = ANSWER
        self.faults: list[StepError] = []
        self.started = self.looked = 0

    async def start(self, say: Callable[[str], None]) -> None:
        self.started += 1
        say("loading")
        if self.faults:
            raise self.faults.pop(0)

    async def ready(self) -> None:
        self.looked += 1

    async def answer(self, text: str) -> str:
        self.asked.append(json.loads(text))
        if self.faults:
            raise self.faults.pop(0)
        if self.work is not None:
            await self.work()
        return json.dumps(self.answers)

    search = answer

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        yield Event("message", "{}")
        yield Event("final_answer", await self.answer(text))

    async def close(self) -> None:
        """Hold nothing."""


def service(runner: Told | None = None, *, ready: bool = True, **given: Any) -> Service:
    metrics = Metrics()
    admission = Admission(2, 2, 0.5, metrics)
    made = Service(settings(**given), False, metrics, admission, runner or Told())
    if ready:
        made.missing = None
    return made


def http(context: Context | None = None) -> Request:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    found = context or Context("r-1", time.monotonic() + 20)
    scope = {"type": "http", "method": "POST", "path": "/rag_modules", "headers": []}
    return Request({**scope, "state": {"rag": found}}, receive)


def question(**more: Any) -> RagRequest:
    return RagRequest.model_validate({"query": "who signs?", **more})


def count(made: Service, name: str, **labels: str) -> float:
    return made.metrics.registry.get_sample_value(name, labels) or 0.0


def ask(made: Service, request: RagRequest | None = None, context: Context | None = None) -> Any:
    return json.loads(asyncio.run(made.answer(http(context), request or question())))


# -- a question on its way ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [(None, 20.0), (5, 5), (19.5, 19.5), (100, 20.0), ("soon", 20.0)],
)
def test_a_step_is_given_the_time_that_is_left(asked: Any, told: float) -> None:
    """The caller's own when that is less; what it is else stays."""
    runner = Told()
    generate = {"target": "extractive"} | ({} if asked is None else {"deadline_s": asked})

    ask(service(runner), question(generate=generate))

    (sent,) = runner.asked
    assert sent["generate"]["deadline_s"] == pytest.approx(told, abs=1)
    assert sent["generate"]["target"] == "extractive"


class Left(Context):
    """A request that has always the same time left."""

    def __init__(self, left_s: float) -> None:
        super().__init__("r", 0)
        self._left_s = left_s

    def remaining_s(self) -> float:
        return self._left_s


@pytest.mark.parametrize(
    ("left", "asked", "told"),
    [(1.23456, 9, 1.235), (0.0001, 9, 0.001), (5.0, 5, 5), (5.0, 5.001, 5.0)],
)
def test_the_time_that_is_left_is_whole_milliseconds(
    left: float, asked: float, told: float
) -> None:
    """At least one; the caller's own is passed as it is."""

    made = service()
    request = question(generate={"deadline_s": asked})
    sent = json.loads(made._prepare(Left(left), request, made.runner))

    assert repr(sent["generate"]["deadline_s"]) == repr(told)


@pytest.mark.parametrize(("given", "sent"), [(None, "r-1"), ("mine", "mine")])
def test_a_question_has_an_id(given: str | None, sent: str) -> None:
    """The request's, unless the body has its own."""
    runner = Told()

    ask(service(runner), question(request_id=given))

    assert runner.asked[0]["request_id"] == sent


@pytest.mark.parametrize("wanted", [True, False])
def test_questions_are_logged_when_it_is_wanted(
    wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be private."""
    caplog.set_level(logging.INFO)

    ask(service(log_queries=wanted))

    assert ("request r-1 asks: who signs?" in caplog.text) is wanted


@pytest.mark.parametrize(
    ("collections", "write", "error"),
    [
        (("*",), True, None),
        (("de*", "hr"), True, None),
        (("hr",), True, "collection_not_found"),
        (("*",), False, "forbidden"),
    ],
)
def test_fault_foreign_collection_looks_as_if_it_were_not_there(
    collections: tuple[str, ...], write: bool, error: str | None
) -> None:
    """Reading wants the collection, writing the right to; every refusal is counted."""
    made = service()
    context = Context("r", 0, Principal("alice", collections, write))

    if error is None:
        made.authorize(context, "default", write=True)
    else:
        with pytest.raises(StepError) as refused:
            made.authorize(context, "default", write=True)
        assert refused.value.code == error
        assert refused.value.message == (
            "collection 'default' does not exist"
            if error == "collection_not_found"
            else "the key 'alice' may read, not change documents"
        )
        wanted = ("collection", "retrieve") if error == "collection_not_found" else (None, None)
        assert (refused.value.param, refused.value.step) == wanted
    assert context.collection == "default"
    assert count(made, "rag_authz_deny_total") == (error is not None)
    if error == "forbidden":
        made.authorize(context, "default")


def test_an_answer_is_counted() -> None:
    """Seconds a step, and what kind of answer it was."""
    runner, context = Told(), Context("r", time.monotonic() + 20)
    made = service(runner)
    runner.answers = {**ANSWER, "timings_ms": {"retrieve": 250.0}, "degraded": True}
    ask(made, context=context)
    runner.answers = {**ANSWER, "timings_ms": {}, "finish_reason": "no_context"}
    ask(made)
    for warnings in (["x", "filtered: canary"], ["filtered: nonsense"], []):
        runner.answers = {
            **ANSWER, "timings_ms": {}, "finish_reason": "filtered", "warnings": warnings,
        }  # fmt: skip
        ask(made)
    for warning in ("context_truncated", "context_truncated: no passage fits", "x"):
        runner.answers = {**ANSWER, "timings_ms": {}, "warnings": [warning]}
        ask(made)

    assert context.timings_ms == {"retrieve": 250.0}
    assert count(made, "rag_step_seconds_sum", step="retrieve") == 0.25
    assert count(made, "rag_step_seconds_count", step="retrieve") == 1
    assert count(made, "rag_degraded_total") == 1
    assert count(made, "rag_no_context_total") == 1
    assert count(made, "rag_truncated_total") == 2
    assert count(made, "rag_output_filtered_total", rule="canary") == 1
    assert count(made, "rag_output_filtered_total", rule="model") == 2


def test_a_stream_is_counted_by_its_last_event() -> None:
    """Its pieces pass as they come."""
    made = service()
    context = Context("r", time.monotonic() + 20)

    async def collect() -> list[str]:
        return [event.name async for event in made.events(http(context), question())]

    assert asyncio.run(collect()) == ["message", "final_answer"]
    assert context.timings_ms == ANSWER["timings_ms"]


def test_a_question_may_go_to_another_runner() -> None:
    """Which need not be ready with the first one; search goes to the configured one."""
    first, other = Told(), Told()
    made = service(first)
    made.missing = StepError("not_ready", "the service is starting")

    asyncio.run(made.answer(http(), question(), runner=other))
    with pytest.raises(StepError, match="is starting"):
        asyncio.run(made.answer(http(), question()))
    with pytest.raises(StepError, match="is starting"):
        asyncio.run(made.search(http(), question()))
    with pytest.raises(StepError, match="is starting"):
        asyncio.run(anext(made.events(http(), question())))
    made.missing = None
    asyncio.run(made.search(http(), question()))

    assert (len(first.asked), len(other.asked)) == (1, 1)


@pytest.mark.parametrize(
    ("code", "goes_on"),
    [
        ("retriever_unavailable", True),
        ("embedder_unavailable", True),
        ("deadline_exceeded", True),
        ("not_ready", False),
        ("engine_unavailable", False),
    ],
)
def test_what_a_dependency_lacks_a_question_finds_out_itself(code: str, goes_on: bool) -> None:
    """The rest refuses it at once."""
    runner = Told()
    made = service(runner)
    made.missing = StepError(code, "gone")

    if goes_on:
        ask(made)
    else:
        with pytest.raises(StepError, match="gone"):
            ask(made)
    assert len(runner.asked) == goes_on


# -- its time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, "generate"])
def test_fault_deadline_exceeded_names_the_step(step: str | None) -> None:
    """When the composite said where it was given up; the place is free again."""

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncio.CancelledError(*([step] if step else [])) from None

    made = service(Told(hang), deadline_s=7)
    with pytest.raises(StepError) as late:
        ask(made, context=Left(0.05))

    assert (late.value.code, late.value.step) == ("deadline_exceeded", step)
    assert "no answer within 7 s (RAG_DEADLINE_S)" in late.value.message
    assert late.value.message.endswith("; generate was at work" if step else "(RAG_DEADLINE_S)")
    assert made.admission.free == 2


def test_a_question_whose_time_is_over_is_not_asked() -> None:
    """504, and no runner hears of it."""
    runner = Told()
    with pytest.raises(StepError) as late:
        ask(service(runner), context=Context("r", time.monotonic() - 1))

    assert (late.value.code, runner.asked) == ("deadline_exceeded", [])
    assert late.value.message == "the time for this request is over"


def test_fault_overloaded_or_draining_ends_what_is_under_way() -> None:
    """Who is still at work when the service gives up is told to ask again."""

    async def check() -> None:
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        made = service(Told(hang))
        asking = asyncio.create_task(made.answer(http(), question()))
        await begun.wait()
        made.drain()
        with pytest.raises(StepError) as refused:
            await made.answer(http(), question())
        made.give_up()
        made.give_up()  # twice is once
        with pytest.raises(StepError) as ended:
            await asking

        assert (refused.value.code, ended.value.code) == ("draining", "draining")
        assert refused.value.message == "the service is shutting down; ask another one"
        assert ended.value.message == "the service ended before this was answered; ask again"
        assert made.admission.draining is True
        assert made.missing is not None and made.missing.code == "draining"
        assert count(made, "rag_ready") == 0
        assert (made.admission.free, made._timeouts) == (2, set())

    asyncio.run(check())


# -- being ready --------------------------------------------------------------------------------


class OnAnEngine(Told):
    """One whose sessions come and go."""

    def on_session_event(self, notify: Callable[[str], None]) -> None:
        self.tell = notify

    async def start(self, say: Callable[[str], None]) -> None:
        for event in ("failed", "failed", "open"):
            self.tell(event)
        await super().start(say)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds this thread's loop was asked to sleep; it does not. Other threads' loops do."""
    asked, sleep, here = list[float](), asyncio.sleep, threading.get_ident()

    async def pause(seconds: float) -> None:
        ours = threading.get_ident() == here
        if ours and seconds:
            asked.append(seconds)
        await sleep(0 if ours else seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    return asked


async def get_ready(made: Service, until: Callable[[], bool]) -> list[str]:
    said: list[str] = []
    going = asyncio.create_task(made.get_ready(said.append))
    async with asyncio.timeout(20):
        while not until() and not going.done():
            await asyncio.sleep(0)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    return said


def test_it_is_ready_after_a_real_question() -> None:
    """The probe asks the configured collection, costs no model's call, and is asked once."""
    runner, readied = Told(), [0]
    made = service(runner, ready=False, collection="hr", probe_query="anything?")
    before = made.missing

    def on_ready() -> None:
        readied[0] += 1

    made.on_ready = on_ready
    said = asyncio.run(get_ready(made, lambda: made.missing is None))

    assert before is not None and before.code == "not_ready"
    assert said == ["loading", "ready"]
    (probe,) = runner.asked
    assert (probe["query"], probe["collection"], probe["request_id"], probe["generate"]) == (
        "anything?", "hr", "probe", {"target": "extractive"},
    )  # fmt: skip
    assert (runner.started, readied, count(made, "rag_ready")) == (1, [1], 1)


def test_the_sessions_of_a_runner_on_an_engine_are_counted() -> None:
    """By what became of them, of the container pipeline beside it, too."""
    made = service(OnAnEngine(), ready=False)
    made.containers = OnAnEngine()

    async def both() -> None:
        made.containers_wanted.set()
        await made.start_containers(lambda line: None)
        await get_ready(made, lambda: made.missing is None)

    asyncio.run(both())

    name = "rag_engine_session_total"
    assert (count(made, name, event="failed"), count(made, name, event="open")) == (4, 2)


def test_while_it_starts_it_says_how_far_it_is() -> None:
    """In what `/readyz` answers."""
    made = service(ready=False)
    seen: list[tuple[str, str, str]] = []

    def say(line: str) -> None:
        assert made.missing is not None
        seen.append((line, made.missing.code, made.missing.message))

    async def check() -> None:
        await made.get_ready(say)

    made.runner.faults = [StepError("misconfigured", "no such model")]  # type: ignore[attr-defined]
    fatal: list[int] = []
    made.on_fatal = lambda: fatal.append(1)
    asyncio.run(check())

    assert seen == [
        ("loading", "not_ready", "the service is starting: loading"),
        ("cannot start: no such model", "misconfigured", "no such model"),
    ]
    assert fatal == [1]
    assert made.missing is not None and made.missing.code == "misconfigured"


def test_an_empty_store_is_ready_too() -> None:
    """A new installation has to be able to take its first documents."""
    runner = Told()
    made = service(runner, ready=False)
    runner.faults = []

    async def start(say: Callable[[str], None]) -> None:
        runner.faults = [StepError("collection_not_found", "none")] * 3

    runner.start = start  # type: ignore[method-assign]
    said = asyncio.run(get_ready(made, lambda: made.missing is None))

    assert made.missing is None
    assert made.note == "no collection 'default' yet; add documents to make it"
    assert (said, len(runner.asked)) == ([f"ready; {made.note}"], 1)


def test_a_probe_that_fails_is_repeated_and_said_once() -> None:
    """Until it passes; then it says so."""
    runner = Told()
    made = service(runner, ready=False, probe_retry_s=0.001)

    async def start(say: Callable[[str], None]) -> None:
        runner.faults = [StepError("retriever_unavailable", "Qdrant is away") for _ in range(3)]

    runner.start = start  # type: ignore[method-assign]
    said = asyncio.run(get_ready(made, lambda: made.missing is None))

    assert said == ["not ready: Qdrant is away", "ready"]
    assert len(runner.asked) == 4


def test_what_a_runner_says_later_changes_nothing() -> None:
    """Only a start is told in what `/readyz` answers."""
    runner = Told()
    made = service(runner, ready=False)
    later: list[Callable[[str], None]] = []

    async def start(say: Callable[[str], None]) -> None:
        later.append(say)

    runner.start = start  # type: ignore[method-assign]
    asyncio.run(get_ready(made, lambda: made.missing is None))
    later[0]("a new session took over")

    assert made.missing is None


def test_it_looks_less_often_while_a_probe_fails(pauses: list[float]) -> None:
    """`probe_retry_s` then, a steady look otherwise; the same trouble is said again later."""
    runner = Told()
    made = service(runner, ready=False, probe_retry_s=7)
    away = [StepError("retriever_unavailable", "Qdrant is away")]
    looks = iter([away, [], [], away, []])

    async def ready() -> None:
        runner.looked += 1
        if fault := next(looks, []):
            raise fault[0]

    runner.ready = ready  # type: ignore[method-assign]
    said = asyncio.run(get_ready(made, lambda: len(pauses) >= 5))

    assert pauses[:5] == [7, Runner.poll_s, Runner.poll_s, 7, Runner.poll_s]
    trouble = "not ready: Qdrant is away"
    assert said == ["loading", trouble, "ready", trouble, "ready"]


def test_the_container_pipeline_starts_when_it_is_first_wanted() -> None:
    """Not before; never a second time where it is the runner itself; a failure is said."""

    async def check(containers: Told | None) -> list[str]:
        said: list[str] = []
        runner = Told()
        made = service(runner)
        made.containers = containers
        starting = asyncio.create_task(made.start_containers(said.append))
        await asyncio.sleep(0.01)
        assert not starting.done()
        made.containers_wanted.set()
        await starting
        assert runner.started == 0
        return said

    fails, works = Told(), Told()
    fails.faults = [StepError("engine_unavailable", "no engine")]
    assert asyncio.run(check(works)) == ["loading"]
    assert asyncio.run(check(fails)) == ["loading", "/rag cannot start: no engine"]
    assert asyncio.run(check(None)) == []


def test_the_runner_itself_is_not_started_again_for_rag() -> None:
    """`POST /rag` with the runner `containers` is the same runner."""

    async def check() -> int:
        runner = Told()
        made = service(runner)
        made.containers = runner
        made.containers_wanted.set()
        await made.start_containers(lambda line: None)
        return runner.started

    assert asyncio.run(check()) == 0


@pytest.mark.parametrize(("asked", "places"), [(None, 8), (3, 3), (20, 8)])
def test_places_are_no_more_than_the_runner_can_use(asked: int | None, places: int) -> None:
    """What it says once it has started, and never more than what is configured."""
    runner = Told()
    if asked is not None:
        runner.max_concurrency = asked
    made = service(runner, ready=False)
    made.admission = Admission(8, 2, 0.5, made.metrics)
    asyncio.run(get_ready(made, lambda: made.missing is None))

    assert made.admission.free == places


def test_the_calls_of_what_the_steps_depend_on_are_timed() -> None:
    """Of each dependency by its name, once the runner has started."""
    runner = Told()
    made = service(runner, ready=False)
    asyncio.run(get_ready(made, lambda: made.missing is None))
    assert "rag_dep_seconds_count" not in made.metrics.text().decode()

    runner = Told()
    breakers = [Breaker(name, BreakerSettings()) for name in ("qdrant", "llm")]
    runner.breakers = tuple(breakers)
    made = service(runner, ready=False)
    asyncio.run(get_ready(made, lambda: made.missing is None))
    breakers[0].on_call(0.5)
    breakers[0].on_call(1.5)

    seconds = [
        (count(made, "rag_dep_seconds_count", dep=dep), count(made, "rag_dep_seconds_sum", dep=dep))
        for dep in ("qdrant", "llm")
    ]
    assert seconds == [(2, 2.0), (0, 0)]
    assert [count(made, "rag_breaker_state", dep=dep) for dep in ("qdrant", "llm")] == [0, 0]
    for _ in range(20):
        breakers[1].record(failed=True)
    assert [count(made, "rag_breaker_state", dep=dep) for dep in ("qdrant", "llm")] == [0, 1]


@pytest.mark.parametrize(("own", "within_s"), [(None, 0.25), (0.01, 0.01)])
def test_it_looks_as_often_as_the_runner_says(
    own: float | None, within_s: float, pauses: list[float]
) -> None:
    """Every quarter of a second whether the runner is there, or when the runner says so itself."""
    runner = Told()
    if own is not None:
        runner.poll_s = own
    made = service(runner, ready=False)

    asyncio.run(get_ready(made, lambda: within_s in pauses))

    assert set(pauses) == {within_s}


@pytest.mark.parametrize(("breakers", "max_concurrency"), [((), 4 * 3), (("llm",), None)])
def test_the_local_runner_computes_or_waits(
    breakers: tuple[str, ...], max_concurrency: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four a processor, or as many as are wanted where a server is waited for."""
    from rag_service.runners import local

    monkeypatch.setattr(local, "processors", lambda: 3)
    monkeypatch.setattr(local.LocalRunner, "breakers", breakers)

    assert local.LocalRunner().max_concurrency == max_concurrency
