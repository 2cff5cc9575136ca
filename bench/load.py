"""A load generator of its own: closed loop over HTTP/1.1 connections that stay open.

    echo '{"url": "http://127.0.0.1:8000/rag_modules", "clients": 4, "seconds": 5, …}' | python bench/load.py

Reads one JSON object, writes one. Plain sockets on asyncio: what it costs per request is in its
output (`client_cpu_ms`). A client sends its next request when it has its answer; one that was
refused with 503 comes back after Retry-After, as a client should.

    bodies   list of JSON texts, each sent once, in order; empty: GET
    stream   ask for events and time the first piece of the answer, too
    pause    seconds between an answer and the next request
    least    go on until so many were answered, for six times `seconds` at most
    total    read `timings_ms.total` from each answer
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit


class Client:
    """One connection."""

    def __init__(self, job: dict[str, Any], out: dict[str, Any], bodies: Any, end: float) -> None:
        self._job, self._out, self._bodies, self._end = job, out, bodies, end
        url = urlsplit(job["url"])
        self._host, self._port, path = url.hostname, url.port, url.path
        verb = "POST" if job.get("bodies") else "GET"
        accept = "text/event-stream" if job.get("stream") else "application/json"
        self._head = (
            f"{verb} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: {accept}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Ask until the time is over."""
        while not self._over():
            body = next(self._bodies)
            began = time.perf_counter()
            try:
                status, retry, answer, first = await self._ask(body)
            except (OSError, asyncio.IncompleteReadError):
                self._out["statuses"]["broken"] += 1
                self._streams = None
                continue
            took = (time.perf_counter() - began) * 1000
            self._out["statuses"][str(status)] += 1
            if status == 200:
                self._out["ms"].append(took)
                if first:
                    self._out["first_ms"].append((first - began) * 1000)
                if self._job.get("total"):
                    self._out["total_ms"].append(json.loads(answer)["timings_ms"]["total"])
            elif status == 503:
                self._out["shed_ms"].append(took)
            if pause := retry or self._job.get("pause", 0):
                await asyncio.sleep(pause)
        if self._streams is not None:
            self._streams[1].close()

    def _over(self) -> bool:
        late = time.perf_counter() - self._end
        enough = len(self._out["ms"]) >= self._job.get("least", 0)
        return late >= 0 and (enough or late >= 5 * self._job["seconds"])

    async def _ask(self, body: bytes) -> tuple[int, float, bytes, float]:
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


def _header(head: bytes, name: bytes) -> str | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode() if found else None


async def main() -> None:
    job = json.load(sys.stdin)
    lists = ("ms", "shed_ms", "first_ms", "total_ms")
    out: dict[str, Any] = {name: [] for name in lists} | {"statuses": Counter()}
    bodies = cycle([text.encode() for text in job.get("bodies") or [""]])
    began, cpu = time.perf_counter(), time.process_time()
    end = began + job["seconds"]
    clients = [Client(job, out, bodies, end) for _ in range(job["clients"])]
    await asyncio.gather(*(client.run() for client in clients))
    out["seconds"] = time.perf_counter() - began
    asked = max(1, sum(out["statuses"].values()))
    out["client_cpu_ms"] = (time.process_time() - cpu) * 1000 / asked
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
