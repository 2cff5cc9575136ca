"""Answers for OpenAI clients that speak Responses: `POST /v1/responses`.

The service searches its documents with or without the tool `file_search`, which names another collection
(`vector_store_ids`), filters, and how many passages. An answer is a `file_search_call`, with the passages
found when they are included, and a message whose numbers are `file_citation`s, each with the address of what
it cites. What OpenAI does not have is at the top level, as in chat completions.

Responses are kept in memory for a while, so that a client can go on from one of its own.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.server import while_connected

from ..http.context import Context, Principal
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
    Conversation,
    Message,
    SearchFields,
    extras_of,
    ignored,
    is_refusal,
    long_note,
    one_event,
    read_conversation,
    side_task,
    structure_of,
    to_collection,
    to_question,
    warned,
)
from .openai_lists import Page, PagingDep
from .openai_vector_stores import RankingOptions, file_id_of, filename_of, to_filters, to_item
from .sse import streamed

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=FAILURES)

KEPT = 100  # responses of one key
KEPT_IN_ALL = 1000
RESULTS = "file_search_call.results"  # in `include`
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("none", "auto", "required", {"type": "file_search"}),
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "top_logprobs": (0,),
}
"""Parameters that would change what an answer is, and their values that do not."""
WHY = {
    "conversation": "conversations are not kept here; send `previous_response_id`, or all of it as `input`",
    "background": "an answer is given at once or as a stream; leave it out",
}
REPLAYED = ("reasoning", "file_search_call", "web_search_call")  # of an earlier output; no words
INCOMPLETE = {"length": "max_output_tokens", "filtered": "content_filter"}


class InputItem(ChatMessage):
    """A message of the input, or a reference to one of an earlier response."""

    role: str = Field("", description="system or developer, user, assistant.")
    type: str = Field("message", description='"message" or "item_reference".')
    id: str | None = Field(None, description="Of the item that is referred to.")


class FileSearch(BaseModel):
    """The tool `file_search`: where to search and for how many passages."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"enum": ["file_search"]}, description='"file_search".')
    vector_store_ids: list[str] | None = Field(
        None, max_length=1, description="The collection to search; one."
    )
    filters: dict[str, JsonValue] | None = Field(
        None, description="As in POST /v1/vector_stores/{id}/search."
    )
    max_num_results: int | None = Field(None, ge=1, le=50, description="How many passages at most.")
    ranking_options: RankingOptions | None = None


class TextOptions(BaseModel):
    """The form of the text."""

    model_config = ConfigDict(extra="allow")

    format: dict[str, JsonValue] | None = Field(None, description="As `response_format` of a chat.")


def _other_parameters(schema: dict[str, Any]) -> None:
    """Add to the schema the values that other parameters may have."""
    schema["properties"] |= {name: {"enum": [None, *values]} for name, values in NEUTRAL.items()}


class ResponseRequest(SearchFields):
    """A conversation that ends with a question; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_other_parameters)

    model: str = Field(
        MODEL,
        json_schema_extra={"pattern": MODEL_NAMES},
        description="rag, or rag/<collection>; see GET /v1/models.",
    )
    input: Annotated[
        str | Annotated[list[InputItem], Field(min_length=1, max_length=1000)],
        otherwise("send a text, or a list of messages"),
    ] = Field(description="The question, or a conversation, oldest first.")
    instructions: str | None = Field(None, description="A message of the system before the input.")
    previous_response_id: str | None = Field(None, description="The response to go on from.")
    tools: list[FileSearch] | None = Field(
        None, max_length=1, description="file_search; no other tool is called."
    )
    include: list[str] | None = Field(
        None, description=f"{RESULTS}: return the passages found; others are ignored."
    )
    store: bool | None = Field(None, description="false: do not keep the response.")
    stream: bool | None = Field(None, description="Whether the answer comes piece by piece.")
    temperature: float | None = Field(None, ge=0, le=2, description="Of a model's sampling.")
    max_output_tokens: int | None = Field(None, ge=1, description="Longest answer of a model.")
    text: TextOptions | None = None
    metadata: dict[str, JsonValue] | None = Field(None, description="Returned as it is.")


class ResponseObject(BaseModel):
    """OpenAI's response, with citations beside it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, JsonValue]]
    usage: dict[str, JsonValue] | None


