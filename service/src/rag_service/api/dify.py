"""Dify's External Knowledge API: `POST /retrieval`; a knowledge base is a collection.

Errors on this path have `error_code` and `error_msg` beside the envelope, see `errors.refuse`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rag_kit.errors import ErrorEnvelope, StepError
from rag_kit.passages import COLLECTION
from rag_kit.request import explain
from rag_pipeline.models import RagRequest

from ..http.errors import DIFY
from ..http.openapi import USUAL, failures
from ..http.requests import NOT_BLANK, otherwise, takes
from .dependencies import ServiceDep, json_body

VALUES = {"is": "$eq", "is not": "$ne"}
LISTS = {"in": "$in", "not in": "$nin"}
NUMBERS = {"=": "$eq", "≠": "$ne", ">": "$gt", "<": "$lt", "≥": "$gte", "≤": "$lte"}
PARTS = {"contains": "$contains", "start with": "$startsWith", "end with": "$endsWith"}
TIMES = {"before": "$lt", "after": "$gt"}
NO_PART = "not contains"
PRESENCE = ("empty", "not empty")
NEGATIVE = ("is not", "not in", "≠", NO_PART, "empty")
"""Of several fields, all must fulfil these."""
OPERATORS = (*VALUES, *LISTS, *NUMBERS, *PARTS, NO_PART, *TIMES, *PRESENCE)


class RetrievalSetting(BaseModel):
    """How many passages to find."""

    top_k: int | None = Field(
        None,
        json_schema_extra={"minimum": 1, "maximum": 100},
        description="How many passages at most; default 5.",
    )
    score_threshold: float | None = Field(
        None, description="Drop passages with a lower score; 0 or null: none."
    )


class MetadataCheck(BaseModel):
    """One condition on metadata."""

    name: Annotated[str | list[str], otherwise("send a field's name, or a list of them")] = Field(
        description="A field; of several, any may fulfil it."
    )
    comparison_operator: str = Field(description=", ".join(OPERATORS))
    value: Annotated[
        str | int | float | list[str | int | float] | None,
        otherwise("send a text, a number or a list of them"),
    ] = None


class MetadataCondition(BaseModel):
    """Conditions on metadata."""

    logical_operator: Literal["and", "or"] | None = Field(None, description="Default: and.")
    conditions: list[MetadataCheck] | None = Field(None, max_length=64)


class RetrievalRequest(BaseModel):
    """What Dify sends; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    knowledge_id: str = Field(description="The collection.")
    query: str = Field(description="The question.")
    retrieval_setting: RetrievalSetting = Field(default_factory=RetrievalSetting)
    metadata_condition: MetadataCondition | None = None


class Record(BaseModel):
    """A passage as Dify takes it."""

    content: str
    score: float
    title: str
    metadata: dict[str, JsonValue]


class Records(BaseModel):
    """What was found, for Dify."""

    records: list[Record]


class DifyFailure(ErrorEnvelope):
    """The envelope, with what Dify shows."""

    error_code: int
    error_msg: str


router = APIRouter(
    tags=["Dify"],
    responses=failures(
        {status: text for status, text in USUAL.items() if status != 401}, DifyFailure
    ),
)


@router.post(
    DIFY,
    summary="Find passages, for Dify",
    openapi_extra=takes(RetrievalRequest, query=NOT_BLANK, knowledge_id={"pattern": COLLECTION}),
)
async def retrieval(
    request: Request,
    service: ServiceDep,
    body: Annotated[RetrievalRequest, Depends(json_body(RetrievalRequest))],
) -> Records:
    """Find the passages of a collection that fit a question."""
    found = await service.search(request, to_question(body))
    records = [to_record(result) for result in pydantic_core.from_json(found)["results"]]
    return Records(records=records)


def to_question(body: RetrievalRequest) -> RagRequest:
    """Return Dify's request as a question to the service.

    Raises:
        StepError: `invalid_request`.
    """
    setting = body.retrieval_setting
    question: dict[str, Any] = {
        "query": body.query,
        "collection": body.knowledge_id,
        "filters": to_filters(body.metadata_condition),
        "min_score": setting.score_threshold or None,
    }
    if setting.top_k is not None:
        question["top_k"] = setting.top_k
    try:
        return RagRequest.model_validate(question, strict=True)
    except ValidationError as error:
        fault = explain(error)
        names = {"collection": "knowledge_id", "top_k": "retrieval_setting.top_k"}
        fault.param = names.get(fault.param or "", fault.param)
        raise fault from None


