"""`check_step` over doubles that keep the contract or break one promise, and over our own steps."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import rag_doubles as doubles
from rag_command import run, run_module, write_documents

from rag_kit.errors import StepError, envelope
from rag_pipeline.quality.conformance import ConformanceReport, check_step, check_url, samples
from rag_pipeline.step import Step
from rag_pipeline.steps.local import open_local

Body = Callable[[dict[str, Any]], dict[str, Any]]
CHUNKS = [
    {**doubles.PASSAGE, "chunk_id": "c1", "score": 0.9},
    {**doubles.PASSAGE, "chunk_id": "c2", "score": 0.4},
]


def retrieve(request: dict[str, Any]) -> dict[str, Any]:
    fitting = [p for p in CHUNKS if p["score"] >= (request.get("min_score") or 0)]
    return {**request, "results": fitting[: request["top_k"]], "warnings": [], "provenance": {}}


def augment(request: dict[str, Any]) -> dict[str, Any]:
    return {**doubles.augment_body(request), "left_out": []}


def generate(request: dict[str, Any]) -> dict[str, Any]:
    found = request["contexts"]
    citations = [
        {
            **{name: p[name] for name in doubles.CITATION if name in p},
            "spans": [p["span"]],
            "quote": p["text"],
        }
        for p in found[:1]
    ]
    made = doubles.generate_body(request)
    return {**made, "citations": citations, "answerable": bool(found)}


GOOD: dict[str, Body] = {"retrieve": retrieve, "augment": augment, "generate": generate}


def failing(code: str, request: dict[str, Any]) -> dict[str, Any]:
    error = StepError(code, "no", param="query")
    return envelope(error, step="double", request_id=request.get("request_id"))


def step_of(
    body: Body,
    *,
    blank: Body = lambda request: failing("invalid_request", request),
    invalid: str | None = None,
) -> Step:
    """Return a step that answers by `body`, and blank queries and invalid JSON as told."""

    async def step(text: str) -> str:
        try:
            request = json.loads(text)
        except ValueError:
            return invalid or json.dumps(failing("invalid_request", {}))
        return json.dumps(body(request) if request["query"].strip() else blank(request))

    return step


def failed(name: str, step: Step) -> list[tuple[str, str | None]]:
    """Return id and field of the checks that failed."""
    report = asyncio.run(check_step(name, step))
    assert report.passed is all(check.passed for check in report.checks)
    return [(check.id, check.field) for check in report.checks if not check.passed]


@pytest.mark.parametrize("name", GOOD)
def test_a_step_that_keeps_the_contract_passes(name: str) -> None:
    """The doubles that the broken ones are made of conform."""
    assert failed(name, step_of(GOOD[name])) == []


def changed(field: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a change of one field of a response."""
    return lambda response: {**response, field: change(response[field])}


