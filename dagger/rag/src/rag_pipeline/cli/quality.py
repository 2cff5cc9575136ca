"""`rag eval`, `rag replay`, `rag conformance`: measure answers, repeat searches, check steps."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag_kit.errors import StepError

from ..stages import STEPS
from . import output as screen
from .options import AsJson, Collection, Mode, SearchMode, failures, finish, loaded

if TYPE_CHECKING:
    from ..quality.evaluate import EvalReport, Question

Minimum = Annotated[
    list[str] | None,
    typer.Option("--min", metavar="METRIC=VALUE", help="Fail below it, e.g. ndcg@10=0.7."),
]


StepName = StrEnum("StepName", {name: name for name in STEPS})  # type: ignore[misc]


def read_input(path: Path) -> bytes:
    """Return the bytes of a file; `-` is standard input."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None


def evaluate_command(
    dataset: Annotated[
        Path | None, typer.Argument(metavar="[DATASET]", help="JSON Lines; - for stdin.")
    ] = None,
    collection: Collection = "default",
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=1, max=100, help="Passages, and k of recall@k.")
    ] = 10,
    mode: SearchMode = None,
    minimum: Minimum = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Ask again with these fields and test the difference, e.g. "
            '\'{"rerank": {"enabled": false}}\'.',
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ask again with the settings of this file, lines RAG_NAME=value, and test the "
            "difference.",
        ),
    ] = None,
    from_feedback: Annotated[
        bool,
        typer.Option(
            "--from-feedback",
            help="Take the questions that readers rated: those stored here, or DATASET, an export of "
            "GET /v1/feedback.",
        ),
    ] = False,
    save: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Keep the report for the page /eval of `rag serve`."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Questions at once.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure answers on questions of your own: ranking, abstention, citations, latency."""
    from ..quality.blocking import evaluate_pipeline
    from ..quality.configuration import read_configuration, without_secrets
    from ..quality.evaluate import below, parse_fields, parse_floor, read_dataset, with_comparison
    from ..quality.runs import check_name, save_run
    from ..settings import overridden, read_settings
    from ..wire import open_pipeline

    try:
        floors = dict(parse_floor(text, top_k) for text in minimum or [])
    except ValueError as error:
        raise typer.BadParameter(f"--min: {error}") from None
    try:
        other = None if compare is None else parse_fields(compare)
    except ValueError as error:
        raise typer.BadParameter(f"--compare: {error}") from None
    if dataset is None and not from_feedback:
        raise typer.BadParameter("give a DATASET of JSON Lines, or --from-feedback")
    raw = None if dataset is None else read_input(dataset)
    with failures(as_json):
        settings = {} if against is None else read_configuration(_text(read_input(against)))
        if save is not None:
            check_name(save)
        questions = _rated(raw, collection) if from_feedback else read_dataset(raw or b"")

        def measure(fields: dict[str, Any], label: str) -> EvalReport:
            with loaded(open_pipeline(preload=True)) as pipeline, screen.progress(label) as tick:
                return evaluate_pipeline(
                    pipeline,
                    questions,
                    top_k=top_k,
                    request=fields,
                    concurrency=concurrency,
                    progress=tick,
                    compare=None if settings else other,
                )

        report = measure(_request(collection, mode), "asking")
        if settings:
            with overridden(settings):
                second = measure({**_request(collection, mode), **(other or {})}, "asking again")
            report = with_comparison(report, second, without_secrets(settings))
        if save is not None:
            save_run(read_settings().home, save, report)
        finish(report.model_dump(mode="json"), as_json, screen.write_metrics)
        missed = below(report, floors)
        screen.write_missed(missed)
        if missed:
            raise typer.Exit(1)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _rated(raw: bytes | None, collection: str) -> list[Question]:
    """Return the questions of ratings, in an export or stored here; says how many tell nothing.

    Raises:
        StepError: `invalid_request`: there are none.
    """
    from ..quality.feedback import FOLDER, parse, read_all, to_questions
    from ..settings import read_settings

    folder = read_settings().home / FOLDER
    found = read_all(folder) if raw is None else parse(raw)
    questions, silent = to_questions(found.ratings, collection)
    if not questions:
        raise StepError(
            "invalid_request",
            f"no rating of an answer from collection '{collection}' tells a right one "
            f"({len(found.ratings)} ratings in {folder if raw is None else 'the export'}); rate "
            "answers on the page, or choose another --collection",
        )
    screen.write_rated(len(questions), silent, found.unreadable)
    return questions


def _request(collection: str, mode: Mode | None) -> dict[str, Any]:
    return {"collection": collection, **({"retrieve": {"mode": mode.value}} if mode else {})}


def replay_command(
    answer: Annotated[Path, typer.Argument(metavar="FILE", help="What --json gave; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Run an answer's retrieval again; exit code 0 when it is identical, else 1."""
    from ..quality.blocking import replay_answer
    from ..wire import open_pipeline

    raw = read_input(answer)
    with failures(as_json), loaded(open_pipeline()) as pipeline:
        report = json.loads(replay_answer(pipeline, raw))
        finish(report, as_json, screen.write_replay)
        if not report["identical"]:
            raise typer.Exit(1)


def conformance_command(
    step: Annotated[StepName, typer.Argument(help="What it stands for.")],
    url: Annotated[str, typer.Option(help="Where it serves POST /run, e.g. http://host:8080.")],
    collection: Collection = "default",
    query: Annotated[
        str | None, typer.Option(help="For retrieve: a question it finds passages for.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a step of your own against the contract; exit code 0 when it keeps it, else 1."""
    from ..quality.blocking import check_server
    from ..quality.conformance import QUERY

    with failures(as_json):
        report = check_server(step.value, url, collection=collection, query=query or QUERY)
        finish(report.model_dump(mode="json"), as_json, screen.write_conformance)
        if not report.passed:
            raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add the three commands."""
    app.command("eval", epilog="Example: [bold]rag eval questions.jsonl --min ndcg@10=0.7[/bold]")(
        evaluate_command
    )
    app.command(
        "replay", epilog='Example: [bold]rag ask --json "Who may sign?" | rag replay -[/bold]'
    )(replay_command)
    app.command(
        "conformance",
        epilog="Example: [bold]rag conformance retrieve --url http://localhost:8080[/bold]",
    )(conformance_command)
