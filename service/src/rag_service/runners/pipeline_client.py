"""A client of `python -m rag_pipeline serve`, wherever that server runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from rag_kit.errors import StepError
from rag_kit.handler import EVENTS, Event
from rag_pipeline.models import RagResponse, SearchResponse
from rag_pipeline.step import read_reply
from rag_pipeline.steps.remote import CONNECT_S, new_client

from .responses import Response, check_response, response_events

MODELS: dict[str, type[Response]] = {"search_results": SearchResponse, "final_answer": RagResponse}


class PipelineClient:
    """A running pipeline behind a URL, over connections that stay open.

    Args:
        url: Where it serves, e.g. http://127.0.0.1:8080.
        deadline_s: Seconds one request may take in all.
    """

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self.url, self._deadline_s = url.rstrip("/"), deadline_s
        self._client = new_client(deadline_s)

    async def answer(self, text: str) -> str:
        """Answer a request.

        Raises:
            StepError: The pipeline's own; `not_ready` when it cannot be reached,
                `deadline_exceeded`, `module_bad_output`.
        """
        return check_response(RagResponse, text, await self._post("run", text))

    async def search(self, text: str) -> str:
        """Find passages; raises as `answer`."""
        return check_response(SearchResponse, text, await self._post("search", text))

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """Answer piece by piece; raises as `answer`, and `llm_stream_broken` when it breaks off."""
        ended = False
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._client.stream("POST", **self._request("run", text, EVENTS)) as response,
            ):
                if not response.headers.get("content-type", "").startswith(EVENTS):
                    await response.aread()
                    if response.status_code != 200:
                        raise _refusal(response)
                    answer = check_response(RagResponse, text, response.text)
                    for piece in response_events(answer):  # the server does not stream
                        yield piece
                    return
                async for event in EventSource(response).aiter_sse():
                    if event.event == "error":
                        read_reply("rag", event.data)
                    if event.event in MODELS:
                        check_response(MODELS[event.event], text, event.data)
                    if event.data != "[DONE]":
                        ended = event.event == "final_answer"
                        yield Event(event.event, event.data)
        except TimeoutError:
            raise self._timed_out() from None
        except (httpx.TransportError, SSEError) as error:
            raise _unreachable(error) from None
        if not ended:
            raise StepError("llm_stream_broken", "the answer broke off before its end")

    async def ready(self, limit_s: float | None = CONNECT_S) -> None:
        """Return when `GET /readyz` answers 200; `limit_s` None waits without a limit.

        Raises:
            StepError: The pipeline's own error, or `not_ready`.
        """
        try:
            response = await self._client.get(f"{self.url}/readyz", timeout=limit_s)
        except httpx.TransportError as error:
            raise _unreachable(error) from None
        if response.status_code != 200:
            raise _refusal(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _request(self, verb: str, text: str, accept: str) -> dict[str, Any]:
        return {
            "url": f"{self.url}/{verb}",
            "content": text.encode(),
            "headers": {"content-type": "application/json", "accept": accept},
        }

    async def _post(self, verb: str, text: str) -> str:
        try:
            async with asyncio.timeout(self._deadline_s):
                request = self._request(verb, text, "application/json")
                response = await self._client.request("POST", **request)
        except TimeoutError:
            raise self._timed_out() from None
        except httpx.TransportError as error:
            raise _unreachable(error) from None
        if response.status_code != 200:
            raise _refusal(response)
        return response.text

    def _timed_out(self) -> StepError:
        text = f"the composite did not answer within {self._deadline_s:g} s"
        return StepError("deadline_exceeded", text)


def _unreachable(error: Exception) -> StepError:
    text = f"the composite cannot be reached ({type(error).__name__}); is it running?"
    return StepError("not_ready", text, retry_after=2)


def _refusal(response: httpx.Response) -> StepError:
    """Return the error a response holds, or `module_bad_output` when it holds none."""
    try:
        read_reply("rag", response.text)
    except StepError as error:
        if error.code != "module_bad_output":
            return error
    text = f"the composite answered HTTP {response.status_code} without an error envelope"
    return StepError("module_bad_output", text)
