"""A double of the Superlinked server: its HTTP interface on loopback, with a ranking of its own.

It is not Superlinked. It takes the same JSON and answers in the same shapes; the scores are a plain
weighted sum. The real server is tested in `dagger/retrieve/superlinked`, and together with this
step in `test_superlinked_real.py`.

`answer_with` replaces every answer; `loading` so many requests are told to come back; `requests` lists
what it was asked.
"""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from rag_kit.errors import StepError, envelope


class SuperlinkedDouble:
    """The double; a context manager."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.collections: dict[str, dict[str, Any]] = {}
        self.begun: dict[str, dict[str, Any]] = {}
        self.answer_with: tuple[int, bytes] | None = None
        self.loading = 0
        self.hold: threading.Event | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.double = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SuperlinkedDouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Return the answer to one request; raises StepError for one it refuses."""
        if self.loading:
            self.loading -= 1
            raise StepError("not_ready", "Superlinked is still loading; ask /readyz")
        if path == "/readyz":
            return {"status": "ready"}
        _, _, name, *rest = path.split("/")
        match method, rest:
            case "PUT", []:
                self.begun[name] = {**body, "stored": {}}
                return {"generation": f"{name}-1"}
            case "POST", ["chunks"]:
                stored = self.begun[name]["stored"]
                stored.update({chunk["chunk_id"]: chunk for chunk in body["chunks"]})
                return {"chunks": len(stored)}
            case "POST", ["publish"]:
                self.collections[name] = self.begun.pop(name)
                return {"name": name, "chunks": body["chunks"]}
        live = self.collections.get(name)
        if live is None:
            raise StepError("collection_not_found", f"collection '{name}' does not exist here")
        if method == "GET":
            return {key: value for key, value in live.items() if key != "stored"}
        if body["corpus_digest"] != live["corpus_digest"]:
            raise StepError("collection_mismatch", "other content", param="corpus_digest")
        if body["category"] not in (None, *live["categories"]):
            raise StepError("invalid_request", "no such category", param="category")
        return {"corpus_digest": live["corpus_digest"], "hits": _hits(live, body)}


def _hits(live: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]]:
    hits = []
    for chunk in live["stored"].values():
        age = (live["now"] - chunk["timestamp"]) / 86_400
        alike = {
            "text": float(np.dot(chunk["vector"], body["vector"])),
            # a quarter of a circle, as Superlinked's own recency space has it
            "recency": math.cos(math.pi / 2 * min(1.0, age / live["period_days"])),
            "category": float(
                body["category"] is not None and chunk["category"] == body["category"]
            ),
        }
        scores = {name: body["weights"][name] * value for name, value in alike.items()}
        apart = ("chunk_id", "vector", "timestamp", "category")
        payload = {key: value for key, value in chunk.items() if key not in apart}
        score = sum(scores.values())
        hits.append(
            {"chunk_id": chunk["chunk_id"], "score": score, "scores": scores, "payload": payload}
        )
    return sorted(hits, key=lambda hit: (-hit["score"], hit["chunk_id"]))[: body["top_k"]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    double: SuperlinkedDouble


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        double = self.server.double
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        double.requests.append(f"{self.command} {self.path}")
        if double.hold is not None:
            double.hold.wait()
        if double.answer_with is not None:
            self._send(*double.answer_with)
            return
        try:
            answer = double.answer(self.command, self.path, json.loads(raw) if raw else None)
            self._send(200, json.dumps(answer).encode())
        except StepError as error:
            self._send(error.status, json.dumps(envelope(error, step="retrieve")).encode())

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815  # names of the base class

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
