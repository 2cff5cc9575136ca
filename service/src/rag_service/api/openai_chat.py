"""Answers for OpenAI clients: `POST /v1/chat/completions`, `GET /v1/models`.

A model is a collection: `rag` is the service's own, `rag/<collection>` any other. The last message
is the question, the ones before it are the conversation.

What an answer has besides OpenAI's fields: `citations` (verified, as in `/rag_modules`),
`contexts`, `answerable`, `degraded`, `warnings`; a citation whose source is a web address is an
annotation, too. A stream is plain chunks. Its first one with text has `search_results`, the passages
found: nothing is verified before the text is complete. Its last one with a choice has the fields above
and `answer`, the verified text: numbers that pointed nowhere are in the pieces, but not in it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.passages import COLLECTION
from rag_kit.request import explain
from rag_pipeline.models import RagRequest

from ..http.context import Principal
from ..http.errors import JSON
from ..http.openapi import EVENT_STREAM, FAILURES
from ..http.requests import otherwise, takes
from ..service import Service
from .dependencies import Caller, ServiceDep, json_body
from .sse import streamed, unnamed

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=FAILURES)

MODEL = "rag"
MAX_ANSWER_TOKENS = 32768  # the limit of `generate`
ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
FINISH = {"no_context": "stop", "filtered": "content_filter"}  # the others have OpenAI's names
IGNORED = frozenset(
    {
        "frequency_penalty",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "top_p",
        "user",
        "verbosity",
    }
)
"""Parameters that change at most the wording, the price or the speed of an answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""Parameters that would change what an answer is, and their values that do not."""
NAMES = rf"^{MODEL}(/{COLLECTION[1:-1]})?$"
MARKER = re.compile(r"\[(\d+)\]")


class Part(BaseModel):
    """A part of a message; only text is supported."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description='"text".')
    text: str | None = Field(None, description="The text.")


class ChatMessage(BaseModel):
    """One message; fields besides these are ignored."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(
        json_schema_extra={"enum": [*ROLES]},
        description="system or developer, user, assistant.",
    )
    content: Annotated[
        str | list[Part] | None,
        otherwise('send a text, or a list of parts like {"type": "text", "text": "…"}'),
    ] = Field(None, description="The text.")


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Whether a last chunk has the usage.")


def _other_parameters(schema: dict[str, Any]) -> None:
    """Add to the schema the parameters that are ignored, and the neutral values of others."""
    names = {name: {"description": "Ignored."} for name in sorted(IGNORED)}
    values = {name: {"enum": [None, *values]} for name, values in NEUTRAL.items()}
    schema["properties"] |= {**names, **values}
    schema["additionalProperties"] = False


class ChatRequest(BaseModel):
    """A conversation that ends with a question; OpenAI's fields, then ours."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_other_parameters)

    model: str = Field(
        MODEL,
        json_schema_extra={"pattern": NAMES},
        description="rag, or rag/<collection>; see GET /v1/models.",
    )
    messages: list[ChatMessage] = Field(
        min_length=1, max_length=1000, description="Oldest first; the last one asks."
    )
    stream: bool | None = Field(None, description="Whether the answer comes piece by piece.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="Of a model's sampling.")
    seed: int | None = Field(None, description="Of a model's sampling.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Longest answer of a model.")
    max_tokens: int | None = Field(None, ge=1, description="The same by its old name.")

    collection: Annotated[str, Field(json_schema_extra={"pattern": COLLECTION})] | None = Field(
        None, description="Where to search; or name it in the model."
    )
    top_k: Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 100})] | None = Field(
        None, description="As in the request of /rag_modules; so are these:"
    )
    filters: dict[str, JsonValue] | None = None
    min_score: float | None = None
    no_context: Literal["abstain", "answer", "error"] | None = None
    retrieve: dict[str, JsonValue] | None = None
    rerank: dict[str, JsonValue] | None = None
    augment: dict[str, JsonValue] | None = None
    generate: dict[str, JsonValue] | None = None


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
    question = to_question(body, service.settings.collection)
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        chunks = Chunks(body.model, caller.request_id, usage=usage)
        return await streamed(
            service, request, service.events(request, question), write=chunks.write
        )
    answer = pydantic_core.from_json(await service.answer(request, question))
    return Response(pydantic_core.to_json(to_completion(answer, body.model)), media_type=JSON)


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


