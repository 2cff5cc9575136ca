"""Dify's External Knowledge API: `POST /retrieval`; a knowledge base is a collection.

Errors on this path have `error_code` and `error_msg` beside the envelope, see `errors.refuse`.
"""

from __future__ import annotations

from contextlib import suppress
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

TEXT = {"is": "$eq", "is not": "$ne"}
LISTS = {"in": "$in", "not in": "$nin"}
NUMBERS = {
    "=": "$eq",
    "≠": "$ne",
    ">": "$gt",
    "<": "$lt",
    "≥": "$gte",
    "≤": "$lte",
    "before": "$lt",
    "after": "$gt",
}
NEGATIVE = ("$ne", "$nin")
UNSUPPORTED = ("contains", "not contains", "start with", "end with", "empty", "not empty")


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
    comparison_operator: str = Field(description="is, is not, in, not in, =, ≠, >, <, ≥, ≤, …")
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
    operator, value = _comparison(check, where)
    checks = [{name: {operator: value}} for name in names]
    if len(checks) == 1:
        return checks[0]
    return {"$and" if operator in NEGATIVE else "$or": checks}


def _comparison(check: MetadataCheck, where: str) -> tuple[str, Any]:
    """Return the operator and value of our filters; text is compared as text, numbers as numbers."""
    operator, value = check.comparison_operator, check.value
    if operator in TEXT:
        if isinstance(value, list) or value is None:
            raise _wrong(where, f"{operator!r} takes one value")
        return TEXT[operator], value
    if operator in LISTS:
        values = value.split(",") if isinstance(value, str) else value
        if not isinstance(values, list) or not values:
            raise _wrong(where, f"{operator!r} takes a list")
        return LISTS[operator], [one.strip() if isinstance(one, str) else one for one in values]
    if operator in NUMBERS:
        return NUMBERS[operator], _number(value, operator, where)
    known = ", ".join([*TEXT, *LISTS, *NUMBERS])
    reason = "cannot be searched here" if operator in UNSUPPORTED else "is not known"
    text = f"the comparison {operator[:40]!r} {reason}; use one of: {known}"
    raise _wrong(where, text, "comparison_operator")


def _number(value: object, operator: str, where: str) -> int | float:
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    hint = "; a date is seconds since 1970" if operator in ("before", "after") else ""
    raise _wrong(where, f"{operator!r} takes a number{hint}")


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
