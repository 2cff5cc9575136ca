"""Answers for OpenAI clients: `POST /v1/chat/completions`, `GET /v1/models`.

A model is a collection: `rag` is the service's own, `rag/<collection>` any other. The user's last message is
the question, the others are the conversation.

What an answer has besides OpenAI's fields: `citations` (verified, as in `/rag_modules`), `contexts`,
`search_queries`, `answerable`, `degraded`, `warnings`. Each number in the text is an annotation with the
address of what it cites. A stream is plain chunks. Its first one with text has `search_results`, the passages
found: nothing is verified before the text is complete. At its end come the annotations of the text as it was
sent, then a chunk with the fields above and `answer`, the verified text: numbers that pointed nowhere are in
the pieces, but not in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.handler import Event

from ..http.errors import JSON
from ..http.openapi import EVENT_STREAM, FAILURES
from ..http.requests import otherwise, takes
from .dependencies import Caller, ServiceDep, json_body
from .openai_input import (
    MARKER,
    MAX_ANSWER_TOKENS,
    MODEL,
    MODEL_NAMES,
    SIDE_TASK,
    ChatMessage,
    SearchFields,
    extras_of,
    ignored,
    is_refusal,
    long_note,
    model_names,
    one_event,
    read_conversation,
    side_task,
    structure_of,
    to_collection,
    to_question,
    unknown_model,
    usage_of,
    warned,
)
from .openai_stop import StopSequences
from .sse import streamed, unnamed

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=FAILURES)

FINISH = {"no_context": "stop", "filtered": "content_filter"}  # the others have OpenAI's names
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "audio": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""Parameters that would change what an answer is, and their values that do not."""
NO_TOOLS = "this service answers from documents and calls none; leave it out"
WHY = {"tools": NO_TOOLS, "functions": NO_TOOLS}
MAX_STOPS = 16


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Whether a last chunk has the usage.")


def _other_parameters(schema: dict[str, Any]) -> None:
    """Add to the schema the values that other parameters may have."""
    values = {name: {"enum": [None, *values]} for name, values in NEUTRAL.items()}
    schema["properties"] |= values


class ChatRequest(SearchFields):
    """A conversation that ends with a question; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_other_parameters)

    model: str = Field(
        MODEL,
        json_schema_extra={"pattern": MODEL_NAMES},
        description="rag, or rag/<collection>; see GET /v1/models.",
    )
    messages: list[ChatMessage] = Field(
        min_length=1, max_length=1000, description="Oldest first; the user's last one asks."
    )
    stream: bool | None = Field(None, description="Whether the answer comes piece by piece.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="Of a model's sampling.")
    seed: int | None = Field(None, description="Of a model's sampling.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Longest answer of a model.")
    max_tokens: int | None = Field(None, ge=1, description="The same by its old name.")
    stop: Annotated[
        str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None,
        otherwise(f"send a text, or a list of at most {MAX_STOPS} texts"),
    ] = Field(None, description="Texts at which the answer ends, without them.")
    response_format: dict[str, JsonValue] | None = Field(
        None,
        description='{"type": "json_schema", "json_schema": {"name", "schema"}} or {"type": '
        '"json_object"}, where a language model is configured; or {"type": "text"}.',
    )


class Completion(BaseModel):
    """OpenAI's chat completion, with citations beside it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, JsonValue]] = Field(min_length=1, max_length=1)
    usage: dict[str, int]
    citations: list[dict[str, JsonValue]]