def to_filters(condition: MetadataCondition | None) -> dict[str, Any] | None:
    """Return Dify's conditions as a filter.

    Raises:
        StepError: `invalid_request`, there is no such comparison here.
    """
    if condition is None or not condition.conditions:
        return None
    checks = [
        _check(check, f"metadata_condition.conditions.{at}")
        for at, check in enumerate(condition.conditions)
    ]
    return {f"${condition.logical_operator or 'and'}": checks}


def _check(check: MetadataCheck, where: str) -> dict[str, Any]:
    names = [check.name] if isinstance(check.name, str) else check.name
    if not names or any(not name or name.startswith("$") for name in names):
        text = f"{where}.name: name a metadata field"
        raise StepError("invalid_request", text, param=f"{where}.name")
    checks = [_comparison(name, check, where) for name in names]
    if len(checks) == 1:
        return checks[0]
    return {"$and" if check.comparison_operator in NEGATIVE else "$or": checks}


def _comparison(name: str, check: MetadataCheck, where: str) -> dict[str, Any]:
    """Return the condition on one field; text is compared as text, numbers as numbers."""
    operator, value = check.comparison_operator, check.value
    if operator in VALUES:
        if isinstance(value, list) or value is None:
            raise _wrong(where, f"{operator!r} takes one value")
        return {name: {VALUES[operator]: value}}
    if operator in LISTS:
        return {name: {LISTS[operator]: _list(value, operator, where)}}
    if operator in NUMBERS:
        return {name: {NUMBERS[operator]: _number(value, operator, where)}}
    if operator in PARTS:
        return {name: {PARTS[operator]: _text(value, operator, where)}}
    if operator == NO_PART:
        return {name: {"$not": {PARTS["contains"]: _text(value, operator, where)}}}
    if operator in TIMES:
        return {"$or": [{name: {TIMES[operator]: one}} for one in _times(value, operator, where)]}
    if operator == "empty":
        return {"$or": [{name: {"$exists": False}}, {name: {"$in": ["", None]}}]}
    if operator == "not empty":
        return {name: {"$exists": True, "$nin": ["", None]}}
    known = ", ".join(OPERATORS)
    text = f"the comparison {operator[:40]!r} is not known; use one of: {known}"
    raise _wrong(where, text, "comparison_operator")


def _list(value: Any, operator: str, where: str) -> list[Any]:
    values = value.split(",") if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise _wrong(where, f"{operator!r} takes a list")
    return [one.strip() if isinstance(one, str) else one for one in values]


def _text(value: Any, operator: str, where: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (int, float)):
        return str(value)
    raise _wrong(where, f"{operator!r} takes a text that is not empty")


def _number(value: Any, operator: str, where: str, hint: str = "") -> int | float:
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    raise _wrong(where, f"{operator!r} takes a number{hint}")


def _times(value: Any, operator: str, where: str) -> list[int | float | str]:
    """Return a point in time as metadata may have it: seconds since 1970, and a date."""
    if isinstance(value, str) and (date := parse_iso(value)) is not None:
        return [date.timestamp(), value]
    seconds = _number(value, operator, where, ", seconds since 1970, or a date like 2024-03-15")
    try:
        return [seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")]
    except (OverflowError, ValueError, OSError):
        return [seconds]


def parse_iso(text: str) -> datetime | None:
    """Return a date and time in ISO 8601, of UTC where it names no zone; None for another text."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _wrong(where: str, text: str, field: str = "value") -> StepError:
    param = f"{where}.{field}"
    return StepError("invalid_request", f"{param}: {text}", param=param)


def to_record(result: dict[str, Any]) -> Record:
    """Return a passage as Dify's record; Dify fails on metadata that is no object."""
    places = ("document_id", "chunk_id", "source", "page", "span", "headings", "date")
    place = {name: result[name] for name in places if name in result}
    return Record(
        content=result["text"],
        score=result["score"],
        title=result["title"],
        metadata={**result["metadata"], **place},
    )
