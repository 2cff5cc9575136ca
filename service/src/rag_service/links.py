"""Addresses of what is cited: the document's own where it has one, else its view here."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request

WEB = ("http://", "https://")
METADATA = "/.well-known/oauth-protected-resource"
MAX_SPANS = 8  # marked in one view: an address has to stay short


def base_of(http: Request, public_url: str | None) -> str:
    """Return the address of the service: RAG_PUBLIC_URL, else as a request was sent."""
    return (public_url or str(http.base_url)).rstrip("/")


class Signer:
    """Signs links to documents, so that a browser opens them without a key until they end.

    A link is for one document and for whoever has it: the signature covers collection, document and
    end (HMAC-SHA256), not the place that is marked.

    Args:
        secret: Known to every replica of the service.
        seconds: How long a link lasts.
        clock: The time in seconds since 1970.
    """

    def __init__(
        self, secret: str, seconds: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret, self._seconds, self._clock = secret.encode(), seconds, clock

    def sign(self, document_id: str, collection: str) -> dict[str, str]:
        """Return the parameters that a link needs."""
        expires = str(int(self._clock() + self._seconds))
        return {"expires": expires, "signature": self._digest(document_id, collection, expires)}

    def opens(self, document_id: str, collection: str, expires: str, signature: str) -> bool:
        """Tell whether parameters of a link are ours and still valid."""
        right = self._digest(document_id, collection, expires)
        return hmac.compare_digest(right, signature) and self._clock() < int(expires)

    def _digest(self, document_id: str, collection: str, expires: str) -> str:
        text = "\0".join((collection, document_id, expires)).encode(errors="surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


class Links:
    """Makes addresses that a user's browser can open.

    Args:
        base: Where browsers reach the service, e.g. `https://docs.example.com/rag`.
        views: Whether the service has the documents, and so views of them.
        signer: Signs links to views; None: they need the key that everything needs.
    """

    def __init__(self, base: str, *, views: bool = True, signer: Signer | None = None) -> None:
        self._base, self._views, self._signer = base.rstrip("/"), views, signer

    @classmethod
    def of(
        cls, http: Request, public_url: str | None, *, views: bool, signer: Signer | None
    ) -> Links:
        """Return those under RAG_PUBLIC_URL, else under the address a request was sent to."""
        return cls(base_of(http, public_url), views=views, signer=signer)

    def cited(self, citation: Mapping[str, Any], collection: str) -> str | None:
        """Return the address of what a citation quotes; None where it has none."""
        return self._to(citation, collection, citation["spans"])

    def found(self, result: Mapping[str, Any], collection: str) -> str | None:
        """Return the address of a passage; None where it has none."""
        return self._to(result, collection, [result["span"]])

    def document(self, document_id: str, collection: str) -> str:
        """Return the address of a whole document."""
        path = quote(document_id, safe="/")
        signed = self._signer.sign(document_id, collection) if self._signer else {}
        return f"{self._base}/v1/documents/{path}/view?{urlencode({'collection': collection, **signed})}"

    def _to(
        self, place: Mapping[str, Any], collection: str, spans: Sequence[Sequence[int]]
    ) -> str | None:
        source: str = place["source"]
        if source.startswith(WEB):
            return source
        if not self._views:
            return None
        page = [("page", place["page"])] if place["page"] else []
        marked = [
            (name, at)
            for span in spans[:MAX_SPANS]
            for name, at in zip(("start", "end"), span, strict=True)
        ]
        query = urlencode([*page, *marked])
        more = f"&{query}" if query else ""
        return f"{self.document(place['document_id'], collection)}{more}#cited"
