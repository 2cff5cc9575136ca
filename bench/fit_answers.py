"""Fit the weights of the extractive answers.

    python bench/fit_answers.py              fit on the training sets and the even lines
    python bench/fit_answers.py --draw 50    the same on fewer questions, to see that it runs

It prints weights; `rag_generate/scoring.py` holds the ones in use, and bench/answers.py measures those on
questions that no fit sees. Passages and cosines come from the pipeline with its defaults, over collections
kept in bench/.cache.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from answer_sets import TRAINED, Labelled, LabelledSet, is_gold
from numpy.typing import NDArray

from rag_generate.questions import read_question
from rag_generate.scoring import (
    SENTENCE_WEIGHTS,
    SUPPORT_BY_SENTENCES,
    Evidence,
    Features,
    score_sentences,
)
from rag_kit.passages import Context
from rag_pipeline.steps.local import LocalPipeline, open_local

HOME = Path(__file__).resolve().parent / ".cache" / "fit"
FITTED = (
    "coverage", "coverage_with_head", "similarity", "dense_gap", "first", "log_length", "short",
    "asked_kind",
)  # fmt: skip
COLUMNS = [Features._fields.index(name) for name in FITTED]
SENTENCE_L2 = 5.0  # on features of unit spread
SUPPORT_L2 = 3.0
PER_SET = 300.0  # every set counts like this many questions
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """A question with its passages, scored.

    Attributes:
        source: The set.
        answerable: Some sentence answers it.
        features: N candidates × the fields of `Features`.
        gold: For each candidate whether an annotator picked it.
        evidence: For its passages.
        evidence_without: With the right documents taken away; None where others answer, too.
    """

    source: str
    answerable: bool
    features: Array
    gold: NDArray[np.bool_]
    evidence: Evidence
    evidence_without: Evidence | None


def examples(pipeline: LocalPipeline, task: LabelledSet, draw: int) -> list[Example]:
    """Ask the questions of a set that are fitted on, also with their documents taken away."""
    pipeline.retriever.ingest_documents(task.documents, collection=task.name)
    asked = [question for question in task.questions if not question.held_out]
    found = []
    for question in asked[: draw or None]:
        contexts = passages(pipeline, task.name, question.text)
        # the five documents of the chunking set are long: the others answer, too
        alone = question.spans and task.name != "chunking"
        others = passages(pipeline, task.name, question.text, question.group) if alone else []
        found.append(_example(task.name, question, contexts, others))
    return found


def passages(
    pipeline: LocalPipeline, collection: str, query: str, without: str = ""
) -> list[Context]:
    """Return the passages an answer rests on, also without a group of documents."""
    request = {"query": query, "collection": collection, "filters": not_of(without)}
    response = pipeline.answer(request)
    if "error" in response:
        raise SystemExit(f"fit-answers: {query!r}: {response['error']['message']}")
    return [Context.model_validate(one) for one in response["contexts"]]


def not_of(group: str) -> dict[str, Any] | None:
    """Return the filter that leaves out a group of documents; None for ""."""
    return {"set_id": {"$ne": group}} if group else None


def _example(
    source: str, question: Labelled, contexts: Sequence[Context], others: Sequence[Context]
) -> Example:
    read = read_question(question.text)
    candidates, evidence = score_sentences(read, contexts)
    texts = [one for one in candidates if not one.part.is_title and not one.part.items]
    gold = [
        is_gold(question, context.document_id, context.span[0] + c.start, context.span[0] + c.end)
        for c in texts
        for context in [contexts[c.context]]
    ]
    features = np.array([one.features for one in texts], float).reshape(len(texts), -1)
    without = score_sentences(read, others)[1] if others else None
    return Example(source, bool(question.spans), features, np.array(gold, bool), evidence, without)


def fit_sentences(rows: Sequence[Example]) -> dict[str, float]:
    """Return the weights that make the picked sentences likeliest among all of their question."""
    used = [one for one in rows if one.gold.any() and not one.gold.all()]
    counts = Counter(one.source for one in used)
    spread = np.concatenate([one.features[:, COLUMNS] for one in used]).std(axis=0) + 1e-9
    groups = [
        (one.features[:, COLUMNS] / spread, one.gold, PER_SET / counts[one.source]) for one in used
    ]
    weights = np.zeros(len(COLUMNS))
    for _ in range(60):  # Newton's method; the loss is not quite convex, so its steps are damped
        gradient, curvature = -SENTENCE_L2 * weights, SENTENCE_L2 * np.eye(len(COLUMNS))
        for features, gold, share in groups:
            chance = _softmax(features @ weights)
            mean = chance @ features
            gradient += share * (_softmax((features @ weights)[gold]) @ features[gold] - mean)
            centred = features - mean
            curvature += share * (centred.T * chance) @ centred
        change = np.linalg.solve(curvature, gradient)
        weights += change
        if np.abs(change).max() < 1e-4:
            break
    return dict(zip(FITTED, (weights / spread).tolist(), strict=True))


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def fit_support(rows: Sequence[Example]) -> dict[str, float]:
    """Return bias and weights of similarity, coverage and sentence (logistic regression)."""
    counts = Counter(one.source for one in rows if one.answerable)
    table: list[tuple[list[float], float, float]] = []
    for one in rows:
        share = PER_SET / counts[one.source]
        table.append((_parts(one.evidence), float(one.answerable), share / (2 - one.answerable)))
        if one.evidence_without:
            table.append((_parts(one.evidence_without), 0.0, share / 2))
    parts, labels, shares = (np.array(column) for column in zip(*table, strict=True))
    spread, mean = parts.std(axis=0) + 1e-9, parts.mean(axis=0)
    inputs = np.c_[np.ones(len(parts)), (parts - mean) / spread]
    penalty = SUPPORT_L2 * np.diag([0.0, *np.ones(parts.shape[1])])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (shares * (chance - labels)) + penalty @ weights
        curvature = (inputs.T * (shares * chance * (1 - chance))) @ inputs + penalty
        weights -= np.linalg.solve(curvature, gradient)
    scaled = weights[1:] / spread
    names = ("bias", "similarity", "coverage", "sentence")
    return dict(zip(names, (float(weights[0] - scaled @ mean), *map(float, scaled)), strict=True))


def _parts(evidence: Evidence) -> list[float]:
    return [evidence.similarity or 0.0, evidence.coverage, evidence.sentence]


def main() -> None:
    """Fit both models and print their weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draw", type=int, default=0, help="questions of each set; 0: all")
    draw = parser.parse_args().draw
    tasks = [task for load in TRAINED for task in load()]
    with open_local(home=HOME) as pipeline:
        rows = [row for task in tasks for row in examples(pipeline, task, draw)]
    for name, weight in fit_sentences(rows).items():
        print(f"{name}: {weight:.2f}, in use {getattr(SENTENCE_WEIGHTS, name):.2f}")
    support = {name: round(weight, 2) for name, weight in fit_support(rows).items()}
    print("support:", support, "in use", SUPPORT_BY_SENTENCES)


if __name__ == "__main__":
    main()
