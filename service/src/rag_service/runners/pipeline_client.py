"""A client of `python -m rag_pipeline serve`, wherever that server runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from rag_kit.client import CONNECT_S, StepClient, Wording, new_client
from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_pipeline.models import RagResponse, SearchResponse
from rag_pipeline.outputs import GenerateOutput, RetrieveOutput, check_reply, read_reply

from .responses import Response, check_response, response_events

MODELS: dict[str, type[Response]] = {"search_results": SearchResponse, "final_answer": RagResponse}
WORDING = Wording("the composite", retry_after=2)


class PipelineClient:
    """A running pipeline behind a URL, over connections that stay open.

    Args:
        url: Where it serves, e.g. http://127.0.0.1:8080.
        deadline_s: Seconds one request may take in all.
    """

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self.url = url.rstrip("/")
        self._http = new_client(deadline_s)
        self._client = StepClient(self.url, lambda: self._http, deadline_s, WORDING)

    async def answer(self, text: str) -> str:
        """Answer a request.

        Raises:
            StepError: The pipeline's own; `not_ready` when it cannot be reached,
                `deadline_exceeded`, `module_bad_output`.
        """
        return check_response(RagResponse, text, await self._client(text))

    async def search(self, text: str) -> str:
        """Find passages; raises as `answer`."""
        return check_response(SearchResponse, text, await self._client(text, "search"))

    async def rerank(self, text: str) -> str:
        """Rank passages again; raises as `answer`."""
        reply = await self._client(text, "rerank")
        check_reply("rerank", RetrieveOutput, read_reply("rerank", reply))
        return reply

    async def generate(self, text: str) -> str:
        """Have a model answer a prompt; raises as `answer`."""
        reply = await self._client(text, "generate")
        check_reply("generate", GenerateOutput, read_reply("generate", reply))
        return reply

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer piece by piece; raises as `answer`, and `llm_stream_broken` when it breaks off."""
        last = ""
        async with aclosing(self._client.events(text)) as events:
            async for event in events:
                if event.name == "error":
                    read_reply("rag", event.data)
                if event.name in MODELS:
                    check_response(MODELS[event.name], text, event.data)
                if event.name == "final_answer" and not last:  # the server does not stream
                    for piece in response_events(event.data):
                        yield piece
                    return
                last = event.name
                yield event
        if last != "final_answer":
            raise StepError("llm_stream_broken", "the answer broke off before its end")

    async def ready(self, limit_s: float | None = CONNECT_S) -> None:
        """Return when `GET /readyz` answers 200; `limit_s` None waits without a limit.

        Raises:
            StepError: The pipeline's own error, or `not_ready`.
        """
        refusal = await self._client.probe(limit_s)
        if refusal is not None:
            read_reply("rag", refusal)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
