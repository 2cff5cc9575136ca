"""More than fits: who gets in, who is refused and how, and what is left when it is over.

The runner is a double that answers when it is told to, so that turns are counted, not timed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import settings

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_service.app import create_app
from rag_service.http.fair_queue import ADMITTED_S, DEMAND_S, MAX_IDLE_TENANTS, Admission
from rag_service.http.metrics import Metrics
from rag_service.runners.base import Runner

ROOT = Path(__file__).resolve().parents[2]
ANSWER = json.loads((ROOT / "contract/examples/rag/ok-question.response.json").read_text())
KEYS = json.dumps(
    [{"name": name, "key": f"{name}-0123456789abcdef"} for name in ("noisy", "quiet")]
)


class Held(Runner):
    """A runner whose answers wait until they are let go. A test double."""

    name = "remote"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._held: list[tuple[str, asyncio.Future[None]]] = []

    async def start(self, say: Callable[[str], None]) -> None:
        """Need nothing."""

    async def ready(self) -> None:
        """Be ready."""

    async def answer(self, text: str) -> str:
        asked = json.loads(text)
        if asked["request_id"] != "probe":
            self.begun.append(asked["query"])
            held = asyncio.get_running_loop().create_future()
            self._held.append((asked["query"], held))
            await held
        return json.dumps({**ANSWER, "id": asked["request_id"], "query": asked["query"]})

    async def search(self, text: str) -> str:
        raise AssertionError("nobody searches here")

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        yield Event("final_answer", await self.answer(text))

    async def finish(self, who: str = "") -> None:
        """Let the oldest answer go, of anybody or of one."""
        found = next(one for one in self._held if who in ("", one[0]))
        self._held.remove(found)
        found[1].set_result(None)
        await settle()

    async def close(self) -> None:
        """Hold nothing."""


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)


class Asked:
    """The application, and requests to it that are under way."""

    def __init__(self, app: Any, runner: Held) -> None:
        self.runner, self.admission = runner, app.state.service.admission
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=None
        )

    async def ask(self, who: str, number: int = 1, **more: Any) -> list[asyncio.Task[Any]]:
        """Ask for a tenant, and go on once everything has its place."""
        sign = {"authorization": f"Bearer {who}-0123456789abcdef"}
        body = {"query": who, **more}
        made = [
            asyncio.create_task(self._client.post("/rag_modules", json=body, headers=sign))
            for _ in range(number)
        ]
        await settle()
        return made


@asynccontextmanager
async def serving(**given: Any) -> AsyncIterator[Asked]:
    """Serve with the double as runner, and be ready."""
    runner = Held()
    app = create_app(settings(queue_wait_s=60, deadline_s=60, **given), runner=runner)
    async with app.router.lifespan_context(app):
        asked = Asked(app, runner)
        while app.state.service.missing is not None:
            await asyncio.sleep(0)
        yield asked


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def statuses(tasks: list[asyncio.Task[httpx.Response]]) -> Counter[int]:
    return Counter(task.result().status_code for task in tasks if task.done())


def test_threat_overload_one_tenant_does_not_take_the_turns_of_another() -> None:
    """Forty at once of one, and on and on: the other's few come in at once, its burst by its share."""

    async def check() -> None:
        async with serving(max_concurrency=4, max_queue=8, api_keys=KEYS) as at:
            flood = await at.ask("noisy", 40)
            # one place is kept for who was not there: 3 at work, 8 waiting, 29 refused
            assert (len(at.runner.begun), statuses(flood)) == (3, {503: 29})

            for _ in range(10):
                (one,) = await at.ask("quiet")
                assert at.runner.begun[-1] == "quiet"
                flood += await at.ask("noisy", 5)
                await at.runner.finish("noisy")
                await at.runner.finish("quiet")
                assert one.result().status_code == 200

            burst = await at.ask("quiet", 3)
            begun = [at.runner.begun.count("quiet")]
            for _ in range(2):
                await at.runner.finish("noisy")
                begun.append(at.runner.begun.count("quiet"))
            assert begun[1] - begun[0] == 1  # the first place is for the second of the burst
            assert begun[2] == begun[1]  # now each has two of four
            while at.admission.free < 4:
                await at.runner.finish()

            assert statuses(burst) == {200: 3}
            answered = statuses(flood)[200]
            assert answered == at.runner.begun.count("noisy")  # who is refused costs no answer
            assert (at.admission.free, at.admission.waiting) == (4, 0)

    run(check())


