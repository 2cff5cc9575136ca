"""Evaluation, replay and conformance as blocking calls: what both command lines run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..pipeline import Pipeline
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


def replay_answer(pipeline: Pipeline, answer_json: bytes) -> str:
    """Repeat the search of an answer in an open pipeline; returns what `replay` does."""
    work = partial(replay, answer_json, pipeline.steps, stages=pipeline.stages)
    return pipeline.portal.call(work)


def check_server(step: str, url: str, *, collection: str, query: str) -> ConformanceReport:
    """Check the step that serves at a URL; arguments and errors as for `check_url`."""
    return asyncio.run(check_url(step, url, collection=collection, query=query))
