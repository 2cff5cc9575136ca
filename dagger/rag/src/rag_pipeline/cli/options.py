"""Shared by the `rag` commands: options, loading, results and failures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rag_kit.errors import StepError, dump_error, error_of

from . import output as screen

if TYPE_CHECKING:
    from ..steps.local import IngestReport

Opened = TypeVar("Opened")
LOG = logging.getLogger(__name__)

Collection = Annotated[str, typer.Option("--collection", "-c", help="Where the documents are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Stable JSON on standard output.")]
TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="Passages at most.")]
Filter = Annotated[
    str | None,
    typer.Option("--filter", metavar="JSON", help='Metadata, e.g. \'{"year": {"$gte": 2024}}\'.'),
]


Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="S3-compatible server.", show_default="AWS_ENDPOINT_URL, or Amazon's"
    ),
]
Region = Annotated[
    str | None, typer.Option(help="Of the bucket.", show_default="AWS_REGION, or us-east-1")
]


class Mode(StrEnum):
    """How to search."""

    hybrid = "hybrid"
    dense = "dense"
    sparse = "sparse"


SearchMode = Annotated[Mode | None, typer.Option("--mode", help="By words, by meaning, or both.")]


Rerank = Annotated[
    bool | None,
    typer.Option("--rerank/--no-rerank", help="Rank again, or not; default: where configured."),
]


class RetrieverName(StrEnum):
    """Retrievers of the step `retrieve`."""

    builtin = "builtin"
    superlinked = "superlinked"


RetrieverOption = Annotated[
    RetrieverName | None, typer.Option("--retriever", help="Instead of the configured one.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="JSON", help="For superlinked, e.g. '{\"recency\": 0.3}'."),
]
Category = Annotated[str | None, typer.Option(help="For superlinked: the category to prefer.")]


@contextmanager
def failures(as_json: bool = False) -> Iterator[None]:
    """Turn an exception into `error: …` and an exit code; with `--json` also into an envelope."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except StepError as error:
        _fail(error, as_json)
    except Exception as error:
        LOG.exception("unexpected error")
        text = f"{type(error).__name__}: {error} (`rag --verbose` shows where)"
        _fail(StepError("internal_error", text), as_json)


@contextmanager
def loaded(opened: AbstractContextManager[Opened]) -> Iterator[Opened]:
    """Open model and store, with a spinner on a terminal."""
    with ExitStack() as stack:
        with screen.loading("loading …"):
            value = stack.enter_context(opened)
        try:
            yield value
        except KeyboardInterrupt:
            logging.disable()  # closing the steps logs the request that was cancelled
            raise


def exit_code(code: str) -> int:
    """Return the exit code for an error: 75 (try again later) when another process has the store."""
    return 75 if code == "store_locked" else 1


def _fail(error: StepError, as_json: bool) -> None:
    if as_json:
        screen.write_json(dump_error(error, step="rag"))
    screen.write_step_error(error)
    raise typer.Exit(exit_code(error.code)) from None


def finish(
    response: dict[str, Any], as_json: bool, write: Callable[[dict[str, Any]], None]
) -> None:
    """Show a response as JSON or by `write`; an error envelope ends with its exit code."""
    failed = error_of(response)
    if as_json:
        screen.write_json(json.dumps(response, ensure_ascii=False, separators=(",", ":")))
    elif not failed:
        write(response)
    if failed:
        screen.write_error(failed)
        raise typer.Exit(exit_code(failed["code"]))


def finish_report(report: IngestReport, as_json: bool) -> None:
    """Show the report of an ingest; exit code 1 when a document failed."""
    if as_json:
        screen.write_json(report.model_dump_json())
    else:
        screen.write_report(report.model_dump(mode="json"))
    if report.failed:
        raise typer.Exit(1)
