"""Questions and search: `POST /rag_modules`, `POST /rag`, `POST /v1/search`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from rag_kit.errors import StepError
from rag_kit.handler import EVENTS
from rag_pipeline.models import RagRequest, RagResponse, SearchResponse

from ..http.errors import JSON
from ..http.openapi import EVENT_STREAM, FAILURES
from ..http.requests import NOT_BLANK, takes
from ..runners.base import Runner
from ..service import Service
from .dependencies import Flag, ServiceDep, json_body
from .sse import streamed

router = APIRouter(tags=["questions"], responses=FAILURES)


class AskRequest(RagRequest):
    """A question, and whether its answer is wanted piece by piece."""

    stream: bool = Field(
        False,
        description="Answer as server-sent events: search_results, message, citation, "
        "final_answer, error. The same as `?stream=true` or `Accept: text/event-stream`.",
    )


AskBody = Annotated[AskRequest, Depends(json_body(AskRequest))]


async def question(service: ServiceDep, body: AskBody) -> RagRequest:
    """Return the question of a request; without a collection it is the configured one's."""
    values = {name: getattr(body, name) for name in RagRequest.model_fields}
    if "collection" not in body.model_fields_set:
        values["collection"] = service.settings.collection
    return RagRequest.model_construct(**values)


async def wants_stream(
    request: Request,
    body: AskBody,
    stream: Annotated[Flag, Query(description="true: answer as events.")] = False,
) -> bool:
    """Whether the answer is wanted piece by piece, by parameter, body or Accept header."""
    return stream or body.stream or EVENTS in request.headers.get("accept", "")


async def containers(service: ServiceDep) -> Runner:
    """Return the container pipeline, and have it started when it is not.

    Raises:
        StepError: `engine_unavailable`, there is no engine.
    """
    if service.containers is None:
        raise StepError(
            "engine_unavailable",
            "/rag runs three containers on a Dagger engine, and this service runs without one "
            f"(runner {service.runner.name}); ask /rag_modules, which gives the same answer",
        )
    service.containers_wanted.set()
    return service.containers


Question = Annotated[RagRequest, Depends(question)]
Stream = Annotated[bool, Depends(wants_stream)]


async def _answered(
    service: Service, request: Request, question: RagRequest, runner: Runner, *, stream: bool
) -> Response:
    if stream:
        events = service.events(request, question, runner=runner)
        return await streamed(service, request, events)
    text = await service.answer(request, question, runner=runner)
    return Response(text, media_type=JSON)


@router.post(
    "/rag_modules",
    summary="Answer a question by the configured runner",
    response_model=RagResponse,
    responses={200: EVENT_STREAM},
    openapi_extra=takes(AskRequest, query=NOT_BLANK),
)
async def rag_modules(
    request: Request, service: ServiceDep, question: Question, stream: Stream
) -> Response:
    """Answer a question from the documents, with verified citations."""
    return await _answered(service, request, question, service.runner, stream=stream)


@router.post(
    "/rag",
    summary="Answer a question by three container steps",
    response_model=RagResponse,
    responses={200: EVENT_STREAM},
    openapi_extra=takes(AskRequest, query=NOT_BLANK),
)
async def rag(
    request: Request,
    service: ServiceDep,
    runner: Annotated[Runner, Depends(containers)],
    question: Question,
    stream: Stream,
) -> Response:
    """Answer as `/rag_modules` does, by the container pipeline: retrieve, augment, generate.

    Beside another Dagger runner it starts with the first request, which is told to come back.
    """
    return await _answered(service, request, question, runner, stream=stream)


@router.post(
    "/v1/search",
    summary="Find passages, without an answer",
    response_model=SearchResponse,
    openapi_extra=takes(RagRequest, query=NOT_BLANK),
)
async def search(request: Request, service: ServiceDep, question: Question) -> Response:
    """Find the passages that fit a question."""
    return Response(await service.search(request, question), media_type=JSON)
