"""`rag bulk-index`: many files by several processes, the collection that `rag index` would make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag_kit.errors import StepError

from . import output as screen
from .options import AsJson, Collection, Endpoint, Region, failures, finish_report, loaded

BUCKET = "s3://"


def bulk_index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Files and folders, Parquet tables among them; or s3://BUCKET/PREFIX.",
        ),
    ],
    collection: Collection = "default",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            "-w",
            min=1,
            max=1000,
            help="Processes that embed and write, on Ray (RAY_ADDRESS: a cluster); needs Qdrant and the "
            "extra rag-retrieve\\[bulk].",
        ),
    ] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be done.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents whose file or object is gone.")
    ] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Read many files into a collection; run again after an interruption, it goes on where it was."""
    with failures(as_json):
        _check_sources(sources)
    if not any(source.startswith(BUCKET) for source in sources):
        _folders([Path(source) for source in sources], collection, workers, plan, prune, as_json)
    elif len(sources) == 1:
        access = {"endpoint": endpoint, "region": region}
        _bucket(sources[0], access, collection, workers, plan, prune, as_json)
    else:
        raise typer.BadParameter("a bucket is read alone; run the command once for each source")


def _check_sources(sources: list[str]) -> None:
    for source in sources:
        if "://" in source and not source.startswith(BUCKET):
            raise StepError(
                "invalid_request",
                f"'{source}' is no folder and no bucket; `rag sync` reads git repositories and web sites",
                param="sources",
            )


def _folders(
    paths: list[Path], collection: str, workers: int, plan: bool, prune: bool, as_json: bool
) -> None:
    from ..steps.local import open_retriever

    with failures(as_json):
        with loaded(open_retriever()) as retriever:
            if plan:
                screen.write_plan(retriever.plan_ingest(paths, collection=collection), as_json)
                return
            with screen.progress(f"indexing into {collection}", told=True) as tick:
                report = retriever.ingest(
                    paths, collection=collection, prune=prune, progress=tick, workers=workers
                )
        finish_report(report, as_json)


def _bucket(
    address: str,
    access: dict[str, str | None],
    collection: str,
    workers: int,
    plan: bool,
    prune: bool,
    as_json: bool,
) -> None:
    from ..steps.local import open_retriever, open_source, sync_options

    with failures(as_json):
        with (
            open_source(address, kind="s3", **access) as opened,
            loaded(open_retriever()) as retriever,
        ):
            options = sync_options(prune=prune)
            with screen.progress(f"listing {opened.name}") as tick:
                planned = retriever.plan_sync(opened, options, collection=collection, progress=tick)
            if plan:
                screen.write_plan(planned.plan, as_json)
                return
            with screen.progress(f"indexing into {collection}", told=True) as tick:
                report = retriever.sync(planned, progress=tick, workers=workers)
        finish_report(report, as_json)
