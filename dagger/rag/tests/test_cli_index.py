"""`rag index`, `rag documents`, `rag collections`, `rag reindex`: what is stored, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rag_command import BYLAWS, RAG, environment, run, write_documents

from rag_kit.errors import StepError
from rag_pipeline.cli.main import registered


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with two documents."""
    return write_documents(tmp_path)


def test_help_is_instant() -> None:
    """`rag --help` loads neither numpy nor onnxruntime, nor any other step."""
    heavy = (
        "{'numpy', 'onnxruntime', 'tokenizers', 'openai', 'httpx', 'rag_retrieve', 'rag_generate',"
        " 'rag_service'}"
    )
    code = (
        "import sys; from rag_pipeline.cli.main import app; app(['--help'], standalone_mode=False); "
        f"sys.exit(len({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "index" in done.stdout
    assert "serve" in done.stdout


def test_serve_has_the_options_of_the_service(home: Path) -> None:
    """`rag serve --help` is that of the package that registers it."""
    ran = run("serve", "--help", home=home)

    assert (ran.code, ran.err) == (0, "")
    assert "Usage: rag serve" in ran.out
    assert "--runner" in ran.out


def test_a_command_of_a_package_that_is_not_installed_is_named() -> None:
    """What is missing, and what to install."""
    with pytest.raises(StepError, match="needs the package rag_service, which is not installed"):
        registered("no-such-command")


def test_the_version_is_printed(home: Path) -> None:
    """`rag --version` is one line."""
    ran = run("--version", home=home)

    assert (ran.code, ran.out) == (0, "rag 0.1.0\n")


def test_indexing_reports_added_then_unchanged_then_updated(home: Path, papers: Path) -> None:
    """A second run embeds nothing; a changed file is updated; the other stays."""
    first = run("index", str(papers), "--json", home=home)
    again = run("index", str(papers), "--json", home=home)
    (papers / "handbook.txt").write_text("Holiday requests go to HR.\n", encoding="utf-8")
    changed = run("index", str(papers), "--json", home=home)

    assert (first.code, first.json["added"]) == (0, ["papers/bylaws.md", "papers/handbook.txt"])
    assert (len(again.json["unchanged"]), again.json["embeddings"]) == (2, 0)
    assert changed.json["updated"] == ["papers/handbook.txt"]
    assert changed.json["unchanged"] == ["papers/bylaws.md"]


def test_a_document_that_fails_keeps_the_others(home: Path, papers: Path) -> None:
    """Exit code 1, the reason in the table, and the good documents stored."""
    (papers / "scan.pdf").write_bytes(b"%PDF-1.4 not really")
    ran = run("index", str(papers), home=home)
    listed = run("documents", "list", "--json", home=home)

    assert ran.code == 1
    assert "2 added, 0 updated, 0 unchanged, 0 deleted, 1 failed" in ran.out
    assert "papers/scan.pdf" in ran.out and "document_unreadable" in ran.out
    assert len(listed.json["documents"]) == 2


def test_a_vanished_file_is_kept_until_pruned(home: Path, papers: Path) -> None:
    """Without --prune a hint tells; with it the document is deleted."""
    run("index", str(papers), home=home)
    (papers / "handbook.txt").unlink()
    kept = run("index", str(papers), home=home)
    pruned = run("index", str(papers), "--prune", "--json", home=home)

    assert kept.code == 0
    assert "papers/handbook.txt" in kept.err and "--prune" in kept.err
    assert pruned.json["deleted"] == ["papers/handbook.txt"]


def test_a_path_that_is_not_there_is_an_error(home: Path) -> None:
    """The path is in the message; with --json the envelope is on stdout as well."""
    ran = run("index", "/no/such/folder", home=home)
    as_json = run("index", "/no/such/folder", "--json", home=home)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ") and "/no/such/folder" in ran.err
    assert as_json.code == 1
    assert as_json.json["error"]["code"] == "invalid_request"


def test_documents_are_listed_shown_and_deleted(home: Path, papers: Path) -> None:
    """`show` prints the text positions refer to; `delete` takes one away."""
    run("index", str(papers), "--collection", "work", home=home)
    listed = run("documents", "list", "-c", "work", home=home)
    shown = run("documents", "show", "papers/bylaws.md", "-c", "work", "--json", home=home)
    deleted = run("documents", "delete", "papers/bylaws.md", "-c", "work", "--yes", home=home)
    left = run("documents", "list", "-c", "work", "--json", home=home)

    assert "papers/bylaws.md" in listed.out
    assert shown.json["text"] == BYLAWS
    assert (deleted.code, deleted.out) == (0, "deleted 1 of 1\n")
    assert [item["document_id"] for item in left.json["documents"]] == ["papers/handbook.txt"]


def test_deleting_needs_yes_where_nobody_can_be_asked(home: Path, papers: Path) -> None:
    """Not on a terminal and without --yes nothing is deleted: exit code 2."""
    run("index", str(papers), home=home)
    ran = run("collections", "delete", "default", home=home)
    listed = run("collections", "list", "--json", home=home)

    assert ran.code == 2
    assert "--yes" in ran.err
    assert [item["name"] for item in listed.json["collections"]] == ["default"]


def test_a_collection_is_deleted(home: Path, papers: Path) -> None:
    """Afterwards it is not listed, and its name is an error with a hint."""
    run("index", str(papers), home=home)
    deleted = run("collections", "delete", "default", "--yes", "--json", home=home)
    again = run("collections", "delete", "default", "--yes", home=home)

    assert deleted.json == {"deleted": ["default"]}
    assert again.code == 1
    assert "'default' does not exist" in again.err and "collection_not_found" in again.err


def test_a_document_that_is_not_there_is_an_error(home: Path, papers: Path) -> None:
    """`show` and `delete` name the id and exit with 1."""
    run("index", str(papers), home=home)
    shown = run("documents", "show", "nope.md", home=home)
    deleted = run("documents", "delete", "nope.md", "--yes", home=home)

    assert (shown.code, deleted.code) == (1, 1)
    assert "nope.md" in shown.err and "nope.md" in deleted.err
    assert "document_not_found" in shown.err and "document_not_found" in deleted.err


def test_reindex_keeps_the_documents(home: Path, papers: Path) -> None:
    """A collection built anew has the same documents and passages."""
    run("index", str(papers), home=home)
    before = run("documents", "list", "--json", home=home).json
    ran = run("reindex", "--json", home=home)

    assert (ran.code, len(ran.json["added"])) == (0, 2)
    assert run("documents", "list", "--json", home=home).json == before


def test_output_into_a_closed_pipe_is_quiet(home: Path, papers: Path) -> None:
    """`rag … | head` ends without a message."""
    run("index", str(papers), home=home)
    with subprocess.Popen(
        [RAG, "documents", "list", "--json"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()

    assert error == ""


def test_a_setting_that_cannot_be_used_is_an_error(home: Path) -> None:
    """The variable is named, and doctor says so too."""
    ran = run("collections", "list", "--json", home=home, RAG_EMBEDDER="word2vec")
    doctor = run("doctor", home=home, RAG_EMBEDDER="word2vec")

    assert (ran.code, ran.json["error"]["code"]) == (1, "misconfigured")
    assert "RAG_EMBEDDER" in ran.err
    assert doctor.code == 1
    assert "RAG_EMBEDDER" in doctor.out


def test_json_of_an_empty_home_is_empty(home: Path) -> None:
    """Nothing indexed is no error."""
    ran = run("collections", "list", "--json", home=home)

    assert (ran.code, json.loads(ran.out)) == (0, {"collections": []})


def test_a_damaged_collection_costs_no_other(papers: Path, home: Path) -> None:
    """The lists name it with what is wrong; `rag doctor` fails for it and checks the others."""
    for name in ("broken", "whole"):
        assert run("index", str(papers), "-c", name, home=home).code == 0
    kept = home / "collections" / "broken" / "manifest.json"
    manifest = json.loads(kept.read_text())
    kept.write_text(json.dumps({**manifest, "manifest": {"format": "later"}}))

    table = run("collections", "list", home=home)
    listed = run("collections", "list", "--json", home=home)
    sources = run("sources", "list", "--json", home=home)
    doctor = run("doctor", home=home)

    broken, whole = listed.json["collections"]
    assert (table.code, listed.code) == (0, 0)
    assert "the manifest of collection 'broken' is not valid" in table.out
    assert "the manifest of collection 'broken' is not valid" in broken["problem"]
    assert (whole["name"], whole["documents"], whole["problem"]) == ("whole", 2, None)
    assert (sources.code, sources.json["sources"]) == (0, [])
    assert "collection broken: the manifest" in sources.err
    assert "whole: 2 documents" in doctor.out
    assert doctor.code == 1
