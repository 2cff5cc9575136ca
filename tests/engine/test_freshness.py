"""What the engine may remember and what not: unchanged work is not done again, a change is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_kit import Dagger, Session
from qdrant_double import QdrantDouble

INDEX = """query($docs: DirectoryID!) {
  rag { index(docs: $docs) { file(path: "ingest-report.json") { contents } digest } } }"""
FOLDER = """query($path: String!) { host { directory(path: $path, noCache: true) { id } } }"""


def index(session: Session, docs: Path) -> tuple[dict[str, Any], str]:
    """Build the index of a folder; return its report and the digest of the store."""
    folder = session.ask(FOLDER, path=str(docs))["host"]["directory"]["id"]
    query = INDEX.replace("DirectoryID!", "ID!")
    made = session.ask(query, docs=folder)["rag"]["index"]
    return json.loads(made["file"]["contents"]), made["digest"]


def test_an_index_is_built_once_and_again_only_where_documents_changed(
    session: Session, tmp_path: Path
) -> None:
    """The same documents run nothing; one changed file of three embeds one file."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("kettle", "bicycles", "garden"):
        (docs / f"{name}.md").write_text(f"# {name}\n\nThe {name} is described in {tmp_path}.\n")

    first, digest = index(session, docs)
    again, same = index(session, docs)
    (docs / "garden.md").write_text(f"# garden\n\nThe garden has moved to {tmp_path}.\n")
    changed, other = index(session, docs)

    assert (first["embeddings"], len(first["added"])) == (3, 3)
    assert (again, same) == (first, digest)
    assert (changed["embeddings"], len(changed["added"])) == (1, 3)
    assert other != digest


def test_a_changed_document_is_answered_at_the_next_question(
    dagger_cli: Dagger, my_docs: Path
) -> None:
    """Ask, change, ask again: the new fact, although question and command are the same."""
    ask = ("call", "rag", "--docs", str(my_docs), "run", "--query", "How much holds the kettle?")

    before = dagger_cli(*ask).json["answer"]
    (my_docs / "kettle.md").write_text(
        "# Kettle\n\nThe kettle on the third floor holds 2 litres.\n"
    )
    after = dagger_cli(*ask).json["answer"]

    assert before == "The kettle on the third floor holds 1.7 litres [1]."
    assert after == "The kettle on the third floor holds 2 litres [1]."


def test_threat_stale_cached_answer_is_not_given_after_an_ingestion(
    dagger_cli: Dagger, my_docs: Path
) -> None:
    """The engine cannot see that a Qdrant collection changed: `run` is never answered from its cache."""
    with QdrantDouble(api_key="s3cret") as qdrant:
        port = qdrant.url.rpartition(":")[2]
        rag = (
            *("call", "rag", "--qdrant", f"tcp://127.0.0.1:{port}"),
            *("--qdrant-url", f"http://qdrant:{port}"),
            *("--qdrant-api-key", "env:QDRANT_KEY"),
        )
        env = {"QDRANT_KEY": "s3cret"}
        ask = ("run", "--query", "How much holds the kettle?")

        report = dagger_cli(*rag, "ingest", "--docs", str(my_docs), env=env).json
        before = dagger_cli(*rag, *ask, env=env).json["answer"]
        (my_docs / "kettle.md").write_text("# Kettle\n\nThe kettle now holds 2 litres.\n")
        dagger_cli(*rag, "ingest", "--docs", str(my_docs), env=env)
        after = dagger_cli(*rag, *ask, env=env).json["answer"]

    assert len(report["added"]) == 2
    assert before == "The kettle on the third floor holds 1.7 litres [1]."
    assert after == "The kettle now holds 2 litres [1]."