def test_threat_overload_a_full_queue_makes_room_at_the_cost_of_who_filled_it() -> None:
    """The newest of the tenant with the most in the queue goes, never one of who has fewer."""

    async def check() -> None:
        async with serving(max_concurrency=2, max_queue=6, api_keys=KEYS) as at:
            flood = await at.ask("noisy", 7)
            few = await at.ask("quiet", 4)  # one has the place that was kept, three wait
            pushed = statuses(flood)
            more = await at.ask("quiet", 2)  # as many as the other: no more room is made
            while at.admission.free < 2:
                await at.runner.finish()

            assert pushed == {503: 3}
            assert [task.result().status_code for task in flood] == [200] * 4 + [503] * 3
            assert statuses(few) == {200: 4}
            assert statuses(more) == {503: 2}
            said = flood[-1].result().json()["error"]
            assert (said["code"], said["retryable"]) == ("overloaded", True)

    run(check())


def test_threat_overload_who_is_alone_has_all_places() -> None:
    """Nothing is kept for others where there are none, and not for ever where there were."""

    async def check() -> None:
        async with serving(max_concurrency=4, max_queue=0) as at:
            tasks = await at.ask("noisy", 5)
            assert len(at.runner.begun) == 4
            while at.admission.free < 4:
                await at.runner.finish()
            assert statuses(tasks) == {200: 4, 503: 1}

        now = 0.0
        admission = Admission(4, 8, 60, Metrics(), reserve=1, clock=lambda: now)
        async with admission.slot("quiet", 60), admission.slot("quiet", 60):
            pass
        held = [asyncio.create_task(hold(admission, "noisy")) for _ in range(4)]
        await settle()
        assert admission.waiting == 2  # two places are kept for who needed two
        now = DEMAND_S + 1
        held.append(asyncio.create_task(hold(admission, "noisy")))
        await settle()
        assert (admission.free, admission.waiting) == (1, 2)  # one is kept for who may come
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        assert (admission.free, admission.waiting) == (4, 0)

    run(check())


async def hold(admission: Admission, tenant: str, left_s: float = 60) -> None:
    async with admission.slot(tenant, left_s):
        await asyncio.Event().wait()


def test_threat_overload_places_are_no_more_than_the_runner_can_use() -> None:
    """A runner that computes says how many at once; who is at work stays, the next one waits."""

    async def check() -> None:
        admission = Admission(4, 4, 60, Metrics())
        held = [asyncio.create_task(hold(admission, "a")) for _ in range(3)]
        await settle()
        admission.narrow(2)
        admission.narrow(9)  # never more than before
        waits = asyncio.create_task(hold(admission, "a"))
        await settle()
        assert (admission.free, admission.waiting) == (-1, 1)
        held.pop().cancel()
        await settle()
        assert (admission.free, admission.waiting) == (0, 1)
        held.pop().cancel()
        await settle()
        assert (admission.free, admission.waiting) == (0, 0)
        for task in (*held, waits):
            task.cancel()
        await asyncio.wait([*held, waits])
        assert admission.free == 2

    run(check())


