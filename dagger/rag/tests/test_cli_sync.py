"""`rag sync` and `rag sources`: what a person sees of a sync."""

from __future__ import annotations

from pathlib import Path

import pytest
from rag_command import run, write_documents


def test_a_sync_is_planned_done_listed_and_forgotten(home: Path, tmp_path: Path) -> None:
    """The plan has a line for each change; the report is that of an ingest; the address is listed."""
    papers = write_documents(tmp_path)
    planned = run("sync", str(papers), "--plan", home=home)
    done = run("sync", str(papers), "--json", home=home)
    (papers / "bylaws.md").unlink()
    removed = run("sync", str(papers), "--plan", home=home)
    gone = run("sync", str(papers), home=home)
    listed = run("sources", "list", "--json", home=home)
    forgotten = run("sources", "forget", papers.as_uri(), "--delete", "--yes", home=home)

    assert "+ papers/bylaws.md\n" in planned.out
    assert "default: 2 to add, 0 changed, 0 unchanged, 0 removed, 0 refused" in planned.out
    assert done.json["added"] == ["papers/bylaws.md", "papers/handbook.txt"]
    assert "- papers/bylaws.md\n" in removed.out and "kept without --prune" in removed.out
    assert "gone from the source" in gone.err and gone.code == 0
    assert listed.json["sources"] == [
        {"collection": "default", "source": papers.as_uri(), "name": "papers", "documents": 2}
    ]
    assert "deleted 2 documents" in forgotten.out


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
def test_bad_input_is_an_error_with_its_value(home: Path, arguments: list[str], told: str) -> None:
    """Exit code 1, one line, and as JSON an envelope."""
    ran = run("sync", *arguments, "--json", home=home)

    assert ran.code == 1
    assert ran.err.startswith("error: ") and told in ran.err
    assert ran.json["error"]["code"] == "invalid_request"


def test_forgetting_with_its_documents_asks_first(home: Path) -> None:
    """Where nobody can be asked, --yes is needed."""
    ran = run("sources", "forget", "file:///x", "--delete", home=home)

    assert ran.code == 2 and "--yes" in ran.err
