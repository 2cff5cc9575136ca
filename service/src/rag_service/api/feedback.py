"""Ratings of answers: `POST` and `GET /v1/feedback`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from rag_pipeline.quality.feedback import FOLDER, Feedback, append, read_tenant

from ..http.openapi import FAILURES, failures
from ..http.requests import NOT_BLANK, takes
from .dependencies import Caller, Home, ServiceDep, authorized, json_body, sees_all

LINES = "application/jsonl"

router = APIRouter(
    tags=["feedback"],
    responses={**FAILURES, **failures({507: "The disk is full."})},
)


class Noted(BaseModel):
    """A rating that was stored."""

    status: Literal["noted"]
    id: str = Field(description="Id of the rated answer, as it was sent.")


Body = Annotated[Feedback, Depends(json_body(Feedback))]


@router.post(
    "/v1/feedback",
    summary="Rate an answer",
    openapi_extra=takes(Feedback, query=NOT_BLANK),
)
async def rate(service: ServiceDep, caller: Caller, home: Home, body: Body) -> Noted:
    """Store whether an answer was right, and what would have been; with where it came from.

    Send `id`, `query`, `collection`, `answer`, `answerable`, `citations` and `provenance` as the answer
    had them. A later rating with the same `id` replaces an earlier one. `rag eval --from-feedback`
    measures with them.
    """
    given = body.collection if "collection" in body.model_fields_set else None
    collection = authorized(service, caller, given)
    rated = body.model_copy(update={"collection": collection})
    await asyncio.to_thread(append, home / FOLDER, caller.principal.name, rated)
    return Noted(status="noted", id=body.id)


@router.get(
    "/v1/feedback",
    summary="Export the ratings of a key",
    response_class=Response,
    responses={200: {"content": {LINES: {"schema": {"type": "string"}}}}},
)
async def export(caller: Caller, home: Home) -> Response:
    """Return the ratings that came with this key, as JSON Lines: oldest first, of each answer the last."""
    sees_all(caller)
    found = await asyncio.to_thread(read_tenant, home / FOLDER, caller.principal.name)
    lines = [
        one.model_dump_json() for one in found.ratings if caller.principal.may_use(one.collection)
    ]
    return Response("".join(f"{line}\n" for line in lines), media_type=LINES)