def test_fault_overloaded_or_draining_is_refused_unread() -> None:
    """Nothing of the body is read, and the answer is the envelope with its headers."""

    async def check() -> None:
        async with serving(max_concurrency=1, max_queue=0) as at:
            busy = await at.ask("noisy")
            app = at._client._transport.app  # type: ignore[attr-defined]
            sent: list[Any] = []

            async def unread() -> Any:
                raise AssertionError("the body was read")

            async def send(message: Any) -> None:
                sent.append(message)

            async def ask(path: str) -> tuple[int, dict[str, str], Any]:
                sent.clear()
                headers = [(b"host", b"localhost"), (b"x-request-id", b"mine")]
                scope = {
                    "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http",
                    "path": path, "raw_path": path.encode(), "query_string": b"",
                    "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
                    "state": {},
                }  # fmt: skip
                await app(scope, unread, send)
                named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
                return sent[0]["status"], named, json.loads(sent[1]["body"])

            waits = set()
            for path in ("/rag_modules", "/rag", "/v1/search", "/v1/chat/completions") * 8:
                status, headers, body = await ask(path)
                waits.add(headers["retry-after"])
                error = body["error"]
                assert (status, error["code"]) == (503, "overloaded")
                assert headers["x-request-id"] == error["request_id"] == "mine"
                assert int(headers["retry-after"]) == error["retry_after"]
                assert error["retryable"] is True
            app.state.service.drain()
            status, headers, body = await ask("/rag_modules")
            await at.runner.finish()

            assert waits == {"1", "2", "3", "4"}  # so that they do not come back all at once
            assert (status, body["error"]["code"]) == (503, "draining")
            assert "retry-after" in headers
            assert statuses(busy) == {200: 1}  # what was under way went on

    run(check())


def test_fault_overloaded_or_draining_who_would_come_too_late_is_refused_at_once() -> None:
    """Who cannot get its turn within the wait, or its answer within its time, does not wait."""

    async def check() -> None:
        now = 0.0
        admission = Admission(2, 100, 1.0, Metrics(), clock=lambda: now)
        async with admission.slot("a", 60):
            now += 0.45  # so long one takes
        held = [asyncio.create_task(hold(admission, "a")) for _ in range(4)]
        await settle()
        refused = StepError("internal_error", "nothing was refused")
        for left_s in (60.0, 0.8):
            try:
                async with admission.slot("a", left_s):
                    raise AssertionError("there was room")
            except StepError as error:
                refused = error
            if left_s == 60.0:
                assert admission.waiting == 2  # the third would wait 3 × 0.45 / 2 s, over half
                held.pop().cancel()
                await settle()
        assert refused.code == "overloaded"  # it would wait 0.45 s and take 0.45 s
        async with asyncio.timeout(10):
            for task in held:
                task.cancel()
            await asyncio.wait(held)
        assert (admission.free, admission.waiting) == (2, 0)

    run(check())


def test_threat_overload_who_is_let_in_counts_before_it_is_read() -> None:
    """Many read at once do not all get in for the one place that is left, to be refused later."""
    now = 0.0
    admission = Admission(2, 2, 60, Metrics(), clock=lambda: now)

    def let_in(tenant: str = "noisy") -> list[float]:
        into = []
        with suppress(StepError):
            while True:
                into.append(admission.admit(tenant, 60))
        return into

    async def check() -> None:
        nonlocal now
        first = let_in()
        assert len(first) == 4  # two places, two that wait
        assert len(let_in("quiet")) == 4  # whoever else asks has as much, until they are here

        for came in first[:2]:
            admission.forget("noisy", came)  # they were no questions
        admission.forget("noisy", 99.0)
        assert len(let_in()) == 2

        held = [asyncio.create_task(hold(admission, "noisy")) for _ in range(2)]
        await settle()
        assert (admission.free, admission.waiting) == (0, 0)
        assert let_in() == []  # the two that are still coming will wait
        now += 2 * ADMITTED_S
        assert len(let_in()) == 2  # they did not come
        for task in held:
            task.cancel()
        await asyncio.wait(held)

    run(check())


