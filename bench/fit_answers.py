"""Fit the weights of the extractive answers, and measure them on questions the fit does not see.

    python bench/fit_answers.py              fit on the training sets and the even lines, test on the odd ones
    python bench/fit_answers.py --draw 50    the same on fewer questions, to see that it runs

It prints weights; `rag_generate/scoring.py` holds the ones in use. Passages and cosines come from the
pipeline with its defaults, over collections kept in bench/.cache.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from answer_sets import Labelled, LabelledSet, training_sets
from data import chunking, clapnq
from metrics import auroc_estimate, estimate
from numpy.typing import NDArray

from rag_generate.extractive import Extractive
from rag_generate.models import GenerateRequest
from rag_generate.questions import read_question
from rag_generate.scoring import SENTENCE_WEIGHTS, Evidence, Features, score_sentences
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
        held_out: Not fitted on.
        answerable: Some sentence answers it.
        features: N candidates × the fields of `Features`.
        gold: For each candidate whether an annotator picked it.
        evidence: For its passages, and with the right document taken away.
    """

    source: str
    held_out: bool
    answerable: bool
    features: Array
    gold: NDArray[np.bool_]
    evidence: Evidence
    evidence_without: Evidence | None
    support: float
    support_without: float
    precision: float


def labelled_sets(draw: int) -> list[tuple[LabelledSet, int]]:
    """Return the sets, and every how many lines one is fitted on: 1 all, 2 the even ones."""
    found = [(one, 1) for one in training_sets()]
    answers = clapnq()
    for name, documents, questions in (
        (
            "clapnq",
            answers.retrieval.documents,
            [
                Labelled(q.text, q.document_id, tuple(s for r in q.references for s in r.spans))
                for q in answers.questions
            ],
        ),
        (
            "chunking",
            chunking().documents,
            [Labelled(q.text, q.document_id, q.spans) for q in chunking().questions],
        ),
    ):
        found.append((LabelledSet(name, documents, questions), 2))
    if not draw:
        return found
    return [
        (LabelledSet(one.name, one.documents, one.questions[:draw]), step) for one, step in found
    ]


def examples(pipeline: LocalPipeline, task: LabelledSet, step: int) -> list[Example]:
    """Ask every question of a set, also with its document taken away."""
    pipeline.retriever.ingest_documents(task.documents, collection=task.name)
    found = []
    for number, question in enumerate(task.questions):
        contexts = _contexts(pipeline, task.name, question.text, None)
        without = {"set_id": {"$ne": question.document_id}}
        others = _contexts(pipeline, task.name, question.text, without) if step == 1 or (
            question.spans and task.name == "clapnq"
        ) else []  # fmt: skip
        found.append(_example(task.name, number % step == 1, question, contexts, others))
    return found


def _contexts(
    pipeline: LocalPipeline, collection: str, query: str, filters: dict[str, Any] | None
) -> list[Context]:
    response = pipeline.answer({"query": query, "collection": collection, "filters": filters})
    if "error" in response:
        raise SystemExit(f"fit-answers: {query!r}: {response['error']['message']}")
    return [Context.model_validate(one) for one in response["contexts"]]


def _example(
    source: str,
    held_out: bool,
    question: Labelled,
    contexts: Sequence[Context],
    others: Sequence[Context],
) -> Example:
    read = read_question(question.text)
    candidates, evidence = score_sentences(read, contexts)
    texts = [one for one in candidates if not one.part.is_title and not one.part.items]
    gold = [_is_gold(question, contexts[c.context], c.start, c.end) for c in texts]
    support, precision = _answer(question, contexts)
    support_without = _answer(question, others)[0] if others else 0.0
    return Example(
        source, held_out, bool(question.spans),
        np.array([one.features for one in texts], float).reshape(len(texts), -1),
        np.array(gold, bool), evidence,
        score_sentences(read, others)[1] if others else None, support, support_without, precision,
    )  # fmt: skip


def _is_gold(question: Labelled, context: Context, start: int, end: int) -> bool:
    """Whether at least half of a sentence, or all of a span within it, was picked."""
    first, last = context.span[0] + start, context.span[0] + end
    return context.document_id == question.document_id and any(
        min(last, right) - max(first, left) >= min((last - first) / 2, right - left)
        for left, right in question.spans
    )


def _answer(question: Labelled, contexts: Sequence[Context]) -> tuple[float, float]:
    """Return the support and the share of quoted spans that were picked."""
    request = GenerateRequest(query=question.text, contexts=list(contexts))
    *_, draft = Extractive(min_support=0.0).stream(request)
    assert not isinstance(draft, str)
    by_marker = {context.marker: context for context in contexts}
    quotes = draft.quotes or ()
    right = sum(_is_gold(question, by_marker[q.marker], q.start, q.end) for q in quotes)
    return draft.support or 0.0, right / len(quotes) if quotes else 0.0


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


def report(rows: Sequence[Example]) -> list[str]:
    """Return what the weights in use reach on held-out questions, one line each."""
    lines = []
    for source in dict.fromkeys(one.source for one in rows):
        held = [one for one in rows if one.source == source and one.held_out]
        right = [one for one in held if one.answerable]
        wrong = [one.support for one in held if not one.answerable]
        if right:
            lines.append(f"{source}: precision of quotes {estimate([o.precision for o in right])}")
        if right and wrong:
            supports = [one.support for one in right]
            lines.append(f"{source}: AUROC near misses {auroc_estimate(supports, wrong)}")
            gone = [one.support_without for one in right]
            lines.append(f"{source}: AUROC gold removed {auroc_estimate(supports, gone)}")
            lines += [
                f"{source}: threshold {least:.2f}: answered {np.mean(np.array(supports) >= least):.2f}, "
                f"unanswerable {np.mean(np.array(wrong) >= least):.2f}, "
                f"gold removed {np.mean(np.array(gone) >= least):.2f}"
                for least in (0.3, 0.4, 0.5, 0.6)
            ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draw", type=int, default=0, help="questions of each set; 0: all")
    HOME.mkdir(parents=True, exist_ok=True)
    with open_local(home=HOME) as pipeline:
        rows = [
            row
            for task, step in labelled_sets(parser.parse_args().draw)
            for row in examples(pipeline, task, step)
        ]
    fitted = [one for one in rows if not one.held_out]
    for name, weight in fit_sentences(fitted).items():
        print(f"{name}: {weight:.2f}, in use {getattr(SENTENCE_WEIGHTS, name):.2f}")
    print("support:", {name: round(weight, 2) for name, weight in fit_support(fitted).items()})
    print("\n".join(report(rows)))


if __name__ == "__main__":
    main()
