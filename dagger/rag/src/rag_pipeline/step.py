"""The pipeline as pure functions: its steps one after the other, as one question and one answer.

Each step's response is the request of the next one. Where a step runs is not known here: it is a
function from JSON text to JSON text.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pydantic_core
from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.handler import Event, message_event
from rag_kit.passages import Result

from .models import RagRequest, RagResponse, SearchResponse
from .outputs import (
    AugmentOutput,
    GenerateOutput,
    Output,
    OutputType,
    RetrieveOutput,
    bad_output,
    check_reply,
    read_reply,
)
from .stages import PIPELINE, Stage, present, search_stages

LOG = logging.getLogger(__name__)
__version__ = version("rag-pipeline")

Step = Callable[[str], Awaitable[str]]
"""A step as JSON text in, JSON text out."""
StreamingStep = Callable[[str], AsyncGenerator[Event, None]]
"""A step as JSON text in, events out: `message`, then `final_answer` (its response) or `error`."""
SCORE_DIGITS = 6  # decimals of a score that count in a digest
MOST = 100  # passages a search gives
SEARCH_FIELDS = {"top_k", "filters", "min_score"}  # with the options of its steps: what a search is


def new_request_id() -> str:
    """Return a new id for a request whose caller gave none."""
    return f"rag_{uuid.uuid4().hex}"


async def answer(
    request: RagRequest,
    steps: Mapping[str, Step],
    *,
    stages: Sequence[Stage] = PIPELINE,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> RagResponse:
    """Answer one question with the steps, one after the other.

    Args:
        request: The question and the options of each step.
        steps: What runs each stage, by its name; an optional stage may have none.
        stages: The stages in their order.
        clock: Seconds since any fixed moment, for `timings_ms`.
        new_id: Makes an id when the request has none.

    Raises:
        StepError: A step's own error; `module_bad_output` when a step's response is off contract
            (`step` and `param` name the place); `module_error` when a step raised.
    """
    run = _Run(request, stages, steps, clock, new_id)
    for stage in run.stages:
        await run.ask(stage, steps[stage.name])
    return run.response()


async def stream(
    request: RagRequest,
    steps: Mapping[str, Step],
    last: StreamingStep,
    *,
    stages: Sequence[Stage] = PIPELINE,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> AsyncGenerator[Event, None]:
    """Answer one question piece by piece; arguments and errors as for `answer`.

    Args:
        request: The question and the options of each step.
        steps: What runs each stage but the last one.
        last: What runs the last one.
        stages: The stages in their order.
        clock: As for `answer`.
        new_id: As for `answer`.

    Yields:
        `search_results` (a `SearchResponse`), `message` for each piece of text, not verified yet;
        `citation` for each one verified, and `final_answer`, the `RagResponse`.
    """
    run = _Run(request, stages, steps, clock, new_id)
    searching = len(search_stages(run.stages))
    for stage in run.stages[:searching]:
        await run.ask(stage, steps[stage.name])
    yield Event("search_results", run.search_response().model_dump_json())
    for stage in run.stages[searching:-1]:
        await run.ask(stage, steps[stage.name])
    async with aclosing(run.listen(run.stages[-1], last)) as pieces:
        async for piece in pieces:
            yield piece
    for event in closing_events(run.response()):
        yield event


def closing_events(response: RagResponse) -> Iterator[Event]:
    """Yield the last events of a streamed answer: each citation, then the complete response."""
    for citation in response.citations:
        data = {"id": response.id, "citation": citation.model_dump()}
        yield Event("citation", _dump(data))
    yield Event("final_answer", response.model_dump_json())


async def search(
    request: RagRequest,
    steps: Mapping[str, Step],
    *,
    stages: Sequence[Stage] = PIPELINE,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_request_id,
) -> SearchResponse:
    """Find passages only; arguments and errors as for `answer`, of the steps that search."""
    run = _Run(request, stages, steps, clock, new_id)
    for stage in search_stages(run.stages):
        await run.ask(stage, steps[stage.name])
    return run.search_response()


def running(
    request: RagRequest, stages: Sequence[Stage], steps: Container[str]
) -> tuple[Stage, ...]:
    """Return the stages that run for a request: an optional one where it has a step and is not off.

    Raises:
        StepError: `invalid_request`, options of a step that this pipeline does not have.
    """
    chosen = []
    for stage in stages:
        options = getattr(request, stage.name, {})
        if stage.optional and options.get("enabled") is False:
            continue
        if present([stage], steps):
            chosen.append(stage)
        elif any(value is not None for value in options.values()):
            raise StepError(
                "invalid_request",
                f"{stage.name}: this pipeline has no such step; leave its options out, or configure it "
                "(docs/reranking.md)",
                param=stage.name,
            )
    return tuple(chosen)


def search_fields(fields: dict[str, Any], stages: Sequence[Stage]) -> dict[str, Any]:
    """Return a request in which as many passages are searched as its stages choose from.

    Such a stage applies the limits of the request, `top_k` and `min_score`, in place of the search.
    """
    for stage in stages:
        if stage.candidates is None:
            continue
        limits = {
            "candidates": stage.candidates,
            "top_n": fields["top_k"],
            "min_relevance": fields["min_score"],
            "max_per_document": fields["retrieve"].get("max_per_document"),
        }
        options = {**limits, **fields[stage.name]}
        wanted = options["candidates"]
        most = min(wanted, MOST) if isinstance(wanted, int) else 0  # the stage refuses another type
        top_k = max(fields["top_k"], most)
        fields = {**fields, "top_k": top_k, "min_score": None, stage.name: options}
    return fields


@dataclass
class _Run:
    """One question on its way through the stages that run for it."""

    request: RagRequest
    offered: Sequence[Stage]
    steps: Container[str]
    clock: Callable[[], float]
    new_id: Callable[[], str]
    outputs: list[Output] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.stages = running(self.request, self.offered, self.steps)
        self.id = self.request.request_id or self.new_id()
        fields = {**self.request.model_dump(), "request_id": self.id}
        self.fields = search_fields(fields, self.stages)
        self.text = _dump(self.fields)  # the next step's request

    async def ask(self, stage: Stage, step: Step) -> None:
        """Send a step its request, and keep its response."""
        with self.timed(stage.name):
            reply = await step(self.text)
        self.accept(stage, reply)

    async def listen(self, stage: Stage, step: StreamingStep) -> AsyncGenerator[Event, None]:
        """Yield a step's messages under this request's id, and keep its response."""
        replies: list[str] = []
        with self.timed(stage.name):
            async with aclosing(step(self.text)) as events:
                async for event in events:
                    if event.name == "message":
                        yield message_event(_content_of(stage.name, event), id=self.id)
                    elif event.name in ("final_answer", "error"):
                        replies.append(event.data)
        if len(replies) != 1:
            raise bad_output(stage.name, f"ended with {len(replies)} final events in place of one")
        self.accept(stage, replies[0])

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the seconds of a step, and name the step in what it raises."""
        began = self.clock()
        try:
            yield
        except asyncio.CancelledError as error:
            raise asyncio.CancelledError(name) from error  # for the message of a deadline
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
        self.seconds[name] = self.clock() - began

    def accept(self, stage: Stage, reply: str) -> None:
        """Check a step's response and make it the next step's request.

        Fields of the caller's request that the response lacks are added again.
        """
        data = read_reply(stage.name, reply)
        if data.get("request_id", self.id) != self.id:
            raise bad_output(stage.name, "is one to another request", "request_id")
        self.outputs.append(check_reply(stage.name, stage.output, data))
        missing = {key: value for key, value in self.fields.items() if key not in data}
        self.text = _dump({**data, **missing}) if missing else reply

    def last(self, model: type[OutputType]) -> OutputType:
        """Return the newest output of a kind: two stages may give passages."""
        return next(output for output in reversed(self.outputs) if isinstance(output, model))

    def search_response(self) -> SearchResponse:
        """Return the passages found."""
        return SearchResponse(
            id=self.id,
            query=self.request.query,
            collection=self.request.collection,
            results=self.last(RetrieveOutput).results,
            degraded=self.degraded(),
            timings_ms=self.timings(),
            warnings=self.warnings(),
            provenance=self.provenance(),
        )

    def response(self) -> RagResponse:
        """Return the answer, put together from the outputs of all stages."""
        prompt, reply = self.last(AugmentOutput), self.last(GenerateOutput)
        self.check_citations(reply, prompt)
        return RagResponse(
            id=self.id,
            query=self.request.query,
            collection=self.request.collection,
            answer=reply.answer,
            answerable=reply.answerable,
            finish_reason=reply.finish_reason,
            llm_generated=reply.llm_generated,
            degraded=self.degraded(),
            support=reply.support,
            citations=reply.citations,
            citation_check=reply.citation_check,
            contexts=prompt.contexts,
            left_out=prompt.left_out,
            usage={**reply.usage, "context_tokens": prompt.context_usage.context_tokens},
            timings_ms=self.timings(),
            warnings=self.warnings(),
            provenance=self.provenance(),
            prompt=prompt.prompt if self.request.debug else None,
        )

    def check_citations(self, reply: GenerateOutput, prompt: AugmentOutput) -> None:
        """Raise `module_bad_output` for a citation of a passage that is not in the prompt."""
        chunks = {context.marker: context.chunk_id for context in prompt.contexts}
        for index, citation in enumerate(reply.citations):
            if chunks.get(citation.marker) != citation.chunk_id:
                raise bad_output(
                    self.stages[-1].name,
                    f"cites {citation.chunk_id!r} as [{citation.marker}], which is no such passage",
                    f"citations.{index}.marker",
                )

    def degraded(self) -> bool:
        """Return whether a step went on without what failed."""
        return any(output.degraded for output in self.outputs)

    def timings(self) -> dict[str, float]:
        """Return milliseconds by step, and in total."""
        seconds = {**self.seconds, "total": self.clock() - self.began}
        return {name: round(value * 1000, 3) for name, value in seconds.items()}

    def warnings(self) -> list[str]:
        """Return the warnings of all steps, each once."""
        return list(dict.fromkeys(text for output in self.outputs for text in output.warnings))

    def provenance(self) -> dict[str, dict[str, JsonValue]]:
        """Return who made what, by step, with what a replay of the search needs."""
        merged = {
            step: fields for output in self.outputs for step, fields in output.provenance.items()
        }
        options = {
            stage.name
            for stage in search_stages(self.offered)
            if stage in self.stages or getattr(self.request, stage.name, {})
        }
        own: dict[str, JsonValue] = {
            "version": __version__,
            "request": self.request.model_dump(include=SEARCH_FIELDS | options),
            "results_digest": digest_results(self.last(RetrieveOutput).results),
        }
        return {**merged, "rag": own}


def _content_of(step: str, event: Event) -> str:
    try:
        content = pydantic_core.from_json(event.data)["delta"]["content"]
    except (ValueError, KeyError, TypeError):
        content = None
    if not isinstance(content, str):
        raise bad_output(step, "has a message without delta.content")
    return content


def _dump(data: dict[str, Any]) -> str:
    return pydantic_core.to_json(data).decode()


def digest_results(results: Sequence[Result]) -> str:
    """Return a SHA-256 over the passages in their order: ids, span, and score to 6 decimals."""
    rows = [
        [found.chunk_id, found.document_id, found.span, round(found.score, SCORE_DIGITS) + 0.0]
        for found in results
    ]
    return f"sha256:{hashlib.sha256(pydantic_core.to_json(rows)).hexdigest()}"
