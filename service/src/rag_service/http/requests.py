"""Reading what a client sends: size, media type, JSON, model, in this order."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Annotated, Any, TypeVar

from fastapi import Path
from pydantic import (
    BaseModel,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from starlette.requests import Request

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION
from rag_kit.request import explain, parse

from .openapi import failures

Model = TypeVar("Model", bound=BaseModel)
SAID: dict[str, JsonValue] = {"pattern": r"\S"}  # a text that is not blank, in JSON Schema
MAX_DEPTH = 16  # nesting of JSON containers
FLAG_ALSO = ("1", "0", "")  # beside true and false
HOST = re.compile(r"(host|hostname|url|uri|endpoint|apibase|apikey|proxy|secret|password)$")
SECRET_URI = re.compile(r"\s*(env|file|cmd|op|vault)://", re.IGNORECASE)
Name = Annotated[str, Path(json_schema_extra={"pattern": COLLECTION})]  # of a collection
OPTIONS = ("retrieve.", "augment.", "generate.")
# Fields of data, where any name is the caller's own, and fields that are refused in words of their own.
DATA = frozenset({"filters", "messages", "metadata", "metadata_condition", "response_format"}) | {
    *("documents.metadata", "functions", "tools"),
}


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
    data = parse(await request.body(), depth=MAX_DEPTH)
    refuse_hosts(data, known=model.model_fields)
    try:
        return model.model_validate(data, strict=True)
    except ValidationError as error:
        raise explain(error) from None


def refuse_hosts(data: dict[str, Any], *, known: Container[str] = ()) -> None:
    """Refuse a request that names a host, a URL or a key, at any depth of its options.

    Args:
        data: The request.
        known: Fields of its own that are none, whatever they are called.

    Raises:
        StepError: `target_not_allowed`; the value is never repeated.
    """
    for where, value in _options(data, ""):
        name = where.rpartition(".")[2]
        squashed = re.sub(r"[^a-z]", "", name.lower())
        named = HOST.search(squashed) is not None and where not in known
        option = isinstance(value, str) and where.startswith(OPTIONS)
        if named or (option and SECRET_URI.match(value)):
            shown = where[:80]
            raise StepError(
                "target_not_allowed",
                f"{shown}: a request never carries a host, URL or key; the operator configures "
                "them (RAG_QDRANT_URL, RAG_LLM_BASE_URL, …), and a request may name a configured "
                'target: {"generate": {"target": "extractive"}}',
                param=shown,
            )


def _options(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each name of an object and of the objects in it, with its dotted path and value."""
    if isinstance(value, list):
        for inner in value:
            yield from _options(inner, path)
    elif isinstance(value, dict):
        for name, inner in value.items():
            where = f"{path}{name}"
            yield where, inner
            if where not in DATA:
                yield from _options(inner, f"{where}.")


def flag(request: Request, name: str, *, default: bool) -> bool:
    """Return a parameter of the address that is true or false; its name alone means true.

    Raises:
        StepError: `invalid_request`, it is neither.
    """
    value = request.query_params.get(name)
    if value not in (None, "true", "false", *FLAG_ALSO):
        text = f"{name}: send true or false, but got {value[:40]!r}"
        raise StepError("invalid_request", text, param=name)
    return default if value is None else value in ("", "true", "1")


def in_query(name: str, about: str, **schema: Any) -> dict[str, Any]:
    """Return what OpenAPI says of a parameter of the address."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def flag_query(name: str, about: str, *, default: bool) -> dict[str, Any]:
    """Return what OpenAPI says of a parameter that `flag` reads."""
    kinds = [{"type": "boolean"}, {"type": "string", "enum": list(FLAG_ALSO)}]
    return in_query(name, about, anyOf=kinds, default=default)


def otherwise(text: str) -> WrapValidator:
    """Return a validator that says `text` of a value that is none of a field's kinds."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(text) from None

    return WrapValidator(check)


def takes(model: type[BaseModel], **more: dict[str, JsonValue]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that `read` reads.

    Args:
        model: What it is read into.
        more: What to add to the schemas of its fields, by name.
    """
    schema = model.model_json_schema(mode="validation")
    for name, added in more.items():
        schema["properties"][name] |= added
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


FAILURES = failures(
    {
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
)
"""What OpenAPI says of failures."""
