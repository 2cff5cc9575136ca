"""What the OpenAI routes share: ignored and refused fields, models, the question of a conversation."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.passages import COLLECTION
from rag_kit.request import MAX_QUERY_BYTES, explain
from rag_pipeline.models import RagRequest

from ..http.context import Principal
from ..http.requests import otherwise
from ..service import Service

MODEL = "rag"
MODEL_NAMES = rf"^{MODEL}(/{COLLECTION[1:-1]})?$"
MAX_ANSWER_TOKENS = 32768  # the limit of `generate`
ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
WARNING = "X-Rag-Warning"
MAX_WARNING_NAMES = 20
BEGINNING_BYTES = 2048  # of a message that is too long to be searched whole
GAP = "\n…\n"
MARKER = re.compile(r"\[(\d+)\]")
SIDE_TASK = "a side task: a model answered it without the documents"
NO_PASSAGES: dict[str, Any] = {
    "citations": [],
    "contexts": [],
    "search_queries": [],
    "answerable": False,
    "degraded": False,
    "warnings": [],
}
"""The fields of an answer that a side task does not have."""
Message = dict[str, str]


class Part(BaseModel):
    """A part of a message; only text is supported."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description='"text", "input_text" or "output_text".')
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


class SearchFields(BaseModel):
    """What a request to an OpenAI route may say of the search; names that OpenAI does not use."""

    collection: Annotated[str, Field(json_schema_extra={"pattern": COLLECTION})] | None = Field(
        None, description="Where to search; or name it in the model."
    )
    max_num_results: (
        Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 100})] | None
    ) = Field(None, description="How many passages at most: `top_k` of /rag_modules.")
    filters: dict[str, JsonValue] | None = Field(
        None, description="As in the request of /rag_modules; so are these:"
    )
    min_score: float | None = None
    search_queries: list[str] | None = None
    no_context: Literal["abstain", "answer", "error"] | None = None
    retrieve: dict[str, JsonValue] | None = None
    rerank: dict[str, JsonValue] | None = None
    augment: dict[str, JsonValue] | None = None
    generate: dict[str, JsonValue] | None = None


SEARCH_NAMES = {"max_num_results": "top_k"}  # ours, where they differ from those of `RagRequest`


# -- fields that are ignored or refused -----------------------------------------------------------


