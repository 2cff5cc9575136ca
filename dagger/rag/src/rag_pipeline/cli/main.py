"""The `rag` command: index your files, ask them, manage what is stored.

Heavy parts (model, store) are imported by the commands that need them; `rag --help` is instant.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag_kit.errors import StepError
from rag_kit.formats import FORMATS

from ..step import __version__
from . import output as screen
from . import quality
from .bulk import bulk_index
from .documents import collections, documents
from .models import models
from .options import (
    AsJson,
    Category,
    Collection,
    Filter,
    Mode,
    Rerank,
    RetrieverName,
    RetrieverOption,
    SearchMode,
    TopK,
    Weights,
    failures,
    finish,
    finish_report,
    loaded,
)
from .sync import sources, sync

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..steps.local import IngestReport, Retriever

TURNS = 20  # messages that the prompt of `rag ask` keeps
GROUP = "rag.commands"  # entry points of packages that add a command
# Arguments and --help of such a command are its own: it is imported only when it runs.
FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
EPILOG = "Data lives under $RAG_HOME; `rag doctor` shows where, and whether everything works."

app = typer.Typer(
    name="rag",
    help="Ask your own documents. Answers come with numbered citations.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(documents)
app.add_typer(collections)
app.add_typer(models)
app.add_typer(sources)


def _version(requested: bool) -> None:
    if requested:
        screen.out().print(f"rag {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Full logs on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask your own documents. Answers come with numbered citations."""
    handler = logging.StreamHandler()
    if not verbose:
        handler.setFormatter(_OneLine("%(name)s: %(message)s"))
        handler.addFilter(lambda record: record.name.startswith("rag_"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])


class _OneLine(logging.Formatter):
    """Omits tracebacks."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return ""


@app.command(
    help=f"Read documents: {', '.join(FORMATS)}. Unchanged files cost nothing.",
    epilog="Example: [bold]rag index ~/notes report.pdf --collection work[/bold]",
)
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files and folders.")],
    collection: Collection = "default",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents whose file is gone.")
    ] = False,
    service: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Upload to a running service instead, with the key in RAG_API_KEY if it needs one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read documents into a collection."""
    from ..steps.local import open_retriever

    if service and prune:
        raise typer.BadParameter("--prune needs the store itself; --service only adds documents")
    with failures(as_json):
        if service:
            finish_report(send(service, paths, collection), as_json)
            return
        try:
            with loaded(open_retriever()) as retriever:
                report = ingest(retriever, paths, collection, prune=prune)
        except StepError as error:
            url = _service_instead(error, paths, collection, ask=not (as_json or prune))
            report = send(url, paths, collection)
        finish_report(report, as_json)


app.command(
    "bulk-index",
    epilog="Example: [bold]rag bulk-index /data/papers --collection papers --workers 8[/bold]",
)(bulk_index)
app.command(
    epilog="Example: [bold]rag sync https://git.example.com/team/handbook.git#main:docs --plan[/bold]"
)(sync)


def _service_instead(error: StepError, paths: list[Path], collection: str, *, ask: bool) -> str:
    """Return the URL of the service that has the store open, if the user wants to upload to it.

    Raises:
        StepError: The error, with the command that uploads to the service when there is one.
    """
    from ..running import find_service
    from ..settings import read_settings
    from .upload import answers

    url = find_service(read_settings().home) if error.code == "store_locked" else None
    if url is None or not answers(url):
        raise error
    if ask and _on_terminal():
        question = f"A service at {url} has the documents open. Upload to it instead?"
        if typer.confirm(question, default=True, err=True):
            return url
    command = shlex.join(["rag", "index", *map(str, paths), "-c", collection, "--service", url])
    text = f"a service at {url} has the documents open; upload to it: `{command}`"
    raise StepError("store_locked", text, param=error.param, step=error.step)


def send(url: str, paths: list[Path], collection: str) -> IngestReport:
    """Upload with a progress bar."""
    from .upload import upload

    with screen.progress(f"uploading into {collection}") as tick:
        return upload(url, paths, collection=collection, progress=tick)


def ingest(
    retriever: Retriever, paths: list[Path], collection: str, *, prune: bool = False
) -> IngestReport:
    """Ingest with a progress bar."""
    with screen.progress(f"indexing into {collection}") as tick:
        return retriever.ingest(paths, collection=collection, prune=prune, progress=tick)


