"""A loopback OpenID Connect provider: its discovery document, its keys, and tokens signed with them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from http_kit import served
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

DISCOVERY = "/.well-known/openid-configuration"


class Provider:
    """What the provider says now, and what it was asked.

    Args:
        issuer: Its base URL.
    """

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.keys: list[dict[str, Any]] = [
            RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True) | {"kid": "one", "use": "sig"},
            ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True) | {"kid": "two", "use": "sig"},
        ]
        self.documents: dict[str, Any] = {
            DISCOVERY: {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        }
        self.status = 200
        self.asked: list[str] = []

    def document(self, path: str) -> Any:
        """Return what is at a path."""
        return {"keys": self.keys} if path == "/keys" else self.documents.get(path)

    def token(
        self, *, key: Any = None, algorithm: str = "RS256", kid: Any = "one", **more: Any
    ) -> str:
        """Return a token that is valid, but for what is given."""
        claims = {"iss": self.issuer, "aud": "rag", "sub": "ann", "exp": time.time() + 60, **more}
        present = {name: value for name, value in claims.items() if value is not None}
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(present, key or self.rsa, algorithm=algorithm, headers=headers)


@contextmanager
def provider() -> Iterator[Provider]:
    """Serve a provider on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.asked.append(self.path)
            body = json.dumps(given.document(self.path)).encode()
            self.send_response(given.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Write nothing."""

    with served(Handler) as url:
        given = Provider(url)
        yield given
