"""Quality of retrieval, citations, answers and abstention on public data sets.

    python bench/quality.py     everything; ten minutes of embedding the first time, then one
    python bench/quality.py --subset --gate bench/quality_floor.json        what CI runs

Everything goes through the library as a user has it: documents are ingested into an embedded store
(kept in bench/.cache, where unchanged documents cost no embedding), questions go through the
retriever or the whole pipeline with its defaults. A document ranks by its best passage.

Where a reranker is configured (RAG_RERANKER_URL, RAG_RERANKER_PATH), each table of retrieval has a row
`reranked`: the first 30 of `hybrid` in the reranker's order, then its difference from `hybrid`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from data import (
    AnswerSet,
    ChunkingSet,
    DataMissing,
    Question,
    RetrievalSet,
    chunking,
    clapnq,
    data_root,
    scifact,
    subset,
)
from metrics import (
    Estimate,
    Span,
    auroc_estimate,
    estimate,
    length,
    rank_scores,
    rouge_l,
    shared,
    span_overlap,
    token_f1,
    without_markers,
)
from quality_report import Section, Sheet, write_html
from report import machine, write_section
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rag_kit.passages import Result
from rag_pipeline.quality.metrics import compare
from rag_pipeline.stages import CANDIDATES
from rag_pipeline.steps.local import LocalPipeline, open_local
from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, StepError

HERE = Path(__file__).resolve().parent
HOME = HERE / ".cache" / "quality"
REPORT = HERE / "reports" / "quality.html"
MODES = ("dense", "sparse", "hybrid")
DEPTH = 100  # documents ranked for each question
LEG_CANDIDATES = 300  # passages of a single leg: enough for 100 documents; hybrid has its default
CONTEXTS = 5  # passages for a question of the chunking set, as in its paper
HALF = 0.5  # a cited span is right, a gold sentence found, when half of its characters are
SUBSET = {"queries": 50, "documents": 500}
Console_ = Console(width=120) if not os.isatty(1) else Console()


# -- collections --------------------------------------------------------------------------------


def ingest(retriever: Retriever, name: str, documents: Sequence[LoadedDocument]) -> None:
    """Ingest the documents into a collection of the cache; unchanged ones cost nothing."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"ingest {name}", total=len(documents))

        def show(progress: Any) -> None:
            bar.update(task, completed=progress.done)

        try:
            report = retriever.ingest_documents(documents, collection=name, progress=show)
        except StepError as error:
            if error.code not in ("collection_mismatch", "store_corrupt"):
                raise
            retriever.delete_collection(name)  # built by another version of the project
            report = retriever.ingest_documents(documents, collection=name, progress=show)
    if report.failed:
        raise SystemExit(f"bench-quality: {name}: {report.failed[0].message}")


# -- retrieval ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """How well one way of searching ranks the documents of a set.

    Attributes:
        scores: One value per question for each measure.
        curve: Mean recall at depth 1, 2, … `DEPTH`.
    """

    scores: dict[str, list[float]]
    curve: list[float]

    def estimates(self) -> dict[str, Estimate]:
        """Return the mean and interval of each measure."""
        return {name: estimate(values) for name, values in self.scores.items()}


class Reranker:
    """The pipeline's reranker, and what it took.

    Args:
        pipeline: It has the step `rerank`.

    Attributes:
        pair_ms: For each question, milliseconds per passage.
    """

    def __init__(self, pipeline: LocalPipeline) -> None:
        self._pipeline = pipeline
        self.pair_ms: list[float] = []

    def __call__(
        self, query: str, found: Sequence[Result], top_n: int | None = None
    ) -> list[Result]:
        """Return the passages, the first CANDIDATES in the reranker's order; all, or the best `top_n`."""
        head, rest = found[:CANDIDATES], found[CANDIDATES:]
        request = {
            "query": query,
            "results": [each.model_dump(mode="json") for each in head],
            "rerank": {"required": True, "top_n": top_n},
        }
        began = time.perf_counter()
        text = self._pipeline.portal.call(self._pipeline.steps["rerank"], json.dumps(request))
        reply = json.loads(text)
        if "error" in reply:
            raise SystemExit(f"bench-quality: {query!r}: {reply['error']['message']}")
        self.pair_ms.append((time.perf_counter() - began) * 1000 / max(1, len(head)))
        ranked = [Result.model_validate(each) for each in reply["results"]]
        return ranked if top_n else [*ranked, *rest]