def is_refusal(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is a plain text where JSON was asked for, which OpenAI calls a refusal."""
    return answer["finish_reason"] in ("no_context", "filtered")


def ignored(
    extra: Mapping[str, Any] | None, neutral: Mapping[str, Sequence[Any]], why: Mapping[str, str]
) -> list[str]:
    """Return the names of the fields without effect, and refuse those that would need one.

    Args:
        extra: Fields of a request that its model does not have.
        neutral: Fields that would change what an answer is, the one that matters first, with their
            values that do not.
        why: What to say of some of them.

    Raises:
        StepError: `invalid_request`.
    """
    given = {name: value for name, value in (extra or {}).items() if value is not None}
    for name, values in neutral.items():
        if name in given and given[name] not in values:
            text = why.get(name, "not supported here; leave it out")
            raise StepError("invalid_request", f"{name}: {text}", param=name)
    return [name for name in given if name not in neutral]


def warned(response: Response, names: Iterable[str], *more: str) -> Response:
    """Return a response with a header that lists the fields that were ignored, and what else to know."""
    listed = [_printable(name) for name in names]
    rest = len(listed) - MAX_WARNING_NAMES
    if rest > 0:
        listed[MAX_WARNING_NAMES:] = [f"and {rest} more"]
    notes = [f"ignored: {', '.join(listed)}"] if listed else []
    if notes := [*notes, *more]:
        response.headers[WARNING] = "; ".join(notes)
    return response


def _printable(name: str) -> str:
    return name[:80].encode("unicode_escape").decode("ascii").replace(",", "%2C")


# -- models ---------------------------------------------------------------------------------------


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


async def model_names(service: Service, principal: Principal) -> list[str]:
    """Return the models a key may use."""
    names = [MODEL] if principal.may_use(service.settings.collection) else []
    if service.library is not None:
        known = await service.library.collections()
        names += [f"{MODEL}/{one.name}" for one in known if principal.may_use(one.name)]
    return names


# -- the conversation -----------------------------------------------------------------------------


class Conversation(NamedTuple):
    """A conversation whose last turn is the question.

    Args:
        messages: All of it, as `RagRequest` takes messages.
        at: Which of them asks.
        where: The place of that one's text in the request, for errors.
    """

    messages: list[Message]
    at: int
    where: str

    @property
    def question(self) -> str:
        """The text that asks."""
        return self.messages[self.at]["content"]

    @property
    def is_long(self) -> bool:
        """Whether the question is too long to be searched whole."""
        return len(self.question.encode("utf-8", "surrogatepass")) > MAX_QUERY_BYTES

    def split(self) -> tuple[str, list[Message]]:
        """Return what is searched, and the messages before it.

        Of a question that is too long its beginning and end are searched; all of it is a message.
        """
        earlier = [*self.messages[: self.at], *self.messages[self.at + 1 :]]
        if not self.is_long:
            return self.question, earlier
        whole = self.question.encode("utf-8", "surrogatepass")
        ending = MAX_QUERY_BYTES - BEGINNING_BYTES - len(GAP.encode())
        parts = (whole[:BEGINNING_BYTES], whole[-ending:])
        query = GAP.join(part.decode("utf-8", "ignore") for part in parts)
        return query, [*earlier, self.messages[self.at]]


def long_note(conversation: Conversation) -> list[str]:
    """Return what to know of a question that is too long to be searched whole."""
    where = conversation.where
    return [f"{where} is long: its beginning and end are searched"] if conversation.is_long else []


def is_side_task(conversation: Conversation, service: Service) -> bool:
    """Whether a client asks for something about the conversation: a title, tags, follow-ups."""
    return conversation.question.lstrip().startswith(service.settings.side_tasks)


async def side_task(
    request: Request,
    service: Service,
    conversation: Conversation,
    collection: str,
    options: dict[str, Any],
) -> dict[str, Any] | None:
    """Return a model's answer to a side task, made without documents; None for a question."""
    if not is_side_task(conversation, service):
        return None
    reply = await service.complete(request, collection, conversation.messages, options)
    return {**NO_PASSAGES, **reply}


async def one_event(answer: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    """Yield a complete answer as the only event of a stream."""
    yield Event("final_answer", pydantic_core.to_json(answer).decode())


def read_conversation(messages: Sequence[ChatMessage], places: Sequence[str]) -> Conversation:
    """Return a conversation: the last message of the user asks, or where there is none the system's.

    Args:
        messages: Oldest first, at least one.
        places: Where each stands in the request.

    Raises:
        StepError: `invalid_request`: a tool's message, an image, nothing that asks.
    """
    read = [
        (place, message)
        for place, one in zip(places, messages, strict=True)
        if (message := to_message(one, place)) is not None
    ]
    roles = [message["role"] for _, message in read]
    last = len(roles) - 1
    while last > 0 and roles[last] == "system" and "user" in roles:
        last -= 1  # instructions after the question
    if not roles or roles[last] == "assistant":
        where = f"{places[-1]}.role"
        text = f"{where}: the last message asks the question, so its role must be user"
        raise StepError("invalid_request", text, param=where)
    return Conversation([message for _, message in read], last, f"{read[last][0]}.content")


def to_message(message: ChatMessage, where: str) -> Message | None:
    """Return a message as `RagRequest` takes it; None for an answer without content.

    Raises:
        StepError: `invalid_request`: a tool's message, an image, no content.
    """
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
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise StepError(
                "invalid_request",
                f"{where}.content.{index}: only text can be asked, this is {part.type[:40]!r}",
                param=f"{where}.content.{index}.type",
            )
    if not message.content:
        if message.role == "assistant":
            return None
        text = f"{where}.content: the message has no content"
        raise StepError("invalid_request", text, param=f"{where}.content")
    text = "\n".join(part.text or "" for part in message.content)
    return {"role": ROLES[message.role], "content": text}


def to_question(
    conversation: Conversation, search: SearchFields, collection: str, options: Mapping[str, Any]
) -> RagRequest:
    """Return a conversation as a question to the pipeline.

    Args:
        conversation: With the question.
        search: What the request says of the search.
        collection: Where to search.
        options: Of `generate`, under those of the request; None: not given.

    Raises:
        StepError: `invalid_request`, `param` names the field.
    """
    query, earlier = conversation.split()
    generate = {**options, **(search.generate or {})}
    question: dict[str, Any] = {
        "query": query,
        "messages": earlier,
        "collection": collection,
        "generate": {name: value for name, value in generate.items() if value is not None},
    }
    for name in SearchFields.model_fields:
        value = getattr(search, name)
        if name not in ("collection", "generate") and value is not None:
            question[SEARCH_NAMES.get(name, name)] = value
    try:
        return RagRequest.model_validate(question, strict=True)
    except ValidationError as error:
        fault = explain(error)
        names = {
            "query": conversation.where,
            **{ours: theirs for theirs, ours in SEARCH_NAMES.items()},
        }
        theirs = names.get(fault.param or "")
        if theirs is None:
            raise fault from None
        text = fault.message.replace(fault.param or "", theirs, 1)
        raise StepError("invalid_request", text, param=theirs) from None


def structure_of(given: Mapping[str, Any] | None, where: str) -> dict[str, Any] | None:
    """Return the form of an answer as `generate` takes it; None for plain text.

    Args:
        given: `response_format` of a chat, `text.format` of a response.
        where: Its place in the request, for errors.

    Raises:
        StepError: `invalid_request`, it is no form there is.
    """
    kind = (given or {}).get("type", "text")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    inner = given.get("json_schema", {k: v for k, v in given.items() if k != "type"})
    if (
        kind != "json_schema"
        or not isinstance(inner, dict)
        or not isinstance(inner.get("schema"), dict)
    ):
        text = f"{where}: send json_schema with a name and a schema, json_object, or text"
        raise StepError("invalid_request", text, param=where)
    return {"type": kind, "json_schema": {"name": "answer", **inner}}


# -- answers --------------------------------------------------------------------------------------


def usage_of(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the token counts of the language model, by OpenAI's names in chats."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: answer["usage"].get(name, 0) for name in names}


def extras_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that OpenAI does not have."""
    names = ("search_queries", "citations", "contexts", "answerable", "degraded", "warnings")
    return {name: answer[name] for name in names}
