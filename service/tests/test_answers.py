"""`POST /rag_modules`, `/rag` and `/v1/search`: answers, streams, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from service_kit import QUESTION, environment, serving

from rag_pipeline.steps.local import open_local
from rag_service.runners.local import LocalRunner

SECRET_HOST = "http://169.254.169.254/latest"


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs by request and by the service it came from."""
    citations = [{**one, "url": None} for one in data.get("citations", ())]
    return data | {"timings_ms": None, "id": None, "citations": citations}


def code(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Read a stream; data as JSON, the end mark as text."""
    assert response.headers["content-type"].startswith("text/event-stream")
    return [
        (event.event, json.loads(event.data) if event.data != "[DONE]" else event.data)
        for event in EventSource(response).iter_sse()
    ]


def test_the_service_answers_as_the_pipeline_does(service: str, home: Path) -> None:
    """Same answer, citations, contexts and provenance as in one process without HTTP."""
    with (
        environment({"RAG_HOME": str(home / "store"), "RAG_CHUNK_TOKENS": "64"}),
        open_local() as rag,
    ):
        expected = rag.answer({"query": QUESTION})
        found = rag.search({"query": QUESTION})
    answered = httpx.post(f"{service}/rag_modules", json={"query": QUESTION}, trust_env=False)
    searched = httpx.post(f"{service}/v1/search", json={"query": QUESTION}, trust_env=False)

    assert timeless(answered.json()) == timeless(expected)
    assert timeless(searched.json()) == timeless(found)
    assert expected["citations"]


@pytest.mark.parametrize("how", ["body", "query", "header"])
def test_a_stream_ends_with_the_same_answer(how: str, http: httpx.Client) -> None:
    """Three ways to ask for it; results, text, citations, the answer, the end mark."""
    body: dict[str, Any] = {"query": QUESTION} | ({"stream": True} if how == "body" else {})
    url = "/rag_modules?stream" if how == "query" else "/rag_modules"
    headers = {"accept": "text/event-stream"} if how == "header" else {}
    with http.stream("POST", url, json=body, headers=headers) as response:
        sent = events(response)
    answer = http.post("/rag_modules", json={"query": QUESTION}).json()
    names = [name for name, _ in sent]

    assert names[0] == "search_results"
    assert names[-2:] == ["final_answer", "message"]  # the end mark has no name of its own
    assert sent[-1][1] == "[DONE]"
    assert [data["citation"] for name, data in sent if name == "citation"] == answer["citations"]
    assert timeless(sent[-2][1]) == timeless(answer)
    text = "".join(data["delta"]["content"] for name, data in sent[:-1] if name == "message")
    assert text == answer["answer"]


def test_every_answer_has_the_requests_id(http: httpx.Client) -> None:
    """The caller's id comes back in header, body and error; a bad one is replaced."""
    mine = {"x-request-id": "mine-1"}
    good = http.post("/rag_modules", json={"query": QUESTION}, headers=mine)
    bad = http.post("/rag_modules", json={}, headers=mine)
    odd = http.post("/rag_modules", json={}, headers={"x-request-id": "a b\tc"})

    assert good.headers["x-request-id"] == good.json()["id"] == "mine-1"
    assert bad.headers["x-request-id"] == bad.json()["error"]["request_id"] == "mine-1"
    assert odd.headers["x-request-id"].startswith("req_")


JSON_TYPE = {"content-type": "application/json"}
REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str, str | None]]] = {
    "no question": ({"json": {}}, (422, "invalid_request", "query")),
    "unknown field": ({"json": {"query": "x", "topk": 3}}, (422, "invalid_request", "topk")),
    "wrong type": ({"json": {"query": "x", "top_k": "3"}}, (422, "invalid_request", "top_k")),
    "too many": ({"json": {"query": "x", "top_k": 101}}, (422, "invalid_request", "top_k")),
    "long": ({"json": {"query": "x" * 8193}}, (422, "invalid_request", "query")),
    "a host": (
        {"json": {"query": "x", "qdrant_host": SECRET_HOST}},
        (422, "target_not_allowed", "qdrant_host"),
    ),
    "a host within": (
        {"json": {"query": "x", "retrieve": {"store": [{"baseUrl": SECRET_HOST}]}}},
        (422, "target_not_allowed", "retrieve.store.baseUrl"),
    ),
    "a key": ({"json": {"query": "x", "api_key": "k"}}, (422, "target_not_allowed", "api_key")),
    "an array": ({"json": [1]}, (422, "invalid_request", None)),
    "no JSON": ({"content": b"{", "headers": JSON_TYPE}, (422, "invalid_request", None)),
    "not a number": (
        {"content": b'{"query": "x", "min_score": NaN}', "headers": JSON_TYPE},
        (422, "invalid_request", None),
    ),
    "deep": (
        {
            "content": b'{"query":"x","filters":' + b'{"a":' * 40 + b"1" + b"}" * 41,
            "headers": JSON_TYPE,
        },
        (422, "invalid_request", None),
    ),
    "a form": ({"data": {"query": "x"}}, (415, "unsupported_media_type", None)),
    "large": (
        {"content": b" " * 300_000 + b"{}", "headers": JSON_TYPE},
        (413, "body_too_large", None),
    ),
    "no such collection": (
        {"json": {"query": "x", "collection": "nope"}},
        (404, "collection_not_found", "collection"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fault_malformed_request_says_what_is_wrong(name: str, http: httpx.Client) -> None:
    """One envelope, the right status, the field at fault; never the value of a host."""
    request, expected = REFUSED[name]
    for url in ("/rag_modules", "/rag_modules?stream=true"):
        response = http.post(url, **request)

        assert code(response) == expected
        assert SECRET_HOST not in response.text


def test_fault_body_too_large_without_a_length_is_cut_off(http: httpx.Client) -> None:
    """A chunked body is counted while it is read."""
    sent = 0

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 65_536

    response = http.post("/rag_modules", content=blocks(), headers=JSON_TYPE)

    assert code(response) == (413, "body_too_large", None)


def test_fault_wrong_method_or_media_type_says_what_is_allowed(http: httpx.Client) -> None:
    """405 lists all the methods of a path; anything but JSON is 415; both are envelopes, as is 404."""
    missing, wrong = http.get("/nope"), http.get("/rag_modules")
    several = http.request("PATCH", "/v1/documents")

    assert code(missing) == (404, "not_found", None)
    assert code(wrong) == code(several) == (405, "method_not_allowed", None)
    assert wrong.headers["allow"] == "POST"
    assert several.headers["allow"] == "GET, HEAD, POST"
    for path in (
        "/rag_modules",
        "/v1/search",
        "/v1/chat/completions",
        "/retrieval",
        "/v1/documents",
    ):
        for kind in ("text/plain", "application/xml", "application/x-www-form-urlencoded", "x"):
            headers = {"content-type": kind}
            refused = http.post(path, content=b'{"query": "x"}', headers=headers)
            assert code(refused) == (415, "unsupported_media_type", None)


def test_the_container_pipeline_needs_an_engine(http: httpx.Client) -> None:
    """Without one `/rag` says what to start; it does not fall back to another runner."""
    response = http.post("/rag", json={"query": QUESTION})

    assert code(response) == (503, "engine_unavailable", None)
    assert "runs without one (runner local)" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) >= 1


def test_no_request_loads_a_model_or_opens_a_collection(home: Path) -> None:
    """Everything is loaded before the service is ready; forty requests later nothing more is."""
    runner = LocalRunner()
    with serving(home=home, runner=runner) as url, httpx.Client(trust_env=False) as client:
        assert runner.pipeline is not None
        counters = runner.pipeline.retriever.counters
        before = (counters.model_loads, counters.store_opens)
        queries = counters.queries_embedded
        for number in range(20):
            body = {"query": f"{QUESTION} {number}", "collection": ("default", "hr")[number % 2]}
            assert client.post(f"{url}/rag_modules", json=body).status_code == 200
            assert client.post(f"{url}/v1/search", json=body).status_code == 200
        after = (counters.model_loads, counters.store_opens)

    assert before == after == (1, 2)
    assert counters.queries_embedded - queries == 40


def test_openapi_describes_every_route(http: httpx.Client) -> None:
    """Each POST route says what it takes, and every failure is the envelope."""
    paths = http.get("/openapi.json").json()["paths"]

    assert {"/rag_modules", "/rag", "/v1/search", "/healthz", "/readyz", "/metrics"} <= paths.keys()
    asked = paths["/rag_modules"]["post"]
    schema = asked["requestBody"]["content"]["application/json"]["schema"]
    assert {"query", "collection", "stream"} <= schema["properties"].keys()
    failed = asked["responses"]["422"]["content"]["application/json"]["schema"]
    assert failed == {"$ref": "#/components/schemas/ErrorEnvelope"}


def test_the_api_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    """`/docs` and what it loads come from here."""
    page = http.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert len(loaded) >= 2
    assert all(url.startswith("/") for url in loaded)
    assert {http.get(url).status_code for url in loaded} == {200}
