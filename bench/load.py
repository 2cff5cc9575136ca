"""A load generator of its own, over HTTP/1.1 connections that stay open: closed or open loop.

    echo '{"url": "http://127.0.0.1:8000/rag_modules", "clients": 4, "seconds": 5, …}' | python bench/load.py

Reads one JSON object, writes one. Plain sockets on asyncio: what it costs per request is in its
output (`client_cpu_ms`). A client sends its next request when it has its answer; one that was
refused with 503 comes back after Retry-After, as a client should.

    bodies   list of JSON texts, each sent once, in order; empty: GET
    stream   ask for events and time the first piece of the answer, too
    pause    seconds between an answer and the next request
    least    go on until so many were answered, for six times `seconds` at most
    total    read `timings_ms` from each answer: all of it, and its `total` apart

What comes out is, by answer, the ms it took, and `at`, the second from the beginning at which it was there.

Open loop: with `flows` requests come by chance (Poisson) at a rate, whatever becomes of those before.
A flow is one tenant: {"name": …, "key": …, "bodies": […], "phases": [[per second, seconds], …]}, and
"url" where it is another one; all
flows run at the same time. What comes out is, by name, a list of [second it was due, status, ms from
then to the end of the answer]; a request that was not sent in time counts from when it was due.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

GIVE_UP_S = 10.0  # a request that is not answered by then has failed


class Connection:
    """One connection, opened when it is needed."""

    def __init__(self, job: dict[str, Any], verb: str = "POST", key: str | None = None) -> None:
        url = urlsplit(job["url"])
        self._host, self._port, path = url.hostname, url.port, url.path
        accept = "text/event-stream" if job.get("stream") else "application/json"
        sign = f"Authorization: Bearer {key}\r\n" if key else ""
        self._head = (
            f"{verb} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: {accept}\r\n{sign}"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Close it; the next request opens a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    @property
    def gone(self) -> bool:
        """Whether the server has closed it, as it does with one that was idle for seconds."""
        return self._streams is not None and self._streams[0].at_eof()

    async def ask(self, body: bytes) -> tuple[int, float, bytes, float]:
        """Return status, Retry-After, body, and when the first piece of a stream came."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        retry = float(_header(head, b"retry-after") or 0)
        length = _header(head, b"content-length")
        if length is not None:
            return status, retry, await reader.readexactly(int(length)), 0.0
        first, answer = 0.0, b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            answer += (await reader.readexactly(size + 2))[:-2]
            if not first and b"event: message" in answer:
                first = time.perf_counter()
        await reader.readexactly(2)
        return status, retry, answer, first


class Client(Connection):
    """One connection that asks again and again."""

    def __init__(self, job: dict[str, Any], out: dict[str, Any], bodies: Any, end: float) -> None:
        super().__init__(job, "POST" if job.get("bodies") else "GET", job.get("key"))
        self._job, self._out, self._bodies, self._end = job, out, bodies, end
        self._began = end - job["seconds"]

    async def run(self) -> None:
        """Ask until the time is over."""
        while not self._over():
            body = next(self._bodies)
            began = time.perf_counter()
            try:
                status, retry, answer, first = await self.ask(body)
            except (OSError, asyncio.IncompleteReadError):
                self._out["statuses"]["broken"] += 1
                self.close()
                continue
            took = (time.perf_counter() - began) * 1000
            self._out["statuses"][str(status)] += 1
            if status == 200:
                self._out["ms"].append(took)
                self._out["at"].append(began + took / 1000 - self._began)
                if first:
                    self._out["first_ms"].append((first - began) * 1000)
                if self._job.get("total"):
                    timings = json.loads(answer)["timings_ms"]
                    self._out["timings_ms"].append(timings)
                    self._out["total_ms"].append(timings["total"])
            elif status == 503:
                self._out["shed_ms"].append(took)
            if pause := retry or self._job.get("pause", 0):
                await asyncio.sleep(pause)
        self.close()

    def _over(self) -> bool:
        late = time.perf_counter() - self._end
        enough = len(self._out["ms"]) >= self._job.get("least", 0)
        return late >= 0 and (enough or late >= 5 * self._job["seconds"])


class Flow:
    """Requests of one tenant that come by chance."""

    def __init__(self, job: dict[str, Any], flow: dict[str, Any], seed: str) -> None:
        self._job, self._flow, self._chance = {**job, **flow}, flow, random.Random(seed)
        self._bodies = cycle([text.encode() for text in flow["bodies"] or [""]])
        self._idle: list[Connection] = []
        self.records: list[tuple[float, int, float]] = []

    async def run(self, began: float) -> None:
        """Send what comes in all phases, and wait for the answers."""
        due, end = 0.0, 0.0
        async with asyncio.TaskGroup() as asking:
            for rate, seconds in self._flow["phases"]:
                due, end = end, end + seconds
                while rate and (due := due + self._chance.expovariate(rate)) < end:
                    if (early := began + due - time.perf_counter()) > 0:
                        await asyncio.sleep(early)
                    asking.create_task(self._one(began, due))
        for connection in self._idle:
            connection.close()

    def _connection(self) -> Connection:
        verb = "POST" if self._flow["bodies"] else "GET"
        return Connection(self._job, verb, self._flow.get("key"))

    async def _one(self, began: float, due: float) -> None:
        while self._idle and self._idle[-1].gone:
            self._idle.pop().close()
        connection = self._idle.pop() if self._idle else self._connection()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                status, *_ = await connection.ask(next(self._bodies))
            self._idle.append(connection)
        except (OSError, asyncio.IncompleteReadError):  # a timeout is an OSError
            status = 0
            connection.close()
        took = time.perf_counter() - began - due
        self.records.append((round(due, 4), status, round(took * 1000, 3)))


async def open_loop(job: dict[str, Any]) -> dict[str, Any]:
    """Run all flows at the same time."""
    flows = {
        flow["name"]: Flow(job, flow, f"{job['seed']}-{flow['name']}") for flow in job["flows"]
    }
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(flow.run(began) for flow in flows.values()))
    requests = max(1, sum(len(flow.records) for flow in flows.values()))
    return {
        "flows": {name: flow.records for name, flow in flows.items()},
        "client_cpu_ms": (time.process_time() - cpu) * 1000 / requests,
    }


def _header(head: bytes, name: bytes) -> str | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode() if found else None


async def main() -> None:
    job = json.load(sys.stdin)
    if "flows" in job:
        json.dump(await open_loop(job), sys.stdout)
        return
    lists = ("ms", "at", "shed_ms", "first_ms", "total_ms", "timings_ms")
    out: dict[str, Any] = {name: [] for name in lists} | {"statuses": Counter()}
    bodies = cycle([text.encode() for text in job.get("bodies") or [""]])
    began, cpu = time.perf_counter(), time.process_time()
    end = began + job["seconds"]
    clients = [Client(job, out, bodies, end) for _ in range(job["clients"])]
    await asyncio.gather(*(client.run() for client in clients))
    out["seconds"] = time.perf_counter() - began
    requests = max(1, sum(out["statuses"].values()))
    out["client_cpu_ms"] = (time.process_time() - cpu) * 1000 / requests
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