@app.command(epilog='Example: [bold]rag ask "Who may sign?"[/bold]; without a question: a prompt')
def ask(
    question: Annotated[str | None, typer.Argument(help="The question.")] = None,
    collection: Collection = "default",
    top_k: TopK = 5,
    filters: Filter = None,
    mode: SearchMode = None,
    retriever: RetrieverOption = None,
    weights: Weights = None,
    category: Category = None,
    rerank: Rerank = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with numbered citations: document, page, characters, quote."""
    if question is None and (as_json or not _on_terminal()):
        raise typer.BadParameter('no question given; try: rag ask "Who may sign?"')
    request = _request(collection, top_k, filters, mode, weights, category, rerank)
    with failures(as_json), loaded(_open(retriever)) as pipeline:
        if question is None:
            converse(pipeline, request)
        else:
            finish(pipeline.answer({"query": question, **request}), as_json, screen.write_answer)


@app.command(epilog='Example: [bold]rag search "signature" --mode sparse --top-k 3[/bold]')
def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection = "default",
    top_k: TopK = 5,
    filters: Filter = None,
    mode: SearchMode = None,
    retriever: RetrieverOption = None,
    weights: Weights = None,
    category: Category = None,
    rerank: Rerank = None,
    as_json: AsJson = False,
) -> None:
    """Show the passages found for a question with their scores, without an answer."""
    options = _request(collection, top_k, filters, mode, weights, category, rerank)
    request = {"query": question, **options}
    with failures(as_json), loaded(_open(retriever)) as pipeline:
        finish(pipeline.search(request), as_json, screen.write_results)


def _request(
    collection: str,
    top_k: int,
    filters: str | None,
    mode: Mode | None,
    weights: str | None,
    category: str | None,
    rerank: bool | None,
) -> dict[str, Any]:
    request: dict[str, Any] = {"collection": collection, "top_k": top_k}
    if filters is not None:
        request["filters"] = _json("--filter", filters)
    if rerank is not None:
        request["rerank"] = {"enabled": rerank}
    options: dict[str, Any] = {}
    if mode is not None:
        options["mode"] = mode.value
    if weights is not None:
        options["weights"] = _json("--weights", weights)
    if category is not None:
        options["category"] = category
    return {**request, "retrieve": options} if options else request


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is not valid JSON: {error}") from None


def _open(retriever: RetrieverName | None) -> AbstractContextManager[Pipeline]:
    if retriever is None:
        from ..wire import open_pipeline

        return open_pipeline()
    from ..settings import read_settings
    from ..steps.local import open_local

    if read_settings().step_urls():
        raise typer.BadParameter(
            "--retriever chooses how this process searches, but RAG_RETRIEVE_URL names a running "
            "step; set RAG_RETRIEVER where that one runs"
        )
    return open_local(retriever=retriever.value, stages=read_settings().stages())


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def converse(pipeline: Pipeline, request: dict[str, Any]) -> None:
    """Answer questions typed on the terminal until an empty line or Ctrl-D.

    A follow-up ("and for interns?") is understood with the questions and answers before it.
    """
    import readline  # noqa: F401, line editing and history for input()

    screen.out().print("Ask a question, or a follow-up; an empty line or Ctrl-D ends.")
    said: list[dict[str, str]] = []
    while True:
        try:
            question = input("\n? ")
        except EOFError:
            screen.out().print()
            return
        if not question.strip():
            return
        with suppress(typer.Exit):
            response = pipeline.answer({"query": question, "messages": said, **request})
            finish(response, False, screen.write_answer)
            said += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": response["answer"]},
            ]
            del said[:-TURNS]


@app.command(epilog="Example: [bold]rag demo docs README.md[/bold]")
def demo(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="What to index.")],
    collection: Collection = "docs",
    question: Annotated[
        str, typer.Option(help="What to ask first.", show_default="one about hybrid search")
    ] = "How does retrieval fuse dense and sparse results?",
) -> None:
    """Index, then ask one question."""
    from ..steps.local import open_local

    with failures(), loaded(open_local()) as pipeline:
        report = ingest(pipeline.retriever, paths, collection)
        screen.write_report(report.model_dump(mode="json"))
        screen.out().print(f"\n? {question}")
        request = {"collection": collection}
        finish(pipeline.answer({"query": question, **request}), False, screen.write_answer)


@app.command(context_settings=FORWARDED)
def serve(context: typer.Context) -> None:
    """Serve a page and an HTTP API: answers as JSON or as they are written, drop-in APIs."""
    with failures():
        command = registered("serve")
    command(context.args, prog_name="rag serve")


def registered(name: str) -> Callable[..., object]:
    """Return a command of another package, which it registers as an entry point of this name.

    Raises:
        StepError: `misconfigured`: the package, or one that it needs, is not installed.
    """
    package = "rag_service"
    try:
        for point in entry_points(group=GROUP, name=name):
            command: Callable[..., object] = point.load()
            return command
    except ModuleNotFoundError as error:
        package = error.name or package
    raise StepError(
        "misconfigured",
        f"`rag {name}` needs the package {package}, which is not installed; install rag-service",
    )


@app.command(epilog="Example: [bold]rag reindex --collection work[/bold]")
def reindex(collection: Collection = "default", as_json: AsJson = False) -> None:
    """Chunk and embed a collection anew, e.g. for another model; it stays searchable meanwhile."""
    from ..steps.local import open_retriever

    with failures(as_json), loaded(open_retriever()) as retriever:
        with screen.progress(f"reindexing {collection}") as tick:
            report = retriever.reindex(collection, progress=tick)
        finish_report(report, as_json)


@app.command()
def doctor(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend collections: clean up after writers that died, count anew, complete documents, "
            "remove stray passages. No document is deleted; what others made is left alone.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is configured, what works, and how to mend what does not; all of it is tried."""
    from .doctor import examine, write_checks

    with failures(as_json):
        checks = examine(repair=repair)
        if as_json:
            screen.write_json(json.dumps({"checks": [asdict(check) for check in checks]}))
        else:
            write_checks(checks)
        if any(check.status == "fails" for check in checks):
            raise typer.Exit(1)


quality.add_to(app)


def main() -> None:
    """Run the command."""
    app(prog_name="rag")


if __name__ == "__main__":
    main()