class Model(BaseModel):
    """A collection as OpenAI describes a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """The models a key may use."""

    object: Literal["list"]
    data: list[Model]


@router.post(
    "/chat/completions",
    summary="Answer a conversation, as OpenAI's API",
    response_model=Completion,
    responses={200: EVENT_STREAM},
    openapi_extra=takes(ChatRequest),
)
async def chat_completions(
    request: Request,
    service: ServiceDep,
    caller: Caller,
    body: Annotated[ChatRequest, Depends(json_body(ChatRequest))],
) -> Response:
    """Answer the last message from the documents, with citations."""
    collection = to_collection(body.model, body.collection, service.settings.collection)
    names = ignored(body.model_extra, NEUTRAL, WHY)
    places = [f"messages.{at}" for at in range(len(body.messages))]
    conversation = read_conversation(body.messages, places)
    options = _options(body)
    writer = Completions(body, caller.request_id)
    done = await side_task(request, service, conversation, collection, options)
    question = partial(to_question, conversation, body, collection, options)
    if body.stream:
        events = one_event(done) if done else service.events(request, question())
        response: Response = await streamed(service, request, events, write=writer.write)
    else:
        answer = done or pydantic_core.from_json(await service.answer(request, question()))
        response = Response(writer.whole(answer), media_type=JSON)
    return warned(response, names, *([SIDE_TASK] if done else long_note(conversation)))


def _options(body: ChatRequest) -> dict[str, Any]:
    """Return the options of `generate` that OpenAI has names for."""
    longest = body.max_completion_tokens or body.max_tokens
    return {
        "temperature": body.temperature,
        "seed": body.seed,
        "max_answer_tokens": min(longest, MAX_ANSWER_TOKENS) if longest else None,
        "response_format": structure_of(body.response_format, "response_format"),
    }


@router.get("/models")
async def models(service: ServiceDep, caller: Caller) -> Models:
    """List a model for each collection the key may use."""
    names = await model_names(service, caller.principal)
    return Models(object="list", data=[to_model(name) for name in names])


@router.get("/models/{name:path}")
async def model(service: ServiceDep, caller: Caller, name: str) -> Model:
    """Describe one model."""
    collection = to_collection(name, None, service.settings.collection)
    names = await model_names(service, caller.principal)
    # without a library it is not known which collections exist
    if name not in names and (service.library is not None or name == MODEL):
        raise unknown_model(name)
    service.authorize(caller, collection)
    return to_model(name)


def to_model(name: str) -> Model:
    """Return a model as OpenAI describes one; when it was made is not known."""
    return Model(id=name, object="model", created=0, owned_by=MODEL)


def url_citations(text: str, citations: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield an annotation for each number in a text whose citation has an address."""
    cited = {citation["marker"]: citation for citation in citations}
    for found in MARKER.finditer(text):
        citation = cited.get(int(found[1][:9]))
        if citation is not None and citation.get("url"):
            page = f", page {citation['page']}" if citation["page"] else ""
            place = {
                "start_index": found.start(),
                "end_index": found.end(),
                "title": f"{citation['title']}{page}",
                "url": citation["url"],
            }
            yield {"type": "url_citation", "url_citation": place}


def finish_reason(answer: Mapping[str, Any]) -> str:
    """Return OpenAI's finish reason of an answer."""
    reason: str = answer["finish_reason"]
    return FINISH.get(reason, reason)


class Completions:
    """Writes one answer as OpenAI's chat completion, whole or as chunks.

    Args:
        body: What was asked.
        request_id: Id of every chunk.
    """

    def __init__(self, body: ChatRequest, request_id: str) -> None:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._common = {"id": request_id, "created": int(time.time()), "model": body.model}
        self._chunks = {
            **self._common,
            "object": "chat.completion.chunk",
            **({"usage": None} if usage else {}),
        }
        self._usage = usage
        self._structured = structure_of(body.response_format, "response_format") is not None
        self._stop = StopSequences(body.stop)
        self._sent = ""
        self._results: list[Any] = []

    def whole(self, answer: dict[str, Any]) -> bytes:
        """Return a `RagResponse` as one completion."""
        answer = self._stop.applied(answer)
        refused = self._structured and is_refusal(answer)
        message = {
            "role": "assistant",
            "content": None if refused else answer["answer"],
            "refusal": answer["answer"] if refused else None,
            "annotations": list(url_citations(answer["answer"], answer["citations"])),
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(answer),
        }
        return pydantic_core.to_json(
            {
                **self._common,
                "id": answer["id"],
                "object": "chat.completion",
                "choices": [choice],
                "usage": usage_of(answer),
                **extras_of(answer),
            }
        )

    def write(self, event: Event) -> bytes:
        """Return an event as bytes; b"" for one that has no chunk."""
        data = pydantic_core.from_json(event.data)
        if event.name == "search_results":
            self._results = data["results"]
        if event.name == "message":
            return self._content(self._stop.feed(data["delta"]["content"]))
        if event.name == "final_answer":
            return self._end(data)
        return unnamed(data) if event.name == "error" else b""

    def _content(self, text: str, field: str = "content") -> bytes:
        if not text:
            return b""
        first, self._sent = not self._sent, self._sent + text
        if first:
            delta = {"role": "assistant", field: text}
            return self._chunk(delta, search_results=self._results)
        return self._chunk({field: text})

    def _end(self, answer: dict[str, Any]) -> bytes:
        text = self._content(self._stop.finish())
        answer = self._stop.applied(answer)
        if not self._sent:  # an answer without messages: nothing was found
            refused = self._structured and is_refusal(answer)
            text += self._content(answer["answer"], "refusal" if refused else "content")
        if found := list(url_citations(self._sent, answer["citations"])):
            text += self._chunk({"annotations": found})
        text += self._chunk({}, finish_reason(answer), answer=answer["answer"], **extras_of(answer))
        if self._usage:
            text += unnamed({**self._chunks, "choices": [], "usage": usage_of(answer)})
        return text

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return unnamed({**self._chunks, "choices": [choice], **more})