class DeletedResponse(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputMessage(BaseModel):
    """A message that a response answers, as OpenAI describes one."""

    id: str
    type: Literal["message"] = "message"
    status: Literal["completed"] = "completed"
    role: str
    content: list[dict[str, JsonValue]]


@dataclass(frozen=True)
class Kept:
    """A response and the conversation it belongs to.

    Args:
        body: The response.
        messages: The conversation, with the answer.
        items: The messages by their ids, the answer last.
        principal: Who may go on from it.
    """

    body: dict[str, Any]
    messages: list[Message]
    items: dict[str, Message]
    principal: Principal

    def asked(self) -> list[InputMessage]:
        """Return the messages that were answered, oldest first."""
        return [_input_message(item_id, said) for item_id, said in [*self.items.items()][:-1]]


class Responses:
    """Keeps the last responses of each key, in memory: what was asked may be private."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by id, oldest first

    def keep(self, kept: Kept) -> None:
        """Keep a response; forget the oldest of more than `KEPT` of its key, or `KEPT_IN_ALL`."""
        mine = [
            response_id
            for response_id, one in self._kept.items()
            if one.principal.name == kept.principal.name
        ]
        if len(mine) >= KEPT:
            del self._kept[mine[0]]
        self._kept[kept.body["id"]] = kept
        if len(self._kept) > KEPT_IN_ALL:
            self._kept.popitem(last=False)

    def find(self, principal: Principal, response_id: str, where: str) -> Kept:
        """Return a response of a caller; raises `not_found`, naming the field `where`."""
        found = self._kept.get(response_id)
        if found is None or not _same(found.principal, principal):
            raise StepError(
                "not_found",
                f"{where}: there is no response {response_id[:80]!r}: the last {KEPT} are kept until "
                "the service ends; send the conversation as `input`",
                param=where,
            )
        return found

    def item(self, principal: Principal, item_id: str, where: str) -> Message | None:
        """Return the message an id stands for; None for another item; raises `not_found`."""
        for kept in self._kept.values():
            if not _same(kept.principal, principal):
                continue
            if item_id in kept.items:
                return kept.items[item_id]
            if any(item["id"] == item_id for item in kept.body["output"]):
                return None
        text = f"{where}: there is no item {item_id[:80]!r}; send the message itself"
        raise StepError("not_found", text, param=where)

    def delete(self, principal: Principal, response_id: str) -> None:
        """Forget a response; raises `not_found`."""
        self.find(principal, response_id, "response_id")
        del self._kept[response_id]


def _same(one: Principal, other: Principal) -> bool:
    """Whether two callers are the same, and may read the same documents."""
    return (one.name, one.groups) == (other.name, other.groups)


async def responses_of(request: Request) -> Responses:
    """Return the responses that the application keeps."""
    kept: Responses = request.app.state.responses
    return kept


ResponsesDep = Annotated[Responses, Depends(responses_of)]


@router.post(
    "/responses",
    summary="Answer a conversation, as OpenAI's Responses",
    response_model=ResponseObject,
    responses={200: EVENT_STREAM},
    openapi_extra=takes(ResponseRequest),
)
async def create_response(
    request: Request,
    service: ServiceDep,
    caller: Caller,
    kept: ResponsesDep,
    body: Annotated[ResponseRequest, Depends(json_body(ResponseRequest))],
) -> Response:
    """Answer the last message from the documents, with the files that are cited."""
    collection, search = _search_of(body, service.settings.collection)
    names = ignored(body.model_extra, NEUTRAL, WHY)
    conversation = _conversation(body, kept, caller.principal)
    longest = body.max_output_tokens
    options = {
        "temperature": body.temperature,
        "max_answer_tokens": min(longest, MAX_ANSWER_TOKENS) if longest else None,
        "response_format": structure_of(body.text.format if body.text else None, "text.format"),
    }
    writer = Writer(body, kept, conversation, caller)
    done = await side_task(request, service, conversation, collection, options)
    if done:
        events, notes = one_event(done), [SIDE_TASK]
    else:
        question = to_question(conversation, search, collection, options)
        events, notes = service.events(request, question), long_note(conversation)
    if body.stream:
        response: Response = await streamed(service, request, events, write=writer.write)
    else:
        data = await while_connected(request, writer.whole(events))
        response = Response(pydantic_core.to_json(data), media_type=JSON)
    return warned(response, names, *notes)


@router.get("/responses/{response_id}", response_model=ResponseObject)
async def get_response(caller: Caller, kept: ResponsesDep, response_id: str) -> Response:
    """Show a response that is kept."""
    found = kept.find(caller.principal, response_id, "response_id")
    return Response(pydantic_core.to_json(found.body), media_type=JSON)


@router.get("/responses/{response_id}/input_items", summary="List what a response answers")
async def list_input_items(
    caller: Caller, kept: ResponsesDep, paging: PagingDep, response_id: str
) -> Page[InputMessage]:
    """List the messages that a response answers, those of earlier responses included."""
    found = kept.find(caller.principal, response_id, "response_id")
    return paging.page(found.asked(), lambda item: item.id)


@router.delete("/responses/{response_id}")
async def delete_response(caller: Caller, kept: ResponsesDep, response_id: str) -> DeletedResponse:
    """Forget a response."""
    kept.delete(caller.principal, response_id)
    return DeletedResponse(id=response_id, object="response", deleted=True)


def _search_of(body: ResponseRequest, default: str) -> tuple[str, SearchFields]:
    """Return the collection of a request, and how to search it: the tool's fields, then its own.

    Raises:
        StepError: `invalid_request`: another tool, two collections, no such filter; `not_found`.
    """
    search = SearchFields(**{name: getattr(body, name) for name in SearchFields.model_fields})
    named = body.collection
    for tool in body.tools or []:
        if tool.type != "file_search":
            raise StepError(
                "invalid_request",
                f"tools.0.type: this service calls file_search alone, not {tool.type[:40]!r}",
                param="tools.0.type",
            )
        store = next(iter(tool.vector_store_ids or ()), None)
        if named is not None and store is not None and named != store:
            where = "tools.0.vector_store_ids"
            text = f"{where}: {store[:80]!r} is not the collection {named}"
            raise StepError("invalid_request", text, param=where)
        named = store if named is None else named
        _apply(tool, search)
    return to_collection(body.model, named, default), search


def _apply(tool: FileSearch, search: SearchFields) -> None:
    """Set what a tool says, where the request itself says nothing."""
    ranking = tool.ranking_options or RankingOptions()
    if search.max_num_results is None:
        search.max_num_results = tool.max_num_results
    if search.min_score is None:
        search.min_score = ranking.score_threshold
    if search.filters is None and tool.filters:
        search.filters = to_filters(tool.filters, "tools.0.filters")
    if search.retrieve is None and (mode := ranking.mode()):
        search.retrieve = {"mode": mode}


def _conversation(body: ResponseRequest, kept: Responses, principal: Principal) -> Conversation:
    """Return the conversation of a request: earlier responses, instructions, input.

    Raises:
        StepError: `invalid_request`, `not_found`.
    """
    earlier: list[Message] = []
    if body.instructions:
        earlier.append({"role": "system", "content": body.instructions})
    if body.previous_response_id is not None:
        where = "previous_response_id"
        earlier += kept.find(principal, body.previous_response_id, where).messages
    if isinstance(body.input, str):
        asked = Conversation([{"role": "user", "content": body.input}], 0, "input")
    else:
        said = list(_said(body.input, kept, principal))
        if not said:
            text = "input: it holds no message that asks"
            raise StepError("invalid_request", text, param="input")
        asked = read_conversation([one for _, one in said], [place for place, _ in said])
    return Conversation([*earlier, *asked.messages], len(earlier) + asked.at, asked.where)


def _said(
    items: Sequence[InputItem], kept: Responses, principal: Principal
) -> Iterator[tuple[str, ChatMessage]]:
    """Yield the messages of an input with their places; raises `invalid_request`, `not_found`."""
    for at, item in enumerate(items):
        where = f"input.{at}"
        if item.type == "message":
            yield where, item
        elif item.type == "item_reference":
            message = kept.item(principal, item.id or "", f"{where}.id")
            if message is not None:
                yield where, ChatMessage(**message)
        elif item.type not in REPLAYED:
            raise StepError(
                "invalid_request",
                f"{where}.type: only messages can be sent here, this is {item.type[:40]!r}",
                param=f"{where}.type",
            )


def _input_message(item_id: str, said: Message) -> InputMessage:
    text: dict[str, JsonValue] = {"type": "input_text", "text": said["content"]}
    if said["role"] == "assistant":
        text = {**_part(said["content"])}
    return InputMessage(id=item_id, role=said["role"], content=[text])


def file_citations(text: str, citations: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield an annotation for each number in a text that cites a passage."""
    cited = {citation["marker"]: citation for citation in citations}
    for found in MARKER.finditer(text):
        citation = cited.get(int(found[1][:9]))
        if citation is not None:
            yield {
                "type": "file_citation",
                "index": found.start(),
                "file_id": file_id_of(citation["document_id"]),
                "filename": filename_of(citation),
                **({"url": citation["url"]} if citation.get("url") else {}),
            }


class Writer:
    """Writes one answer as OpenAI's response, whole or as events, and keeps it.

    Args:
        body: What was asked.
        kept: Where the response is kept, unless the request says no.
        conversation: That the answer ends.
        caller: Who asked.
    """

    def __init__(
        self, body: ResponseRequest, kept: Responses, conversation: Conversation, caller: Context
    ) -> None:
        self._body, self._kept, self._caller = body, kept, caller
        self._conversation = conversation
        unique = uuid.uuid4().hex
        self._message_id = f"msg_{unique}"
        self._search: dict[str, Any] = {
            "type": "file_search_call",
            "id": f"fs_{unique}",
            "status": "in_progress",
            "queries": [],
            "results": None,
        }
        self._response: dict[str, Any] = {
            "id": f"resp_{unique}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "tool_choice": "auto",
            "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or []],
            "top_p": None,
            "truncation": "disabled",
            "usage": None,
        }
        self._structured = structure_of(body.text.format if body.text else None, "text.format")
        self._searched, self._sent, self._number = False, "", 0

    async def whole(self, events: AsyncGenerator[Event, None]) -> dict[str, Any]:
        """Return the response that a stream of events ends with."""
        async with aclosing(events):
            async for event in events:
                data = pydantic_core.from_json(event.data)
                if event.name == "search_results":
                    self._found(data)
                if event.name == "final_answer":
                    self._complete(data, data["answer"])
        return self._response

    def write(self, event: Event) -> bytes:
        """Return an event of the pipeline as server-sent events."""
        data = pydantic_core.from_json(event.data)
        if event.name == "search_results":
            return b"".join(self._search_events(data))
        if event.name == "message":
            return b"".join(self._text(data["delta"]["content"]))
        if event.name == "final_answer":
            return b"".join(self._end(data))
        return self._event("error", **data["error"], **data) if event.name == "error" else b""

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {**fields, "type": kind, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), pydantic_core.to_json(data))

    def _begin(self) -> Iterator[bytes]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._response)

    def _found(self, found: dict[str, Any]) -> None:
        """Take in the passages found."""
        self._searched = True
        queries = [self._conversation.split()[0], *found.get("search_queries", [])]
        results = None
        if RESULTS in (self._body.include or []):
            results = [_result(passage) for passage in found["results"]]
        self._search |= {"status": "completed", "queries": queries, "results": results}

    def _search_events(self, found: dict[str, Any]) -> Iterator[bytes]:
        place = {"output_index": 0, "item_id": self._search["id"]}
        yield from self._begin()
        yield self._event("response.output_item.added", output_index=0, item=self._search)
        for step in ("in_progress", "searching"):
            yield self._event(f"response.file_search_call.{step}", **place)
        self._found(found)
        yield self._event("response.file_search_call.completed", **place)
        yield self._event("response.output_item.done", output_index=0, item=self._search)

    @property
    def _place(self) -> dict[str, Any]:
        """Where the text stands in the output."""
        index = 1 if self._searched else 0
        return {"item_id": self._message_id, "output_index": index, "content_index": 0}

    def _message(self, status: str, *content: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._message_id,
            "role": "assistant",
            "status": status,
            "content": list(content),
        }

    def _text(self, text: str) -> Iterator[bytes]:
        if not text:
            return
        if not self._sent:
            yield from self._begin_part(_part(""))
        self._sent += text
        yield self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def _begin_part(self, part: dict[str, Any]) -> Iterator[bytes]:
        """Yield what comes before the first piece of a text or refusal."""
        if self._number == 0:
            yield from self._begin()
        place, item = self._place, self._message("in_progress")
        index = place["output_index"]
        yield self._event("response.output_item.added", output_index=index, item=item)
        yield self._event("response.content_part.added", **place, part=part)

    def _refusal(self, text: str) -> Iterator[bytes]:
        yield from self._begin_part(_refused(""))
        yield self._event("response.refusal.delta", **self._place, delta=text)

    def _end(self, answer: dict[str, Any]) -> Iterator[bytes]:
        if not self._sent:  # an answer without messages: nothing was found
            write = self._refusal if self._refuses(answer) else self._text
            yield from write(answer["answer"])
        item = self._complete(answer, self._sent or answer["answer"])
        part, place = item["content"][0], self._place
        yield from self._end_part(part, place)
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event(
            "response.output_item.done", output_index=place["output_index"], item=item
        )
        yield self._event(f"response.{self._response['status']}", response=self._response)

    def _end_part(self, part: dict[str, Any], place: dict[str, Any]) -> Iterator[bytes]:
        if part["type"] == "refusal":
            yield self._event("response.refusal.done", **place, refusal=part["refusal"])
            return
        for at, annotation in enumerate(part["annotations"]):
            kind = "response.output_text.annotation.added"
            yield self._event(kind, **place, annotation_index=at, annotation=annotation)
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=[])

    def _refuses(self, answer: dict[str, Any]) -> bool:
        """Whether an answer is given as a refusal: nothing of another one was sent before."""
        return self._structured is not None and not self._sent and is_refusal(answer)

    def _complete(self, answer: dict[str, Any], text: str) -> dict[str, Any]:
        """Complete the response, and keep it; returns its message."""
        reason = INCOMPLETE.get(answer["finish_reason"])
        status = "incomplete" if reason else "completed"
        citations = list(file_citations(text, answer["citations"]))
        part = {**_part(text), "annotations": citations}
        item = self._message(status, _refused(text) if self._refuses(answer) else part)
        self._response |= {
            **extras_of(answer),
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [self._search, item] if self._searched else [item],
            "usage": _usage(answer["usage"]),
        }
        if self._body.store is not False:
            said: Message = {"role": "assistant", "content": text}
            messages = [*self._conversation.messages, said]
            if self._body.instructions:  # they are of one response alone
                del messages[0]
            ids = [
                *(f"{self._message_id}_{at}" for at in range(len(messages) - 1)),
                self._message_id,
            ]
            items = dict(zip(ids, messages, strict=True))
            self._kept.keep(Kept(self._response, messages, items, self._caller.principal))
        return item


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _refused(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def _result(passage: dict[str, Any]) -> dict[str, Any]:
    """Return a passage as a result of file_search."""
    item = to_item(passage)
    names = ("file_id", "filename", "score", "attributes")
    return {**{name: item[name] for name in names}, "text": passage["text"]}


def _usage(used: Mapping[str, int]) -> dict[str, Any]:
    """Return the token counts of the language model, by OpenAI's names in responses."""
    return {
        "input_tokens": used.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": used.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.get("total_tokens", 0),
    }
