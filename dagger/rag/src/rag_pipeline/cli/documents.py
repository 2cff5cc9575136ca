"""`rag documents …` and `rag collections …`: list, show and delete what is stored."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rag_kit.errors import StepError

from . import output as screen
from .options import AsJson, Collection, failures, loaded

if TYPE_CHECKING:
    from pydantic import BaseModel

documents = typer.Typer(name="documents", help="See and delete documents.", no_args_is_help=True)
collections = typer.Typer(
    name="collections", help="See and delete collections.", no_args_is_help=True
)
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _write_list(key: str, items: Sequence[BaseModel], columns: list[str], as_json: bool) -> None:
    rows = [item.model_dump(mode="json") for item in items]
    if as_json:
        screen.write_json(json.dumps({key: rows}, ensure_ascii=False))
    elif rows:
        screen.write_table(columns, [[row[name] for name in columns] for row in rows])
    else:
        screen.out().print(f"no {key}; `rag index PATH` makes some")


def confirm(what: str, yes: bool) -> None:
    """Ask before deleting; without a terminal, --yes is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"deleting {what} needs --yes where nobody can be asked")
    if not typer.confirm(f"Delete {what}?", err=True):
        screen.err().print("nothing deleted")
        raise typer.Exit(1)


@documents.command("list")
def list_documents(collection: Collection = "default", as_json: AsJson = False) -> None:
    """List the documents of a collection."""
    from ..steps.local import open_retriever

    with failures(as_json), loaded(open_retriever()) as retriever:
        found = retriever.documents(collection)
        columns = ["document_id", "title", "chunks", "characters"]
        _write_list("documents", found, columns, as_json)


@documents.command("show")
def show_document(
    document_id: Annotated[str, typer.Argument(help="Its id, as listed.")],
    collection: Collection = "default",
    as_json: AsJson = False,
) -> None:
    """Print a document's text as it was read; citations give positions in it."""
    from ..steps.local import open_retriever

    with failures(as_json), loaded(open_retriever()) as retriever:
        document = retriever.document(collection, document_id)
        if as_json:
            screen.write_json(document.model_dump_json())
        else:
            screen.out().print(screen.printable(document.text), soft_wrap=True)


@documents.command("delete")
def delete_documents(
    document_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, as listed.")],
    collection: Collection = "default",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete documents from a collection; the files stay."""
    from ..steps.local import open_retriever

    confirm(f"{', '.join(document_ids)} from {collection}", yes)
    with failures(as_json), loaded(open_retriever()) as retriever:
        report = retriever.delete_documents(collection, document_ids)
        if as_json:
            screen.write_json(report.model_dump_json())
        else:
            screen.out().print(f"deleted {len(report.deleted)} of {len(document_ids)}")
        if report.missing:
            missing = ", ".join(report.missing)
            text = f"not in collection '{collection}': {missing}"
            screen.write_step_error(StepError("document_not_found", text))
            raise typer.Exit(1)


@collections.command("list")
def list_collections(as_json: AsJson = False) -> None:
    """List the collections and what each was built with."""
    from ..steps.local import open_retriever

    with failures(as_json), loaded(open_retriever()) as retriever:
        found = retriever.collections()
        columns = ["name", "documents", "chunks", "embedding_model"]
        columns += ["problem"] if any(one.problem for one in found) else []
        _write_list("collections", found, columns, as_json)


@collections.command("delete")
def delete_collection(
    name: Annotated[str, typer.Argument(help="Its name, as listed.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a collection with all its documents; the files stay."""
    from ..steps.local import open_retriever

    confirm(f"the collection {name}", yes)
    with failures(as_json), loaded(open_retriever()) as retriever:
        retriever.delete_collection(name)
        if as_json:
            screen.write_json(json.dumps({"deleted": [name]}, ensure_ascii=False))
        else:
            screen.out().print(f"deleted {name}")
