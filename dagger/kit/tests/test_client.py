"""The client of a running step, over real loopback HTTP: what it returns, and what its errors say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

pytest.importorskip("httpx", reason="the extra `client` is not installed")
pytest.importorskip("httpx_sse", reason="the extra `client` is not installed")

from rag_kit.client import StepClient, Wording, new_client
from rag_kit.errors import StepError, dump_error

WORDS = Wording(
    "the step rank",
    step="rank",
    unreachable="retriever_unavailable",
    retry_after=3,
    start="start it",
    check="; is it the right one?",
    limit=" (RANK_S)",
)
ENVELOPE = dump_error(StepError("collection_not_found", "no"), step="rank")
Reply = Callable[[str], tuple[int, str, str]]


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    """Serve status, media type and body by path, and yield the URL."""

    class Exchange(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, text = reply(self.path)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client left
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def client_of(url: str, deadline_s: float = 10) -> AsyncIterator[StepClient]:
    async with new_client(30) as http:
        yield StepClient(url, lambda: http, deadline_s, WORDS)


def call(url: str, work: Callable[[StepClient], Any], deadline_s: float = 10) -> Any:
    async def run() -> Any:
        async with client_of(url, deadline_s) as client:
            return await work(client)

    return asyncio.run(run())


def refused(url: str, work: Callable[[StepClient], Any], deadline_s: float = 10) -> StepError:
    with pytest.raises(StepError) as caught:
        call(url, work, deadline_s)
    return caught.value


async def events(client: StepClient) -> list[tuple[str, str]]:
    return [(event.name, event.data) async for event in client.events("{}")]


@pytest.mark.parametrize("verb", ["run", "search"])
def test_a_response_and_an_envelope_come_as_text(verb: str) -> None:
    """Whatever the status, an envelope is returned for the caller to read."""
    bodies = {"/run": (200, "application/json", '{"a": 1}')}
    bodies["/search"] = (404, "application/json", ENVELOPE)
    with serving(lambda path: bodies[path]) as url:
        assert call(url, lambda client: client("{}", verb)) == bodies[f"/{verb}"][2]


def test_events_are_those_of_the_server_without_the_end_mark() -> None:
    """A server that streams gives its events; one that does not gives a single one."""
    stream = 'event: message\ndata: {"x":1}\n\nevent: final_answer\ndata: {}\n\ndata: [DONE]\n\n'
    with serving(lambda _: (200, "text/event-stream", stream)) as url:
        streamed = call(url, events)
    with serving(lambda _: (200, "application/json", '{"a": 1}')) as url:
        single = call(url, events)
    with serving(lambda _: (404, "application/json", ENVELOPE)) as url:
        failed = call(url, events)

    assert streamed == [("message", '{"x":1}'), ("final_answer", "{}")]
    assert single == [("final_answer", '{"a": 1}')]
    assert failed == [("error", ENVELOPE)]


def test_a_server_that_is_not_there_has_the_code_and_words_of_the_caller() -> None:
    """Code, step and seconds to wait are those of the wording."""
    with socket.socket() as unheard:  # bound, so that nobody else listens there
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        errors = [refused(url, work) for work in (lambda c: c("{}"), events, StepClient.probe)]

    for error in errors:
        assert error.message == "the step rank cannot be reached (ConnectError); start it"
        assert (error.code, error.step, error.retry_after) == ("retriever_unavailable", "rank", 3)


def test_a_page_in_place_of_an_envelope_is_bad_output() -> None:
    """An HTTP error without an envelope is not the answer of a step."""
    with serving(lambda _: (502, "text/html", "<html>")) as url:
        errors = [refused(url, work) for work in (lambda c: c("{}"), events, StepClient.probe)]

    for error in errors:
        assert (error.code, error.step) == ("module_bad_output", "rank")
        assert error.message == (
            "the step rank answered HTTP 502 without an error envelope; is it the right one?"
        )


def test_a_silent_server_ends_at_the_deadline() -> None:
    """The seconds and the setting are named."""
    release = Event()

    def wait(_: str) -> tuple[int, str, str]:
        release.wait(30)
        return 200, "application/json", "{}"

    with serving(wait) as url:
        errors = [refused(url, work, 0.2) for work in (lambda c: c("{}"), events)]
        release.set()

    for error in errors:
        assert (error.code, error.step) == ("deadline_exceeded", "rank")
        assert error.message == "the step rank did not answer within 0.2 s (RANK_S)"


def test_a_probe_tells_ready_from_not_ready() -> None:
    """None when ready, else the envelope."""
    loading = dump_error(StepError("not_ready", "still loading"), step="rank")
    replies = {"/readyz": (503, "application/json", loading)}
    with serving(lambda path: replies[path]) as url:
        before = call(url, StepClient.probe)
        replies["/readyz"] = (200, "application/json", "{}")
        after = call(url, StepClient.probe)

    assert json.loads(before)["error"]["code"] == "not_ready"
    assert after is None


def test_waiting_ends_when_ready_or_when_it_never_will_be() -> None:
    """A server that loads is asked again; one that cannot start says why."""
    loading = dump_error(StepError("not_ready", "still loading"), step="rank")
    broken = dump_error(StepError("misconfigured", "no such model"), step="rank")
    replies = [(503, loading), (503, loading), (200, "{}"), (503, loading), (500, broken)]

    def reply(_: str) -> tuple[int, str, str]:
        status, text = replies.pop(0)
        return status, "application/json", text

    with serving(reply) as url:
        call(url, StepClient.ready)
        left = len(replies)
        error = refused(url, StepClient.ready)

    assert left == 2
    assert (error.code, error.message) == (
        "not_ready",
        "the step rank cannot start: no such model",
    )
