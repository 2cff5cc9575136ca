"""The resident server while its parts cannot be loaded: what passes is tried again, what does not is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

import httpx
import pytest
from qdrant_double import Faults, QdrantDouble

from rag_kit import server as serving
from rag_kit.handler import Handler, OpenStep
from rag_retrieve import RetrieveSettings, StepError
from rag_retrieve.wire import open_step

Answer = tuple[int, str]


@asynccontextmanager
async def running(opening: OpenStep) -> AsyncIterator[httpx.AsyncClient]:
    """Run the step's application in this loop; gives a client of it."""
    app = serving.application(opening, step="retrieve")
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://step") as client,
    ):
        yield client


async def ready(client: httpx.AsyncClient) -> Answer:
    """Return status and code of /readyz, once it is no longer loading for the first time."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.get("/readyz")
            code = answer.json().get("error", {}).get("code", "")
            if code != "not_ready":
                return answer.status_code, code
            await asyncio.sleep(0.01)


def test_fault_liveness_and_readiness_of_a_step_whose_store_comes_up_later(
    settings: RetrieveSettings,
    double: QdrantDouble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a reboot nobody keeps an order: a step started before its database needs no restart."""
    monkeypatch.setattr(serving, "RETRY_S", 0.01)
    over = settings.model_copy(update={"store": "qdrant", "qdrant_url": double.url})
    tries = 0

    @contextmanager
    def opening() -> Iterator[Handler]:
        nonlocal tries
        tries += 1
        with open_step(over) as handler:
            yield handler

    async def outage() -> tuple[Answer, Answer, Answer]:
        async with running(opening) as client:
            before = await ready(client)
            asked = await client.post("/run", content='{"query": "leave"}')
            while tries < 3:
                await asyncio.sleep(0.01)
            double.faults = Faults()
            async with asyncio.timeout(60):
                while (after := await ready(client))[0] != 200:
                    await asyncio.sleep(0.01)
            return before, (asked.status_code, asked.json()["error"]["code"]), after

    double.faults = Faults(status=503)
    with caplog.at_level(logging.ERROR, "rag_kit.server"):
        before, asked, after = asyncio.run(outage())

    assert before == asked == (503, "retriever_unavailable")
    assert after == (200, "")
    assert len(caplog.records) == 1, "each reason is said once"


@pytest.mark.parametrize(
    ("error", "code"),
    [(StepError("misconfigured", "no such model"), "misconfigured"), (OSError(), "internal_error")],
)
def test_what_does_not_pass_is_told_and_not_tried_again(
    error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting stays wrong: one try, and every probe says what it is."""
    monkeypatch.setattr(serving, "RETRY_S", 0.0)
    tries = 0

    def opening() -> NoReturn:
        nonlocal tries
        tries += 1
        raise error

    async def probes() -> list[Answer]:
        async with running(opening) as client:
            return [await ready(client) for _ in range(50)]

    answers = asyncio.run(probes())

    assert {found for _, found in answers} == {code}
    assert tries == 1
