"""Measures answers to questions whose answers are known: ranking, abstention, citations, latency.

The pipeline is a function from JSON text to JSON text. Does not judge how an answer is worded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from rag_kit.errors import StepError
from rag_kit.passages import Message
from rag_kit.request import check_query, explain

from ..outputs import Output, check_reply, read_reply, with_fields
from ..step import Step
from .metrics import (
    CUTOFF,
    Difference,
    Metric,
    compare,
    measure,
    ndcg,
    percentile,
    recall,
    reciprocal_rank,
    word_recall,
)

ANSWER_RECALL = "answer_recall"  # measured where a question has a right answer
LOG = logging.getLogger(__name__)
RELEVANT = (
    "must be a list of document ids, or an object from document id to grade, a whole number >= 0"
)


class Progress(NamedTuple):
    """How many questions have been answered."""

    done: int
    total: int


class Question(BaseModel):
    """One line of a dataset: a question and what is known about its answer."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field("", description="Names the question in the report; default: its line.")
    query: str = Field(description="The question, 1 character to 8 KiB of UTF-8.")
    relevant: dict[str, int] = Field(
        default_factory=dict,
        description="Grade by document id, 0: not relevant; a list of ids means grade 1.",
    )
    answerable: bool | None = Field(
        None, description="Whether the documents hold an answer; null: not known."
    )
    answer: str | None = Field(
        None, description="What a right answer says; its words are looked for in the answer."
    )
    filters: dict[str, JsonValue] | None = Field(
        None, description="Conditions on metadata, as in a request."
    )
    messages: list[Message] = Field(
        default_factory=list, description="The conversation before the question, as in a request."
    )

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return check_query(value)

    @field_validator("relevant", mode="before")
    @classmethod
    def _grades(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return dict.fromkeys(value, 1)
        grades = value.values() if isinstance(value, dict) else [None]
        if not all(type(grade) is int and grade >= 0 for grade in grades):
            raise ValueError(RELEVANT)
        return value

    @property
    def gains(self) -> dict[str, int]:
        """Grade by id of the documents that are relevant."""
        return {document_id: grade for document_id, grade in self.relevant.items() if grade}


class Scored(BaseModel):
    """One question: the documents found, best first, and its value in each metric it counts in."""

    model_config = ConfigDict(extra="forbid")

    id: str
    query: str
    documents: list[str]
    scores: dict[str, float]


class Failed(BaseModel):
    """A question that got an error."""

    model_config = ConfigDict(extra="forbid")

    id: str
    query: str
    code: str
    message: str


class Comparison(BaseModel):
    """A second run with other fields in the request or other settings, and what that changes."""

    model_config = ConfigDict(extra="forbid")

    request: dict[str, JsonValue] = Field(description="Other fields of each request of that run.")
    settings: dict[str, str] = Field(
        default_factory=dict, description="Other settings of that run, keys and addresses left out."
    )
    failed: int = Field(description="Number of its questions with an error.")
    degraded: int = Field(description="Number of its answers without a model that failed.")
    metrics: dict[str, Metric]
    differences: dict[str, Difference] = Field(
        description="By metric from 0 to 1: the first run minus the second, question by question."
    )


class EvalReport(BaseModel):
    """The measurements of the pipeline on a dataset."""

    model_config = ConfigDict(extra="forbid")

    questions: int = Field(description="Number of questions in the dataset.")
    failed: int = Field(description="Number of questions with an error; they count in no metric.")
    degraded: int = Field(
        0, description="Number of answers without a model or reranker that failed; they count."
    )
    top_k: int = Field(description="Passages requested per question.")
    request: dict[str, JsonValue] = Field(description="Other fields of each request.")
    metrics: dict[str, Metric]
    failures: list[Failed]
    scored: list[Scored]
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="Who answered, by step, from the first answer."
    )
    comparison: Comparison | None = Field(
        None,
        description="A second run with other fields in the request or settings, where asked for.",
    )


class _Cited(BaseModel):
    document_id: str


class _Found(BaseModel):
    chunk_id: str = ""
    document_id: str
    score: float


class _Answer(Output):
    """The fields of a response that are measured."""

    answer: str = ""
    answerable: bool
    citations: list[_Cited]
    contexts: list[_Found]
    left_out: list[_Found]
    timings_ms: dict[str, float]

    @field_validator("left_out", mode="before")
    @classmethod
    def _ranked(cls, value: Any) -> Any:
        """Keep the passages with a score: a foreign `augment` may report less."""
        return with_fields(value, "document_id", "score")


# -- the dataset --------------------------------------------------------------------------------


