"""`rag serve`: its options. The service itself is imported when it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, get_args

import typer

from rag_pipeline.cli import output as screen
from rag_pipeline.cli.options import failures

from . import settings

RunnerName = StrEnum(  # type: ignore[misc]
    "RunnerName", {name: name for name in get_args(settings.RunnerName)}
)
app = typer.Typer(
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example: [bold]rag serve --port 8000[/bold]; RAG_… variables set the rest")
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address; beyond this machine needs RAG_API_KEYS_FILE.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.")] = None,
    runner: Annotated[
        RunnerName | None,
        typer.Option(
            help="local: this process. resident: services on a Dagger engine. call: a Dagger "
            "function call each. containers: three container steps each. remote: a running "
            "pipeline."
        ),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Of a request that names none.")
    ] = None,
) -> None:
    """Serve a page and an HTTP API: answers as JSON or as they are written, drop-in APIs."""
    from .command import serve as serve_http

    options = {
        "host": host,
        "port": port,
        "runner": runner and runner.value,
        "collection": collection,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    with failures():
        code = serve_http(lambda line: screen.err().print(line, markup=False), **chosen)
        if code:
            raise typer.Exit(code)
