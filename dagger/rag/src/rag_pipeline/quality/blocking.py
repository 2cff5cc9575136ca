"""Evaluation, replay and conformance as blocking calls: what both command lines run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..pipeline import Pipeline
from ..settings import overridden
from .configuration import without_secrets
from .conformance import ConformanceReport, check_url
from .evaluate import EvalReport, Progress, Question, evaluate, with_comparison
from .replay import replay


def evaluate_pipeline(
    pipeline: Pipeline,
    questions: Sequence[Question],
    *,
    top_k: int,
    request: dict[str, Any],
    concurrency: int,
    progress: Callable[[Progress], None],
    compare: dict[str, Any] | None = None,
) -> EvalReport:
    """Ask an open pipeline every question; arguments and errors as for `evaluate`.

    Args:
        pipeline: Answers.
        questions: The dataset.
        top_k: Passages requested.
        request: Other fields of each request.
        concurrency: Questions at once.
        progress: Called after each question, of the second run from the start again.
        compare: Ask everything once more with these fields, too, and compare.
    """

    def run(fields: dict[str, Any]) -> EvalReport:
        work = partial(
            evaluate,
            questions,
            answer=pipeline.handler.serve,
            top_k=top_k,
            request=fields,
            concurrency=concurrency,
            progress=progress,
        )
        return pipeline.portal.call(work)

    report = run(request)
    return report if compare is None else with_comparison(report, run({**request, **compare}))


def evaluate_configurations(
    questions: Sequence[Question],
    *,
    open_pipeline: Callable[[], AbstractContextManager[Pipeline]],
    watch: Callable[[str], AbstractContextManager[Callable[[Progress], None]]],
    top_k: int,
    request: dict[str, Any],
    concurrency: int,
    compare: dict[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
) -> EvalReport:
    """Ask with the settings of now, and once more with other ones where there are any, and compare.

    Args:
        questions: The dataset.
        open_pipeline: Opens a pipeline with the settings of the environment; one after the other, since
            an embedded store is opened once.
        watch: Shows progress under a label.
        top_k: Passages requested.
        request: Other fields of each request.
        concurrency: Questions at once.
        compare: Fields of the requests of the second run.
        settings: Variables of the second run.
    """

    def measure(label: str, fields: dict[str, Any], other: dict[str, Any] | None) -> EvalReport:
        with open_pipeline() as pipeline, watch(label) as progress:
            return evaluate_pipeline(
                pipeline,
                questions,
                top_k=top_k,
                request=fields,
                concurrency=concurrency,
                progress=progress,
                compare=other,
            )

    if not settings:
        return measure("asking", request, compare)
    report = measure("asking", request, None)
    with overridden(settings):
        second = measure("asking again", {**request, **(compare or {})}, None)
    return with_comparison(report, second, without_secrets(settings))


def replay_answer(pipeline: Pipeline, answer_json: bytes) -> str:
    """Repeat the search of an answer in an open pipeline; returns what `replay` does."""
    work = partial(replay, answer_json, pipeline.steps, stages=pipeline.stages)
    return pipeline.portal.call(work)


def check_server(step: str, url: str, *, collection: str, query: str) -> ConformanceReport:
    """Check the step that serves at a URL; arguments and errors as for `check_url`."""
    return asyncio.run(check_url(step, url, collection=collection, query=query))
