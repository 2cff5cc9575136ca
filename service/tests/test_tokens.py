"""Access tokens of an OpenID Connect provider: which are valid, whose they are, what a flood costs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from oidc_double import DISCOVERY, Provider, provider
from pydantic import ValidationError
from service_kit import QUESTION, copy_home, serving, settings

from rag_kit.errors import StepError
from rag_service.http.context import Principal
from rag_service.http.tokens import FRESH_S, RETRY_S, Tokens, is_token


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as given:
        yield given


@pytest.fixture
def idp(served: Provider) -> Iterator[Provider]:
    """The provider with its own keys, asked nothing yet."""
    keys, documents = list(served.keys), dict(served.documents)
    served.asked.clear()
    yield served
    served.keys, served.documents, served.status = keys, documents, 200


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens(idp: Provider, clock: Clock | None = None, **more: Any) -> Tokens:
    return Tokens(settings(oidc_issuer=idp.issuer, **more), clock=clock or Clock())


def find(of: Tokens, token: str) -> Principal:
    asyncio.run(of.prepare(token))
    return of.find(token)


def test_a_valid_token_is_its_user_with_their_groups(idp: Provider) -> None:
    """RSA and elliptic curves; who is in no writing group reads only."""
    of = tokens(idp, oidc_write_groups=("editors",))

    reader = find(of, idp.token(groups=["hr", "board", 7]))
    writer = find(of, idp.token(key=idp.ec, algorithm="ES256", kid="two", groups="editors"))
    nobody = find(of, idp.token(sub="bob"))

    assert reader == Principal("oidc:ann", groups=frozenset({"hr", "board"}), write=False)
    assert writer == Principal("oidc:ann", groups=frozenset({"editors"}), write=True)
    assert nobody == Principal("oidc:bob", groups=frozenset(), write=False)


@pytest.mark.parametrize(
    ("claim", "value", "groups"),
    [
        ("roles", {"roles": ["a"], "groups": ["b"]}, {"a"}),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, {"a"}),
        ("realm_access.roles", {"realm_access": ["a"]}, set()),
        ("groups", {"groups": {"a": 1}}, set()),
    ],
)
def test_the_claim_with_the_groups_is_a_setting(
    claim: str, value: dict[str, Any], groups: set[str], idp: Provider
) -> None:
    assert find(tokens(idp, oidc_groups_claim=claim), idp.token(**value)).groups == groups


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def changed(idp: Provider) -> str:
    """A signed token with another user put in."""
    head, body, signature = idp.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{b64(json.dumps({**claims, 'sub': 'eve'}).encode())}.{signature}"


def hmac_by_public_key(idp: Provider) -> str:
    """A token signed with what everybody knows; PyJWT refuses to make one."""
    head = b64(json.dumps({"alg": "HS256", "kid": "one", "typ": "JWT"}).encode())
    signed = f"{head}.{idp.token().split('.')[1]}"
    public = idp.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{signed}.{b64(hmac.digest(public, signed.encode(), 'sha256'))}"


FORGED: dict[str, Callable[[Provider], str]] = {
    "expired": lambda idp: idp.token(exp=time.time() - 60),
    "not yet": lambda idp: idp.token(nbf=time.time() + 600),
    "another issuer": lambda idp: idp.token(iss="https://evil.example"),
    "another audience": lambda idp: idp.token(aud="mail"),
    "no expiry": lambda idp: idp.token(exp=None),
    "no user": lambda idp: idp.token(sub=None),
    "another key": lambda idp: idp.token(key=rsa.generate_private_key(65537, 2048)),
    "key of another id": lambda idp: idp.token(kid="two"),
    "changed": changed,
    "unsigned": lambda idp: jwt.encode({"iss": idp.issuer, "aud": "rag"}, "", algorithm="none"),
    "hmac by the public key": hmac_by_public_key,
    "garbage": lambda idp: "ey.ey.ey",
}


@pytest.mark.parametrize("wrong", FORGED)
def test_threat_unauthenticated_use_by_a_token_that_is_not_valid(wrong: str, idp: Provider) -> None:
    """401, without the token in the message."""
    of, token = tokens(idp), FORGED[wrong](idp)
    assert is_token(token)

    with pytest.raises(StepError) as caught:
        find(of, token)

    assert caught.value.code == "unauthenticated"
    assert token not in caught.value.message


def test_threat_jwks_flood_asks_the_provider_once(idp: Provider) -> None:
    """Made-up key ids; valid tokens are verified all the while, and once each."""
    clock = Clock()
    of = tokens(idp, clock)
    good = idp.token()
    find(of, good)
    assert idp.asked == [DISCOVERY, "/keys"]
    for at in range(100):
        with pytest.raises(StepError, match="no key with its key id"):
            find(of, idp.token(kid=f"made-up-{at}"))
        assert find(of, good).name == "oidc:ann"
    assert idp.asked == [DISCOVERY, "/keys"]

    clock.now += RETRY_S
    for at in range(100):
        with pytest.raises(StepError):
            find(of, idp.token(kid=f"made-up-{at}"))

    assert idp.asked == [DISCOVERY, "/keys"] * 2


def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(idp: Provider) -> None:
    """Within half a minute of its first token, or an hour; the same for a token seen before."""
    clock = Clock()
    of = tokens(idp, clock)
    old = idp.token()
    find(of, old)
    idp.keys = [idp.keys[1] | {"kid": "three"}]

    clock.now += RETRY_S
    new = idp.token(key=idp.ec, algorithm="ES256", kid="three")
    assert find(of, new).name == "oidc:ann"
    with pytest.raises(StepError, match="no key with its key id"):
        find(of, old)

    idp.keys = [idp.keys[0] | {"kid": "four"}]
    clock.now += FRESH_S + 1
    find(of, idp.token(key=idp.ec, algorithm="ES256", kid=None))
    with pytest.raises(StepError):
        find(of, new)


def test_fault_identity_provider_down(idp: Provider) -> None:
    """Without keys yet: 503, to be tried again; with keys: they go on being used."""
    clock = Clock()
    of = tokens(idp, clock)
    idp.status = 500
    with pytest.raises(StepError, match=r"cannot be verified now: http://127.*500") as caught:
        find(of, idp.token())
    assert caught.value.code == "not_ready"

    idp.status = 200
    clock.now += RETRY_S
    assert find(of, idp.token()).name == "oidc:ann"
    idp.status = 500
    clock.now += FRESH_S + 1
    assert find(of, idp.token(sub="bob")).name == "oidc:bob"


@pytest.mark.parametrize(
    ("path", "document", "says"),
    [
        (DISCOVERY, {"issuer": "https://evil.example"}, "names the issuer 'https://evil.example'"),
        (DISCOVERY, ["x"], "no JSON object"),
        (DISCOVERY, None, "no JSON object"),
        (DISCOVERY, {"pad": "x" * (1 << 20)}, "more than 1048576 bytes"),
    ],
)
def test_fault_identity_provider_answers_badly(
    path: str, document: Any, says: str, idp: Provider
) -> None:
    idp.documents[path] = document
    with pytest.raises(StepError, match=says):
        find(tokens(idp), idp.token())


@pytest.mark.parametrize("address", ["http://keys.example/", "file:///etc/passwd", 7, None])
def test_the_keys_must_be_at_an_https_address(address: Any, idp: Provider) -> None:
    idp.documents[DISCOVERY] = {"issuer": idp.issuer, "jwks_uri": address}
    with pytest.raises(StepError, match="not at an https address"):
        find(tokens(idp), idp.token())
    with pytest.raises(ValidationError, match="use https"):
        settings(oidc_issuer="http://login.example")


def test_a_service_with_a_provider_answers_its_users(
    idp: Provider, filled: Path, tmp_path: Path
) -> None:
    """A token in place of a key, on every interface; without it, the service wants one."""

    home = copy_home(filled, tmp_path / "home")
    given = settings(oidc_issuer=idp.issuer, oidc_write_groups=("editors",))
    body: dict[str, Any] = {"query": QUESTION}
    secret = {"document_id": "s", "text": "The vault opens at nine.", "metadata": {}}
    secret["metadata"] = {"allowed_groups": ["board"]}
    with (
        serving(given, home=home) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):

        def ask(path: str, json: Any, token: str) -> httpx.Response:
            return client.post(path, json=json, headers={"authorization": f"Bearer {token}"})

        reader, editor = idp.token(groups=["hr"]), idp.token(groups=["editors", "board"])
        assert client.post("/rag_modules", json=body).status_code == 401
        assert ask("/rag_modules", body, idp.token(aud="mail")).status_code == 401
        assert ask("/rag_modules", body, reader).json()["citations"]
        assert ask("/v1/documents", {"documents": [secret]}, reader).status_code == 403
        assert ask("/v1/documents", {"documents": [secret]}, editor).json()["added"] == ["s"]
        vault = {"query": "When does the vault open?"}
        assert "opens at nine" not in ask("/v1/search", vault, reader).text
        assert "opens at nine" in ask("/v1/search", vault, editor).text
        assert client.get("/v1/info").json()["authentication"] is True