def measure_retrieval(
    retriever: Retriever, task: RetrievalSet, reranker: Reranker | None = None
) -> dict[str, Ranked]:
    """Rank the documents of a set for each of its questions, in each mode."""
    ingest(retriever, task.name, task.documents)
    found = {mode: _ranked(retriever, task, mode) for mode in MODES}
    if reranker is not None:
        found["reranked"] = _ranked(retriever, task, "hybrid", reranker)
    return found


def _ranked(
    retriever: Retriever, task: RetrievalSet, mode: str, reranker: Reranker | None = None
) -> Ranked:
    options: dict[str, Any] = {"mode": mode, "max_per_document": 1}
    if mode != "hybrid":
        options["candidates"] = LEG_CANDIDATES
    rankings = {
        query_id: _documents(retriever, task.name, task.queries[query_id], options, reranker)
        for query_id in task.relevant
    }
    scores = rank_scores(rankings, task.relevant)
    hits = [
        [
            len(relevant.intersection(rankings[query_id][:depth])) / len(relevant)
            for query_id, relevant in task.relevant.items()
        ]
        for depth in range(1, DEPTH + 1)
    ]
    return Ranked(scores, [sum(row) / len(row) for row in hits])


def _documents(
    retriever: Retriever,
    collection: str,
    query: str,
    options: Mapping[str, Any],
    reranker: Reranker | None,
) -> list[str]:
    response = retriever.retrieve(
        RetrieveRequest.model_validate(
            {"query": query, "collection": collection, "top_k": DEPTH, "retrieve": options}
        )
    )
    results = reranker(query, response.results) if reranker else response.results
    return [result.document_id for result in results]


def measure_chunking(
    retriever: Retriever, task: ChunkingSet, reranker: Reranker | None = None
) -> dict[str, dict[str, list[float]]]:
    """Compare the characters of the first passages with the gold spans, in each mode.

    Returns:
        For each mode, `recall`, `precision` and `iou`: one value per question.
    """
    ingest(retriever, "chunking", task.documents)
    found = {}
    for mode in (*MODES, *(["reranked"] if reranker else [])):
        reranked = reranker if mode == "reranked" else None
        rows = []
        for question in task.questions:
            request = RetrieveRequest.model_validate(
                {
                    "query": question.text,
                    "collection": "chunking",
                    "top_k": CANDIDATES if reranked else CONTEXTS,
                    "retrieve": {"mode": "hybrid" if reranked else mode},
                }
            )
            spans: dict[str, list[Span]] = {}
            results = retriever.retrieve(request).results
            if reranked:
                results = reranked(question.text, results, CONTEXTS)
            for result in results:
                spans.setdefault(result.document_id, []).append((result.span[0], result.span[1]))
            rows.append(span_overlap(spans, question.document_id, question.spans))
        found[mode] = {name: [getattr(row, name) for row in rows] for name in rows[0]._fields}
    return found


