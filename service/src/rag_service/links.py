"""Addresses of what is cited: the document's own where it has one, else its view here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request

WEB = ("http://", "https://")
METADATA = "/.well-known/oauth-protected-resource"
MAX_SPANS = 8  # marked in one view: an address has to stay short


def base_of(http: Request, public_url: str | None) -> str:
    """Return the address of the service: RAG_PUBLIC_URL, else as a request was sent."""
    return (public_url or str(http.base_url)).rstrip("/")


class Links:
    """Makes addresses that a user's browser can open.

    Args:
        base: Where browsers reach the service, e.g. `https://docs.example.com/rag`.
        views: Whether the service has the documents, and so views of them.
    """

    def __init__(self, base: str, *, views: bool = True) -> None:
        self._base, self._views = base.rstrip("/"), views

    @classmethod
    def of(cls, http: Request, public_url: str | None, *, views: bool) -> Links:
        """Return those under RAG_PUBLIC_URL, else under the address a request was sent to."""
        return cls(base_of(http, public_url), views=views)

    def cited(self, citation: Mapping[str, Any], collection: str) -> str | None:
        """Return the address of what a citation quotes; None where it has none."""
        return self._to(citation, collection, citation["spans"])

    def found(self, result: Mapping[str, Any], collection: str) -> str | None:
        """Return the address of a passage; None where it has none."""
        return self._to(result, collection, [result["span"]])

    def document(self, document_id: str, collection: str) -> str:
        """Return the address of a whole document."""
        path = quote(document_id, safe="/")
        return f"{self._base}/v1/documents/{path}/view?{urlencode({'collection': collection})}"

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
