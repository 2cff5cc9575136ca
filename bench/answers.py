"""How good the extractive answers are, and when they abstain, on questions that no fit has seen.

    python bench/answers.py                the sets that are there; the others are named with a reason
    python bench/answers.py --only rgb     one set
    python bench/answers.py --write        also writes its section of docs/benchmarks.md

Each question is asked twice: as it is, and with the documents that answer it taken away (RGB: its pages from
the web that hold the answer). Questions without an answer in the set are near misses: a document is on their
topic. The pipeline has its defaults; collections are kept in bench/.cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from answer_sets import TESTED, Labelled, LabelledSet, is_gold
from data import DataMissing
from fit_answers import HOME, not_of
from metrics import Estimate, auroc_estimate, estimate, token_f1, without_markers
from report import machine, write_section

from rag_pipeline.steps.local import LocalPipeline, open_local

THRESHOLDS = (0.4, 0.5, 0.55, 0.6)  # of the support; the first is the default
NONE = "–"


@dataclass(frozen=True)
class Asked:
    """A question with its answer, whatever its support.

    Attributes:
        answerable: The set has an answer.
        support: 0 to 1.
        support_without: With the documents that answer taken away; None where that was not asked.
        precision: Share of the quoted texts that annotators picked.
        holds: 1.0 when a right answer stands in the answer; None where the set has no short answers.
        f1: Of the words of answer and best reference; None where the set has no references.
    """

    answerable: bool
    support: float
    support_without: float | None
    precision: float
    holds: float | None
    f1: float | None


def ask_all(pipeline: LocalPipeline, task: LabelledSet) -> list[Asked]:
    """Ask the held-out questions of a set."""
    pipeline.retriever.ingest_documents(task.documents, collection=task.name)
    return [_asked(pipeline, task.name, one) for one in task.questions if one.held_out]


def _asked(pipeline: LocalPipeline, name: str, question: Labelled) -> Asked:
    found = _answer(pipeline, name, question.text, "")
    removes = bool(question.spans) and name != "chunking"  # its documents are five, and long
    without = _answer(pipeline, name, question.text, question.group) if removes else None
    text = without_markers(found["answer"])
    quotes = [(one["document_id"], *span) for one in found["citations"] for span in one["spans"]]
    right = sum(is_gold(question, *quote) for quote in quotes)
    answers = question.answers
    short = name in ("xquad", "rgb", "hotpotqa")
    return Asked(
        bool(question.spans),
        found["support"],
        None if without is None else without["support"],
        right / len(quotes) if quotes else 0.0,
        float(any(one.lower() in text.lower() for one in answers)) if short else None,
        max(token_f1(text, one) for one in answers) if answers and not short else None,
    )


def _answer(pipeline: LocalPipeline, name: str, query: str, without: str) -> dict[str, Any]:
    response = pipeline.answer(
        {
            "query": query,
            "collection": name,
            "filters": not_of(without),
            "generate": {"target": "extractive", "min_support": 0.0},
        }
    )
    if "error" in response:
        raise SystemExit(f"answers: {query!r}: {response['error']['message']}")
    return {**response, "support": response["support"] or 0.0}


def _given(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def quality_row(asked: Sequence[Asked]) -> list[str]:
    """Return precision of quotes, F1, share that holds the answer, and both AUROCs of the support."""
    right = [one for one in asked if one.answerable]
    supports = [one.support for one in right]
    near = [one.support for one in asked if not one.answerable]
    gone = _given(one.support_without for one in right)
    return [
        str(estimate([one.precision for one in right])),
        _shown(_given(one.f1 for one in right), estimate),
        _shown(_given(one.holds for one in right), estimate),
        _shown(near, lambda values: auroc_estimate(supports, values)),
        _shown(gone, lambda values: auroc_estimate(supports, values)),
    ]


def _shown(values: list[float], measure: Callable[[list[float]], Estimate]) -> str:
    return str(measure(values)) if values else NONE


def answered_rows(name: str, asked: Sequence[Asked]) -> list[list[str]]:
    """Return what is answered at each threshold: of answerable ones, near misses, documents removed."""
    groups = (
        [one.support for one in asked if one.answerable],
        [one.support for one in asked if not one.answerable],
        _given(one.support_without for one in asked),
    )
    return [
        [
            name,
            f"{least:.2f}",
            *(_shown([float(s >= least) for s in group], estimate) for group in groups),
        ]
        for least in THRESHOLDS
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(measured: dict[str, list[Asked]]) -> str:
    """Return both tables as Markdown."""
    quality = _table(
        ["Set", "Questions", "Quotes picked by annotators", "Token F1", "Holds the answer",
         "AUROC: near misses", "AUROC: documents removed"],
        [[name, str(len(asked)), *quality_row(asked)] for name, asked in measured.items()],
    )  # fmt: skip
    answered = _table(
        [
            "Set",
            "`RAG_MIN_SUPPORT`",
            "Answered",
            "Answered: near misses",
            "Answered: documents removed",
        ],
        [row for name, asked in measured.items() for row in answered_rows(name, asked)],
    )
    return f"{quality}\n\n{answered}"


def main() -> None:
    """Measure the sets and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", choices=TESTED, action="append", help="this set; repeat for others"
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, too")
    chosen = parser.parse_args()
    measured: dict[str, list[Asked]] = {}
    with open_local(home=HOME) as pipeline:
        for name in chosen.only or TESTED:
            try:
                measured[name] = ask_all(pipeline, TESTED[name]())
            except DataMissing as missing:
                print(f"{name}: skipped, {missing}", flush=True)
                continue
            print(report({name: measured[name]}), flush=True)
    if not measured:
        raise SystemExit("answers: no set is there; docs/benchmarks.md says where they come from")
    text = f"{report(measured)}\n\n{date.today():%Y-%m-%d}, {machine()}."
    print(f"\n{text}")
    if chosen.write:
        write_section("answers", text)


if __name__ == "__main__":
    main()
