"""`rag bulk-index`: what a person sees of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rag_command import run, write_documents


def test_one_process_stores_what_index_stores(home: Path, tmp_path: Path) -> None:
    """The plan names the files, the report is that of `rag index`, and a second run changes nothing."""
    papers = write_documents(tmp_path)
    (papers / "photo.raw").write_bytes(b"x")
    planned = run("bulk-index", str(papers), "--plan", home=home)
    done = run("bulk-index", str(papers), "--json", home=home)
    index = run("index", str(papers), "--json", home=home)
    (papers / "bylaws.md").unlink()
    removed = run("bulk-index", str(papers), "--plan", "--prune", home=home)
    pruned = run("bulk-index", str(papers), "--prune", "--json", home=home)

    assert "+ papers/bylaws.md\n" in planned.out
    assert "default: 2 to add, 0 changed" in planned.out and "1 .raw (format)" in planned.out
    assert done.json["added"] == ["papers/bylaws.md", "papers/handbook.txt"]
    assert index.json["unchanged"] == done.json["added"] and index.json["embeddings"] == 0
    assert "- papers/bylaws.md\n" in removed.out and "~ papers/handbook.txt\n" in removed.out
    assert pruned.json["deleted"] == ["papers/bylaws.md"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["/no/such/folder"], 1, "/no/such/folder"),
        ([".", "--workers", "2"], 1, "RAG_STORE=qdrant"),
        ([".", "--workers", "0"], 2, "--workers"),
        (["s3://papers", "."], 2, "a bucket is read alone"),
        (["s3://"], 1, "s3://BUCKET/PREFIX"),
        (["https://example.com/handbook"], 1, "rag sync"),
        (["git+https://example.com/handbook.git"], 1, "rag sync"),
    ],
)
def test_bad_input_is_an_error_with_its_value(
    home: Path, arguments: list[str], code: int, told: str
) -> None:
    """One line that says what to do, and nothing is made."""
    ran = run("bulk-index", *arguments, home=home)

    assert ran.code == code
    assert told in ran.err