async def model_names(service: Service, principal: Principal) -> list[str]:
    """Return the models a key may use."""
    names = [MODEL] if principal.may_use(service.settings.collection) else []
    if service.library is not None:
        known = await service.library.collections()
        names += [f"{MODEL}/{one.name}" for one in known if principal.may_use(one.name)]
    return names


def to_model(name: str) -> Model:
    """Return a model as OpenAI describes one; when it was made is not known."""
    return Model(id=name, object="model", created=0, owned_by=MODEL)


def unknown_model(name: str) -> StepError:
    """Return the error for a model that does not exist."""
    text = f"model {name[:100]!r} does not exist; use {MODEL}, or {MODEL}/<collection>"
    return StepError("not_found", text, param="model")


def to_collection(model: str, collection: str | None, default: str) -> str:
    """Return the collection a request is about.

    Raises:
        StepError: `not_found`, no such model; `invalid_request`, two collections are named.
    """
    prefix, slash, name = model.partition("/")
    if prefix != MODEL or (slash and not name):
        raise unknown_model(model)
    if collection is not None and name and collection != name:
        text = f"collection: the model {model} and the collection {collection} are not the same one"
        raise StepError("invalid_request", text, param="collection")
    return collection or name or default


def to_question(body: ChatRequest, default: str) -> RagRequest:
    """Return the question of a chat.

    Args:
        body: The request.
        default: Collection of the model `rag`.

    Raises:
        StepError: `invalid_request` for what cannot be body, `param` names it; `not_found`.
    """
    refuse_unsupported(body.model_extra or {})
    *earlier, last = [to_message(message, at) for at, message in enumerate(body.messages)]
    if last["role"] != "user":
        where = f"messages.{len(earlier)}.role"
        text = f"{where}: the last message asks the question, so its role must be user"
        raise StepError("invalid_request", text, param=where)
    max_tokens = body.max_completion_tokens or body.max_tokens
    options = {
        "temperature": body.temperature,
        "seed": body.seed,
        "max_answer_tokens": min(max_tokens, MAX_ANSWER_TOKENS) if max_tokens else None,
        **(body.generate or {}),
    }
    question = {
        "query": last["content"],
        "messages": earlier,
        "collection": to_collection(body.model, body.collection, default),
        "generate": {name: value for name, value in options.items() if value is not None},
    }
    for name in ("top_k", "filters", "min_score", "no_context", "retrieve", "rerank", "augment"):
        if (value := getattr(body, name)) is not None:
            question[name] = value
    try:
        return RagRequest.model_validate(question, strict=True)
    except ValidationError as error:
        fault = explain(error)
        if fault.param != "query":
            raise fault from None
        where = f"messages.{len(earlier)}.content"  # where the question came from
        text = fault.message.replace("query", where, 1)
        raise StepError("invalid_request", text, param=where) from None


def refuse_unsupported(extra: dict[str, Any]) -> None:
    """Refuse the parameters that would change what an answer is, and unknown ones.

    Raises:
        StepError: `invalid_request`.
    """
    for name, value in extra.items():
        if name in IGNORED or (name in NEUTRAL and (value is None or value in NEUTRAL[name])):
            continue
        if name in NEUTRAL:
            text = f"{name}: not supported here; leave it out"
            if name in ("tools", "functions"):
                text = f"{name}: this service answers from documents and calls none; leave it out"
            raise StepError("invalid_request", text, param=name)
        raise StepError(
            "invalid_request",
            f"{name[:80]}: unknown parameter; see POST /v1/chat/completions in /openapi.json",
            param=name[:80],
        )


