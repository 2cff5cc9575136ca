"""Keys: who gets in, to which collections, to change what; and when they must be set."""

from __future__ import annotations

import hmac
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from service_kit import QUESTION, copy_home, serving, settings

from rag_kit.errors import StepError
from rag_kit.origins import is_loopback
from rag_service.dagger_engine.options import options_of
from rag_service.http.middleware import Keyring
from rag_service.settings import ServiceSettings

KEYS = [
    {"name": "all", "key": "key-of-all-0123456789", "write": True},
    {"name": "hr", "key": "key-of-hr-01234567890", "collections": ["hr*"]},
    {"name": "slow", "key": "key-of-slow-012345678", "per_minute": 6},
]


def given(**more: Any) -> ServiceSettings:
    return settings(api_keys=SecretStr(json.dumps(KEYS)), **more)


@pytest.fixture(scope="module")
def keyed(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with keys."""

    home = copy_home(filled, tmp_path_factory.mktemp("keyed") / "home")
    with (
        serving(given(), home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


def bearer(name: str) -> dict[str, str]:
    key = next(str(key["key"]) for key in KEYS if key["name"] == name)
    return {"authorization": f"Bearer {key}"}


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


OPEN = {"/", "/healthz", "/readyz", "/v1/info", "/page/{path}", "/favicon.ico", "/eval"}
OPEN.add("/.well-known/oauth-protected-resource")


def test_threat_unauthenticated_use_every_route_wants_a_key_but_the_few_that_are_open(
    keyed: httpx.Client,
) -> None:
    """Each path of the API, with any method, is 401 without one."""
    paths = keyed.get("/openapi.json", headers=bearer("all")).json()["paths"]
    asked = {
        (method, path): keyed.request(method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in paths.items()
        for method in methods
        if path not in OPEN
    }

    assert {("post", "/rag_modules"), ("get", "/metrics")} <= asked.keys()
    dify = ("post", "/retrieval")  # Dify reads 403 as a key it should ask its user about
    expected = dict.fromkeys(asked, 401) | {dify: 403}
    assert {key: answer.status_code for key, answer in asked.items()} == expected


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/v1/info"])
def test_health_and_page_are_open(path: str, keyed: httpx.Client) -> None:
    """A probe and a browser need no key to be told that one is needed."""
    assert keyed.get(path).status_code == 200


FORMS = (
    *("/healthz/../rag_modules", "//rag_modules", "/page/../v1/search", "/%2e%2e/rag_modules"),
    *("/page/%2e%2e/v1/search", "/rag_modules/", "/RAG_MODULES", "/healthz%2f..%2frag_modules"),
    *("/rag_modules%00", "/rag_modules%2f", "/rag_modules.", "/rag_modules;x", "/rag%5fmodules"),
    *(
        "/./rag_modules",
        "/readyz//rag_modules",
        "/%72ag_modules",
        "/v1/info/../search",
        "/v1//search",
    ),
    *(
        "/page/..%2fv1%2fsearch",
        "/page/..;/v1/search",
        "/healthz?/../rag_modules",
        "/v1/search?/page/",
    ),
    *(
        "/page%2f..%2fv1/search",
        "/favicon.ico/../metrics",
        "/healthz%3f/rag_modules",
        "/\\rag_modules",
    ),
    *("/v1/documents/../../healthz", "/page/%252e%252e/metrics", "/metrics/", "/METRICS", "/docs/"),
)


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND"])
def test_threat_unauthenticated_use_by_no_form_of_a_path(method: str, keyed: httpx.Client) -> None:
    """Whatever the router makes of a path, it is no answer; with the key some of them are."""
    for path in FORMS:
        status, text = raw_request(keyed, method, path)

        alive = {"GET": '{"status":"ok"}', "HEAD": ""}.get(method)
        opened = path.startswith("/healthz?") and text == alive
        assert opened or status in (307, 400, 401, 404, 405), (path, status, text)
        assert not re.search("citations|rag_requests_total|results|swagger", text), path


def raw_request(client: httpx.Client, method: str, path: str) -> tuple[int, str]:
    """Send a question to a path as it is written; httpx would tidy it."""
    connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
    try:
        body = json.dumps({"query": QUESTION})
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_threat_unauthenticated_use_by_an_upgrade(keyed: httpx.Client) -> None:
    """A request to change the protocol is a request without a key."""
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    for path in ("/rag_modules", "/mcp", "/metrics"):
        assert keyed.get(path, headers=headers).status_code == 401
        h2c = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": ""}
        assert keyed.get(path, headers=h2c).status_code == 401


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer key-of-all-012345678", "Basic key-of-all-0123456789",
     "Bearer key-of-all-0123456789 x", "bearer KEY-OF-ALL-0123456789"],
)  # fmt: skip
def test_fault_bad_credential_is_refused_and_not_repeated(header: str, keyed: httpx.Client) -> None:
    """401; the message never holds what was sent."""
    response = keyed.post(
        "/rag_modules", json={"query": QUESTION}, headers={"authorization": header}
    )

    assert code(response) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "key-of" not in response.text.lower()


def test_fault_foreign_collection_looks_like_none(keyed: httpx.Client) -> None:
    """The same body for a collection that is there and one that is not."""
    bodies = []
    for name in ("default", "nothere"):
        asked = {"query": QUESTION, "collection": name, "request_id": "r"}
        for path in ("/rag_modules", "/rag_modules?stream", "/v1/search"):
            response = keyed.post(path, json=asked, headers=bearer("hr") | {"x-request-id": "same"})
            assert code(response) == (404, "collection_not_found")
            bodies.append(response.text.replace(name, "NAME"))
    own = keyed.post(
        "/rag_modules", json={"query": "How many days?", "collection": "hr"}, headers=bearer("hr")
    )

    assert len(set(bodies)) == 1
    assert own.json()["citations"]


def test_fault_quota_exceeded_by_one_key_leaves_the_others_alone(keyed: httpx.Client) -> None:
    """One key over its rate leaves the others alone."""
    statuses = {
        name: [
            keyed.post("/v1/search", json={"query": "x"}, headers=bearer(name)).status_code
            for _ in range(3)
        ]
        for name in ("slow", "all")
    }

    over = keyed.post("/v1/search", json={"query": "x"}, headers=bearer("slow"))

    assert statuses == {"slow": [200, 429, 429], "all": [200, 200, 200]}
    assert code(over) == (429, "quota_exceeded")
    assert over.json()["error"]["retryable"]
    assert 1 <= int(over.headers["retry-after"]) <= 10  # six a minute


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("{", "RAG_API_KEYS"),
        ('[{"name": "a", "key": "short"}]', "0.key"),
        ('[{"name": "a", "key": "long-enough-0123456789", "admin": true}]', "0.admin"),
        (json.dumps([KEYS[0], KEYS[0]]), "same name or key"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(keys: str, said: str) -> None:
    """The place is named, the key is not."""
    with pytest.raises(StepError) as refused:
        settings(api_keys=SecretStr(keys)).keys()

    assert refused.value.code == "misconfigured"
    assert said in refused.value.message
    assert "short" not in refused.value.message
    assert "0123456789" not in refused.value.message


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.3.2.1", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.4", False), ("example.com", False),
     ("", False)],
)  # fmt: skip
def test_threat_unauthenticated_use_beyond_this_machine_only_with_keys(
    host: str, own: bool, tmp_path: Path
) -> None:
    """Every address that others could reach needs keys."""
    assert is_loopback(host) is own
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(KEYS))
    settings(host=host, api_keys_file=file).check_exposure()
    if own:
        settings(host=host).check_exposure()
    else:
        with pytest.raises(StepError, match="RAG_API_KEYS_FILE") as refused:
            settings(host=host).check_exposure()
        assert refused.value.code == "misconfigured"  # `rag serve` ends with 78, see test_serve


def test_fault_bad_credential_before_anything_of_the_body_is_read(keyed: httpx.Client) -> None:
    """401 comes while the body is still to be sent."""
    host, port = keyed.base_url.host, keyed.base_url.port
    head = "POST /rag_modules HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{"
    with socket.create_connection((host, port or 80), timeout=30) as raw:
        raw.sendall(head.encode())
        answer = raw.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401")


def test_keys_are_compared_by_their_digests_in_constant_time() -> None:
    """Every key is compared, with `hmac.compare_digest`, whichever matches."""
    compared: list[tuple[int, int]] = []
    right = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return right(one, other)

    ring = Keyring(given().keys())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hmac, "compare_digest", counted)
        found = ring.find(f"Bearer {KEYS[0]['key']}")
        with pytest.raises(StepError, match="not known here"):
            ring.find("Bearer x")

    assert found.name == "all"
    assert compared == [(32, 32)] * 2 * len(KEYS)


def test_without_keys_only_local_names_are_answered(service: str, home: Path) -> None:
    """A name somebody made point to this machine is refused, unless it was configured."""
    evil = {"host": "evil.example:80"}
    body = {"query": QUESTION}
    refused = httpx.post(f"{service}/v1/search", json=body, headers=evil, trust_env=False)
    page = httpx.get(service, headers=evil, trust_env=False)
    local = {"host": "localhost"}
    answered = httpx.post(f"{service}/v1/search", json=body, headers=local, trust_env=False)
    with serving(settings(allowed_hosts=("evil.example",)), home=home) as url:
        allowed = httpx.post(f"{url}/v1/search", json=body, headers=evil, trust_env=False)

    assert code(refused) == code(page) == (403, "forbidden")
    assert (answered.status_code, allowed.status_code) == (200, 200)


def test_keys_for_the_dagger_runners_can_be_files(tmp_path: Path) -> None:
    """RAG_QDRANT_API_KEY_FILE and RAG_LLM_API_KEY_FILE, without their line end; a variable wins."""
    file = tmp_path / "key"
    file.write_text("key-of-a-file\n")

    options = options_of(
        settings(qdrant_api_key_file=file, llm_api_key=SecretStr("given"), llm_api_key_file=file)
    )

    assert options.qdrant_api_key and options.qdrant_api_key.get_secret_value() == "key-of-a-file"
    assert options.llm_api_key and options.llm_api_key.get_secret_value() == "given"
    assert options_of(settings()).qdrant_api_key is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_file_that_holds_no_key_is_refused_by_its_name(
    tmp_path: Path, content: bytes | None
) -> None:
    """The error names the variable and the path, not what is in the file; alike for the service's keys."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(StepError, match=f"RAG_LLM_API_KEY_FILE={file}") as caught:
        options_of(settings(llm_api_key_file=file))
    assert caught.value.code == "misconfigured"
    with pytest.raises(StepError, match=f"RAG_API_KEYS_FILE={file}"):
        settings(api_keys_file=file).keys()
