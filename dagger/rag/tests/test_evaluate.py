"""`evaluate` over a double of the composite, and `rag eval` as a process."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rag_command import run, run_module, write_documents

from rag_kit.errors import StepError
from rag_pipeline.quality.evaluate import (
    EvalReport,
    Progress,
    Question,
    below,
    evaluate,
    parse_floor,
    read_dataset,
)


def found(document_id: str, score: float, chunk_id: str = "c") -> dict[str, Any]:
    return {"chunk_id": chunk_id, "document_id": document_id, "score": score}


def reply(
    *passages: dict[str, Any],
    left_out: list[dict[str, Any]] | None = None,
    answerable: bool = True,
    cited: list[str] | None = None,
    total: float = 10.0,
) -> dict[str, Any]:
    return {
        "answerable": answerable,
        "citations": [{"document_id": document_id} for document_id in cited or []],
        "contexts": list(passages),
        "left_out": left_out or [],
        "timings_ms": {"retrieve": 1.0, "total": total},
        "warnings": [],
        "provenance": {"rag": {"version": "1", "request": {}, "results_digest": "sha256:1"}},
    }


class CompositeDouble:
    """The composite as a table of replies by question; keeps the requests it was sent."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, text: str) -> str:
        self.requests.append(json.loads(text))
        given = self.replies[self.requests[-1]["query"]]
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, str) else json.dumps(given)


def measured(rows: list[dict[str, Any]], replies: dict[str, Any], **more: Any) -> EvalReport:
    questions = read_dataset("\n".join(map(json.dumps, rows)))
    return asyncio.run(evaluate(questions, answer=CompositeDouble(replies), **more))


def values(report: EvalReport) -> dict[str, tuple[float | None, int]]:
    return {name: (metric.value, metric.n) for name, metric in report.metrics.items()}


def test_ranking_is_measured_over_documents() -> None:
    """The best passage of a document counts, also one left out of the prompt, by score."""
    answer = reply(
        found("b.md", 0.2, "c3"),
        found("a.md", 0.9, "c1"),
        left_out=[found("a.md", 0.1), found("c.md", 0.5)],
    )
    report = measured([{"query": "q", "relevant": ["c.md", "z.md"]}], {"q": answer}, top_k=4)

    assert report.scored[0].documents == ["a.md", "c.md", "b.md"]
    assert values(report)["recall@4"] == (0.5, 1)
    assert values(report)["mrr@10"] == (0.5, 1)
    assert values(report)["ndcg@10"] == (pytest.approx(0.38685, abs=1e-5), 1)


def test_what_was_left_out_without_a_rank_counts_for_nothing() -> None:
    """A foreign augmenter need not say more than that something was left out."""
    left_out = [{"reason": "too long"}, found("b.md", 0.4)]
    report = measured([{"query": "q"}], {"q": reply(found("a.md", 0.5), left_out=left_out)})

    assert report.scored[0].documents == ["a.md", "b.md"]


def test_each_metric_counts_the_questions_that_tell_it() -> None:
    """Relevance, answerable and an answer: where one is missing the question is left out."""
    rows = [
        {"query": "known", "relevant": ["a.md"], "answerable": True},
        {"query": "unknown", "answerable": False},
        {"query": "wrongly answered", "answerable": False},
        {"query": "cites another", "relevant": {"a.md": 2, "b.md": 0}},
        {"query": "only asked"},
    ]
    replies = {
        "known": reply(found("a.md", 1), cited=["a.md", "a.md"]),
        "unknown": reply(answerable=False),
        "wrongly answered": reply(found("a.md", 1), cited=["a.md"]),
        "cites another": reply(found("b.md", 1), cited=["a.md", "b.md"]),
        "only asked": reply(answerable=False),
    }
    report = measured(rows, replies)

    assert values(report) == {
        "ndcg@10": (0.5, 2),
        "recall@10": (0.5, 2),
        "mrr@10": (0.5, 2),
        "answer_rate": (pytest.approx(0.6), 5),
        "abstention": (pytest.approx(2 / 3), 3),
        "citation_hit": (0.5, 2),
        "p50_ms": (10.0, 5),
        "p95_ms": (10.0, 5),
    }


def test_an_answer_without_citations_is_no_hit() -> None:
    """Nothing cited is nothing to check."""
    report = measured([{"query": "q", "relevant": ["a.md"]}], {"q": reply(found("a.md", 1))})

    assert values(report)["citation_hit"] == (0.0, 1)


