"""OpenAPI: failures, event streams, security."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from rag_kit.errors import ErrorEnvelope
from rag_kit.handler import EVENTS

Responses = dict[int | str, dict[str, Any]]
RETRY = {"Retry-After": {"description": "Seconds to wait.", "required": True}}
BEARER = {"WWW-Authenticate": {"description": "Bearer.", "required": True}}
EVENT = {
    "type": "object",
    "description": "One of the events.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
EVENT_STREAM = {"content": {EVENTS: {"schema": EVENT}}}


def failures(texts: dict[int, str], model: type[BaseModel] = ErrorEnvelope) -> Responses:
    """Return the responses of failures, by status.

    Args:
        texts: Description of each status.
        model: Their body.
    """
    headers = {401: BEARER, 429: RETRY, 503: RETRY}
    return {
        status: {
            "model": model,
            "description": text,
            "headers": {
                name: {**header, "schema": {"type": "string"}}
                for name, header in headers.get(status, {}).items()
            },
        }
        for status, text in texts.items()
    }


USUAL = {
    401: "No valid key.",
    403: "The key may not do this; a page of another site sent it; or without keys, a foreign Host.",
    404: "No such collection for this key.",
    413: "Too large.",
    415: "Not JSON.",
    422: "The request is wrong; `param` and `message` say where and why.",
    429: "Over the rate; see Retry-After.",
    500: "Ours, or the installation's.",
    501: "Not with this runner.",
    502: "A step answered badly.",
    503: "Not ready, overloaded or a dependency is down; see Retry-After.",
    504: "The time was over.",
}
"""Failures of nearly every route."""
FAILURES = failures(USUAL)


def describe(app: FastAPI, opened: tuple[str, ...], *, keyed: bool) -> None:
    """Have the application's OpenAPI document require a key where one is needed.

    Args:
        app: The application.
        opened: Paths that need none.
        keyed: Whether keys are configured.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            if keyed:
                made["components"]["securitySchemes"] = {
                    "key": {"type": "http", "scheme": "bearer"}
                }
                for path, methods in made["paths"].items():
                    for operation in methods.values():
                        operation["security"] = [] if path in opened else [{"key": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
