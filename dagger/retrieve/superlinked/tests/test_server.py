"""The real server over the real SDK: collections, weights, restarts and refusals."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from news import NEWS, NOW, Serve, chunk, fill, order, search
from qdrant_double import Faults, QdrantDouble

from rag_superlinked import SuperlinkedSettings


def test_text_alone_is_the_cosine(client: httpx.Client) -> None:
    """With the default weights a search is by meaning, as without Superlinked."""
    info = fill(client)

    answer = search(client)

    assert info["chunks"] == 4
    assert order(answer) == ["close", "fresh", "staff", "other"]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([1.0, 0.8, 0.6, 0.0], abs=1e-6)


def test_the_weight_of_recency_brings_new_chunks_up(client: httpx.Client) -> None:
    """A weight on recency prefers new chunks, a negative one old chunks."""
    fill(client)

    assert order(search(client, weights={"text": 1.0, "recency": 1.0}))[0] == "fresh"
    assert order(search(client, weights={"text": 0.0, "recency": 1.0}))[:3] == [
        "fresh",
        "staff",
        "close",
    ]
    assert order(search(client, weights={"text": 1.0, "recency": -1.0}))[0] != "fresh"


def test_the_weight_of_a_category_brings_its_chunks_up(client: httpx.Client) -> None:
    """A preferred category outweighs a closer text when its weight says so."""
    fill(client)

    assert (
        order(search(client, category="hr", weights={"text": 1.0, "category": 1.0}))[0] == "staff"
    )
    assert (
        order(search(client, category="hr", weights={"text": 1.0, "category": 0.1}))[0] == "close"
    )


def test_the_scores_of_the_signals_add_up(client: httpx.Client) -> None:
    """`score` is the sum of what text, recency and category add; nothing is hidden."""
    fill(client)

    answer = search(client, category="it", weights={"text": 1.0, "recency": 0.5, "category": 0.5})

    for hit in answer["hits"]:
        assert sum(hit["scores"].values()) == pytest.approx(hit["score"], abs=1e-5)
        assert list(hit["scores"]) == ["text", "recency", "category"]


def test_a_chunk_comes_back_as_it_was_sent(client: httpx.Client) -> None:
    """Text, span, page and metadata survive, whatever characters they hold."""
    fill(client)

    payload = search(client, top_k=1)["hits"][0]["payload"]

    assert payload == {key: NEWS[0][key] for key in payload}
    assert payload["metadata"] == {"tags": ["a", "b"], "level": 3}


def test_equal_scores_come_by_chunk_id(client: httpx.Client) -> None:
    """The same request gives the same order, also where the cut falls among equals."""
    twins = [chunk(name, [1.0, 0.0, 0.0], 10, None) for name in ("d", "b", "a", "e", "c")]
    fill(client, twins)

    answers = [order(search(client, top_k=3)) for _ in range(5)]

    assert answers == [["a", "b", "c"]] * 5


def test_a_collection_says_what_it_holds(client: httpx.Client) -> None:
    """A client sees digest and count, and so whether it has to send anything."""
    fill(client)

    info = client.get("/collections/test-news").json()

    assert info == {
        "name": "test-news", "chunks": 4, "dimension": 3, "corpus_digest": "sha256:one",
        "categories": ["hr", "it"], "period_days": 365.0, "now": NOW,
    }  # fmt: skip


def test_the_old_content_answers_until_the_new_is_published(client: httpx.Client) -> None:
    """A refill happens beside the live index; then it takes its place at once."""
    fill(client)
    spaces = {"dimension": 3, "corpus_digest": "sha256:two", "now": NOW}
    begun = client.put("/collections/test-news", json=spaces).json()
    batch = {**begun, "chunks": [chunk("new", [1.0, 0.0, 0.0], 0, None)]}
    client.post("/collections/test-news/chunks", json=batch)

    before = search(client)
    client.post("/collections/test-news/publish", json={**begun, "chunks": 1})
    after = search(client)

    assert order(before)[0] == "close"
    assert order(after) == ["new"]
    assert (before["corpus_digest"], after["corpus_digest"]) == ("sha256:one", "sha256:two")


def test_a_collection_survives_a_restart_on_qdrant(double: QdrantDouble, serve: Serve) -> None:
    """A new process finds the published index on the server, and answers alike."""
    settings = SuperlinkedSettings(qdrant_url=double.url)
    with serve(settings) as first:
        fill(first)
        expected = search(first, weights={"text": 1.0, "recency": 1.0})
        first.put("/collections/test-news", json={"dimension": 3, "corpus_digest": "half"})

    with serve(settings) as second:
        assert search(second, weights={"text": 1.0, "recency": 1.0}) == expected
        assert second.get("/collections/test-news").json()["chunks"] == 4
    assert len(double.collections) == 1


def test_a_restart_in_memory_forgets(serve: Serve) -> None:
    """Without a Qdrant server a restart says `collection_not_found`: the client fills it again."""
    with serve(SuperlinkedSettings()) as first:
        fill(first)
    with serve(SuperlinkedSettings()) as second:
        assert search(second)["error"]["code"] == "collection_not_found"
        fill(second)
        assert order(search(second))[0] == "close"


def test_both_databases_give_the_same_answers(double: QdrantDouble, serve: Serve) -> None:
    """Memory and Qdrant agree in order and, within rounding, in score."""
    answers = []
    for settings in (SuperlinkedSettings(), SuperlinkedSettings(qdrant_url=double.url)):
        with serve(settings) as client:
            fill(client)
            answers.append(search(client, category="hr", weights={"recency": 0.4, "category": 0.2}))
    scores = [[hit["score"] for hit in answer["hits"]] for answer in answers]

    assert order(answers[0]) == order(answers[1])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_deleted_collection_is_gone(client: httpx.Client) -> None:
    """DELETE drops the index; afterwards the collection is unknown."""
    fill(client)

    assert client.delete("/collections/test-news").json() == {"deleted": "test-news"}
    assert client.delete("/collections/test-news").status_code == 404


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"vector": [1.0, 0.0]}, "collection_mismatch", "vector"),
    ({"corpus_digest": "sha256:two"}, "collection_mismatch", "corpus_digest"),
    ({"category": "hrr"}, "invalid_request", "category"),
    ({"weights": {"text": 0.0}}, "invalid_request", "weights"),
    ({"weights": {"text": 11.0}}, "invalid_request", "weights.text"),
    ({"weights": {"tone": 1.0}}, "invalid_request", "weights.tone"),
    ({"filters": {"year": 2024}}, "invalid_request", "filters"),
    ({"top_k": 0}, "invalid_request", "top_k"),
]


@pytest.mark.parametrize(("fields", "code", "param"), REFUSED, ids=lambda value: str(value))
def test_a_search_that_does_not_fit_is_refused(
    serve: Serve, fields: dict[str, Any], code: str, param: str
) -> None:
    """Nothing is ignored in silence: the envelope names code and field."""
    with serve(SuperlinkedSettings()) as client:
        fill(client)
        error = search(client, **fields)["error"]

    assert (error["code"], error["param"], error["step"]) == (code, param, "retrieve")


def test_chunks_that_do_not_fit_are_refused(serve: Serve) -> None:
    """Wrong dimension, unknown category, a stale generation and a wrong count have errors."""
    with serve(SuperlinkedSettings()) as client:
        spaces = {"dimension": 3, "corpus_digest": "x", "categories": ["it"]}
        begun = client.put("/collections/test-news", json=spaces).json()

        def put(one: dict[str, Any], generation: str = begun["generation"]) -> dict[str, Any]:
            batch = {"generation": generation, "chunks": [one]}
            return client.post("/collections/test-news/chunks", json=batch).json()["error"]

        assert put(chunk("a", [1.0], 1, "it"))["code"] == "collection_mismatch"
        assert put(chunk("a", [1.0, 0.0, 0.0], 1, "hr"))["param"] == "chunks.0.category"
        assert put(chunk("a", [1.0, 0.0, 0.0], 1, "it"), "old")["code"] == "in_progress"
        ended = client.post("/collections/test-news/publish", json={**begun, "chunks": 1}).json()
        assert ended["error"]["param"] == "chunks"


def test_every_failure_is_the_envelope(serve: Serve) -> None:
    """An unknown path, method, collection and a body that is no JSON have the same shape."""
    with serve(SuperlinkedSettings()) as client:
        answers = [
            client.get("/nowhere"),
            client.put("/healthz"),
            client.get("/collections/unknown"),
            client.get("/collections/.hidden"),
            client.post("/collections/x/search", content=b"{"),
            client.post("/collections/x/search", content=b" " * (4 * 1024 * 1024 + 1)),
        ]

    found = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]
    assert found == [
        (404, "not_found"), (405, "method_not_allowed"), (404, "collection_not_found"),
        (422, "invalid_request"), (422, "invalid_request"), (413, "body_too_large"),
    ]  # fmt: skip


def test_a_server_whose_qdrant_is_down_is_alive_and_not_ready(serve: Serve) -> None:
    """/healthz answers; /readyz and every request say what is wrong and name the setting."""
    with QdrantDouble() as gone:
        url = gone.url
    with serve(SuperlinkedSettings(qdrant_url=url)) as client:
        health, ready = client.get("/healthz"), client.get("/readyz")

    assert health.status_code == 200
    assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
    assert ready.json()["error"]["code"] == "retriever_unavailable"
    assert "RAG_QDRANT_URL" in ready.json()["error"]["message"]


def test_a_qdrant_that_comes_up_later_makes_the_server_ready_by_itself(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start before the database needs no restart."""
    monkeypatch.setattr("rag_superlinked.server.RETRY_S", 0.01)
    with QdrantDouble() as double:
        double.faults = Faults(status=503)
        with serve(SuperlinkedSettings(qdrant_url=double.url)) as client:
            before = client.get("/readyz").json()["error"]["code"]
            double.faults = Faults()
            end = time.monotonic() + 60
            while (after := client.get("/readyz")).status_code != 200:
                assert time.monotonic() < end, after.text
            fill(client)

            assert order(search(client))[0] == "close"
    assert before == "retriever_unavailable"


def test_a_refused_key_is_told_and_never_shown(serve: Serve) -> None:
    """The key is checked at the start; the message names the variable, not the value."""
    with QdrantDouble(api_key="right") as locked:
        wrong = SuperlinkedSettings(qdrant_url=locked.url, qdrant_api_key="canary")
        with serve(wrong) as client:
            error = client.get("/readyz").json()["error"]
        right = SuperlinkedSettings(qdrant_url=locked.url, qdrant_api_key="right")
        with serve(right) as client:
            fill(client)
            assert order(search(client))[0] == "close"

    assert error["code"] == "retriever_misconfigured"
    assert "RAG_QDRANT_API_KEY" in error["message"]
    assert "canary" not in str(error)


def test_a_collection_deleted_behind_our_back_is_not_found(
    double: QdrantDouble, serve: Serve
) -> None:
    """When another process dropped the index, the client is told to send it again."""
    with serve(SuperlinkedSettings(qdrant_url=double.url)) as client:
        fill(client)
        with double.lock:
            for name in list(double.collections):
                double.answer("DELETE", f"/collections/{name}", None)

        assert search(client)["error"]["code"] == "collection_not_found"
        fill(client)
        assert order(search(client))[0] == "close"
