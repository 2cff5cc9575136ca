"""The composite: three steps as one question and one answer.

Each step's response is the next step's request. Where the steps run is not known here: they are
given as functions from JSON text to JSON text.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import pydantic_core
from pydantic import JsonValue, ValidationError

from rag_kit.errors import CODES, StepError, error_of
from rag_kit.handler import Event, message_event
from rag_kit.passages import Result
from rag_kit.request import explain

from .models import RagRequest, RagResponse, SearchResponse
from .outputs import AugmentOutput, GenerateOutput, Output, RetrieveOutput

LOG = logging.getLogger(__name__)
__version__ = version("rag-pipeline")

Step = Callable[[str], Awaitable[str]]
"""A step as JSON text in, JSON text out."""
StreamingStep = Callable[[str], AsyncGenerator[Event, None]]
"""A step as JSON text in, events out: `message`, then `final_answer` (its response) or `error`."""
Shape = TypeVar("Shape", bound=Output)
SCORE_DIGITS = 6  # decimals of a score that count in a digest
ASKED = {"top_k", "filters", "min_score", "retrieve"}  # what retrieval depends on besides the query


def new_request_id() -> str:
    """Return a new id for a request whose caller gave none."""
    return f"rag_{uuid.uuid4().hex}"


async def answer(
    request: RagRequest,
    *,
    retrieve: Step,
    augment: Step,
    generate: Step,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> RagResponse:
    """Answer one question with the three steps, one after the other.

    Args:
        request: The question and the options of each step.
        retrieve: Finds passages.
        augment: Builds a prompt from them.
        generate: Answers it with citations.
        clock: Seconds since any fixed moment, for `timings_ms`.
        new_id: Makes an id when the request has none.

    Raises:
        StepError: A step's own error; `module_bad_output` when a step's response is off contract
            (`step` and `param` name the place); `module_error` when a step raised.
    """
    run = _Run(request, clock, new_id)
    found = await run.ask("retrieve", retrieve, run.first, RetrieveOutput)
    built = await run.ask("augment", augment, found.next, AugmentOutput)
    written = await run.ask("generate", generate, built.next, GenerateOutput)
    return run.answer(found.output, built.output, written.output)


async def stream(
    request: RagRequest,
    *,
    retrieve: Step,
    augment: Step,
    generate: StreamingStep,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> AsyncGenerator[Event, None]:
    """Answer one question as it goes; arguments and errors as for `answer`.

    Yields:
        `search_results` (a `SearchResponse`), `message` for each piece of text, not verified yet;
        `citation` for each one verified, and `final_answer`, the `RagResponse`.
    """
    run = _Run(request, clock, new_id)
    found = await run.ask("retrieve", retrieve, run.first, RetrieveOutput)
    yield Event("search_results", run.found(found.output).model_dump_json())
    built = await run.ask("augment", augment, found.next, AugmentOutput)
    replies: list[str] = []
    async with aclosing(run.listen("generate", generate, built.next, replies)) as pieces:
        async for piece in pieces:
            yield piece
    written = run.reply("generate", replies[0], GenerateOutput)
    response = run.answer(found.output, built.output, written.output)
    for event in closing_events(response):
        yield event


def closing_events(response: RagResponse) -> Iterator[Event]:
    """Yield what ends a streamed answer: its citations, then the whole of it."""
    for citation in response.citations:
        data = {"id": response.id, "citation": citation.model_dump()}
        yield Event("citation", _dump(data))
    yield Event("final_answer", response.model_dump_json())


async def search(
    request: RagRequest,
    *,
    retrieve: Step,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> SearchResponse:
    """Find passages only; arguments and errors as for `answer`."""
    run = _Run(request, clock, new_id)
    return run.found((await run.ask("retrieve", retrieve, run.first, RetrieveOutput)).output)


@dataclass(frozen=True)
class _Reply(Generic[Shape]):
    output: Shape
    next: str  # the next step's request


@dataclass
class _Run:
    """One question on its way through the steps."""

    request: RagRequest
    clock: Callable[[], float]
    new_id: Callable[[], str]
    spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.id = self.request.request_id or self.new_id()
        self.sent = {**self.request.model_dump(), "request_id": self.id}
        self.first = _dump(self.sent)

    async def ask(self, name: str, step: Step, text: str, shape: type[Shape]) -> _Reply[Shape]:
        with self.timed(name):
            reply = await step(text)
        return self.reply(name, reply, shape)

    async def listen(
        self, name: str, step: StreamingStep, text: str, replies: list[str]
    ) -> AsyncGenerator[Event, None]:
        """Yield a step's messages under this request's id; its reply is appended to `replies`."""
        with self.timed(name):
            async with aclosing(step(text)) as events:
                async for event in events:
                    if event.name == "message":
                        yield message_event(_content_of(name, event), id=self.id)
                    elif event.name in ("final_answer", "error"):
                        replies.append(event.data)
        if len(replies) != 1:
            raise _bad_output(name, f"ended with {len(replies)} final events in place of one")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds of a step, and name the step in what it raises."""
        began = self.clock()
        try:
            yield
        except asyncio.CancelledError as error:
            raise asyncio.CancelledError(name) from error  # what a deadline then names
        except StepError as error:
            error.step = error.step or name
            raise
        except Exception as error:
            LOG.exception("%s: raised instead of answering", name)
            raise StepError(
                "module_error",
                f"the step {name} failed with {type(error).__name__}; the log has the details",
                step=name,
            ) from error
        self.spent[name] = self.clock() - began

    def reply(self, name: str, reply: str, shape: type[Shape]) -> _Reply[Shape]:
        """Return what a step replied, checked, and the next step's request."""
        data = read_reply(name, reply)
        if data.get("request_id", self.id) != self.id:
            raise _bad_output(name, "is one to another request", "request_id")
        output = check_reply(name, shape, data)
        dropped = {key: value for key, value in self.sent.items() if key not in data}
        return _Reply(output, _dump({**data, **dropped}) if dropped else reply)

    def found(self, found: RetrieveOutput) -> SearchResponse:
        """Return the passages as a response."""
        return SearchResponse(
            id=self.id,
            query=self.request.query,
            collection=self.request.collection,
            results=found.results,
            timings_ms=self.timings(),
            warnings=_merge_warnings(found),
            provenance=_merge_provenance(self.request, found),
        )

    def answer(
        self, found: RetrieveOutput, prompt: AugmentOutput, reply: GenerateOutput
    ) -> RagResponse:
        """Return the answer made of what the three steps gave."""
        _check_citations(reply, {context.marker: context.chunk_id for context in prompt.contexts})
        return RagResponse(
            id=self.id,
            query=self.request.query,
            collection=self.request.collection,
            answer=reply.answer,
            answerable=reply.answerable,
            finish_reason=reply.finish_reason,
            llm_generated=reply.llm_generated,
            degraded=reply.degraded,
            support=reply.support,
            citations=reply.citations,
            citation_check=reply.citation_check,
            contexts=prompt.contexts,
            left_out=prompt.left_out,
            usage={**reply.usage, "context_tokens": prompt.context_usage.context_tokens},
            timings_ms=self.timings(),
            warnings=_merge_warnings(found, prompt, reply),
            provenance=_merge_provenance(self.request, found, prompt, reply),
            prompt=prompt.prompt if self.request.debug else None,
        )

    def timings(self) -> dict[str, float]:
        seconds = {**self.spent, "total": self.clock() - self.began}
        return {name: round(value * 1000, 3) for name, value in seconds.items()}