def test_latency_is_the_percentile_of_totals() -> None:
    """The median of 10, 20 and 30 ms is 20 ms."""
    rows = [{"query": name} for name in "abc"]
    replies = {name: reply(total=total) for name, total in zip("abc", (30, 10, 20), strict=True)}
    report = measured(rows, replies)

    assert values(report)["p50_ms"] == (20.0, 3)
    assert values(report)["p95_ms"] == (pytest.approx(29.0), 3)


def test_a_failed_question_is_listed_and_not_counted() -> None:
    """An envelope, an off-contract reply and an exception are one failure each."""
    rows = [{"query": name, "id": name} for name in ("good", "envelope", "off", "late", "broken")]
    replies = {
        "good": reply(),
        "envelope": {"error": {"code": "llm_timeout", "message": "too slow", "param": None}},
        "off": {**reply(), "contexts": [{"score": 1}]},
        "late": StepError("deadline_exceeded", "late"),
        "broken": RuntimeError("secret"),
    }
    report = measured(rows, replies)

    assert (report.questions, report.failed) == (5, 4)
    assert values(report)["answer_rate"] == (1.0, 1)
    assert [(item.id, item.code) for item in report.failures] == [
        ("envelope", "llm_timeout"),
        ("off", "module_bad_output"),
        ("late", "deadline_exceeded"),
        ("broken", "module_error"),
    ]
    assert "contexts.0.document_id" in report.failures[1].message
    assert "secret" not in report.model_dump_json()


def test_only_failures_are_an_error() -> None:
    """When no question is answered the first error is raised, with its own code."""
    nope = {"error": {"code": "collection_not_found", "message": "no 'x'", "param": "collection"}}
    with pytest.raises(StepError, match=r"all 2 questions failed.*no 'x'") as caught:
        measured([{"query": "a"}, {"query": "b"}], {"a": nope, "b": nope})

    assert (caught.value.code, caught.value.param) == ("collection_not_found", "collection")


def test_each_question_is_asked_once_with_its_filters() -> None:
    """top_k, the fields for all, and the filters of the line make the request."""
    composite = CompositeDouble({"a": reply(), "b": reply()})
    ticks: list[Progress] = []
    questions = [Question(query="a", filters={"year": 2024}), Question(query="b")]
    given = {"collection": "work", "retrieve": {"mode": "dense"}}
    asyncio.run(
        evaluate(questions, answer=composite, top_k=7, request=given, progress=ticks.append)
    )

    assert composite.requests == [
        {**given, "top_k": 7, "query": "a", "filters": {"year": 2024}},
        {**given, "top_k": 7, "query": "b"},
    ]
    assert ticks == [(1, 2), (2, 2)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_questions_are_asked_at_once_than_allowed(concurrency: int) -> None:
    """With nine questions as many are under way as allowed, and the report keeps their order."""
    under_way, most = 0, 0

    async def answer(text: str) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(len(text) % 3 + 1):
            await asyncio.sleep(0)
        under_way -= 1
        return json.dumps(reply())

    questions = [Question(query="x" * length, id=str(length)) for length in range(1, 10)]
    report = asyncio.run(evaluate(questions, answer=answer, concurrency=concurrency))

    assert most == concurrency
    assert [item.id for item in report.scored] == [str(length) for length in range(1, 10)]


def test_a_concurrency_of_none_is_refused() -> None:
    """Nothing would ever be asked."""
    with pytest.raises(StepError, match="at least 1, but is 0"):
        measured([{"query": "q"}], {"q": reply()}, concurrency=0)


def test_the_report_tells_who_answered() -> None:
    """Versions and digests of the first answer; not what belongs to one question."""
    assert measured([{"query": "q"}], {"q": reply()}).provenance == {"rag": {"version": "1"}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query": "cut', "not valid JSON"),
        ('["a"]', "not a JSON object"),
        ("{}", "query: required, but missing"),
        ('{"query": " "}', "the query is empty"),
        ('{"query": "a", "relevant": "a.md"}', "relevant: must be a list of document ids"),
        ('{"query": "a", "relevant": {"a.md": -1}}', "a whole number >= 0"),
        ('{"query": "a", "relevant": {"a.md": true}}', "a whole number >= 0"),
        ('{"query": "a", "relevant": [1]}', "relevant: must be a list of document ids"),
        ('{"query": "a", "answerable": "yes"}', "answerable: Input should be a valid boolean"),
        ('{"query": "a", "relevent": []}', "relevent: unknown field; known are id, query"),
    ],
)
def test_a_bad_line_is_told_with_its_number(line: str, said: str) -> None:
    """Blank lines count, so that the number is the editor's."""
    with pytest.raises(StepError) as caught:
        read_dataset(f'{{"query": "good"}}\n\n{line}\n')

    assert caught.value.code == "invalid_request"
    assert caught.value.message.startswith("line 3: ")
    assert said in caught.value.message


