"""A real OpenAI-compatible chat server on loopback that answers as scripted. A test double.

Each request is counted, recorded and answered by the next scripted behaviour; the last one repeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["_Handler"], None]
USAGE = {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a streamed chat completion."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}


class LLMStub:
    """The server, and the behaviours it can be told."""

    def __init__(self) -> None:
        self.script: list[Behaviour] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.client_gone = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL for the client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        """Requests received so far."""
        return len(self.bodies)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    async def leave(self, request: Coroutine[Any, Any, Any]) -> None:
        """Make a client's request, and give it up once this server was asked."""
        before, asking = self.calls, asyncio.ensure_future(request)
        while self.calls == before and not asking.done():
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.wait((asking,))
        assert asking.cancelled()

    # behaviours

    def text(self, *pieces: str, finish: str = "stop", usage: bool = True) -> Behaviour:
        """Stream pieces of text as a well-behaved server does."""
        chunks = [chunk(piece) for piece in pieces] + [chunk(finish=finish)]
        if usage:
            chunks.append({"id": "c", "choices": [], "usage": USAGE})
        return self.events(*(json.dumps(one) for one in chunks), "[DONE]")

    def events(self, *data: str, then: Behaviour | None = None) -> Behaviour:
        """Stream any data lines; then end the stream well, or do something else."""

        def behave(handler: _Handler) -> None:
            handler.start_stream()
            pieces = [f"data: {one}\n\n".encode() for one in data]
            last = pieces.pop() if pieces and not then else b""
            for piece in pieces:
                handler.send_piece(piece)
            if then:
                then(handler)
            else:
                handler.end_stream(last)

        return behave

    def status(self, code: int, body: Any = None, **headers: str) -> Behaviour:
        """Answer with an error status."""

        def behave(handler: _Handler) -> None:
            handler.send_whole(code, json.dumps(body or {"error": {}}).encode(), headers)

        return behave

    def whole(self, body: bytes, kind: str) -> Behaviour:
        """Answer 200 with a body that is no stream."""
        return lambda handler: handler.send_whole(200, body, {"Content-Type": kind})

    def drop(self, handler: _Handler) -> None:
        """Close the connection without an end of the answer; what was sent arrives."""
        handler.close_connection = True

    def reset(self, handler: _Handler) -> None:
        """Reset the connection; what the client has not read yet may be lost."""
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        handler.connection.close()

    def hang(self, handler: _Handler) -> None:
        """Send nothing more, and notice when the client hangs up."""
        with contextlib.suppress(OSError):
            handler.connection.recv(1)
        handler.close_connection = True
        self.client_gone.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False
    stub: LLMStub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: broken connections are part of the script."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.stub.connections += 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write no log."""

    def do_POST(self) -> None:
        stub = self.server.stub
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked: dict[str, Any] = json.loads(body)
        stub.bodies.append(self.asked)
        stub.headers.append({name.lower(): value for name, value in self.headers.items()})
        behave = stub.script.pop(0) if len(stub.script) > 1 else stub.script[0]
        behave(self)

    def start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, data: bytes) -> None:
        self.wfile.write(self._chunk(data))
        self.wfile.flush()

    def end_stream(self, last: bytes = b"") -> None:
        """End the answer, with its last piece in one write: no pause between them."""
        self.wfile.write((self._chunk(last) if last else b"") + self._chunk(b""))

    def _chunk(self, data: bytes) -> bytes:
        return f"{len(data):x}\r\n".encode() + data + b"\r\n"

    def send_whole(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
