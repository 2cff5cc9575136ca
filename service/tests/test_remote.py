"""The runner `remote`: the same answers from a composite behind a URL, and its failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from service_kit import QUESTION, free_port, running, serving, settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rag_kit.errors import StepError
from rag_kit.server import application
from rag_pipeline.wire import open_step
from rag_service.app import open_runner


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs by request and by the service it came from."""
    citations = [{**one, "url": None} for one in data.get("citations", ())]
    return data | {"timings_ms": None, "id": None, "citations": citations}


def test_a_running_composite_gives_the_same_answers(service: str, home: Path) -> None:
    """Answer, stream and search equal those of the runner `local`."""
    app = application(open_step, step="rag", verbs=("run", "search"))
    with running(app, free_port(), home) as composite:
        given = settings(runner="remote", composite_url=composite)
        with serving(given) as remote, httpx.Client(trust_env=False, timeout=30) as client:
            body = {"query": QUESTION}
            for path in ("/rag_modules", "/v1/search"):
                one = client.post(f"{service}{path}", json=body).json()
                other = client.post(f"{remote}{path}", json=body).json()
                assert timeless(one) == timeless(other)
            names = {}
            for url in (service, remote):
                with client.stream("POST", f"{url}/rag_modules?stream", json=body) as response:
                    sent = list(EventSource(response).iter_sse())
                names[url] = [(event.event, event.data[:0]) for event in sent]
            missing = client.post(f"{remote}/rag_modules", json=body | {"collection": "nope"})

    assert names[service] == names[remote]
    assert missing.json()["error"]["code"] == "collection_not_found"
    assert missing.status_code == 404


def test_the_runner_remote_needs_an_address() -> None:
    """What is missing is named with its variable."""
    with pytest.raises(StepError, match="RAG_COMPOSITE_URL") as refused:
        open_runner(settings(runner="remote"))

    assert refused.value.code == "misconfigured"


BROKEN = {
    "html": (b"<html>Bad Gateway</html>", 502, "text/html", "module_bad_output", 502),
    "broken off": (
        b'event: message\ndata: {"delta":{"content":"x"}}\n\n',
        200,
        "text/event-stream",
        "llm_stream_broken",
        200,
    ),
}

EXAMPLES = Path(__file__).resolve().parents[2] / "contract/examples/rag"
EXAMPLE = json.loads((EXAMPLES / "ok-question.response.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_not_taken_for_one(name: str) -> None:
    """A proxy's page and a stream without an end are errors of ours."""
    body, status, kind, expected, answered = BROKEN[name]

    async def run(request: Request) -> Response:
        asked = json.loads(await request.body())
        if asked["request_id"] == "probe":
            return Response(json.dumps({**EXAMPLE, "id": "probe"}), media_type="application/json")
        return Response(body, status, media_type=kind)

    async def ready(_: Request) -> Response:
        return Response("{}")

    routes = [Route("/run", run, methods=["POST"]), Route("/readyz", ready)]
    with (
        running(Starlette(routes=routes), free_port()) as composite,
        serving(settings(runner="remote", composite_url=composite)) as url,
    ):
        response = httpx.post(
            f"{url}/rag_modules", json={"query": "x", "stream": True}, trust_env=False
        )

    assert response.status_code == answered
    assert f'"code":"{expected}"' in response.text
    assert "[DONE]" not in response.text