def to_message(message: ChatMessage, at: int) -> dict[str, str]:
    """Return a message as `RagRequest` takes it.

    Raises:
        StepError: `invalid_request`: a tool's message, an image, no content.
    """
    where = f"messages.{at}"
    if message.role not in ROLES or (message.model_extra or {}).get("tool_calls"):
        what = "a tool's" if message.role in ("tool", "function", "assistant") else "this"
        raise StepError(
            "invalid_request",
            f"{where}.role: {what} message ({message.role[:40]}) cannot be used here; send the "
            "roles system, developer, user and assistant, without tool calls",
            param=f"{where}.role",
        )
    if isinstance(message.content, str):
        return {"role": ROLES[message.role], "content": message.content}
    for index, part in enumerate(message.content or []):
        if part.type != "text" or part.text is None:
            raise StepError(
                "invalid_request",
                f"{where}.content.{index}: only text can be asked, this is {part.type[:40]!r}",
                param=f"{where}.content.{index}.type",
            )
    if not message.content:
        text = f"{where}.content: the message has no content"
        raise StepError("invalid_request", text, param=f"{where}.content")
    text = "\n".join(part.text or "" for part in message.content)
    return {"role": ROLES[message.role], "content": text}


def to_completion(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """Return a `RagResponse` as OpenAI's chat completion."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer["answer"],
        "refusal": None,
        "annotations": list(web_annotations(answer)),
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(answer),
    }
    return {
        "id": answer["id"],
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(answer),
        **extras(answer),
    }


def web_annotations(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an annotation for each marker in an answer whose source is a web address."""
    cited = {citation["marker"]: citation for citation in answer["citations"]}
    for found in MARKER.finditer(answer["answer"]):
        citation = cited.get(int(found[1]), {"source": ""})
        if citation["source"].startswith(("http://", "https://")):
            place = {
                "start_index": found.start(),
                "end_index": found.end(),
                "title": citation["title"],
                "url": citation["source"],
            }
            yield {"type": "url_citation", "url_citation": place}


def finish_reason(answer: dict[str, Any]) -> str:
    """Return OpenAI's finish reason of an answer."""
    reason: str = answer["finish_reason"]
    return FINISH.get(reason, reason)


def usage(answer: dict[str, Any]) -> dict[str, int]:
    """Return the token counts of the language model."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: answer["usage"].get(name, 0) for name in names}


def extras(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that OpenAI does not have."""
    names = ("citations", "contexts", "answerable", "degraded", "warnings")
    return {name: answer[name] for name in names}


class Chunks:
    """Writes the events of one answer as OpenAI's chunks.

    Args:
        model: As requested.
        request_id: Id of every chunk.
        usage: Whether the last chunk has the usage.
    """

    def __init__(self, model: str, request_id: str, *, usage: bool) -> None:
        self._common = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            **({"usage": None} if usage else {}),
        }
        self._usage, self._started = usage, False
        self._results: list[Any] = []

    def write(self, event: Event) -> bytes:
        """Return an event as bytes; b"" for one that has no chunk."""
        data = pydantic_core.from_json(event.data)
        if event.name == "search_results":
            self._results = data["results"]
        if event.name == "message":
            return self._content(data["delta"]["content"])
        if event.name == "final_answer":
            return self._end(data)
        return unnamed(data) if event.name == "error" else b""

    def _content(self, text: str) -> bytes:
        if self._started:
            return self._chunk({"content": text})
        self._started = True
        delta = {"role": "assistant", "content": text}
        return self._chunk(delta, search_results=self._results)

    def _end(self, answer: dict[str, Any]) -> bytes:
        # an answer without messages: nothing was found
        text = b"" if self._started else self._content(answer["answer"])
        text += self._chunk({}, finish_reason(answer), answer=answer["answer"], **extras(answer))
        if self._usage:
            text += unnamed({**self._common, "choices": [], "usage": usage(answer)})
        return text

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return unnamed({**self._common, "choices": [choice], **more})
