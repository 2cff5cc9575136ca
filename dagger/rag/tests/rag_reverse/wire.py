"""Opens the double; `steps.local` finds it by its package, as it does every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from rag_kit.handler import Handler
from rag_kit.passages import Result
from rag_kit.request import check_query


class Options(BaseModel):
    """How to rank."""

    model_config = ConfigDict(extra="forbid")

    keep: int = Field(100, ge=1)


class Request(BaseModel):
    """Passages to rank; other fields are carried."""

    model_config = ConfigDict(extra="allow")

    query: str
    results: list[Result]
    reverse: Options = Field(default_factory=Options)
    warnings: list[str] = Field(default_factory=list)
    provenance: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return check_query(value)


def reverse(request: Request) -> Request:
    """Return the passages in reverse order, scored 1, 1/2, 1/3 …"""
    turned = request.results[::-1][: request.reverse.keep]
    results = [
        result.model_copy(update={"score": 1 / rank}) for rank, result in enumerate(turned, 1)
    ]
    made: dict[str, Any] = {**request.provenance, "reverse": {"version": "1.0"}}
    warnings = [*request.warnings, "reversed"]
    update = {"results": results, "provenance": made, "warnings": warnings}
    return request.model_copy(update=update)


@contextmanager
def open_step() -> Iterator[Handler]:
    """Yield the handler of the double."""
    yield Handler("reverse", Request, reverse)