# -- answers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """One question of CLAP NQ and the pipeline's answer.

    Attributes:
        question: The question.
        response: The composite's response.
    """

    question: Question
    response: dict[str, Any]

    @property
    def answered(self) -> bool:
        """Whether an answer was given."""
        return bool(self.response["answerable"])

    @property
    def support(self) -> float:
        """The pipeline's support for its answer, 0 to 1."""
        return float(self.response["support"] or 0.0)

    def best(self, score: Callable[[str, str], float]) -> float:
        """Score the answer against the reference it fits best; 0 when there is no answer."""
        return self._closest(score, self.response["answer"]) if self.answered else 0.0

    def whole_passage(self, score: Callable[[str, str], float]) -> float:
        """Score the first passage as if it were the answer, for comparison."""
        return self._closest(score, self.response["contexts"][0]["text"])

    def _closest(self, score: Callable[[str, str], float], answer: str) -> float:
        words = without_markers(answer)
        return max(score(words, reference.answer) for reference in self.question.references)

    def passage_precision(self) -> list[float]:
        """Return, for each citation, 1.0 where it names the document the annotators read."""
        return [
            float(citation["document_id"] == self.question.document_id)
            for citation in self.response["citations"]
        ]

    def sentence_precision(self) -> float:
        """Return the share of cited spans at least half of which an annotator picked."""
        gold = [span for reference in self.question.references for span in reference.spans]
        spans = [
            (citation["document_id"], (start, end))
            for citation in self.response["citations"]
            for start, end in citation["spans"]
        ]
        right = sum(
            document_id == self.question.document_id
            and shared([span], gold) >= HALF * length([span])
            for document_id, span in spans
        )
        return right / len(spans) if spans else 0.0

    def sentence_recall(self) -> float:
        """Return the share of an annotator's sentences that are cited, for the best annotator."""
        cited = [
            (start, end)
            for citation in self.response["citations"]
            if citation["document_id"] == self.question.document_id
            for start, end in citation["spans"]
        ]
        shares = [
            sum(shared([span], cited) >= HALF * length([span]) for span in reference.spans)
            / len(reference.spans)
            for reference in self.question.references
            if reference.spans
        ]
        return max(shares, default=0.0)


@dataclass(frozen=True)
class Asked(Reply):
    """The same, asked a second time without the document that answers.

    Attributes:
        support_without: Support when the question's document is kept out of the search.
        answered_without: Whether it answered all the same.
    """

    support_without: float
    answered_without: bool


def measure_answers(pipeline: LocalPipeline, task: AnswerSet) -> list[Asked]:
    """Ask the pipeline each question, also with its document excluded from the search."""
    ingest(pipeline.retriever, task.retrieval.name, task.retrieval.documents)
    asked = []
    for question in task.questions:
        without = {"set_id": {"$ne": question.document_id}}
        response = _answer(pipeline, task, question, None)
        other = _answer(pipeline, task, question, without)
        support = float(other["support"] or 0.0)
        asked.append(Asked(question, response, support, bool(other["answerable"])))
    return asked


def _answer(
    pipeline: LocalPipeline, task: AnswerSet, question: Question, filters: dict[str, Any] | None
) -> dict[str, Any]:
    response = pipeline.answer(
        {
            "query": question.text,
            "collection": task.retrieval.name,
            "filters": filters,
            "generate": {"target": "extractive"},
        }
    )
    if "error" in response:
        raise SystemExit(f"bench-quality: {question.text!r}: {response['error']['message']}")
    return response


def answer_rows(asked: Sequence[Asked]) -> list[tuple[str, Estimate]]:
    """Return the measures of the answers, each over the questions it is about."""
    right = [one for one in asked if one.question.references]
    wrong = [one for one in asked if not one.question.references]
    answered = [one for one in right if one.answered]
    return [
        ("passage citation precision", estimate(
            [value for one in answered for value in one.passage_precision()])),
        ("sentence citation precision", estimate([one.sentence_precision() for one in answered])),
        ("sentence citation recall", estimate([one.sentence_recall() for one in answered])),
        ("sentence citation recall, abstained = 0", estimate(
            [one.sentence_recall() if one.answered else 0.0 for one in right])),
        ("answer token F1", estimate([one.best(token_f1) for one in answered])),
        ("answer ROUGE-L", estimate([one.best(rouge_l) for one in answered])),
        ("for comparison: token F1 of the whole first passage", estimate(
            [one.whole_passage(token_f1) for one in answered])),
        ("answer token F1, abstained = 0", estimate([one.best(token_f1) for one in right])),
        ("answer ROUGE-L, abstained = 0", estimate([one.best(rouge_l) for one in right])),
        ("answered: answerable", estimate([one.answered for one in right])),
        ("answered: unanswerable", estimate([one.answered for one in wrong])),
        ("answered: document removed", estimate([one.answered_without for one in right])),
        ("AUROC of support: answerable over unanswerable", auroc_estimate(
            [one.support for one in right], [one.support for one in wrong])),
        ("AUROC of support: answerable over document removed", auroc_estimate(
            [one.support for one in right], [one.support_without for one in right])),
    ]  # fmt: skip


