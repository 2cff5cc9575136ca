"""`rag serve` as a process: progress, logs, refusal to start, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rag_doubles import wait
from service_kit import QUESTION, Collector, LLMStub

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


def first_piece(content: str) -> str:
    return json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": content}}]})


def draining(url: str) -> None:
    """Return once it says that it is ending; it must not say anything else, nor be gone."""
    pause = threading.Event()
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        for _ in range(2000):
            ready = client.get("/readyz")
            if ready.status_code == 503:
                break
            pause.wait(0.005)
        alive = client.get("/healthz")
        refused = client.post("/rag_modules", json={"query": QUESTION})
        upload = client.post("/v1/documents", files={"files": ("a.txt", b"Something.")})

    assert alive.status_code == 200
    for answer in (ready, refused, upload):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert 1 <= int(answer.headers["retry-after"]) <= 4


def test_fault_sigterm_requests_under_way_end_first(home: Path, llm: LLMStub) -> None:
    """Not ready at once, new requests are told; the answer under way is finished; exit code 0."""
    go = threading.Event()

    def rest(handler: Any) -> None:
        go.wait(30)
        done = {"index": 0, "delta": {"content": "director [1]."}, "finish_reason": "stop"}
        handler.send_piece(f"data: {json.dumps({'id': 'c', 'choices': [done]})}\n\n".encode())
        handler.send_piece(b"data: [DONE]\n\n")
        handler.end_stream()

    llm.script = [llm.events(first_piece("The "), then=rest)]
    with serve(home, RAG_LLM_BASE_URL=llm.url, RAG_LLM_MODEL="stub") as served:
        wait(f"{served.url}/readyz")
        told: list[httpx.Response] = []
        asking = asked(served.url, told)
        pause = threading.Event()
        while not llm.calls:
            pause.wait(0.01)
        served.process.send_signal(signal.SIGTERM)
        draining(served.url)
        go.set()
        code = served.ended()
        asking.join()

    assert "director [1]." in told[0].json()["answer"]
    assert code == 0


def asked(url: str, told: list[httpx.Response], **more: Any) -> threading.Thread:
    """Ask in a thread; the answer is appended to `told`."""
    body = {"query": QUESTION, **more}

    def ask() -> None:
        told.append(httpx.post(f"{url}/rag_modules", json=body, trust_env=False, timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_fault_sigterm_a_second_signal_does_not_wait(home: Path, llm: LLMStub) -> None:
    """A model that never ends keeps nobody from ending the service."""
    llm.script = [llm.hang]
    with serve(home, **hanging(llm), RAG_DRAIN_S="100") as served:
        wait(f"{served.url}/readyz")
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as raw:
            raw.sendall(question(stream=True))
            pause = threading.Event()
            while not llm.calls:
                pause.wait(0.01)
            served.process.send_signal(signal.SIGTERM)
            draining(served.url)
            served.process.send_signal(signal.SIGTERM)
            served.ended()


def hanging(llm: LLMStub) -> dict[str, str]:
    """Settings that allow a model longer than `Served.ended` waits."""
    limits = ("RAG_LLM_FIRST_TOKEN_S", "RAG_LLM_IDLE_S", "RAG_LLM_TOTAL_S", "RAG_DEADLINE_S")
    return {"RAG_LLM_BASE_URL": llm.url, "RAG_LLM_MODEL": "stub", **dict.fromkeys(limits, "100")}


def question(*, stream: bool) -> bytes:
    body = json.dumps({"query": QUESTION, "stream": stream})
    return post("/rag_modules", body, len(body))


def post(path: str, body: str, length: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n{body}".encode()


def test_fault_sigterm_nothing_that_hangs_keeps_it(home: Path, llm: LLMStub) -> None:
    """A hung model, a client that does not read, one that does not send: it ends in its time."""
    much = first_piece("The finance director signs as well [1]. " * 1000)

    def flood(handler: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                handler.send_piece(f"data: {much}\n\n".encode())

    llm.script = [llm.events(first_piece("The "), then=flood), llm.hang]
    with serve(home, **hanging(llm), RAG_DRAIN_S="1") as served, contextlib.ExitStack() as stack:
        wait(f"{served.url}/readyz")
        port = int(served.url.rpartition(":")[2])
        unread, unsent = (stack.enter_context(socket.socket()) for _ in range(2))
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for raw in (unread, unsent):
            raw.connect(("127.0.0.1", port))
        unread.sendall(question(stream=True))
        assert unread.recv(12) == b"HTTP/1.1 200"  # and no more is read
        unsent.sendall(post("/v1/documents", '{"documents": [', 1000))  # and no more is sent
        told: list[httpx.Response] = []
        asking = asked(served.url, told)
        pause = threading.Event()
        while llm.calls < 2:
            pause.wait(0.01)
        served.process.send_signal(signal.SIGTERM)
        code = served.ended()
        asking.join()

    assert code == 0, served.lines
    assert (told[0].status_code, told[0].json()["error"]["code"]) == (503, "draining")


def test_fault_sigterm_while_it_starts(home: Path) -> None:
    """A store that accepts and never answers: a signal ends the start as well."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        hung.settimeout(60)
        with serve(home, RAG_QDRANT_URL=url, RAG_STORE="qdrant") as served:
            wait(f"{served.url}/healthz")
            with hung.accept()[0]:  # now it waits there
                served.process.send_signal(signal.SIGTERM)
                code = served.ended()

    assert code == 0, served.lines


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


