"""Failures as responses: the envelope, its status and its headers."""

from __future__ import annotations

import logging
import math
import re

import pydantic_core
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import InitErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from rag_kit.errors import StepError, envelope
from rag_kit.request import explain

from .context import Context, context_of, path_of

LOG = logging.getLogger(__name__)
JSON = "application/json"
LOCAL_PATH = re.compile(r"(?:^|[\s'\"(])/[\w.-]+/")
# for callers of an error about files of this machine, which they cannot see; the log has its text
FOR_CALLERS = {
    "storage_full": "the service has no space left for documents; what is stored is still "
    "answered, and its operator can make room",
    "store_locked": "another process has the documents of the service open; its operator has to "
    "end that one",
    "store_corrupt": "the store of this collection is damaged; the operator of the service finds "
    "in its log what is wrong",
    "not_ready": "the service is starting",
    "misconfigured": "the service is not set up right; its operator finds in its log what is wrong",
}
DIFY = "/retrieval"  # Dify shows error_msg, and knows 403 as the only status of a wrong key
DIFY_CODES = {"collection_not_found": 2001}  # besides 1001 and 1002; others are the status


def for_callers(error: StepError) -> StepError:
    """Return an error as clients may read it: without the paths of this machine, which are logged."""
    if error.code not in FOR_CALLERS or not LOCAL_PATH.search(error.message):
        return error
    if error.code != "not_ready":  # the log has each step of a start already
        LOG.warning("%s: %s", error.code, error.message)
    text = FOR_CALLERS[error.code]
    return StepError(
        error.code, text, param=error.param, step=error.step, retry_after=error.retry_after
    )


def to_body(error: StepError, context: Context) -> bytes:
    """Return the envelope of an error as JSON; notes code and step for log and metrics."""
    error = for_callers(error)
    context.code, context.step = error.code, error.step or ""
    body = envelope(error, step="service", request_id=context.request_id)
    body["error"]["step"] = error.step
    return pydantic_core.to_json(body)


def headers_of(error: StepError) -> dict[str, str]:
    """Return the headers an error adds: Retry-After, WWW-Authenticate."""
    if error.status in (429, 503):
        return {"retry-after": str(max(1, math.ceil(error.retry_after or 1)))}
    return {"www-authenticate": "Bearer"} if error.status == 401 else {}


def refuse(request: Request, error: StepError) -> Response:
    """Return the response for an error."""
    body, status = to_body(error, context_of(request.scope)), error.status
    if path_of(request.scope) == DIFY:
        number = DIFY_CODES.get(error.code, status)
        if status == 401:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            number, status = 1002 if scheme.lower() == "bearer" and key.strip() else 1001, 403
        data = pydantic_core.from_json(body)
        fields = {"error_code": number, "error_msg": data["error"]["message"]}
        body = pydantic_core.to_json({**data, **fields})
    return Response(body, status, headers_of(error), media_type=JSON)


async def on_step_error(request: Request, error: Exception) -> Response:
    """Answer an error of a step or of the service."""
    assert isinstance(error, StepError)
    return refuse(request, error)


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Answer a parameter that is wrong as a field of a body that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    details = InitErrorDetails(
        type=first["type"],
        loc=first["loc"][1:],  # without "query", "path" or "header"
        input=first["input"],
        ctx=first.get("ctx", {}),
    )
    return refuse(request, explain(ValidationError.from_exception_data("request", [details])))


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes of a path; the router names those of the first one only."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return methods | ({"HEAD"} if "GET" in methods else set())


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an error of the router: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    path = path_of(request.scope)
    if error.status_code == 405:
        text = f"{path} does not take {request.method}"
        response = refuse(request, StepError("method_not_allowed", text))
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
        return response
    if error.status_code == 404:
        text = f"there is no {path[:200]}; GET /openapi.json lists what there is"
        return refuse(request, StepError("not_found", text))
    return refuse(request, StepError("invalid_request", str(error.detail)))
