"""`rag ask` and `rag search` with the retriever `superlinked`: a double of its server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rag_command import run, write_documents
from superlinked_double import SuperlinkedDouble

from rag_pipeline.models import RagResponse

QUESTION = "Who may sign contracts?"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two documents in the collection `default`."""
    folder = tmp_path_factory.mktemp("superlinked")
    ran = run("index", str(write_documents(folder)), home=folder / "home")
    assert ran.code == 0, ran.err
    return folder / "home"


@pytest.fixture
def server() -> Iterator[SuperlinkedDouble]:
    """A double of the Superlinked server."""
    with SuperlinkedDouble() as running:
        yield running


def test_ask_gives_the_same_answer_with_either_retriever(
    indexed: Path, server: SuperlinkedDouble
) -> None:
    """Answer and citations are those of the builtin retriever; provenance says who searched."""
    builtin = run("ask", QUESTION, "--json", home=indexed)
    chosen = run(
        "ask", QUESTION, "--json", "--retriever", "superlinked",
        home=indexed, RAG_SUPERLINKED_URL=server.url,
    )  # fmt: skip
    response = RagResponse.model_validate_json(chosen.out)

    assert (chosen.code, chosen.err) == (0, "")
    assert response.answer == builtin.json["answer"]
    assert [c["quote"] for c in chosen.json["citations"]] == [
        c["quote"] for c in builtin.json["citations"]
    ]
    assert response.provenance["retrieve"]["retriever"] == "superlinked"


def test_search_sends_weights_and_category(indexed: Path, server: SuperlinkedDouble) -> None:
    """The options reach the server, and its refusal names the field."""
    chosen = ("--retriever", "superlinked")
    found = run(
        "search", QUESTION, "--json", *chosen, "--weights", '{"recency": 0.3}',
        home=indexed, RAG_SUPERLINKED_URL=server.url,
    )  # fmt: skip
    refused = run(
        "search", QUESTION, "--json", *chosen, "--category", "legal",
        home=indexed, RAG_SUPERLINKED_URL=server.url,
    )  # fmt: skip

    assert found.code == 0, found.err
    assert "recency" in found.json["results"][0]["scores"]
    assert (refused.code, refused.json["error"]["param"]) == (1, "retrieve.category")


def test_superlinked_without_its_server_says_what_is_missing(indexed: Path) -> None:
    """The message names the variable; JSON that is none and a running step are usage errors."""
    missing = run("ask", QUESTION, "--retriever", "superlinked", home=indexed)
    no_json = run("search", QUESTION, "--weights", "{recency}", home=indexed)
    urls = {f"RAG_{step}_URL": "http://127.0.0.1:9" for step in ("RETRIEVE", "AUGMENT", "GENERATE")}
    remote = run("search", QUESTION, "--retriever", "builtin", home=indexed, **urls)

    assert missing.code == 1
    assert "RAG_SUPERLINKED_URL" in missing.err
    assert (no_json.code, remote.code) == (2, 2)
    assert "RAG_RETRIEVE_URL" in remote.err