def test_fault_store_locked_start_is_refused_with_exit_code_75(home: Path) -> None:
    """A second service and a plain command end, and name the process that has the store."""
    with serve(home) as served:
        wait(f"{served.url}/readyz")
        second = run(home, "--port", "0")
        command = subprocess.run(
            [RAG, "search", QUESTION],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (second.returncode, command.returncode) == (75, 75)
    assert "cannot start" in second.stderr
    for ran in (second, command):
        assert f"process {served.process.pid}" in ran.stderr
        assert "Traceback" not in ran.stderr


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


def index(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAG, "index", *arguments],
        env=environment(home, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_while_it_has_the_store_open_rag_index_offers_the_upload(
    home: Path, tmp_path: Path
) -> None:
    """The command of the hint works as it stands, and gives the ids that `rag index` gives."""
    folder = tmp_path / "new notes"
    folder.mkdir()
    (folder / "roof.md").write_text("# Roof\n\nThe roof was mended in May.\n")
    (folder / "bad.pdf").write_bytes(b"no PDF")
    with serve(home) as served:
        wait(f"{served.url}/readyz")
        refused = index(home, str(folder))
        assert refused.returncode == 75
        assert f"a service at {served.url} has the documents open" in refused.stderr
        hint = re.search(r"`rag (index [^`]*)`", refused.stderr)
        assert hint
        sent = index(home, *shlex.split(hint[1])[1:])
        assert sent.returncode == 1, "one file cannot be read"
        assert "1 added" in sent.stdout and "bad.pdf" in sent.stdout, sent.stderr
        found = httpx.get(f"{served.url}/v1/documents", trust_env=False).json()["documents"]
        assert "new notes/roof.md" in [one["document_id"] for one in found]
        pruned = index(home, str(folder), "--prune", "--service", served.url)
        assert pruned.returncode == 2
        assert "--prune" in pruned.stderr
    gone = index(home, str(folder), "--service", served.url)
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr
    assert "Traceback" not in gone.stderr + refused.stderr + sent.stderr


def test_rag_index_uploads_with_a_key(home: Path, tmp_path: Path) -> None:
    (tmp_path / "roof.md").write_text("# Roof\n\nThe roof was mended in May.\n")
    keys = json.dumps([{"name": "ann", "key": "a key of ann's own", "write": True}])
    with serve(home, RAG_API_KEYS=keys) as served:
        wait(f"{served.url}/readyz")
        arguments = (str(tmp_path / "roof.md"), "--service", served.url)
        without = index(home, *arguments)
        assert without.returncode == 1
        assert "set RAG_API_KEY" in without.stderr
        assert index(home, *arguments, RAG_API_KEY="a key of ann's own").returncode == 0
