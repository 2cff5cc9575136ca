"""Reports of `rag eval` made up for tests: questions that are answered or not."""

from __future__ import annotations

from typing import Any

from rag_pipeline.quality.evaluate import EvalReport, Scored, share_metrics
from rag_pipeline.quality.metrics import measure


def report(values: list[float], **fields: Any) -> EvalReport:
    """A report of questions that are answered or not."""
    scored = [
        Scored(id=str(n), query=f"Question {n}?", documents=[], scores={"answer_rate": value})
        for n, value in enumerate(values)
    ]
    metrics = {name: measure(values if name == "answer_rate" else []) for name in share_metrics(10)}
    known = {"questions": len(values), "failed": 0, "top_k": 10, "request": {}, "metrics": metrics}
    return EvalReport(**{**known, "failures": [], "scored": scored, "provenance": {}, **fields})
