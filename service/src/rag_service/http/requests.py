"""Reading a request: media type, JSON, forbidden names, model, in this order."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Annotated, Any, TypeVar

from fastapi import Path
from pydantic import (
    BaseModel,
    BeforeValidator,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from starlette.requests import Request

from rag_kit.errors import StepError
from rag_kit.passages import COLLECTION
from rag_kit.request import explain, parse
from rag_pipeline.stages import STEPS

Model = TypeVar("Model", bound=BaseModel)
NOT_BLANK: dict[str, JsonValue] = {"pattern": r"\S"}  # JSON Schema of a text
MAX_DEPTH = 16  # nesting of JSON containers
FLAGS = {"1": True, "0": False, "": True}  # query parameters, besides true and false
HOST = re.compile(r"(host|hostname|url|uri|endpoint|apibase|apikey|proxy|secret|password)$")
SECRET_URI = re.compile(r"\s*(env|file|cmd|op|vault)://", re.IGNORECASE)
CollectionName = Annotated[str, Path(json_schema_extra={"pattern": COLLECTION})]
OPTIONS = tuple(f"{step}." for step in STEPS)
# Fields that hold the caller's data, with any names, and fields refused with a message of their own.
DATA = frozenset(
    {"filters", "messages", "metadata", "metadata_condition", "response_format", "provenance"}
) | {
    *("citations", "documents.metadata", "functions", "tools", "input", "text"),
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
        raise explain(error, model) from None


def refuse_hosts(data: dict[str, Any], *, known: Container[str] = ()) -> None:
    """Refuse a request that names a host, a URL or a key, at any depth of its options.

    Args:
        data: The request.
        known: Fields of the request itself, allowed whatever their names.

    Raises:
        StepError: `target_not_allowed`; the value is never repeated.
    """
    for where, value in _options(data, ""):
        name = where.rpartition(".")[2]
        squashed = re.sub(r"[^a-z]", "", name.lower())
        forbidden = HOST.search(squashed) is not None and where not in known
        option = isinstance(value, str) and where.startswith(OPTIONS)
        if forbidden or (option and SECRET_URI.match(value)):
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


def to_flag(value: object) -> object:
    """Return what a query parameter that is true or false means; its name alone means true.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, str) or value in ("true", "false"):
        return value
    if value not in FLAGS:
        raise ValueError(f"send true or false, but got {value[:40]!r}")
    return FLAGS[value]


def whole_number(least: int, most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the annotations of a query parameter that is a whole number, written in digits."""

    def check(value: object) -> object:
        if isinstance(value, str) and not (
            value.isascii() and value.isdigit() and least <= int(value[:10]) <= most
        ):
            raise ValueError(f"send a number from {least} to {most}, but got {value[:40]!r}")
        return value

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return BeforeValidator(check), WithJsonSchema(schema)


def otherwise(text: str) -> WrapValidator:
    """Return a validator with one message for a value that fits none of a field's types."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(text) from None

    return WrapValidator(check)


def takes(model: type[BaseModel], **more: dict[str, JsonValue]) -> dict[str, Any]:
    """Return the OpenAPI request body of a route that uses `read`.

    Args:
        model: The body's model.
        more: Additions to the schemas of its fields, by name.
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
