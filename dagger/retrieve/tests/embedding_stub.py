"""A real OpenAI-compatible /v1/embeddings on loopback. A test double.

A text's vector is its counts of the letters a to d, then as many ones as are wanted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EmbeddingServer(ThreadingHTTPServer):
    """The server; change what it does while it runs.

    Attributes:
        answer: Given in place of embeddings: JSON, or bytes as they are.
        status: With this status.
        more: Numbers of a vector beyond the four.
        drop: So many requests get their connection closed without an answer.
        hold: Wait for this event before every answer.
    """

    daemon_threads = True
    request_queue_size = 128
    answer: Any = None
    status = 200
    more = 0
    drop = 0
    hold: threading.Event | None = None
    calls = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: broken connections are part of the tests."""


class _Embeddings(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EmbeddingServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.calls += 1
        if server.hold is not None:
            server.hold.wait()
        if server.drop > 0:
            server.drop -= 1
            self.close_connection = True
            return
        rows = [
            [1.0 + text.count(letter) for letter in "abcd"] + [1.0] * server.more
            for text in body["input"]
        ]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        answer = server.answer or {"object": "list", "model": "m", "data": data, "usage": {}}
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def embedding_server() -> Iterator[EmbeddingServer]:
    """Serve until the block ends."""
    with EmbeddingServer(("127.0.0.1", 0), _Embeddings) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()
