"""The composite over servers: real loopback HTTP, with the doubles behind it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rag_doubles import BODIES

from rag_kit.errors import StepError
from rag_pipeline.cli.doctor import examine
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import RagSettings, read_settings
from rag_pipeline.wire import open_pipeline

Reply = Callable[[dict[str, Any]], tuple[int, str]]


class ServerDouble(ThreadingHTTPServer):
    """A step server made of one function; counts connections and requests."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.connections = 0
        self.requests = 0
        self.asked_ready = 0
        self.readiness: list[tuple[int, str]] = []
        super().__init__(("127.0.0.1", 0), _Exchange)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ServerDouble

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        self.server.requests += 1
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, text = self.server.reply(body)
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.asked_ready += 1
        status, text = self.server.readiness.pop(0)
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(reply: Reply) -> Iterator[ServerDouble]:
    server = ServerDouble(reply)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def good(name: str) -> Reply:
    return lambda request: (200, json.dumps(BODIES[name](request)))


@contextmanager
def remote(**replies: Reply | str) -> Iterator[tuple[Pipeline, dict[str, ServerDouble]]]:
    """Open the composite over three servers; a reply may be a URL instead."""
    with ExitStack() as stack:
        servers, urls = {}, {}
        for name in BODIES:
            reply = replies.get(name, good(name))
            if isinstance(reply, str):
                urls[f"{name}_url"] = reply
            else:
                servers[name] = stack.enter_context(serving(reply))
                urls[f"{name}_url"] = servers[name].url
        settings = RagSettings.model_validate({**urls, "step_deadline_s": 5})
        yield stack.enter_context(open_pipeline(settings)), servers


def failure(**replies: Reply | str) -> dict[str, Any]:
    with remote(**replies) as (pipeline, _):
        error: dict[str, Any] = pipeline.answer({"query": "Who may sign?"})["error"]
    return error


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_requests_share_one_connection_per_step() -> None:
    """Ten questions in a row open one connection to each server."""
    with remote() as (pipeline, servers):
        answers = {pipeline.answer({"query": "Who may sign?"})["answer"] for _ in range(10)}

    assert answers == {"Only the board may sign [1]."}
    counts = {name: (server.connections, server.requests) for name, server in servers.items()}
    assert counts == dict.fromkeys(BODIES, (1, 10))


@pytest.mark.parametrize(
    ("name", "code"),
    [("retrieve", "retriever_unavailable"), ("augment", "not_ready"), ("generate", "not_ready")],
)
def test_a_server_that_is_not_there_is_named(name: str, code: str) -> None:
    """The error names the step and its variable, and never the address."""
    url = unused_url()
    error = failure(**{name: url})

    assert (error["code"], error["step"], error["retryable"]) == (code, name, True)
    assert f"RAG_{name.upper()}_URL" in error["message"]
    assert url.removeprefix("http://") not in error["message"]


def test_a_steps_error_keeps_its_code_over_http() -> None:
    """An envelope with status 404 is the step's own error."""
    body = {"error": {"code": "collection_not_found", "message": "no", "param": "collection"}}
    error = failure(retrieve=lambda _: (404, json.dumps(body)))

    assert (error["code"], error["param"]) == ("collection_not_found", "collection")


def test_a_status_without_an_envelope_is_bad_output() -> None:
    """What a proxy says in HTML is not taken for the step's answer."""
    error = failure(augment=lambda _: (502, "<html>Bad Gateway</html>"))

    assert (error["code"], error["step"]) == ("module_bad_output", "augment")
    assert "HTTP 502" in error["message"]


def test_a_silent_server_ends_at_the_deadline() -> None:
    """A step that accepts and never answers is `deadline_exceeded`, with the step named."""
    release = threading.Event()

    def wait(_: dict[str, Any]) -> tuple[int, str]:
        release.wait(30)
        return 200, "{}"

    with serving(good("retrieve")) as one, serving(wait) as silent:
        settings = RagSettings(
            retrieve_url=one.url, augment_url=silent.url, generate_url=one.url, step_deadline_s=2
        )
        with open_pipeline(settings) as pipeline:
            error = pipeline.answer({"query": "Who may sign?"})["error"]
        release.set()

    assert (error["code"], error["step"]) == ("deadline_exceeded", "augment")
    assert "did not answer within 2 s" in error["message"]


def test_doctor_asks_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With step URLs it is their readiness that counts, and the variable that is named."""
    for name in BODIES:
        monkeypatch.setenv(f"RAG_{name.upper()}_URL", unused_url())
    checks = {check.name: check for check in examine()}

    assert [checks[name].status for name in BODIES] == ["fails"] * 3
    assert "RAG_AUGMENT_URL" in str(checks["augment"].mend)
    assert "store" not in checks


def test_two_of_three_urls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mix of local and remote steps is not guessed at."""
    monkeypatch.setenv("RAG_RETRIEVE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RAG_AUGMENT_URL", "http://127.0.0.1:1")

    with pytest.raises(StepError, match="RAG_GENERATE_URL not set") as caught:
        open_pipeline()

    assert caught.value.code == "misconfigured"


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is in the message and its value is not: it may hold a password."""
    monkeypatch.setenv("RAG_RETRIEVE_URL", "user:password@host")

    with pytest.raises(StepError, match="RAG_RETRIEVE_URL") as caught:
        read_settings()

    assert caught.value.code == "misconfigured"
    assert "password" not in caught.value.message


LOADING = (503, json.dumps({"error": {"code": "not_ready", "message": "still loading"}}))


def open_ready(retrieve: ServerDouble, augment: ServerDouble, generate: ServerDouble) -> None:
    """Open the composite over three servers as its own server does: when all are ready."""
    settings = RagSettings(
        retrieve_url=retrieve.url, augment_url=augment.url, generate_url=generate.url
    )
    with open_pipeline(settings, preload=True) as pipeline:
        assert pipeline.answer({"query": "Who may sign?"})["answerable"] is True


def test_a_preloaded_composite_waits_until_every_step_is_ready() -> None:
    """No question meets a step that still loads: /readyz is asked until it answers 200."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(good(name))) for name in BODIES]
        for server in servers:
            server.readiness = [LOADING, LOADING, (200, "{}")]

        open_ready(*servers)

        assert [server.asked_ready for server in servers] == [3, 3, 3]


def test_a_step_that_cannot_start_ends_the_wait_with_its_reason() -> None:
    """A step whose configuration is wrong is named at once, with what it says of itself."""
    failed = (500, json.dumps({"error": {"code": "misconfigured", "message": "no such model"}}))
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(good(name))) for name in BODIES]
        servers[0].readiness = [LOADING, failed]

        with pytest.raises(StepError, match="retrieve cannot start: no such model") as caught:
            open_ready(*servers)

        assert caught.value.code == "not_ready"
