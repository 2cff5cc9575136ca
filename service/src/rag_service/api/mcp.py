"""The Model Context Protocol over streamable HTTP: tools, and the documents as resources.

`/mcp` has the tools `ask`, `search` and `fetch`. `/mcp/chatgpt` has `search` and `fetch` with exactly the
inputs that ChatGPT asks for; their results are the same.
Stateless: each request is independent, with the key, deadline and slot of its HTTP request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import mcp_types as types
import pydantic_core
from fastapi import FastAPI
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rag_kit.errors import StepError
from rag_kit.passages import Citation, Message, quotes_of
from rag_kit.request import explain
from rag_pipeline.models import RagRequest

from ..http.context import context_of
from ..http.errors import to_body
from ..http.requests import refuse_hosts
from ..service import Service
from .mcp_documents import TEMPLATE, Fetched, Found, fetch, found, read_resource, resources

PATH, CHATGPT = "/mcp", "/mcp/chatgpt"
PAGE = 200  # resources in one list
TEXT = "text/plain"
RESOURCE_NOT_FOUND = -32002  # of the protocol
ERROR = "rag/error"  # name in the `_meta` of a result
ABOUT = """Answers and passages from this service's documents. `ask` gives an answer whose numbers
in brackets point to citations: the documents' own words. `search` gives the passages, `fetch` a document."""
CONTEXT = ServerRequestContext[Any, Request]
Arguments = TypeVar("Arguments", bound=BaseModel)


class SearchArguments(BaseModel):
    """What to find."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="The question, in the words of the documents where possible.")
    collection: str | None = Field(
        None, description="Collection of documents; leave it out for the service's own."
    )
    top_k: int = Field(5, ge=1, le=100, description="How many passages at most.")
    filters: dict[str, JsonValue] | None = Field(
        None,
        description="Conditions on the documents' metadata, e.g. "
        '{"year": {"$gte": 2024}}; operators: $eq $ne $gt $gte $lt $lte $in $nin $and $or $not.',
    )
    min_score: float | None = Field(None, description="Drop passages with a lower score.")
    rerank: bool | None = Field(
        None,
        description="Whether a reranker orders the passages again: better, and slower. Leave it out for "
        "the service's own choice; true is an error where there is no reranker.",
    )
    messages: list[Message] = Field(
        default_factory=list,
        max_length=1000,
        description="The conversation before the query, oldest first, when the query leans on it.",
    )
    search_queries: list[str] | None = Field(
        None,
        max_length=8,
        description="Further wordings of the query, or its parts, to search with; leave it out, and a "
        "follow-up is completed from `messages`; []: only the query.",
    )


class QueryArguments(BaseModel):
    """What to find, as ChatGPT says it."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="The question, in the words of the documents where possible.")


class FetchArguments(BaseModel):
    """What to read."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="The id of a result of `search`.", min_length=1)


class AskArguments(SearchArguments):
    """What to answer."""

    no_context: Literal["abstain", "answer", "error"] = Field(
        "abstain",
        description="When the documents do not tell: say so, answer anyway, or fail.",
    )


class AskResult(BaseModel):
    """An answer and what it rests on."""

    id: str = Field(description="Id of the request.")
    search_queries: list[str] = Field(description="What was searched besides the query.")
    answer: str = Field(description="The answer; numbers in brackets point to citations.")
    answerable: bool = Field(description="False: the documents do not tell.")
    degraded: bool = Field(description="Whether a model failed and the answer does without.")
    citations: list[Citation] = Field(description="By number.")
    warnings: list[str] = Field(description="What to know about the answer.")


class SearchResult(BaseModel):
    """The passages found."""

    id: str = Field(description="Id of the request.")
    search_queries: list[str] = Field(description="What was searched besides the query.")
    results: list[Found] = Field(description="Best first.")
    warnings: list[str] = Field(description="What to know about the results.")


def add_mcp(app: FastAPI, service: Service) -> list[StreamableHTTPSessionManager]:
    """Serve the tools; the application's lifespan must `run()` what this returns.

    The library checks neither Host nor Origin: the middleware has done so, for every route alike.
    """
    managers = []
    for path in (PATH, CHATGPT):
        manager = StreamableHTTPSessionManager(
            Tools(service, chatgpt=path == CHATGPT).server(),
            json_response=True,
            stateless=True,
            max_request_body_size=service.settings.max_body_bytes,
        )
        endpoint = StreamableHTTPASGIApp(manager)
        # no GET: without sessions it would wait for ever
        app.router.routes.append(_Route(path, endpoint, methods=["POST"], include_in_schema=False))
        managers.append(manager)
    return managers


class _Route(Route):
    """A route that is in the scope, for metrics, as FastAPI's own are."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        await super().handle(scope, receive, send)