# -- what is printed ----------------------------------------------------------------------------


@dataclass
class Results:
    """All measurements of one run."""

    retrieval: dict[str, dict[str, Ranked]] = field(default_factory=dict)
    chunking: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    corpora: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    pair_ms: list[float] = field(default_factory=list)

    def reranking(self) -> list[Section]:
        """Return the table of what the reranker changes and costs; none without one."""
        if not self.pair_ms:
            return []
        pairs = {
            f"{name}, {measure}": (ranked["reranked"].scores[measure], values)
            for name, ranked in self.retrieval.items()
            for measure, values in ranked["hybrid"].scores.items()
        }
        for measure, values in self.chunking.get("hybrid", {}).items():
            pairs[f"chunking set, {measure}"] = (self.chunking["reranked"][measure], values)
        rows = []
        for name, (after, before) in pairs.items():
            found = compare(after, before)
            rows.append(
                [
                    name,
                    f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]",
                    f"{found.p:.3f}",
                ]
            )
        cost = f"median {median(self.pair_ms):.1f} ms for each of {CANDIDATES} candidates"
        return [Section(f"Reranked against hybrid; {cost}", ["measure", "difference", "p"], rows)]

    def sections(self) -> list[Section]:
        """Return the tables, in order."""
        sections = [
            Section(
                f"Retrieval, {name}: {len(ranked['hybrid'].scores['nDCG@10'])} questions",
                ["mode", *ranked["hybrid"].scores],
                [[mode, *map(str, one.estimates().values())] for mode, one in ranked.items()],
            )
            for name, ranked in self.retrieval.items()
        ]
        if self.chunking:
            sections.append(
                Section(
                    f"Passages, chunking set: {len(self.chunking['hybrid']['iou'])} questions, "
                    f"characters of the first {CONTEXTS} passages",
                    ["mode", "recall", "precision", "IoU"],
                    [
                        [mode, *(str(estimate(values)) for values in scores.values())]
                        for mode, scores in self.chunking.items()
                    ],
                )
            )
        sections += self.reranking()
        if self.asked:
            held_out = answer_rows([one for one in self.asked if one.question.held_out])
            sections.append(
                Section(
                    "Answers, CLAP NQ: the whole pipeline, extractive",
                    ["measure", "held-out half", "all questions"],
                    [
                        [name, str(value), str(every)]
                        for (name, value), (_, every) in zip(
                            held_out, answer_rows(self.asked), strict=True
                        )
                    ],
                )
            )
        return sections


def measure(pipeline: LocalPipeline) -> Results:
    """Run everything."""
    results, answers, passages = Results(), clapnq(), chunking()
    reranker = Reranker(pipeline) if "rerank" in pipeline.steps else None
    for task in (scifact(), answers.retrieval):
        results.retrieval[task.name] = measure_retrieval(pipeline.retriever, task, reranker)
    results.chunking = measure_chunking(pipeline.retriever, passages, reranker)
    results.pair_ms = reranker.pair_ms if reranker else []
    results.corpora = [question.document_id for question in passages.questions]
    results.asked = measure_answers(pipeline, answers)
    return results


