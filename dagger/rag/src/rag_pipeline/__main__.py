"""The pipeline as a command and as a server; `eval`, `replay` and `conformance` as commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pydantic_core

from rag_kit.command import command, open_later
from rag_kit.errors import StepError, dump_error, error_of

from .stages import STEPS

PROG = "python -m rag_pipeline"
ABOUT = (
    "Answer a question from your documents, with citations: retrieve, augment, generate. "
    f"`{PROG} eval`, `replay` and `conformance` measure and check; each has --help."
)
COLLECTION = "where the documents are; default: %(default)s"


def evaluate_command(arguments: list[str]) -> int:
    """Measure the answers to a dataset and write the report."""
    from .quality.blocking import evaluate_pipeline
    from .quality.evaluate import below, parse_fields, parse_floor, read_dataset
    from .wire import open_pipeline

    parser = _parser("eval", "Measure answers on questions whose answers are known.")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="JSON Lines")
    parser.add_argument("--collection", default="default", help=COLLECTION)
    parser.add_argument(
        "--top-k", type=int, default=10, help="passages, and k of recall@k; default: %(default)s"
    )
    parser.add_argument(
        "--concurrency", type=int, default=1, help="questions at once; default: %(default)s"
    )
    parser.add_argument(
        "--min",
        dest="minimum",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="exit code 1 when the metric is below, or was not measured, e.g. ndcg@10=0.7; "
        "may be given again for another one",
    )
    parser.add_argument(
        "--compare", metavar="JSON", help="ask again with these fields and test the difference"
    )
    options = parser.parse_args(arguments)
    try:
        floors = dict(parse_floor(text, options.top_k) for text in options.minimum)
    except ValueError as error:
        parser.error(f"--min: {error}")
    try:
        compare = parse_fields(options.compare) if options.compare else None
    except ValueError as error:
        parser.error(f"--compare: {error}")
    missed: list[str] = []

    def report() -> str:
        questions = read_dataset(options.dataset.read_bytes())
        with open_pipeline(preload=True) as pipeline:
            measured = evaluate_pipeline(
                pipeline,
                questions,
                top_k=options.top_k,
                request={"collection": options.collection},
                concurrency=options.concurrency,
                progress=lambda at: print(f"{at.done}/{at.total}", file=sys.stderr),
                compare=compare,
            )
        missed.extend(below(measured, floors))
        return measured.model_dump_json()

    code = _write("eval", report, options.output)
    for sentence in missed:
        print(f"{PROG} eval: {sentence}", file=sys.stderr)
    return code or int(bool(missed))


def replay_command(arguments: list[str]) -> int:
    """Run an answer's retrieval again and write the report."""
    from .quality.blocking import replay_answer
    from .wire import open_pipeline

    parser = _parser("replay", "Run an answer's retrieval again and compare.")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="an answer")
    options = parser.parse_args(arguments)

    def report() -> str:
        with open_pipeline() as pipeline:
            return replay_answer(pipeline, options.input.read_bytes())

    return _write("replay", report, options.output, passed="identical")


def conformance_command(arguments: list[str]) -> int:
    """Check a step against the contract and write the report."""
    from .quality.blocking import check_server
    from .quality.conformance import QUERY

    parser = _parser("conformance", "Check a step of your own against the contract.")
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--url", required=True, help="where it serves POST /run")
    parser.add_argument("--collection", default="default", help=COLLECTION)
    parser.add_argument(
        "--query",
        default=QUERY,
        help="for retrieve: a question it finds passages for; default: %(default)s",
    )
    options = parser.parse_args(arguments)

    def report() -> str:
        checked = check_server(
            options.step, options.url, collection=options.collection, query=options.query
        )
        return checked.model_dump_json()

    return _write("conformance", report, options.output, passed="passed")


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROG} {name}", description=about)
    parser.add_argument("--output", default="-", metavar="FILE", help="default: standard output")
    return parser


def _write(name: str, report: Callable[[], str], target: str, *, passed: str | None = None) -> int:
    """Write a report, or an error envelope; returns the exit code.

    Returns:
        0; 1 for an envelope, or when the field `passed` is false; 2 when a file is unusable.
    """
    try:
        text = report()
    except StepError as error:
        text = dump_error(error, step="rag")
    except OSError as error:
        print(f"{PROG} {name}: cannot read {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        if target == "-":
            print(text)
        else:
            Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"{PROG} {name}: cannot write {target}: {error.strerror}", file=sys.stderr)
        return 2
    data = pydantic_core.from_json(text)
    if failed := error_of(data):
        print(f"{PROG} {name}: {failed['code']}: {failed['message']}", file=sys.stderr)
        return 1
    return 0 if passed is None or data[passed] else 1


COMMANDS = {"eval": evaluate_command, "replay": replay_command, "conformance": conformance_command}


def main(arguments: list[str]) -> int:
    """Run one of COMMANDS, `serve`, or answer one request; returns the exit code."""
    own = COMMANDS.get(arguments[0]) if arguments else None
    return (
        own(arguments[1:])
        if own
        else command(
            "rag",
            PROG,
            ABOUT,
            open_later("rag_pipeline"),
            arguments,
            verbs=("run", "search", "rerank", "generate"),
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
