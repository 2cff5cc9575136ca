"""The two questions of the RFC, and search: `POST /rag_modules`, `POST /rag`, `POST /v1/search`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from rag_kit.errors import StepError
from rag_pipeline.models import RagRequest, RagResponse, SearchResponse

from ..http import openapi as replies
from ..http.errors import JSON
from ..http.requests import FAILURES, SAID, flag, flag_query, read, takes
from ..http.sse import EVENTS, streamed
from ..runners.base import Runner
from ..service import Service

router = APIRouter(tags=["questions"])


class AskRequest(RagRequest):
    """A question, and whether its answer is wanted piece by piece."""

    stream: bool = Field(
        False,
        description="Answer as server-sent events: search_results, message, citation, "
        "final_answer, error. The same as `?stream=true` or `Accept: text/event-stream`.",
    )


ASKS = {
    **takes(AskRequest, query=SAID),
    "parameters": [flag_query("stream", "true: answer as events.", default=False)],
}


def service_of(request: Request) -> Service:
    """Return the service behind the application."""
    service: Service = request.app.state.service
    return service


async def question_of(request: Request, service: Service) -> tuple[RagRequest, bool]:
    """Return the question of a request, and whether its answer is to be streamed.

    Raises:
        StepError: `invalid_request` and the like.
    """
    asked = await read(request, AskRequest)
    if "collection" not in asked.model_fields_set:
        asked.collection = service.settings.collection
    wanted = flag(request, "stream", default=False) or asked.stream
    wanted = wanted or EVENTS in request.headers.get("accept", "")
    return RagRequest.model_construct(
        **{name: getattr(asked, name) for name in RagRequest.model_fields}
    ), wanted


async def _answered(request: Request, runner: Runner | None) -> Response:
    service = service_of(request)
    question, stream = await question_of(request, service)
    if stream:
        events = service.events(request, question, runner=runner)
        return await streamed(service, request, events)
    text = await service.answer(request, question, runner=runner)
    return Response(text, media_type=JSON)


@router.post(
    "/rag_modules",
    summary="Answer a question by the configured runner",
    responses={200: replies.answers(RagResponse, streams=True), **FAILURES},
    openapi_extra=ASKS,
)
async def rag_modules(request: Request) -> Response:
    """Answer a question from the documents, with verified citations."""
    return await _answered(request, None)


@router.post(
    "/rag",
    summary="Answer a question by three container steps",
    responses={200: replies.answers(RagResponse, streams=True), **FAILURES},
    openapi_extra=ASKS,
)
async def rag(request: Request) -> Response:
    """Answer as `/rag_modules` does, by the container pipeline: retrieve, augment, generate.

    Beside another Dagger runner it starts with the first request, which is told to come back.
    """
    service = service_of(request)
    if service.containers is None:
        raise StepError(
            "engine_unavailable",
            f"/rag runs three containers on a Dagger engine, and this service runs without one "
            f"(runner {service.runner.name}); start it with `rag serve --runner containers` (or "
            "resident, or call), or ask /rag_modules, which gives the same answer",
        )
    service.containers_wanted.set()
    return await _answered(request, service.containers)


@router.post(
    "/v1/search",
    summary="Find passages, without an answer",
    responses={200: replies.answers(SearchResponse), **FAILURES},
    openapi_extra=takes(RagRequest, query=SAID),
)
async def search(request: Request) -> Response:
    """Find the passages that fit a question."""
    service = service_of(request)
    question, _ = await question_of(request, service)
    return Response(await service.search(request, question), media_type=JSON)
