"""A double of a reranking server on loopback: real HTTP, scores by shared words, faults as told.

It speaks Cohere's `POST /v1/rerank` and TEI's `POST /rerank`. Each request is recorded and answered
by the next scripted behaviour; the last one repeats.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Row = tuple[int, Any]  # index and score
Behaviour = Callable[["_Exchange", list[Row]], None]


def shared_words(query: str, text: str) -> float:
    """The share of the question's words that stand in a text, 0 to 1."""
    asked, said = (set(re.findall(r"\w+", each.lower())) for each in (query, text))
    return len(asked & said) / len(asked)


def good(exchange: _Exchange, rows: list[Row]) -> None:
    """Best first, as such servers answer."""
    exchange.reply(sorted(rows, key=lambda row: -row[1]))


def changed(change: Callable[[list[Row]], list[Row]]) -> Behaviour:
    """The rows changed in some way."""
    return lambda exchange, rows: exchange.reply(change(rows))


def status(code: int, text: str = "{}", **headers: str) -> Behaviour:
    """An HTTP status."""
    return lambda exchange, _: exchange.send(code, text.encode(), headers)


def text(body: str) -> Behaviour:
    """A body as it is, with status 200."""
    return status(200, body)


def half(exchange: _Exchange, rows: list[Row]) -> None:
    """Half an answer: the connection ends in the middle of the body."""
    exchange.head(200, 10_000)
    exchange.wfile.write(exchange.body(rows)[:20])
    exchange.close_connection = True


def reset(exchange: _Exchange, _: list[Row]) -> None:
    """No answer at all."""
    exchange.close_connection = True


def never(exchange: _Exchange, rows: list[Row]) -> None:
    """Hold the request until the double closes."""
    exchange.server.over.wait()
    with suppress(OSError):
        exchange.reply(rows)


def drip(exchange: _Exchange, _: list[Row]) -> None:
    """Send a byte now and then, so that no single read takes long."""
    with suppress(OSError):
        exchange.head(200, 1_000_000)
        while not exchange.server.over.wait(0.02):
            exchange.wfile.write(b" ")
            exchange.wfile.flush()


class RerankerDouble(ThreadingHTTPServer):
    """The server, its script and the requests it got."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.script: list[Behaviour] = [good]
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Exchange)

    @property
    def url(self) -> str:
        """Where it serves, without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def behave(self, *behaviours: Behaviour) -> None:
        """Answer the next requests like this; the last behaviour repeats."""
        self.script = [*behaviours]

    def next(self) -> Behaviour:
        """The behaviour for this request."""
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RerankerDouble

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.paths.append(self.path)
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["authorization"])
            behave = self.server.next()
        self.tei = "texts" in body
        texts = body["texts"] if self.tei else body["documents"]
        rows = [(at, shared_words(body["query"], each)) for at, each in enumerate(texts)]
        behave(self, rows)

    def body(self, rows: list[Row]) -> bytes:
        if self.tei:
            return json.dumps([{"index": at, "score": score} for at, score in rows]).encode()
        results = [{"index": at, "relevance_score": score} for at, score in rows]
        return json.dumps({"id": "r", "model": "words-1", "results": results}).encode()

    def reply(self, rows: list[Row]) -> None:
        self.send(200, self.body(rows), {})

    def head(self, code: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.head(code, len(body), headers)
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def reranker_double() -> Iterator[RerankerDouble]:
    """Run a double until the block ends."""
    double = RerankerDouble()
    thread = threading.Thread(target=double.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield double
    finally:
        double.over.set()
        double.shutdown()
        thread.join()
        double.server_close()
