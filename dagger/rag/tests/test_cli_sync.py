"""`rag sync` and `rag sources`: what a person sees of a sync."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from rag_command import write_documents
from typer.testing import CliRunner

from rag_pipeline.cli.main import app
from rag_pipeline.steps import local
from rag_retrieve import Retriever

Rag = Callable[..., Result]


@pytest.fixture
def rag(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rag]:
    """The command in this process, over one retriever that stays open."""
    with Retriever.open() as retriever:

        @contextmanager
        def opened() -> Iterator[Retriever]:
            yield retriever

        monkeypatch.setattr(local, "open_retriever", opened)
        yield lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)])


def test_a_sync_is_planned_done_listed_and_forgotten(rag: Rag, tmp_path: Path) -> None:
    """The plan has a line for each change; the report is that of an ingest; the address is listed."""
    papers = write_documents(tmp_path)
    planned = rag("sync", papers, "--plan")
    done = rag("sync", papers, "--json")
    (papers / "bylaws.md").unlink()
    removed = rag("sync", papers, "--plan")
    gone = rag("sync", papers)
    listed = rag("sources", "list", "--json")
    forgotten = rag("sources", "forget", papers.as_uri(), "--delete", "--yes")

    assert "+ papers/bylaws.md\n" in planned.stdout
    assert "default: 2 to add, 0 changed, 0 unchanged, 0 removed, 0 refused" in planned.stdout
    assert json.loads(done.stdout)["added"] == ["papers/bylaws.md", "papers/handbook.txt"]
    assert "- papers/bylaws.md\n" in removed.stdout and "kept without --prune" in removed.stdout
    assert "gone from the source" in gone.stderr and gone.exit_code == 0
    assert json.loads(listed.stdout)["sources"] == [
        {"collection": "default", "source": papers.as_uri(), "name": "papers", "documents": 2}
    ]
    assert "deleted 2 documents" in forgotten.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/no/such/folder"], "/no/such/folder"),
        (["ftp://example.com/x"], "ftp://example.com/x"),
        ([".", "--name", "a/b"], "a/b"),
        ([".", "--links", "https://example.com/{id}"], "{id}"),
        ([".", "--groups-file", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_input_is_an_error_with_its_value(rag: Rag, arguments: list[str], told: str) -> None:
    """Exit code 1, one line, and as JSON an envelope."""
    ran = rag("sync", *arguments, "--json")

    assert ran.exit_code == 1
    assert ran.stderr.startswith("error: ") and told in ran.stderr
    assert json.loads(ran.stdout)["error"]["code"] == "invalid_request"


def test_forgetting_with_its_documents_asks_first(rag: Rag) -> None:
    """Where nobody can be asked, --yes is needed."""
    ran = rag("sources", "forget", "file:///x", "--delete")

    assert ran.exit_code == 2 and "--yes" in ran.stderr
