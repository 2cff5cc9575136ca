"""A step's server and browsers: pages of other sites, and names that are not this machine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from rag_kit.handler import Handler
from rag_kit.server import application


class Text(BaseModel):
    """A request and its response."""

    text: str


@contextmanager
def open_echo() -> Iterator[Handler]:
    """A step that returns its request."""
    yield Handler("echo", Text, lambda request: request)


def status(headers: dict[str, str], *, local: bool = True, method: str = "POST") -> int:
    path = "/run" if method == "POST" else "/healthz"
    app = application(open_echo, step="echo", local=local)
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        while client.get("/readyz").status_code != 200:
            continue
        sent = {"json": {"text": "a"}} if method == "POST" else {}
        answer = client.request(method, path, headers=headers, **sent)  # type: ignore[arg-type]
    assert answer.status_code == 200 or answer.json()["error"]["code"] == "forbidden"
    return answer.status_code


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_page_of_another_site_cannot_ask_a_step(
    headers: dict[str, str], expected: int, local: bool
) -> None:
    assert status(headers, local=local) == expected


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8080"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_server_of_this_machine_alone_answers_to_its_names_alone(host: str, method: str) -> None:
    """One that other machines reach has names that only its operator knows."""
    assert status({"host": host}, method=method) == 403
    assert status({"host": host}, method=method, local=False) == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:8080", "LOCALHOST:1"])
def test_the_names_of_this_machine_are_answered(host: str) -> None:
    assert status({"host": host}) == 200