class Tools:
    """The tools, and the documents as resources.

    Args:
        service: Answers them.
        chatgpt: Only `search` and `fetch`, with ChatGPT's inputs.
    """

    def __init__(self, service: Service, *, chatgpt: bool = False) -> None:
        self._service = service
        self._searching: type[SearchArguments | QueryArguments] = SearchArguments
        if chatgpt:
            self._searching = QueryArguments
        self._calls = {"ask": self._ask, "search": self._search, "fetch": self._fetch}
        if chatgpt:
            del self._calls["ask"]
        known = [
            _tool(
                "ask",
                "Ask the documents",
                "Answer a question from the documents, with citations that quote them; says so "
                "when they do not tell.",
                AskArguments,
                AskResult,
            ),
            _tool(
                "search",
                "Search the documents",
                "Find the passages of the documents that fit a question, with their text, place "
                "and score.",
                self._searching,
                SearchResult,
            ),
            _tool(
                "fetch",
                "Read a document",
                "Read the document of a search result.",
                FetchArguments,
                Fetched,
            ),
        ]
        self._tools = [tool for tool in known if tool.name in self._calls]

    def server(self) -> Server[Any]:
        """Return the MCP server."""
        return Server(
            "rag",
            version=version("rag-service"),
            title="Ask documents",
            instructions=ABOUT,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_list_resources=self._resources,
            on_list_resource_templates=_templates,
            on_read_resource=self._read,
            on_list_prompts=_prompts,
        )

    async def _list(
        self, context: CONTEXT, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=self._tools)

    async def _call(
        self, context: CONTEXT, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Call a tool; a failure is a result that says why, for the calling model."""
        http = context.request
        assert http is not None
        if params.name not in self._calls:
            known = ", ".join(self._calls)
            text = f"there is no tool {params.name[:80]!r}; there are {known}"
            raise MCPError(types.INVALID_PARAMS, text)
        try:
            refuse_hosts(params.arguments or {})
            return await self._calls[params.name](http, params.arguments or {})
        except StepError as error:
            return _failed(error, http)
        except ClientDisconnect:
            gone = StepError("client_cancelled", "the client went away before it was answered")
            return _failed(gone, http)

    async def _ask(self, http: Request, arguments: dict[str, Any]) -> types.CallToolResult:
        question = self._question(_read(AskArguments, arguments))
        answer = pydantic_core.from_json(await self._service.answer(http, question))
        lines = [answer["answer"], *map(_cited, answer["citations"])]
        return _succeeded(AskResult, answer, "\n".join(lines))

    async def _search(self, http: Request, arguments: dict[str, Any]) -> types.CallToolResult:
        given = _read(self._searching, arguments)
        question = self._question(SearchArguments(**given.model_dump(exclude_unset=True)))
        data = pydantic_core.from_json(await self._service.search(http, question))
        passages = [
            found(result, question.collection, self._service, http) for result in data["results"]
        ]
        data["results"] = [one.model_dump() for one in passages]
        shown = [
            {"id": one.id, "title": _title(one), "url": one.url, "text": one.text}
            for one in passages
        ]
        return _succeeded(SearchResult, data, pydantic_core.to_json({"results": shown}).decode())

    async def _fetch(self, http: Request, arguments: dict[str, Any]) -> types.CallToolResult:
        document = await fetch(self._service, http, _read(FetchArguments, arguments).id)
        return _succeeded(Fetched, document.model_dump(), document.model_dump_json())

    def _question(self, arguments: SearchArguments) -> RagRequest:
        fields = {name: getattr(arguments, name) for name in arguments.model_fields_set}
        if arguments.collection is None:
            fields["collection"] = self._service.settings.collection
        if "rerank" in fields:
            fields["rerank"] = {"enabled": arguments.rerank}
        return _read(RagRequest, fields)

    async def _resources(
        self, context: CONTEXT, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        http, after = context.request, (params.cursor if params else None) or ""
        assert http is not None
        with _mcp_errors():
            listed = await resources(self._service, http)
        page = [(uri, info) for uri, info in listed if uri > after][: PAGE + 1]
        shown = [
            types.Resource(
                uri=uri,
                name=info.document_id,
                title=info.title,
                mime_type=TEXT,
                size=info.characters,
            )
            for uri, info in page[:PAGE]
        ]
        return types.ListResourcesResult(
            resources=shown, next_cursor=shown[-1].uri if len(page) > PAGE else None
        )

    async def _read(
        self, context: CONTEXT, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        http = context.request
        assert http is not None
        with _mcp_errors():
            document = await read_resource(self._service, http, params.uri)
        contents = types.TextResourceContents(uri=params.uri, mime_type=TEXT, text=document.text)
        return types.ReadResourceResult(contents=[contents])


async def _templates(
    context: CONTEXT, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    document = types.ResourceTemplate(
        uri_template=TEMPLATE, name="document", title="A document by its id", mime_type=TEXT
    )
    return types.ListResourceTemplatesResult(resource_templates=[document])


async def _prompts(
    context: CONTEXT, params: types.PaginatedRequestParams | None
) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[])


@contextmanager
def _mcp_errors() -> Iterator[None]:
    """Raise a failure as the protocol's error, with our code in its data."""
    try:
        yield
    except StepError as error:
        missing = error.code in ("document_not_found", "collection_not_found")
        number = RESOURCE_NOT_FOUND if missing else types.INTERNAL_ERROR
        data = {"code": error.code, "param": error.param}
        raise MCPError(number, f"{error.code}: {error.message}", data) from None


def _title(passage: Found) -> str:
    page = f", page {passage.page}" if passage.page else ""
    return f"{passage.title or passage.document_id}{page}"


def _tool(
    name: str, title: str, about: str, arguments: type[BaseModel], result: type[BaseModel]
) -> types.Tool:
    return types.Tool(
        name=name,
        title=title,
        description=about,
        input_schema=arguments.model_json_schema(),
        output_schema=result.model_json_schema(),
        annotations=types.ToolAnnotations(
            title=title, read_only_hint=True, idempotent_hint=True, open_world_hint=False
        ),
    )


def _read(model: type[Arguments], arguments: dict[str, Any]) -> Arguments:
    try:
        return model.model_validate(arguments, strict=True)
    except ValidationError as error:
        raise explain(error, model) from None


def _succeeded(model: type[BaseModel], data: dict[str, Any], text: str) -> types.CallToolResult:
    fields = {name: data[name] for name in model.model_fields}
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
    return types.CallToolResult(content=content, structured_content=fields)


def _failed(error: StepError, http: Request) -> types.CallToolResult:
    """Return an error as a result; the error object of the envelope is in its `_meta`."""
    told = pydantic_core.from_json(to_body(error, context_of(http.scope)))["error"]
    content: list[types.ContentBlock] = [
        types.TextContent(type="text", text=f"{told['code']}: {told['message']}")
    ]
    return types.CallToolResult(content=content, is_error=True, _meta={ERROR: told})


def _cited(citation: dict[str, Any]) -> str:
    page = f", page {citation['page']}" if citation["page"] else ""
    place = f"{citation['title']} ({citation['source']}{page})"
    quoted = " … ".join(f"“{quote}”" for quote in quotes_of(citation))
    return f"[{citation['marker']}] {place}: {quoted}"