def read_dataset(raw: str | bytes) -> list[Question]:
    """Return the questions of JSON Lines in UTF-8; blank lines are skipped.

    Raises:
        StepError: `invalid_request`, with the number of the line and what is wrong with it.
    """
    lines = (raw.encode() if isinstance(raw, str) else raw).removeprefix(BOM_UTF8).split(b"\n")
    questions = [_read_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise StepError("invalid_request", 'no question; a line is, e.g., {"query": "Who signs?"}')
    return questions


def _read_line(number: int, line: bytes) -> Question:
    try:
        data = pydantic_core.from_json(line, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise StepError("invalid_request", f"line {number}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise StepError("invalid_request", f"line {number}: not a JSON object")
    try:
        question = Question.model_validate(data, strict=True)
    except ValidationError as error:
        fault = explain(error)
        if any(each["type"] == "extra_forbidden" for each in error.errors()):
            known = ", ".join(Question.model_fields)
            fault.message = f"{fault.param}: unknown field; known are {known}"
        raise StepError("invalid_request", f"line {number}: {fault.message}") from None
    return question if question.id else question.model_copy(update={"id": f"line {number}"})


# -- questions and answers ----------------------------------------------------------------------


async def evaluate(
    questions: Sequence[Question],
    *,
    answer: Step,
    top_k: int = CUTOFF,
    request: Mapping[str, JsonValue] | None = None,
    concurrency: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> EvalReport:
    """Ask every question once and measure the answers.

    nDCG@10, recall@k and MRR@10 are taken over documents (the best passage of each counts) and
    over the questions that have a relevant one. `answer_rate` is the share of questions that got
    an answer; `abstention` the share, where `answerable` is known, that was answered exactly when
    it should be; `citation_hit` the share of answers, where relevant documents are known, that
    cite something and cite relevant documents only; `answer_recall`, where the dataset has right
    answers, the share of their words that the answers have.

    Args:
        questions: The dataset.
        answer: The pipeline: `RagRequest` as JSON to `RagResponse` as JSON.
        top_k: Passages requested, and the k of recall@k.
        request: Other fields of each request, e.g. `{"collection": "work"}`.
        concurrency: Questions in flight at the same time; latencies are measured under this load.
        progress: Called after each question.

    Raises:
        StepError: That of the first question, when all fail; `invalid_request` for a concurrency
            below 1.
    """
    if concurrency < 1:
        raise StepError("invalid_request", f"concurrency must be at least 1, but is {concurrency}")
    fields = dict(request or {})
    slots = asyncio.Semaphore(concurrency)
    done = 0

    async def ask(question: Question) -> _Answer | StepError:
        nonlocal done
        async with slots:
            reply = await _ask(answer, {**fields, "top_k": top_k}, question)
        done += 1
        if progress:
            progress(Progress(done, len(questions)))
        return reply

    replies = await asyncio.gather(*(ask(question) for question in questions))
    return _report(questions, replies, top_k, fields)


async def _ask(
    answer: Step, request: dict[str, JsonValue], question: Question
) -> _Answer | StepError:
    """Return the answer to a question, or the error."""
    payload = {**request, "query": question.query}
    if question.filters is not None:
        payload["filters"] = question.filters
    if question.messages:
        payload["messages"] = [message.model_dump() for message in question.messages]
    try:
        return check_reply("rag", _Answer, read_reply("rag", await answer(json.dumps(payload))))
    except StepError as error:
        return error
    except Exception as error:
        LOG.exception("%s: no answer", question.id)
        return StepError("module_error", f"{type(error).__name__}; the log has the details")


def _report(
    questions: Sequence[Question],
    replies: Sequence[_Answer | StepError],
    top_k: int,
    request: dict[str, JsonValue],
) -> EvalReport:
    pairs = list(zip(questions, replies, strict=True))
    answers = [(question, reply) for question, reply in pairs if isinstance(reply, _Answer)]
    errors = [(question, reply) for question, reply in pairs if isinstance(reply, StepError)]
    if errors and not answers:
        first = errors[0][1]
        raise StepError(
            first.code,
            f"all {len(questions)} questions failed, the first one with: {first.message}",
            param=first.param,
            step=first.step,
        )
    scored = [_score(question, reply, top_k) for question, reply in answers]
    milliseconds = [
        reply.timings_ms["total"] for _, reply in answers if "total" in reply.timings_ms
    ]
    shares = {
        name: measure([item.scores[name] for item in scored if name in item.scores])
        for name in share_metrics(top_k)
        if name != ANSWER_RECALL or any(question.answer for question in questions)
    }
    latency = {
        f"p{percent}_ms": measure(milliseconds, partial(percentile, percent=percent))
        for percent in (50, 95)
    }
    return EvalReport(
        questions=len(questions),
        failed=len(errors),
        degraded=sum(reply.degraded for _, reply in answers),
        top_k=top_k,
        request=request,
        metrics=shares | latency,
        failures=[
            Failed(id=question.id, query=question.query, code=error.code, message=error.message)
            for question, error in errors
        ],
        scored=scored,
        provenance=_provenance(answers[0][1]) if answers else {},
    )


def with_comparison(
    report: EvalReport, other: EvalReport, settings: Mapping[str, str] | None = None
) -> EvalReport:
    """Return the report with a second run over the same dataset, and its settings, beside it."""
    before = {(item.id, item.query): item.scores for item in other.scored}
    pairs = [
        (item.scores, before[item.id, item.query])
        for item in report.scored
        if (item.id, item.query) in before
    ]
    differences = {}
    for name in (name for name in share_metrics(report.top_k) if name in report.metrics):
        both = [(one[name], two[name]) for one, two in pairs if name in one and name in two]
        differences[name] = compare([one for one, _ in both], [two for _, two in both])
    comparison = Comparison(
        request=other.request,
        settings=dict(settings or {}),
        failed=other.failed,
        degraded=other.degraded,
        metrics=other.metrics,
        differences=differences,
    )
    return report.model_copy(update={"comparison": comparison})


def parse_fields(text: str) -> dict[str, JsonValue]:
    """Return the fields of a request given as JSON.

    Raises:
        ValueError: It is no JSON object, or empty.
    """
    try:
        fields = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict) or not fields:
        raise ValueError(
            f'give fields of a request, e.g. {{"rerank": {{"enabled": false}}}}, not {text[:60]}'
        )
    return fields


def share_metrics(top_k: int) -> list[str]:
    """Return the names of the metrics from 0 to 1, where higher is better."""
    ranking = [f"ndcg@{CUTOFF}", f"recall@{top_k}", f"mrr@{CUTOFF}"]
    return [*ranking, "answer_rate", "abstention", "citation_hit", ANSWER_RECALL]


def _score(question: Question, reply: _Answer, top_k: int) -> Scored:
    ranking, gains = _rank_documents(reply), question.gains
    scores = {"answer_rate": float(reply.answerable)}
    if gains:
        scores[f"ndcg@{CUTOFF}"] = ndcg(ranking, gains)
        scores[f"recall@{top_k}"] = recall(ranking, gains)
        scores[f"mrr@{CUTOFF}"] = reciprocal_rank(ranking, gains)
    if question.answerable is not None:
        scores["abstention"] = float(reply.answerable is question.answerable)
    if gains and reply.answerable:
        cited = {citation.document_id for citation in reply.citations}
        scores["citation_hit"] = float(bool(cited) and cited <= gains.keys())
    if question.answer:
        scores[ANSWER_RECALL] = word_recall(
            question.answer, reply.answer if reply.answerable else ""
        )
    return Scored(id=question.id, query=question.query, documents=ranking, scores=scores)


def _rank_documents(reply: _Answer) -> list[str]:
    """Return the documents by their best passage; equal scores by id, as `retrieve` ranks."""
    found = [*reply.contexts, *reply.left_out]
    ordered = sorted(found, key=lambda passage: (-passage.score, passage.chunk_id))
    return list(dict.fromkeys(passage.document_id for passage in ordered))


def _provenance(reply: _Answer) -> dict[str, dict[str, JsonValue]]:
    """Return the provenance without the fields that differ by question."""
    of_question = ("request", "results_digest")
    return {
        step: {key: value for key, value in fields.items() if key not in of_question}
        for step, fields in reply.provenance.items()
    }


# -- the gate -----------------------------------------------------------------------------------


def parse_floor(text: str, top_k: int) -> tuple[str, float]:
    """Return metric and value of `METRIC=VALUE`, e.g. `ndcg@10=0.7`.

    Raises:
        ValueError: There is no such metric, or the value is not from 0 to 1.
    """
    name, _, value = text.partition("=")
    known = share_metrics(top_k)
    if name not in known:
        raise ValueError(f"no metric {name!r}; there are {', '.join(known)}")
    try:
        floor = float(value)
    except ValueError:
        floor = math.nan
    if not 0 <= floor <= 1:
        raise ValueError(f"{name} needs a value from 0 to 1, but got {value!r}")
    return name, floor


def below(report: EvalReport, floors: Mapping[str, float]) -> list[str]:
    """Return a sentence for each metric that is below its floor, or was not measured."""
    missed = []
    for name, floor in floors.items():
        metric = report.metrics.get(name)
        value = metric.value if metric else None
        if value is None:
            missed.append(f"{name} was not measured: no question of the dataset tells it")
        elif value < floor:
            missed.append(f"{name} is {value:.4f}, below {floor:g}")
    return missed
