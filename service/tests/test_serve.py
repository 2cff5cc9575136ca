"""`rag serve` as a process: progress, logs, refusal to start, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from service_kit import QUESTION, LLMStub, wait

RAG = Path(sys.executable).with_name("rag")
SECRET = "the zebra pays in cash"


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    return {**kept, "RAG_HOME": str(home / "store"), "RAG_CHUNK_TOKENS": "64", **more}


class Served:
    """A running `rag serve` and what it wrote."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._found = threading.Condition()
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._found:
                self.lines.append(line.rstrip("\n"))
                self._found.notify_all()

    def line(self, pattern: str) -> str:
        """Return the first line that matches, once it is there."""
        with self._found:
            hit = self._found.wait_for(
                lambda: next((one for one in self.lines if re.search(pattern, one)), None), 60
            )
        assert hit, self.lines
        return str(hit)

    @property
    def url(self) -> str:
        found = re.search(r"http://\S+:\d+", self.line("http://"))
        assert found
        return found[0]

    def ended(self) -> int:
        """Return the exit code, and have read everything."""
        code = self.process.wait(60)
        self._reader.join()
        return code


@contextmanager
def serve(home: Path, *arguments: str, **variables: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [RAG, "serve", "--port", "0", *arguments],
        env=environment(home, **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        served.ended()
        assert process.stderr is not None
        process.stderr.close()


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAG, "serve", *arguments],
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_says_what_it_does_and_ends_on_a_signal(home: Path) -> None:
    """Address, progress, ready; the log has the request and not the question; exit code 0."""
    with serve(home, RAG_LOG_FORMAT="json") as served:
        wait(f"{served.url}/readyz")
        headers = {"x-request-id": "mine"}
        body = {"query": SECRET}
        answer = httpx.post(
            f"{served.url}/rag_modules", json=body, headers=headers, trust_env=False
        )
        served.line('"mine"')
        served.process.send_signal(signal.SIGTERM)
        code = served.ended()
    said = "\n".join(served.lines)
    logged = [json.loads(line) for line in served.lines if line.startswith("{")]
    access = next(line for line in logged if line.get("request_id") == "mine")

    assert code == 0
    assert answer.status_code == 200
    assert [word in said for word in ("loading the model", "loaded in", "ready")] == [True] * 3
    assert (access["status"], access["path"]) == (200, "/rag_modules")
    assert access["timings_ms"].keys() == {"retrieve", "augment", "generate", "total"}
    assert "zebra" not in said


def test_questions_are_logged_when_asked_for(home: Path) -> None:
    """`RAG_LOG_QUERIES` writes them, for a debugging operator."""
    with serve(home, RAG_LOG_QUERIES="true") as served:
        wait(f"{served.url}/readyz")
        httpx.post(f"{served.url}/rag_modules", json={"query": SECRET}, trust_env=False)

        assert "zebra" in served.line("asks")


def test_requests_under_way_end_before_it_does(home: Path, llm: LLMStub) -> None:
    """After SIGTERM the answer that is being written is finished; then exit code 0."""
    go = threading.Event()
    first = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": "The "}}]})

    def rest(handler: Any) -> None:
        go.wait(30)
        done = {"index": 0, "delta": {"content": "director [1]."}, "finish_reason": "stop"}
        handler.send_piece(f"data: {json.dumps({'id': 'c', 'choices': [done]})}\n\n".encode())
        handler.send_piece(b"data: [DONE]\n\n")
        handler.end_stream()

    llm.script = [llm.events(first, then=rest)]
    with serve(home, RAG_LLM_BASE_URL=llm.url, RAG_LLM_MODEL="stub") as served:
        wait(f"{served.url}/readyz")
        body = {"query": QUESTION, "stream": True}
        with (
            httpx.Client(trust_env=False, timeout=30) as client,
            client.stream("POST", f"{served.url}/rag_modules", json=body) as response,
        ):
            text = ""
            for block in response.iter_text():
                text += block
                if '"content":"The "' in text and not go.is_set():
                    served.process.send_signal(signal.SIGTERM)
                    port = int(served.url.rpartition(":")[2])
                    refused(port)
                    go.set()
        code = served.ended()

    assert text.endswith("data: [DONE]\n\n")
    assert "director [1]." in text
    assert code == 0


def refused(port: int) -> None:
    """Return once nobody listens on the port."""
    pause = threading.Event()
    for _ in range(2000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return
        pause.wait(0.005)
    raise AssertionError("it still listens")


def test_a_second_signal_does_not_wait(home: Path, llm: LLMStub) -> None:
    """A model that never ends keeps nobody from ending the service."""
    first = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": "The "}}]})
    llm.script = [llm.events(first, then=llm.hang)]
    with serve(home, RAG_LLM_BASE_URL=llm.url, RAG_LLM_MODEL="stub") as served:
        wait(f"{served.url}/readyz")
        body = {"query": QUESTION, "stream": True}
        with (
            httpx.Client(trust_env=False, timeout=30) as client,
            client.stream("POST", f"{served.url}/rag_modules", json=body) as response,
        ):
            assert response.status_code == 200
            served.process.send_signal(signal.SIGTERM)
            refused(int(served.url.rpartition(":")[2]))
            served.process.send_signal(signal.SIGTERM)
            served.ended()


def test_it_refuses_to_start_where_it_cannot_work(home: Path) -> None:
    """Each refusal names the setting and the way out, and has no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = run(home, "--port", port)
    exposed = run(home, "--host", "0.0.0.0", "--port", "0")
    nobody = run(home, "--runner", "remote", "--port", "0")
    no_cli = run(home, "--runner", "resident", "--port", "0", RAG_DAGGER_CLI="no-such-dagger")

    for ran, said in (
        (busy, "--port"), (exposed, "RAG_API_KEYS_FILE"), (nobody, "RAG_COMPOSITE_URL"),
        (no_cli, "RAG_RUNNER=local"),
    ):  # fmt: skip
        assert ran.returncode == 1
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr
    assert "'no-such-dagger'" in no_cli.stderr


def test_two_services_cannot_share_an_embedded_store(home: Path) -> None:
    """The second one ends and says who has it."""
    with serve(home) as served:
        wait(f"{served.url}/readyz")
        second = run(home, "--port", "0")

    assert second.returncode == 1
    assert "cannot start" in second.stderr


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps what it is sent. A test double."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Collect)


class _Collect(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_traces_have_the_steps_and_not_the_question(home: Path) -> None:
    """One span a request under the caller's trace, one a step under it."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )

    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
    thread.start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    trace = "0af7651916cd43dd8448eb211c80319c"
    with serve(home, RAG_OTLP_ENDPOINT=endpoint) as served:
        wait(f"{served.url}/readyz")
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        body = {"query": SECRET}
        httpx.post(f"{served.url}/rag_modules", json=body, headers=headers, trust_env=False)
        served.process.send_signal(signal.SIGTERM)
        served.ended()
    collector.shutdown()
    thread.join()
    collector.server_close()
    spans = [
        span
        for body in collector.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == trace
    ]
    names = {span.name: span for span in spans}
    top = names["POST /rag_modules"]

    assert top.parent_span_id.hex() == "b7ad6b7169203331"
    for step in ("rag.retrieve", "rag.augment", "rag.generate"):
        assert names[step].parent_span_id == top.span_id
    assert b"zebra" not in b"".join(collector.bodies)
