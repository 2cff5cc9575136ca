"""`rag sync` and `rag sources …`: documents from a folder, git, S3 or a web site, kept in step."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import output as screen
from .documents import Yes, confirm
from .options import AsJson, Collection, Endpoint, Region, failures, finish_report, loaded

sources = typer.Typer(
    name="sources", help="See and forget what `rag sync` reads from.", no_args_is_help=True
)


class Kind(StrEnum):
    """What an address names."""

    folder = "folder"
    git = "git"
    s3 = "s3"
    web = "web"


def sync(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a git repository (URL#BRANCH:FOLDER), s3://BUCKET/PREFIX, or https://HOST/PATH.",
        ),
    ],
    collection: Collection = "default",
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be done.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what an earlier sync brought and is gone now.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="First part of the ids of its documents.", show_default="its own name"),
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--as", help="What SOURCE is.", show_default="as it looks")
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over documents of the same ids that came by hand.")
    ] = False,
    groups_file: Annotated[
        Path | None,
        typer.Option(help="Who may read: lines of a pattern and groups, like `hr/* hr, board`."),
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of a document with {path} and {revision}.",
            show_default="that of the source",
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    private: Annotated[
        bool, typer.Option("--private", help="A web site may be in your own network.")
    ] = False,
    max_pages: Annotated[
        int, typer.Option(min=1, max=100_000, help="Pages of a web site requested at most.")
    ] = 1000,
    depth: Annotated[
        int, typer.Option(min=0, max=100, help="Links followed in a row, without a sitemap.")
    ] = 10,
    delay: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds between two requests to a web site.")
    ] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Bring a collection in step with a source: only what changed, and nothing that came by hand."""
    from ..steps.local import open_retriever, open_source, sync_options

    with failures(as_json):
        options = sync_options(
            name=name, prune=prune, adopt=adopt, groups_file=groups_file, links=links
        )
        access = {
            "endpoint": endpoint,
            "region": region,
            "private": private,
            "max_pages": max_pages,
            "depth": depth,
            "delay_s": delay,
        }
        with (
            open_source(source, kind=kind and kind.value, **access) as opened,
            loaded(open_retriever()) as retriever,
        ):
            with screen.progress(f"listing {opened.name}") as tick:
                planned = retriever.plan_sync(opened, options, collection=collection, progress=tick)
            if plan:
                screen.write_plan(planned.plan, as_json)
                return
            with screen.progress(f"syncing into {collection}") as tick:
                report = retriever.sync(planned, progress=tick)
        finish_report(report, as_json)


@sources.command("list")
def list_sources(as_json: AsJson = False) -> None:
    """List the sources of all collections."""
    from ..steps.local import open_retriever

    with failures(as_json), loaded(open_retriever()) as retriever:
        found = []
        for info in retriever.collections():
            if info.problem is None:
                found += [one.model_dump() for one in retriever.sources(info.name)]
            else:
                screen.err().print(f"collection {info.name}: {info.problem}", markup=False)
        if as_json:
            screen.write_json(json.dumps({"sources": found}, ensure_ascii=False))
        elif found:
            screen.write_table([*found[0]], [[*one.values()] for one in found])
        else:
            screen.out().print("no sources; `rag sync SOURCE` makes one")


@sources.command("forget")
def forget_source(
    source: Annotated[str, typer.Argument(help="Its address, as listed.")],
    collection: Collection = "default",
    delete: Annotated[bool, typer.Option("--delete", help="Delete its documents, too.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget a source: its documents stay as if they had come by hand."""
    from ..steps.local import open_retriever

    if delete:
        confirm(f"all documents from {source} in {collection}", yes)
    with failures(as_json), loaded(open_retriever()) as retriever:
        forgotten = retriever.forget_source(collection, source, delete=delete)
        done = "deleted" if delete else "kept"
        if as_json:
            screen.write_json(json.dumps({done: forgotten}, ensure_ascii=False))
        else:
            screen.out().print(f"forgot {source}; {done} {len(forgotten)} documents")
