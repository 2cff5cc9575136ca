"""The pipeline over its steps, as JSON handlers and as blocking calls."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import BlockingPortal
from pydantic import BaseModel, ConfigDict

from rag_kit.errors import StepError
from rag_kit.handler import Event, Handler

from .models import RagRequest, RagResponse, SearchResponse
from .outputs import GenerateOutput, RetrieveOutput, check_reply, read_reply
from .rewriting import Rewriting
from .stages import PIPELINE, Stage
from .step import Step, StreamingStep, answer, search, stream


class StepJson(BaseModel):
    """A request or response of one step, which checks it itself."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The steps, composed.

    Args:
        steps: What runs each stage, by its name: JSON text to JSON text.
        streaming: What runs the last stage piece by piece.
        portal: The event loop that blocking calls run on, so they work inside a notebook too.
        stages: The stages in their order.
        rewriting: Who completes a follow-up question for the search.
    """

    steps: Mapping[str, Step]
    streaming: StreamingStep
    portal: BlockingPortal
    stages: Sequence[Stage] = PIPELINE
    rewriting: Rewriting = "model"

    @property
    def handler(self) -> Handler:
        """Answers a `RagRequest`; also searches for one, and passes requests on to single steps."""
        also = {
            "search": self.search_handler,
            "rerank": self.rerank_handler,
            "generate": self.generate_handler,
        }
        return Handler("rag", RagRequest, self._answer, stream=self._stream, also=also)

    @property
    def search_handler(self) -> Handler:
        """Finds passages for a `RagRequest`."""
        return Handler("rag", RagRequest, self._search)

    @property
    def rerank_handler(self) -> Handler:
        """Passes a request on to the step `rerank`, for clients that bring texts of their own."""
        return Handler("rerank", StepJson, self._rerank)

    @property
    def generate_handler(self) -> Handler:
        """Passes a request on to the step `generate`, for prompts without a search."""
        return Handler("generate", StepJson, self._generate)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request, blocking: a response, or an error envelope."""
        return self._block(self.handler, request)

    def search(self, request: dict[str, Any]) -> dict[str, Any]:
        """Find passages for one request, blocking: a response, or an error envelope."""
        return self._block(self.search_handler, request)

    def _block(self, handler: Handler, request: dict[str, Any]) -> dict[str, Any]:
        text = self.portal.call(handler.serve, json.dumps(request))
        response: dict[str, Any] = json.loads(text)
        return response

    async def _answer(self, request: RagRequest) -> RagResponse:
        return await answer(request, self.steps, stages=self.stages, rewriting=self.rewriting)

    async def _stream(self, request: RagRequest) -> AsyncGenerator[Event, None]:
        answering = stream(
            request, self.steps, self.streaming, stages=self.stages, rewriting=self.rewriting
        )
        async with aclosing(answering) as events:
            async for event in events:
                yield event

    async def _search(self, request: RagRequest) -> SearchResponse:
        return await search(request, self.steps, stages=self.stages, rewriting=self.rewriting)

    async def _rerank(self, request: StepJson) -> StepJson:
        step = self.steps.get("rerank")
        if step is None:
            raise StepError(
                "not_supported",
                "no reranker is configured; the operator sets RAG_RERANKER_URL or RAG_RERANKER_PATH "
                "(docs/reranking.md)",
            )
        data = read_reply("rerank", await step(request.model_dump_json()))
        check_reply("rerank", RetrieveOutput, data)
        return StepJson.model_validate(data)

    async def _generate(self, request: StepJson) -> StepJson:
        step = self.steps[self.stages[-1].name]
        data = read_reply("generate", await step(request.model_dump_json()))
        check_reply("generate", GenerateOutput, data)
        return StepJson.model_validate(data)