def _content_of(name: str, event: Event) -> str:
    try:
        content = pydantic_core.from_json(event.data)["delta"]["content"]
    except (ValueError, KeyError, TypeError):
        content = None
    if not isinstance(content, str):
        raise _bad_output(name, "has a message without delta.content")
    return content


def _dump(data: dict[str, Any]) -> str:
    return pydantic_core.to_json(data).decode()


def read_reply(name: str, reply: str) -> dict[str, Any]:
    """Return a step's response as an object, or raise the error it holds.

    Raises:
        StepError: The step's own; `module_bad_output` when the reply is no response at all.
    """
    try:
        data = pydantic_core.from_json(reply, allow_inf_nan=False)
    except (TypeError, ValueError) as error:
        raise _bad_output(name, f"is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _bad_output(name, "is not a JSON object")
    failed = error_of(data)
    if failed is None:
        return data
    code, message, param, step = (failed.get(key) for key in ("code", "message", "param", "step"))
    if code not in CODES or not isinstance(message, str):
        raise _bad_output(name, f"is an error with the unknown code {code!r}", "error.code")
    wait = failed.get("retry_after")
    raise StepError(
        code,
        message,
        param=param if isinstance(param, str) else None,
        step=step if isinstance(step, str) else name,
        retry_after=wait if isinstance(wait, (int, float)) else None,
    )


def check_reply(name: str, shape: type[Shape], data: dict[str, Any]) -> Shape:
    """Return what the composite needs of a step's response.

    Raises:
        StepError: `module_bad_output`; `param` is the first field off contract.
    """
    try:
        return shape.model_validate(data, strict=True)
    except ValidationError as error:
        fault = explain(error)
        raise _bad_output(name, f"is off contract: {fault.message}", fault.param) from None


def _check_citations(reply: GenerateOutput, chunks: dict[int, str]) -> None:
    for index, citation in enumerate(reply.citations):
        if chunks.get(citation.marker) != citation.chunk_id:
            raise _bad_output(
                "generate",
                f"cites {citation.chunk_id!r} as [{citation.marker}], which is no such passage",
                f"citations.{index}.marker",
            )


def _bad_output(name: str, fault: str, param: str | None = None) -> StepError:
    text = f"the response of the step {name} {fault}; see its response schema in contract/"
    return StepError("module_bad_output", text, param=param, step=name)


def _merge_warnings(*outputs: Output) -> list[str]:
    return list(dict.fromkeys(warning for output in outputs for warning in output.warnings))


def digest_results(results: Sequence[Result]) -> str:
    """Return a SHA-256 over the passages in their order: ids, span, and score to 6 decimals."""
    rows = [
        [found.chunk_id, found.document_id, found.span, round(found.score, SCORE_DIGITS) + 0.0]
        for found in results
    ]
    return f"sha256:{hashlib.sha256(pydantic_core.to_json(rows)).hexdigest()}"


def with_fields(items: Any, *names: str) -> Any:
    """Return the objects of a list that have all the fields; what is no list as it is."""
    if not isinstance(items, list):
        return items
    return [item for item in items if isinstance(item, dict) and item.keys() >= set(names)]


def _merge_provenance(
    request: RagRequest, found: RetrieveOutput, *later: Output
) -> dict[str, dict[str, JsonValue]]:
    merged = {step: made for output in (found, *later) for step, made in output.provenance.items()}
    ours: dict[str, JsonValue] = {
        "version": __version__,
        "request": request.model_dump(include=ASKED),
        "results_digest": digest_results(found.results),
    }
    return {**merged, "rag": ours}
