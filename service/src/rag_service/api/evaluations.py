"""Runs of `rag eval --save`: `GET /v1/evaluations`, shown side by side on the page `/eval`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, JsonValue

from rag_kit.errors import StepError
from rag_pipeline.quality.evaluate import Comparison
from rag_pipeline.quality.metrics import Metric
from rag_pipeline.quality.runs import Run, compare_runs, read_run, read_runs

from ..http.context import Context
from ..http.openapi import FAILURES
from .dependencies import Caller, Home, sees_all

router = APIRouter(tags=["evaluation"], responses=FAILURES)


class Summary(BaseModel):
    """A run without its questions."""

    name: str
    at: datetime
    questions: int
    failed: int
    top_k: int
    request: dict[str, JsonValue]
    metrics: dict[str, Metric]
    comparison: Comparison | None = Field(description="The second run of the same command.")


class Runs(BaseModel):
    """The runs that were kept."""

    runs: list[Summary] = Field(description="Newest first.")


async def reader(caller: Caller) -> Context:
    """Return the caller, who may read every document: runs name questions and documents."""
    sees_all(caller)
    return caller


Reader = Annotated[Context, Depends(reader)]


def _may_see(caller: Context, run: Run) -> bool:
    return caller.principal.may_use(str(run.report.request.get("collection", "default")))


async def _run(caller: Context, home: Path, name: str) -> Run:
    run = await asyncio.to_thread(read_run, home, name)
    if not _may_see(caller, run):
        raise StepError("not_found", f"there is no run {name!r}", param="name")
    return run


@router.get("/v1/evaluations", summary="List the runs of `rag eval --save`")
async def evaluations(caller: Reader, home: Home) -> Runs:
    """List the runs about collections this key may use, with their metrics and intervals."""
    runs = await asyncio.to_thread(read_runs, home)
    return Runs(
        runs=[
            Summary(name=run.name, at=run.at, **run.report.model_dump(include=SHOWN))
            for run in runs
            if _may_see(caller, run)
        ]
    )


SHOWN = {"questions", "failed", "top_k", "request", "metrics", "comparison"}


@router.get("/v1/evaluations/{name}", summary="Show a run")
async def evaluation(caller: Reader, home: Home, name: str) -> Run:
    """Show a run with the scores of each question."""
    return await _run(caller, home, name)


@router.get("/v1/evaluations/{name}/comparison", summary="Compare two runs")
async def comparison(
    caller: Reader,
    home: Home,
    name: str,
    other: Annotated[str, Query(alias="with", description="Name of the second run.")],
) -> Comparison:
    """Compare two runs question by question: the first minus the second, with intervals."""
    first, second = await _run(caller, home, name), await _run(caller, home, other)
    return await asyncio.to_thread(compare_runs, first, second)
