"""Requests from pages of other sites: refused, unless `RAG_ALLOWED_ORIGINS` lists the site (CORS).

Starlette's CORSMiddleware is not used: it answers a foreign preflight with 400 and CORS headers, and
cannot add its headers to what is answered outside of it (a full queue, an unexpected error).
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rag_kit.errors import StepError
from rag_kit.origins import foreign_header, normalize

from ..settings import ServiceSettings
from .errors import refuse

SAFE = ("GET", "HEAD", "OPTIONS")  # change nothing, and other sites cannot read the response
CORS_METHODS = "GET, POST, DELETE"
CORS_EXPOSED = "Idempotency-Replayed, Retry-After, WWW-Authenticate, X-Request-Id"
CORS_MAX_AGE_S = 600


class SameOrigin:
    """Refuses requests from pages of other sites, and answers the preflights of allowed ones."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings) -> None:
        self._app, self._allowed = app, settings.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        response = self._response(scope) if scope["type"] == "http" else None
        await (response or self._app)(scope, receive, send)

    def _response(self, scope: Scope) -> Response | None:
        """Return the response to a foreign request or a preflight; None for the application's."""
        headers = Headers(scope=scope)
        preflight = is_preflight(scope["method"], headers)
        if scope["method"] in SAFE and not preflight:
            return None
        foreign = foreign_header(headers, scheme=scope["scheme"], allowed=self._allowed)
        if foreign is not None:
            text = (
                f"the request comes from a page of another site ({foreign[:200]}); the operator "
                "can allow sites in RAG_ALLOWED_ORIGINS"
            )
            return refuse(Request(scope), StepError("forbidden", text))
        shared = cors_headers(headers.get("origin", ""), self._allowed)
        if preflight and "access-control-allow-origin" in shared:
            return Response(status_code=204, headers={**shared, **preflight_headers(headers)})
        return None


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks if it may send a page's request."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def cors_headers(origin: str, allowed: Collection[str]) -> dict[str, str]:
    """Return the headers that let a page of an allowed site read a response.

    Args:
        origin: The request's Origin header; may be empty.
        allowed: Origins of other sites, normalized.
    """
    if not allowed:
        return {}
    sender = normalize(origin)
    if sender is None or sender not in allowed:
        return {"vary": "Origin"}
    return {
        "vary": "Origin",
        "access-control-allow-origin": sender,
        "access-control-expose-headers": CORS_EXPOSED,
    }


def preflight_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that let a page of an allowed site send its request.

    It may send any header: clients have many of their own, and the service ignores them.
    """
    return {
        "vary": "Origin, Access-Control-Request-Headers",
        "access-control-allow-methods": CORS_METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
        "access-control-max-age": str(CORS_MAX_AGE_S),
    }
