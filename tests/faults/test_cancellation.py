"""Clients that leave at any moment: the work for them ends, nothing leaks, nobody gets their answer.

A real server and a model server on loopback that answers with the nonce of the question, slowly.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import select
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_kit import LLMStub, fill, serving, settings

THINKS_S = 0.1
PLACES = 4
CLIENTS = 12  # more than there are places: some wait
NONCE = re.compile(r"nonce-[0-9a-f]{12}")
MOMENTS = (
    "in the body", "at once", "while it waits or works", "with another one behind it",
    "at the first piece", "at the end",
)  # fmt: skip


class Echo:
    """What the model server does: it thinks, then says the nonce it was asked with, in pieces."""

    def __init__(self, thinks_s: float) -> None:
        self.thinks_s = thinks_s
        self.calls = self.gone = 0
        self._lock = threading.Lock()

    def __call__(self, handler: Any) -> None:
        nonce = NONCE.findall(json.dumps(handler.asked["messages"][-1]))[-1]
        with self._lock:
            self.calls += 1
        if select.select([handler.connection], [], [], self.thinks_s)[
            0
        ]:  # nothing more is sent to us
            with self._lock:
                self.gone += 1
            handler.close_connection = True
            return
        handler.start_stream()
        pieces = ("The travel", " rules", f" say {nonce}", " [1].")
        for text in pieces:
            handler.send_piece(f"data: {json.dumps(_chunk(text))}\n\n".encode())
        handler.send_piece(f"data: {json.dumps(_chunk('', 'stop'))}\n\n".encode())
        handler.send_piece(b"data: [DONE]\n\n")
        handler.end_stream()


def _chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


@contextmanager
def echoing(home: Path, thinks_s: float = THINKS_S) -> Iterator[tuple[str, Echo]]:
    """Serve with that model."""
    stub, echo = LLMStub(), Echo(thinks_s)
    stub.script = [echo]
    env = {"RAG_LLM_BASE_URL": stub.url, "RAG_LLM_MODEL": "stub", "RAG_LLM_ATTEMPTS": "1"}
    # who has left may wait until that is noticed, beside two requests of everyone who has not
    given = settings(max_concurrency=PLACES, max_queue=10 * CLIENTS, queue_wait_s=30)
    try:
        with serving(given, home=home, env=env) as url:
            yield url, echo
    finally:
        stub.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled store; one server at a time has it."""
    return fill(tmp_path_factory.mktemp("cancelled"))


