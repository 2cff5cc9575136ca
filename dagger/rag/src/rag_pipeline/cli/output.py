"""The output of the `rag` command: coloured text on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rag_kit.errors import StepError, envelope

if TYPE_CHECKING:
    from rag_kit.reports import SyncPlan

    from ..quality.evaluate import Progress as QuestionProgress
    from ..steps.local import Progress

TOLD_S = 10.0  # between two lines of progress where there is no terminal
PLAIN_WIDTH = 200  # columns when there is no terminal to ask
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HINTS = {
    "collection_not_found": "`rag collections list` shows what there is; "
    "`rag index PATH --collection NAME` makes one",
    "document_not_found": "`rag documents list` shows the ids",
    "collection_mismatch": "`rag reindex --collection NAME` builds it anew with this model",
    "store_locked": "another process has it open; end that one, or use another RAG_HOME",
    "storage_full": "free some space, or move RAG_HOME to a larger disk",
    "source_unavailable": "what is stored of it stays; run it again when the source answers",
    "no_context": "ask differently, or index the documents that tell",
}
DOCTOR = "`rag doctor` tells what is wrong with the installation"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def out() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def err() -> Console:
    """Return the console for progress and errors."""
    return _console(stderr=True)


def printable(value: object) -> str:
    """Return text without control characters: a document must not steer the terminal."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value).replace("\r\n", "\n"))


def one_line(value: object) -> str:
    """Return printable text with every run of white space as one space."""
    return printable(" ".join(str(value).split()))


def write_error(error: dict[str, Any]) -> None:
    """Write the error of an envelope to stderr: message, code, and what to do."""
    text = Text.assemble(("error: ", "bold red"), printable(error["message"]))
    place = f"{error['code']}, step {error['step']}" if error["step"] else error["code"]
    text.append(f" [{place}]", "dim")
    hint = HINTS.get(error["code"])
    if "`rag " in error["message"]:  # already says what to do
        hint = None
    elif hint is None and not error["type"].startswith("invalid_request"):
        hint = DOCTOR
    if hint:
        text.append(f"\n hint: {hint}", "cyan")
    err().print(text, soft_wrap=True)


def write_step_error(error: StepError) -> None:
    """Write an error that was raised to stderr."""
    write_error(envelope(error, step="rag")["error"])


def write_answer(response: dict[str, Any]) -> None:
    """Print an answer and its citations, numbered as in the answer."""
    console = out()
    console.print(
        Text(printable(response["answer"]), "bold" if response["answerable"] else "yellow"),
        soft_wrap=not console.is_terminal,
    )
    for citation in response["citations"]:
        console.print()
        console.print(_source(citation), soft_wrap=not console.is_terminal)
    write_search_queries(response)
    for warning in response["warnings"]:
        write_warning(warning)


def write_search_queries(response: dict[str, Any]) -> None:
    """Write to stderr what was searched besides the question as asked."""
    for query in response["search_queries"]:
        err().print(Text(f"also searched: {one_line(query)}", "dim"), soft_wrap=True)


def _source(citation: dict[str, Any]) -> Text:
    from rag_kit.passages import quotes_of

    start, end = citation["spans"][0]
    name, title = (
        one_line(citation["source"] or citation["document_id"]),
        one_line(citation["title"]),
    )
    text = Text.assemble((f"[{citation['marker']}] ", "bold green"), (name, "bold"))
    if title and title != name:
        text.append(f", “{title}”")
    if citation.get("date"):
        text.append(f", {one_line(citation['date'])}")
    if citation["page"] is not None:
        text.append(f", page {citation['page']}")
    text.append(f", characters {start}–{end}")
    for quote in quotes_of(citation):
        text.append(f"\n    “{one_line(quote)}”", "italic")
    return text


def write_results(response: dict[str, Any]) -> None:
    """Print the passages found as a table with their scores."""
    write_search_queries(response)
    results = response["results"]
    if not results:
        out().print("nothing found")
        return
    legs = [
        leg for leg in ("dense", "sparse", "rerank") if any(leg in r["scores"] for r in results)
    ]
    rows = [
        [
            str(rank),
            f"{result['score']:.3f}",
            *(f"{result['scores'][leg]:.3f}" if leg in result["scores"] else "" for leg in legs),
            _place(result),
            _shorten(one_line(result["text"])),
        ]
        for rank, result in enumerate(results, 1)
    ]
    write_table(["#", "score", *legs, "document", "passage"], rows)