def test_threat_overload_of_many_addresses_is_looked_at_a_few_at_a_time() -> None:
    """What a request costs does not grow with all who were here; who is here is never forgotten."""

    async def check() -> None:
        admission = Admission(MAX_IDLE_TENANTS + 10, 4, 60, Metrics())
        held = [asyncio.create_task(hold(admission, f"held {n}")) for n in range(3)]
        await settle()
        for number in range(20 * MAX_IDLE_TENANTS):
            async with admission.slot(f"address {number}", 60):
                assert len(admission._tenants) <= MAX_IDLE_TENANTS + 4
        assert {f"held {n}" for n in range(3)} <= set(admission._tenants)
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        assert (admission.free, admission.waiting) == (MAX_IDLE_TENANTS + 10, 0)

    run(check())


def test_threat_overload_by_addresses_that_never_reach_the_queue_leaves_no_trace() -> None:
    """Requests that are admitted and then turn out to be no questions, each from another address."""
    admission = Admission(4, 4, 60, Metrics())
    for number in range(50):
        came = admission.admit(f"address {number}", 60)
        admission.forget(f"address {number}", came)
        assert not admission._tenants


def test_threat_overload_whatever_comes_and_goes_no_place_is_lost(lane: Any) -> None:
    """Requests that come, end, give up while they wait or work: at any time the sums are right."""
    chance = random.Random(lane.seed)

    async def one(admission: Admission, tenant: str, counts: Counter[str]) -> None:
        try:
            async with admission.slot(tenant, chance.choice((0.001, 0.01, 5))):
                counts["at work"] += 1
                assert counts["at work"] <= 5
                try:
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01)))
                finally:
                    counts["at work"] -= 1
            counts["answered"] += 1
        except StepError as error:
            assert error.code == "overloaded"
            counts["refused"] += 1

    async def check() -> None:
        metrics, counts = Metrics(), Counter[str]()
        admission = Admission(5, 7, 0.005, metrics, reserve=1)
        tasks = []
        for _ in range(lane(1500, 50_000)):
            tenant = chance.choice(("a", "a", "a", "b", "c", f"d{chance.randrange(50)}"))
            tasks.append(asyncio.create_task(one(admission, tenant, counts)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice((0, 0, 0.001)))
            if chance.random() < 0.3:
                chance.choice(tasks[-20:]).cancel()
            assert 0 <= admission.free <= 5
            assert 0 <= admission.waiting <= 7
        ends = await asyncio.gather(*tasks, return_exceptions=True)

        broken = [end for end in ends if isinstance(end, Exception)]
        assert not broken, broken[:3]
        assert counts["answered"] > 0 and counts["refused"] > 0, counts
        assert (admission.free, admission.waiting) == (5, 0)
        assert metrics.inflight._value.get() == metrics.queued._value.get() == 0

    try:
        run(check())
    except AssertionError as error:
        raise AssertionError(f"--seed {lane.seed}: {error}") from error


@pytest.mark.alone
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.cpu_count() == 1, reason="service and load generator need a core each")
@pytest.mark.parametrize("runner", ["extractive", "model"])
def test_threat_overload_ten_times_the_load_and_back(
    runner: str, tmp_path: Path, lane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make bench-overload` measures reaches its goals: a real process, an open loop."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    for name in [name for name in os.environ if name.startswith("RAG_")]:
        monkeypatch.delenv(name)
    overload = importlib.import_module("overload")
    overload.index(tmp_path / "home", tmp_path / "passages.json")
    found = overload.measure(runner, tmp_path / "home", 8.0, lane.seed)

    said = f"--seed {lane.seed}: {found}"
    assert [phase.failed for phase in (*found.phases, *found.quiet)] == [0] * 6, said
    assert found.phases[1].refused > found.phases[1].goodput, said
    assert found.goodput > 0.5, said
    assert found.recovery_s < float("inf"), said
    assert [phase.refused for phase in found.quiet] == [0, 0, 0], said
    assert not found.missed(), said