class Client:
    """A client with one connection that it keeps as long as it can; gathers what is wrong."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._chance = chance
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.left: Counter[str] = Counter()
        self.answered = self.reused = 0
        self.wrong: list[str] = []

    async def run(self, cancels: int) -> None:
        """Leave so many times, and wait for some answers in between."""
        for _ in range(cancels):
            if self._chance.random() < 0.25:
                await self._wait_for(1)
            elif self._chance.random() < 0.1:
                await self._wait_for(2)  # sent together, one behind the other
            await self._leave(self._chance.choice(MOMENTS))
        await self._wait_for(2)
        self._close(reset=False)

    def _request(self, *, stream: bool) -> tuple[str, bytes]:
        nonce = f"nonce-{self._chance.randrange(16**12):012x}"
        body = json.dumps({"query": f"Who signs travel requests? {nonce}", "stream": stream})
        head = (
            f"POST /rag_modules HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {nonce}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return nonce, f"{head}{body}".encode()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        else:
            self.reused += 1
        return self._streams

    def _close(self, *, reset: bool) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            writer.transport.abort() if reset else writer.close()
            self._streams = None

    async def _leave(self, moment: str) -> None:
        """Send a request and go away at this moment."""
        stream = moment == "at the first piece" or self._chance.random() < 0.5
        nonce, request = self._request(stream=stream)
        reader, writer = await self._open()
        if moment == "in the body":
            request = request[: -self._chance.randrange(1, 40)]
        writer.write(request)
        if moment == "with another one behind it":
            writer.write(self._request(stream=False)[1])
        if moment == "while it waits or works":
            await asyncio.sleep(self._chance.uniform(0, 3 * THINKS_S))
        elif moment == "at the first piece":
            await self._read_until(reader, b"event: message")
        elif moment == "at the end":
            read = await self._read_until(reader, b"[DONE]" if stream else nonce.encode())
            self._check(nonce, read)
        else:
            await asyncio.sleep(self._chance.choice((0, 0.005)))
        self._close(reset=self._chance.random() < 0.5)
        self.left[moment] += 1

    async def _read_until(self, reader: asyncio.StreamReader, mark: bytes) -> bytes:
        read = b""
        while mark not in read:
            block = await reader.read(65536)
            if not block:
                self.wrong.append(f"the connection was closed: {read[-300:]!r}")
                return read
            read += block
        return read

    async def _wait_for(self, number: int) -> None:
        """Send requests together on one connection, and read all answers, in order."""
        reader, writer = await self._open()
        sent = [self._request(stream=False) for _ in range(number)]
        writer.write(b"".join(request for _, request in sent))
        for nonce, _ in sent:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            found = re.search(r"content-length: (\d+)", head)
            assert found
            body = await reader.readexactly(int(found[1]))
            self._check(nonce, body)
            if f"x-request-id: {nonce}" not in head or b'"answer":"' not in body:
                self.wrong.append(f"{nonce} got {head} {body[:300]!r}")
            self.answered += 1

    def _check(self, nonce: str, read: bytes) -> None:
        if set(NONCE.findall(read.decode(errors="replace"))) != {nonce}:
            self.wrong.append(f"{nonce} was asked, this came: {read[-500:]!r}")


def sample(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return sum(
        one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == name
    )


def settled(url: str) -> dict[str, float]:
    """Return what is at work and waiting, once that is nothing, or after ten seconds."""
    pause = threading.Event()
    for _ in range(200):
        found = {name: sample(url, name) for name in ("rag_inflight", "rag_queued")}
        if not any(found.values()):
            break
        pause.wait(0.05)
    return found


@pytest.mark.timeout(900)
def test_threat_wrong_answer_after_cancel_each_gets_its_own(home: Path, lane: Any) -> None:
    """A thousand leave at random moments, on connections used again and pipelined: no mix-up."""
    cancels = lane(120, 5000)
    chances = [random.Random(f"{lane.seed}-{number}") for number in range(CLIENTS)]

    with echoing(home) as (url, echo):
        clients = [Client(url, chance) for chance in chances]
        threads = threading.active_count()

        async def all_of_them() -> None:
            await asyncio.gather(*(client.run(cancels // CLIENTS) for client in clients))

        asyncio.run(all_of_them())
        at_rest = settled(url)
        cancelled = sample(url, "rag_cancel_total")
        grown = threading.active_count() - threads

    said = f"--seed {lane.seed}"
    left = sum((client.left for client in clients), Counter[str]())
    wrong = [one for client in clients for one in client.wrong]
    assert not wrong, f"{said}: {len(wrong)} of them: {wrong[:3]}"
    assert set(left) == set(MOMENTS), f"{said}: {left}"
    assert sum(client.answered for client in clients) >= 2 * CLIENTS, said
    assert sum(client.reused for client in clients) > CLIENTS, said
    assert at_rest == {"rag_inflight": 0, "rag_queued": 0}, f"{said}: {at_rest}"
    assert cancelled >= left["in the body"], f"{said}: {cancelled} of {left}"
    # on a loaded machine few come to the model before they leave; the test below shows these
    assert echo.gone > 0 or lane.name == "fast", f"{said}: no call of the model was given up"
    assert grown <= 40, f"{said}: {grown} threads more"  # the pool's 32, the stub's


def test_threat_cancelled_clients_leave_the_queue_and_the_model(home: Path) -> None:
    """Who leaves while waiting is out of the queue; who leaves while the model works ends its call.

    Also with a second request behind the first one on the connection.
    """
    waiting = 6
    body = json.dumps({"query": "Who signs travel requests? nonce-0123456789ab"})
    head = f"POST /rag_modules HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = f"{head}{body}".encode()
    with echoing(home, thinks_s=60) as (url, echo):
        host, port = url.removeprefix("http://").split(":")

        async def leave(calls: int, behind: int) -> None:
            writers = []
            for _ in range(PLACES + waiting):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(request * (1 + behind))
                writers.append(writer)
            async with asyncio.timeout(60):
                while echo.calls < calls or sample(url, "rag_queued") < waiting:
                    await asyncio.sleep(0.01)
            for writer in writers:
                writer.close()

        for number, behind in ((1, 0), (2, 1)):
            # all places again in the second round: the first gave them back
            asyncio.run(leave(number * PLACES, behind))
            assert settled(url) == {"rag_inflight": 0, "rag_queued": 0}
            pause = threading.Event()
            for _ in range(1000):
                if echo.gone == number * PLACES:
                    break
                pause.wait(0.01)
            # nobody who waited went on to the model
            assert (echo.gone, echo.calls) == (number * PLACES, number * PLACES)
