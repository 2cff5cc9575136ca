"""Reading what a client sends: size, media type, JSON, model, in this order."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from starlette.requests import Request

from rag_pipeline.errors import ErrorEnvelope, StepError
from rag_pipeline.shapes import explain, parse

Model = TypeVar("Model", bound=BaseModel)
HOSTS = ("qdrant_host", "qdrant_url", "base_url", "api_base", "api_key", "url", "host")


async def read(request: Request, model: type[Model]) -> Model:
    """Return the body as a model.

    Raises:
        StepError: `unsupported_media_type`, `body_too_large`, `invalid_request`;
            `target_not_allowed` when it names a host, URL or key.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise StepError(
            "unsupported_media_type", f"send application/json; this is {kind[:80] or 'nothing'}"
        )
    data = parse(await request.body())
    named = next((name for name in HOSTS if name in data and name not in model.model_fields), None)
    if named is not None:
        raise StepError(
            "target_not_allowed",
            f"{named}: a request never carries a host, URL or key; the operator configures them "
            "(RAG_QDRANT_URL, RAG_LLM_BASE_URL, …), and a request may name a configured target: "
            '{"generate": {"target": "extractive"}}',
            param=named,
        )
    try:
        return model.model_validate(data, strict=True)
    except ValidationError as error:
        raise explain(error) from None


def flag(request: Request, name: str, *, default: bool) -> bool:
    """Return a parameter of the address that is true or false; its name alone means true.

    Raises:
        StepError: `invalid_request`, it is neither.
    """
    value = request.query_params.get(name)
    if value not in (None, "", "true", "false", "1", "0"):
        text = f"{name}: send true or false, but got {value[:40]!r}"
        raise StepError("invalid_request", text, param=name)
    return default if value is None else value in ("", "true", "1")


def otherwise(text: str) -> WrapValidator:
    """Return a validator that says `text` of a value that is none of a field's kinds."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(text) from None

    return WrapValidator(check)


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that `read` reads."""
    schema = model.model_json_schema(mode="validation")
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema)}},
        }
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without `$defs`: OpenAPI resolves references from its own root."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/$defs/"):
                return resolve(definitions[reference.removeprefix("#/$defs/")])
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": text}
    for status, text in {
        401: "No valid key.",
        404: "No such collection for this key.",
        413: "Too large.",
        415: "Not JSON.",
        422: "The request is wrong; `param` and `message` say where and why.",
        429: "Over the rate; see Retry-After.",
        500: "Ours, or the installation's.",
        502: "A step answered badly.",
        503: "Not ready, overloaded or a dependency is down; see Retry-After.",
        504: "The time was over.",
    }.items()
}
"""What OpenAPI says of failures."""