def test_text_that_is_no_utf_8_is_a_bad_line() -> None:
    """The line is named, not only the file."""
    with pytest.raises(StepError, match="line 1: not valid JSON"):
        read_dataset(b'{"query": "\xff"}')


def test_an_empty_dataset_is_refused() -> None:
    """Nothing to ask is no success."""
    with pytest.raises(StepError, match="no question"):
        read_dataset("\n \n")


def test_lines_may_end_as_on_windows() -> None:
    """A byte order mark and CR LF are no part of a question; a line without id is its number."""
    text = '\ufeff{"query": "a"}\r\n{"query": "b\u2028c", "id": "two"}\r\n'

    assert [(q.query, q.id) for q in read_dataset(text)] == [("a", "line 1"), ("b\u2028c", "two")]


def test_floors_are_compared_with_the_value() -> None:
    """Equal is enough; lower, and not measured, is told in a sentence."""
    report = measured([{"query": "q", "relevant": ["a.md"]}], {"q": reply(found("a.md", 1))})

    assert below(report, {"ndcg@10": 1.0, "answer_rate": 0.5}) == []
    assert below(report, {"citation_hit": 0.5, "abstention": 0.1}) == [
        "citation_hit is 0.0000, below 0.5",
        "abstention was not measured: no question of the dataset tells it",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ndcg=0.5", "no metric 'ndcg'; there are ndcg@10, recall@5"),
        ("p50_ms=0.5", "no metric"),
        ("ndcg@10", "a value from 0 to 1"),
        ("ndcg@10=high", "a value from 0 to 1, but got 'high'"),
        ("ndcg@10=70", "a value from 0 to 1"),
        ("ndcg@10=nan", "a value from 0 to 1"),
    ],
)
def test_a_floor_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    """The known names are told."""
    with pytest.raises(ValueError, match=said):
        parse_floor(text, 5)


# -- as a process -------------------------------------------------------------------------------

ROWS = [
    {"query": "Who may sign contracts?", "relevant": ["papers/bylaws.md"], "answerable": True},
    {"query": "Who gets holiday requests?", "relevant": ["papers/handbook.txt"]},
    {"query": "zygomorphic quaternion xylophone", "answerable": False},
]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two documents, and beside it a dataset of three questions."""
    folder = tmp_path_factory.mktemp("evaluate")
    ran = run("index", str(write_documents(folder)), home=folder / "home")
    assert ran.code == 0, ran.err
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return folder / "home"


def test_the_command_prints_metrics_and_holds_a_gate(indexed: Path) -> None:
    """Exit code 0 at the floor and 1 below it, told on stderr; the table is the same."""
    dataset = str(indexed.with_name("questions.jsonl"))
    kept = run("eval", dataset, "--min", "ndcg@10=1", "--min", "abstention=1", home=indexed)
    broken = run("eval", dataset, "--min", "answer_rate=0.9", home=indexed)
    rows = {line.split()[0]: line.split()[1:] for line in kept.out.splitlines()}

    assert (kept.code, kept.err) == (0, "")
    assert rows["ndcg@10"] == ["1.000", "1.000", "1.000", "2"]
    assert rows["abstention"] == ["1.000", "1.000", "1.000", "2"]
    assert rows["citation_hit"][0] == "1.000"
    assert float(rows["p95_ms"][0]) > 0
    assert broken.code == 1
    assert broken.err == "too low: answer_rate is 0.6667, below 0.9\n"


def test_two_ways_are_compared_question_by_question(indexed: Path) -> None:
    """One command: the second run's figures, each difference, and whether it is real."""
    dataset = str(indexed.with_name("questions.jsonl"))
    other = {"retrieve": {"mode": "sparse"}, "min_score": 1e9}
    told = run("eval", dataset, "--compare", json.dumps(other), home=indexed)
    ran = run("eval", dataset, "--json", "--compare", json.dumps(other), home=indexed)
    report = EvalReport.model_validate(ran.json)
    comparison = report.comparison

    assert comparison is not None and (told.code, ran.code) == (0, 0)
    assert comparison.request == {"collection": "default", **other}
    assert comparison.metrics["ndcg@10"].value == 0.0
    difference = comparison.differences["ndcg@10"]
    assert (difference.value, difference.n, difference.real) == (1.0, 2, False)
    assert "compared with" in told.out
    assert re.search(r"^ndcg@10 +0\.000 +1\.000", told.out, re.MULTILINE)