def dropped(*fields: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda response: {k: v for k, v in response.items() if k not in fields}


def each(**change: Any) -> Callable[[Any], Any]:
    return lambda items: [{**item, **change} for item in items]


def bare(*fields: str) -> Callable[[Any], Any]:
    return lambda items: [dropped(*fields)(item) for item in items]


def first_only(items: Any) -> Any:
    return items[:1]


BROKEN = {
    "retrieve": [
        (changed("results", each(page="four")), "answers", "results.0.page"),
        (changed("results", lambda _: []), "finds-passages", "results"),
        (changed("results", lambda r: r[::-1]), "best-first", "results.1.score"),
        (changed("results", each(chunk_id="c1")), "distinct-passages", "results.1.chunk_id"),
        (changed("results", each(span=[0, 5])), "spans", "results.0.span"),
        (dropped("x_conformance"), "carries-unknown-fields", "x_conformance"),
        (dropped("rerank"), "carries-unknown-fields", "rerank"),
        (changed("query", str.upper), "carries-unknown-fields", "query"),
        (dropped("request_id"), "request-id", "request_id"),
    ],
    "augment": [
        (dropped("context_usage"), "answers", "context_usage"),
        (changed("contexts", each(metadata={})), "keeps-passages", "contexts.0.metadata"),
        (changed("contexts", bare("x_own_field")), "keeps-passages", "contexts.0.x_own_field"),
        (changed("contexts", first_only), "accounts-for-passages", "left_out"),
        (
            changed("contexts", lambda c: [{**p, "marker": 5} for p in c]),
            "numbers-passages",
            "contexts.0.marker",
        ),
        (lambda response: {**response, "results": []}, "replaces-results", "results"),
        (dropped("x_conformance"), "carries-unknown-fields", "x_conformance"),
        (changed("request_id", lambda _: "other"), "request-id", "request_id"),
    ],
    "generate": [
        (changed("llm_generated", lambda _: "no"), "answers", "llm_generated"),
        (changed("contexts", bare("x_own_field")), "keeps-passages", "contexts.0.x_own_field"),
        (changed("contexts", each(metadata={})), "keeps-passages", "contexts.0.metadata"),
        (changed("contexts", first_only), "keeps-passages", "contexts"),
        (changed("citations", each(marker=2)), "cites-given-passages", "citations.0.marker"),
        (changed("citations", each(quote="made up")), "quotes", "citations.0.quote"),
        (changed("answerable", lambda _: True), "no-results", "answerable"),
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "check", "field"),
    [
        pytest.param(name, change, check, field, id=f"{name}-{check}-{field}")
        for name, cases in BROKEN.items()
        for change, check, field in cases
    ],
)
def test_one_broken_promise_fails_one_check(
    name: str, change: Callable[[dict[str, Any]], dict[str, Any]], check: str, field: str
) -> None:
    """Exactly the check meant for it fails, and names the field."""
    assert failed(name, step_of(lambda request: change(GOOD[name](request)))) == [(check, field)]


def test_a_retriever_that_ignores_limits_is_told() -> None:
    """More passages than top_k, and passages below min_score, are a finding each."""
    loose = step_of(lambda request: retrieve({**request, "top_k": 9}) | {"top_k": request["top_k"]})
    lenient = step_of(lambda request: {**request, **retrieve({**request, "min_score": 0})})

    assert failed("retrieve", loose) == [("top-k", "results")]
    assert failed("retrieve", lenient) == [("no-results", "results")]


@pytest.mark.parametrize("name", ["retrieve", "augment"])
def test_an_error_instead_of_an_empty_response_is_told(name: str) -> None:
    """Nothing found is no failure of a step."""

    def body(request: dict[str, Any]) -> dict[str, Any]:
        nothing = request.get("min_score") if name == "retrieve" else not request["results"]
        return failing("no_context", request) if nothing else GOOD[name](request)

    assert failed(name, step_of(body)) == [("no-results", "error")]


@pytest.mark.parametrize("name", GOOD)
def test_wrong_answers_to_bad_requests_are_told(name: str) -> None:
    """An answer to a blank query, a wrong code, half an envelope, and another's request id."""
    body = GOOD[name]

    def half(request: dict[str, Any]) -> dict[str, Any]:
        error = failing("invalid_request", request)["error"]
        return {"error": {key: value for key, value in error.items() if key != "retryable"}}

    wrong_code = json.dumps(failing("internal_error", {}))
    assert failed(name, step_of(body, blank=body)) == [("blank-query", "error")]
    assert failed(name, step_of(body, invalid=wrong_code)) == [("invalid-json", "error.code")]
    assert failed(name, step_of(body, blank=half)) == [("error-envelope", "error.retryable")]
    assert failed(name, step_of(body, blank=lambda _: failing("invalid_request", {}))) == [
        ("request-id", "error.request_id")
    ]


def test_a_step_that_raises_fails_and_does_not_end_the_checks() -> None:
    """The class of the exception is told, what it says is not."""

    async def step(_: str) -> str:
        raise RuntimeError("secret")

    report = asyncio.run(check_step("augment", step))

    assert not any(check.passed for check in report.checks)
    assert "raised RuntimeError" in report.checks[0].got
    assert "secret" not in report.model_dump_json()


def test_a_step_that_gives_no_json_fails_every_check() -> None:
    """HTML of a proxy is no response and no envelope."""

    async def step(_: str) -> str:
        return "<html>"

    report = asyncio.run(check_step("generate", step))

    assert not any(check.passed for check in report.checks)
    assert "not valid JSON" in report.checks[0].got


def test_an_unknown_step_is_refused() -> None:
    """The names of the steps are told."""
    with pytest.raises(StepError, match="choose from retrieve, rerank, augment, generate"):
        asyncio.run(check_step("translate", step_of(retrieve)))


def test_the_sample_of_retrieve_asks_what_it_is_told() -> None:
    """A foreign retriever has a collection and passages of its own."""
    normal = json.loads(samples("retrieve", collection="mine", query="Who?")["normal"])

    assert (normal["collection"], normal["query"]) == ("mine", "Who?")


def test_our_own_steps_conform(tmp_path: Path) -> None:
    """retrieve over two documents, augment and the extractive generate keep every promise."""
    with open_local(home=tmp_path / "home") as pipeline:
        pipeline.retriever.ingest([write_documents(tmp_path)])
        reports = [
            pipeline.portal.call(check_step, name, step) for name, step in pipeline.steps.items()
        ]

    broken = [check for report in reports for check in report.checks if not check.passed]
    assert broken == []
    assert [len(report.checks) for report in reports] == [12, 11, 9]


# -- over HTTP ----------------------------------------------------------------------------------


@contextmanager
def serving(step: Step) -> Iterator[str]:
    """Serve a step as POST /run and yield its URL."""

    class Exchange(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/run"
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            data = asyncio.run(step(body)).encode()
            self.send_response(422 if data.startswith(b'{"error"') else 200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with ExitStack() as stack:
        stack.callback(server.server_close)
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_address[1]}"


def test_the_command_checks_a_server(home: Path) -> None:
    """Exit code 0 for a step that conforms, 1 for one that does not, with field and reason."""
    with serving(step_of(augment)) as url:
        good = run("conformance", "augment", "--url", url, home=home)
        as_json = run("conformance", "augment", "--url", url, "--json", home=home)
        module = run_module("conformance", "augment", "--url", url, home=home)
    with serving(step_of(lambda request: dropped("context_usage")(augment(request)))) as url:
        bad = run("conformance", "augment", "--url", url, home=home)

    assert (good.code, good.err) == (0, "")
    assert good.out.splitlines()[0] == "passed  answers"
    assert good.out.splitlines()[-1] == "augment: 11 checks, 0 failed"
    assert ConformanceReport.model_validate(as_json.json).passed
    assert (module.code, module.json) == (0, as_json.json)
    assert bad.code == 1
    assert bad.out.startswith(
        "failed  answers\n"
        "        expected a response of contract/augment.response.schema.json\n"
        "        got in context_usage: module_bad_output: "
    )


@pytest.mark.parametrize("name", GOOD)
def test_a_server_that_is_not_there_is_one_error(home: Path, name: str) -> None:
    """No list of failed checks, but the address that does not answer."""
    with socket.socket() as unheard:  # bound, so that nobody else listens there
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        ran = run("conformance", name, "--url", url, home=home)
        module = run_module("conformance", name, "--url", url, home=home)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: nothing answers at {url}")
    assert module.code == 1
    assert module.json["error"]["step"] == name


def test_what_is_no_url_is_refused() -> None:
    """A name without a scheme is told, with an example."""
    with pytest.raises(StepError, match="'localhost:8080' is no URL"):
        asyncio.run(check_url("augment", "localhost:8080"))
