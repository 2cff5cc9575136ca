"""The composite over three given steps, as JSON handlers and as a Python function."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import BlockingPortal

from rag_kit.handler import Event, Handler

from .models import RagRequest, RagResponse, SearchResponse
from .step import Step, StreamingStep, answer, search, stream


@dataclass(frozen=True)
class Pipeline:
    """Three steps composed.

    Args:
        retrieve: The step, from JSON text to JSON text.
        augment: The same.
        generate: The same.
        streaming: `generate` as a step that gives its answer piece by piece.
        portal: The event loop that blocking calls run on, so they work inside a notebook too.
    """

    retrieve: Step
    augment: Step
    generate: Step
    streaming: StreamingStep
    portal: BlockingPortal

    @property
    def handler(self) -> Handler:
        """Answers a `RagRequest`; also searches for one."""
        also = {"search": self.search_handler}
        return Handler("rag", RagRequest, self._answer, stream=self._stream, also=also)

    @property
    def search_handler(self) -> Handler:
        """Finds passages for a `RagRequest`."""
        return Handler("rag", RagRequest, self._search)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request, blocking: a response, or an error envelope as in every shape."""
        return self._block(self.handler, request)

    def search(self, request: dict[str, Any]) -> dict[str, Any]:
        """Find passages for one request, blocking: a response, or an error envelope."""
        return self._block(self.search_handler, request)

    def _block(self, handler: Handler, request: dict[str, Any]) -> dict[str, Any]:
        text = self.portal.call(handler.serve, json.dumps(request))
        response: dict[str, Any] = json.loads(text)
        return response

    async def _answer(self, request: RagRequest) -> RagResponse:
        return await answer(
            request, retrieve=self.retrieve, augment=self.augment, generate=self.generate
        )

    async def _stream(self, request: RagRequest) -> AsyncGenerator[Event, None]:
        answering = stream(
            request, retrieve=self.retrieve, augment=self.augment, generate=self.streaming
        )
        async with aclosing(answering) as events:
            async for event in events:
                yield event

    async def _search(self, request: RagRequest) -> SearchResponse:
        return await search(request, retrieve=self.retrieve)