def test_json_is_the_report(indexed: Path) -> None:
    """`--json` prints an `EvalReport`, from standard input too."""
    rows = "\n".join(map(json.dumps, ROWS))
    ran = run("eval", "-", "--json", "--top-k", "3", "--mode", "dense", home=indexed, stdin=rows)
    report = EvalReport.model_validate(ran.json)

    assert (ran.code, report.top_k, report.failed) == (0, 3, 0)
    assert report.request == {"collection": "default", "retrieve": {"mode": "dense"}}
    assert report.metrics["recall@3"].n == 2
    assert set(report.provenance) == {"retrieve", "augment", "generate", "rag"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.jsonl"], 2, "cannot read missing.jsonl"),
        (["-", "--min", "ndcg=1"], 2, "no metric 'ndcg'"),
        (["-", "--compare", "{"], 2, "--compare: not valid JSON"),
        (["-", "--compare", "[1]"], 2, "--compare: give fields of a request"),
        (["-"], 1, "line 1: not valid JSON"),
    ],
)
def test_what_cannot_be_measured_is_told(
    home: Path, arguments: list[str], code: int, said: str
) -> None:
    """Wrong usage exits with 2, a bad dataset with 1; nothing is loaded for either."""
    ran = run("eval", *arguments, home=home, stdin="{", COLUMNS="200")

    assert (ran.code, ran.out) == (code, "")
    assert said in " ".join(ran.err.replace("│", " ").split())


def test_the_module_command_writes_the_report_to_a_file(indexed: Path, tmp_path: Path) -> None:
    """`python -m rag_pipeline eval` is the same without the `rag` command."""
    target = tmp_path / "report.json"
    other = tmp_path / "other.env"
    other.write_text("RAG_MIN_SUPPORT=0.99\n")
    arguments = ["--dataset", str(indexed.with_name("questions.jsonl")), "--output", str(target)]
    done = run_module("eval", *arguments, "--against", str(other), home=indexed)

    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == "3/3"
    report = EvalReport.model_validate_json(target.read_text())
    assert report.metrics["ndcg@10"].value == 1.0
    assert report.comparison is not None
    assert report.comparison.settings == {"RAG_MIN_SUPPORT": "0.99"}
    assert report.comparison.metrics["answer_rate"].value == 0.0


@pytest.mark.parametrize(
    ("minimum", "code", "said"),
    [
        (["ndcg@10=1", "abstention=1"], 0, "3/3\n"),
        (["ndcg@10=1", "answer_rate=0.9"], 1, "eval: answer_rate is 0.6667, below 0.9\n"),
        (["ndcg=1"], 2, "error: --min: no metric 'ndcg'; there are ndcg@10, "),
    ],
)
def test_the_module_command_holds_a_gate(
    indexed: Path, tmp_path: Path, minimum: list[str], code: int, said: str
) -> None:
    """Exit code 1 below a minimum, the report written all the same; 2 when none can be meant."""
    target = tmp_path / "report.json"
    done = run_module(
        *("eval", "--output", str(target)),
        *("--dataset", str(indexed.with_name("questions.jsonl"))),
        *(word for each in minimum for word in ("--min", each)),
        home=indexed,
    )

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert target.exists() == (code != 2)


def test_the_module_command_writes_an_envelope_for_a_bad_dataset(
    home: Path, tmp_path: Path
) -> None:
    """A container leaves its error in the output file and exits with 1."""
    (tmp_path / "bad.jsonl").write_text("{}")
    target = tmp_path / "report.json"
    arguments = ["--dataset", str(tmp_path / "bad.jsonl"), "--output", str(target)]
    done = run_module("eval", *arguments, home=home)

    assert done.code == 1
    assert json.loads(target.read_text())["error"]["code"] == "invalid_request"
    assert "line 1: query: required, but missing" in done.err
