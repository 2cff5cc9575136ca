"""A reranking server and a reranker of another team, by interface, on a real engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_kit import Dagger, copy_of
from reranker_double import reranker_double, status

ROOT = Path(__file__).resolve().parents[2]
QUERY = "How does retrieval fuse dense and sparse results?"
# What stands in the place of the two examples' own code: a step, and a project that gives it to `rag`.
RERANKER = '''
"""A reranker: the passages found, turned around."""

import json

from dagger import function, object_type


@object_type
class KeywordRetriever:
    """Turn the passages around."""

    @function
    def run(self, input_json: str) -> str:
        """Take a rerank request as JSON, give a rerank response as JSON."""
        request = json.loads(input_json)
        if "query" not in request:
            return json.dumps({"error": {"code": "invalid_request", "message": "no query"}})
        kept = request["results"][::-1][: request["rerank"]["top_n"]]
        results = [
            {**each, "score": 1 / rank, "scores": {**each["scores"], "rerank": 1 / rank}}
            for rank, each in enumerate(kept, 1)
        ]
        made = {**request.get("provenance", {}), "rerank": {"version": "turned"}}
        return json.dumps({**request, "results": results, "provenance": made})
'''
TEAM = '''
"""A project that searches with a reranker of its own."""

from typing import Any

import dagger
from dagger import function, object_type

dag: Any = dagger.dag


@object_type
class TeamCatalog:
    """Search."""

    @function(cache="never")
    async def both(self, query: str, more: str) -> str:
        """Return what is found with the reranker and without, a line each."""
        reranker = dag.keyword_retriever()
        turned = await dag.rag().search(query=query, top_k=3, rerank_with=reranker)
        plain = await dag.rag().search(query=query, input_json=more)
        return f"{turned}\\n{plain}"
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example project, with a reranker in the place of its retriever."""
    repository = copy_of(ROOT, tmp_path / "repository")
    examples = repository / "examples"
    for name, code in (("keyword-retriever", RERANKER), ("team-catalog", TEAM)):
        package = examples / name / "src" / name.replace("-", "_")
        (package / "module.py").write_text(code.lstrip(), encoding="utf-8")
    return examples / "team-catalog"


def test_a_reranker_of_another_team_orders_the_passages(dagger_cli: Dagger, project: Path) -> None:
    """It chooses three of the thirty passages that were searched for it, and is named."""
    everything = json.dumps({"top_k": 30, "retrieve": {"mode": "hybrid"}})

    ran = dagger_cli.at(project)("call", "both", "--query", QUERY, "--more", everything)

    assert ran.code == 0, ran.log[-3000:]
    turned, plain = map(json.loads, ran.out.strip().splitlines())
    expected = [each["chunk_id"] for each in plain["results"]][::-1][:3]
    assert [each["chunk_id"] for each in turned["results"]] == expected
    assert turned["provenance"]["rerank"] == {"version": "turned"}
    assert list(turned["timings_ms"]) == ["retrieve", "rerank", "total"]
    assert "rerank" not in plain["provenance"]


@pytest.mark.parametrize("kind", ["cohere", "tei"])
def test_a_reranking_server_orders_the_passages(
    dagger_cli: Dagger, my_docs: Path, kind: str
) -> None:
    """`--rerank` asks the server about the texts found; its scores are in the answer, its kind is heeded."""
    with reranker_double() as server:
        port = server.server_address[1]
        ran = dagger_cli(
            *("call", "rag", "--docs", str(my_docs)),
            *("--rerank", f"http://reranker:{port}", "--rerank-kind", kind),
            *("--reranker", f"tcp://127.0.0.1:{port}"),
            *("run", "--query", "How much holds the kettle on the third floor?"),
        )

    assert ran.code == 0, ran.log[-3000:]
    assert server.paths == [{"cohere": "/v1/rerank", "tei": "/rerank"}[kind]]
    best = ran.json["citations"][0]
    assert best["document_id"].endswith("kettle.md")
    assert "rerank" in ran.json["timings_ms"]
    assert not ran.json["degraded"]


def test_a_reranking_server_that_fails_leaves_the_order_of_the_search(
    dagger_cli: Dagger, my_docs: Path
) -> None:
    """The question is answered all the same, and the answer says what is missing."""
    with reranker_double() as server:
        server.behave(status(503))
        port = server.server_address[1]
        ran = dagger_cli(
            *("call", "rag", "--docs", str(my_docs), "--rerank", f"http://reranker:{port}"),
            *("--reranker", f"tcp://127.0.0.1:{port}"),
            *("run", "--query", "How much holds the kettle on the third floor?"),
        )

    assert ran.code == 0, ran.log[-3000:]
    assert ran.json["citations"][0]["document_id"].endswith("kettle.md")
    assert ran.json["degraded"]
    assert any("rerank" in warning for warning in ran.json["warnings"])