def _place(result: dict[str, Any]) -> str:
    page = f" p. {result['page']}" if result["page"] is not None else ""
    return f"{result['document_id']}{page} {result['span'][0]}–{result['span'][1]}"


def _shorten(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def write_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header; long cells fold on a terminal and nothing is cut."""
    console = out()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console.print(table)


def write_report(report: dict[str, Any]) -> None:
    """Print the report of an ingest: counts, failures, and files that are gone."""
    kinds = ("added", "updated", "unchanged", "deleted", "failed")
    counts = ", ".join(f"{len(report[kind])} {kind}" for kind in kinds)
    console = out()
    console.print(f"{report['collection']}: {counts}")
    console.print(f"passages written: {report['chunks']}, texts embedded: {report['embeddings']}")
    _write_skipped(report["skipped"])
    if report["failed"]:
        console.print()
        rows = [(item["document_id"], item["code"], item["message"]) for item in report["failed"]]
        write_table(["failed", "code", "reason"], rows)
    if report["warnings"]:
        console.print()
        write_table(
            ["read with a warning", "what and where"],
            [(item["document_id"], item["message"]) for item in report["warnings"]],
        )
    for note in report.get("notes", ()):
        write_warning(note)
    if not any(report[kind] for kind in kinds):
        err().print(Text.assemble((" hint: ", "cyan"), "nothing to read there; see `rag index -h`"))
    if report["missing"]:
        names = ", ".join(one_line(name) for name in report["missing"][:5])
        more = len(report["missing"]) - 5
        names += f" and {more} more" if more > 0 else ""
        err().print(
            Text.assemble(
                (" hint: ", "cyan"),
                f"gone from {'the source' if report.get('source') else 'disk'} but kept in the "
                f"collection: {names}; "
                "run again with --prune to delete them",
            ),
            soft_wrap=True,
        )


def _write_skipped(skipped: Sequence[Mapping[str, Any]]) -> None:
    counts = ", ".join(
        f"{item['files']} {one_line(item['ending'] or 'without ending')} ({item['reason']})"
        for item in skipped
    )
    if counts:
        out().print(f"not read: {counts}", soft_wrap=True)


def write_warning(warning: object) -> None:
    """Write a warning to stderr."""
    err().print(Text.assemble(("warning: ", "yellow"), printable(warning)), soft_wrap=True)


def write_plan(plan: SyncPlan, as_json: bool) -> None:
    """Print what a sync would do: one line a document that changes, and counts."""
    if as_json:
        write_json(plan.model_dump_json())
        return
    console = out()
    for mark, ids in (("+", plan.added), ("~", plan.changed), ("-", plan.removed)):
        for document_id in ids:
            console.print(f"{mark} {one_line(document_id)}", soft_wrap=True)
    for refused in plan.refused:
        console.print(f"! {one_line(refused.document_id)}: {refused.message}", soft_wrap=True)
    kept = "" if plan.prune or not plan.removed else " (kept without --prune)"
    console.print(
        f"{plan.collection}: {len(plan.added)} to add, {len(plan.changed)} changed, "
        f"{len(plan.unchanged)} unchanged, {len(plan.removed)} removed{kept}, "
        f"{len(plan.refused)} refused",
        soft_wrap=True,
    )
    _write_skipped([one.model_dump() for one in plan.skipped])
    for warning in plan.warnings:
        write_warning(warning)


def write_metrics(report: dict[str, Any]) -> None:
    """Print each metric with its interval, then the questions that failed."""
    rows = [
        (name, *(_figure(metric[key]) for key in ("value", "low", "high")), metric["n"])
        for name, metric in report["metrics"].items()
    ]
    write_table(["metric", "value", "95 % from", "to", "questions"], rows)
    if report["degraded"]:
        out().print(f"{report['degraded']} answers without a model that failed")
    if report.get("comparison"):
        _write_comparison(report["comparison"])
    if report["failures"]:
        out().print()
        failed = [(item["id"], item["code"], item["message"]) for item in report["failures"]]
        write_table(["failed", "code", "reason"], failed)


def _write_comparison(comparison: dict[str, Any]) -> None:
    """Print what the second run had, and for each metric the difference and whether it is real."""
    settings = [f"{name}={value}" for name, value in comparison["settings"].items()]
    other = [*settings, json.dumps(comparison["request"])]
    out().print(f"\ncompared with {' '.join(other)}", soft_wrap=True)
    rows = [
        [name, _figure(metric["value"]), *_tested(comparison["differences"].get(name))]
        for name, metric in comparison["metrics"].items()
    ]
    head = ["metric", "there", "difference", "95 % from", "to", "p", "real", "questions"]
    write_table(head, rows)
    for name in ("failed", "degraded"):
        if comparison[name]:
            out().print(f"{name} there: {comparison[name]}")


def _tested(difference: dict[str, Any] | None) -> list[str]:
    """Return the cells of a difference; none for a latency, which is of no single question."""
    if difference is None:
        return [""] * 6
    figures = [_figure(difference[key]) for key in ("value", "low", "high", "p")]
    return [*figures, "yes" if difference["real"] else "no", str(difference["n"])]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_rated(used: int, silent: int, unreadable: int) -> None:
    """Write to stderr how many ratings make a question."""
    lines = [f"{used} of {used + silent} rated questions have a right answer or a confirmed source"]
    if unreadable:
        lines.append(f"{unreadable} lines could not be read")
    err().print("; ".join(lines), soft_wrap=True)


def write_missed(missed: Sequence[str]) -> None:
    """Write to stderr which metrics are too low."""
    for sentence in missed:
        err().print(Text.assemble(("too low: ", "bold red"), sentence), soft_wrap=True)


def write_replay(report: dict[str, Any]) -> None:
    """Print whether retrieval was identical, and each difference."""
    console = out()
    style = ("identical", "bold green") if report["identical"] else ("different", "bold red")
    digest = report["results_digest"]
    console.print(Text.assemble(style, f": the passages for “{one_line(report['query'])}”"))
    console.print(f"digest {digest['before']}" if report["identical"] else _digests(digest))
    for difference in report["differences"]:
        console.print(Text(f"- {one_line(difference['message'])}"), soft_wrap=True)


def _digests(digest: dict[str, str]) -> str:
    return f"digest {one_line(digest['before'])}, now {digest['after']}"


def write_conformance(report: dict[str, Any]) -> None:
    """Print each check, and for a failed one what was expected and what came."""
    console = out()
    for check in report["checks"]:
        mark = ("passed", "green") if check["passed"] else ("failed", "bold red")
        line = Text.assemble(mark, f"  {check['id']}")
        if not check["passed"]:
            field = f" in {check['field']}" if check["field"] else ""
            line.append(f"\n        expected {check['expected']}")
            line.append(f"\n        got{field}: {one_line(check['got'])}")
        console.print(line, soft_wrap=True)
    failed = sum(not check["passed"] for check in report["checks"])
    console.print(f"{report['step']}: {len(report['checks'])} checks, {failed} failed")


@contextmanager
def progress(
    what: str, *, told: bool = False
) -> Iterator[Callable[[Progress | QuestionProgress], None]]:
    """Yield a function that moves a progress bar on stderr.

    Args:
        what: What is going on.
        told: Without a terminal, write a line every ten seconds; else nothing is shown there.
    """
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    console = err()
    with rich_progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        said = time.monotonic()

        def tick(state: Progress | QuestionProgress) -> None:
            nonlocal said
            passages = getattr(state, "passages", 0)
            text = f"{what}, {passages} passages" if passages else what
            bar.update(task, description=text, completed=state.done, total=state.total)
            if told and not console.is_terminal and time.monotonic() - said >= TOLD_S:
                said = time.monotonic()
                console.print(f"{text}: {state.done} of {state.total}")

        yield tick


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Show a spinner on stderr when it is a terminal."""
    console = err()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def write_json(text: str) -> None:
    """Write JSON to stdout unchanged."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