def publish(results: Results) -> None:
    """Write the HTML report and the section of docs/benchmarks.md."""
    measured = (
        f"Measured {date.today()} on {machine()}, Python {platform.python_version()}. "
        "Mean [95 % bootstrap interval over the questions]."
    )
    sections = results.sections()
    sheet = Sheet(
        curves={
            name: {mode: one.curve for mode, one in ranked.items()}
            for name, ranked in results.retrieval.items()
        },
        ndcg={
            name: {mode: one.estimates()["nDCG@10"] for mode, one in ranked.items()}
            for name, ranked in results.retrieval.items()
        },
        supports={
            "answerable": [one.support for one in results.asked if one.question.references],
            "unanswerable": [one.support for one in results.asked if not one.question.references],
            "document removed": [
                one.support_without for one in results.asked if one.question.references
            ],
        },
        recall_by_corpus={
            mode: _by_corpus(scores["recall"], results.corpora)
            for mode, scores in results.chunking.items()
        },
    )
    write_html(REPORT, measured, sections, sheet)
    write_section("quality", "\n\n".join([measured, *(section.markdown() for section in sections)]))
    Console_.print(f"report: {REPORT}")


def _by_corpus(values: Sequence[float], corpora: Sequence[str]) -> dict[str, Estimate]:
    return {
        name: estimate([value for value, own in zip(values, corpora, strict=True) if own == name])
        for name in sorted(set(corpora))
    }


def show(sections: Sequence[Section]) -> None:
    """Print the tables."""
    for section in sections:
        table = Table(*section.header, title=section.title, title_justify="left")
        for row in section.rows:
            table.add_row(*row)
        Console_.print(table)


# -- the gate -----------------------------------------------------------------------------------


def check(floor_file: Path, found: Mapping[str, float]) -> list[str]:
    """Return what fell below its floor by more than the tolerance, one line each."""
    wanted = json.loads(floor_file.read_text(encoding="utf-8"))
    return [
        f"{name}: {found[name]:.4f} is below {floor} - {wanted['tolerance']}"
        for name, floor in wanted["floor"].items()
        if found[name] < floor - wanted["tolerance"]
    ]


def run_subset(pipeline: LocalPipeline) -> tuple[Results, dict[str, float]]:
    """Measure retrieval on a part of SciFact."""
    results = Results()
    task = subset(scifact(), **SUBSET)
    reranker = Reranker(pipeline) if "rerank" in pipeline.steps else None
    results.retrieval[task.name] = measure_retrieval(pipeline.retriever, task, reranker)
    results.pair_ms = reranker.pair_ms if reranker else []
    found = {
        f"{task.name} {mode} {name}": round(value.mean, 4)
        for mode, ranked in results.retrieval[task.name].items()
        for name, value in ranked.estimates().items()
    }
    return results, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--subset", action="store_true", help="50 questions over 500 abstracts")
    parser.add_argument("--gate", type=Path, metavar="FILE", help="fail below these floors")
    parser.add_argument("--without-data", choices=["fail", "skip"], default="fail",
                        help="when the data sets are not on this machine")  # fmt: skip
    options = parser.parse_args()
    if options.gate and not options.subset:
        parser.error("--gate goes with --subset: the floors are those of the subset")
    try:
        data_root(*(["scifact"] if options.subset else ["scifact", "clapnq_dev", "chunking_eval"]))
    except DataMissing as error:
        print(f"bench-quality: {error}")
        return 0 if options.without_data == "skip" else 2
    HOME.mkdir(parents=True, exist_ok=True)
    with open_local(home=HOME) as pipeline:
        if not options.subset:
            results = measure(pipeline)
            show(results.sections())
            publish(results)
            return 0
        results, found = run_subset(pipeline)
    show(results.sections())
    if not options.gate:
        return 0
    failures = check(options.gate, found)
    for failure in failures:
        print(f"bench-quality: {failure}")
    print(f"quality gate: {'FAILED' if failures else 'passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
