"""The retriever `superlinked`: what it sends, asks and refuses, against a double of its server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_double import QdrantDouble
from superlinked_double import SuperlinkedDouble

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.superlinked import timestamp_of

OLD_TEXT = "Employees get 25 days of paid leave a year."
NEW_TEXT = "Since this spring employees get 30 days of paid leave a year."
TEXTS = {
    "old.md": (OLD_TEXT, {"date": "2021-03-01", "category": "hr"}),
    "new.md": (NEW_TEXT, {"timestamp": 1_714_521_600, "category": "hr"}),
    "vpn.md": ("The VPN needs a hardware token.", {"date": "2024-03-01", "category": "it"}),
    "tea.md": ("Green tea is brewed at 80 degrees.", {}),
}


def documents() -> list[LoadedDocument]:
    return [
        LoadedDocument(name, name, name, text, "text/plain", metadata=metadata)
        for name, (text, metadata) in TEXTS.items()
    ]


@pytest.fixture
def server() -> Iterator[SuperlinkedDouble]:
    """A double of the Superlinked server on loopback."""
    with SuperlinkedDouble() as running:
        yield running


@pytest.fixture(params=["embedded", "qdrant"])
def chosen(
    request: pytest.FixtureRequest, settings: RetrieveSettings, server: SuperlinkedDouble
) -> RetrieveSettings:
    """Settings of the retriever `superlinked`, over each of the stores."""
    update: dict[str, Any] = {"retriever": "superlinked", "superlinked_url": server.url}
    if request.param == "qdrant":
        double: QdrantDouble = request.getfixturevalue("double")
        update |= {"store": "qdrant", "qdrant_url": double.url, "qdrant_timeout_s": 20}
    return settings.model_copy(update=update)


@pytest.fixture
def asked(chosen: RetrieveSettings, minilm: Embedder) -> Iterator[Retriever]:
    """An open retriever with four documents."""
    with Retriever(chosen, embedder=minilm) as opened:
        opened.ingest_documents(documents())
        yield opened


@pytest.fixture
def embedded(
    settings: RetrieveSettings, server: SuperlinkedDouble, minilm: Embedder
) -> Iterator[Retriever]:
    """The same over the embedded store only, where the store does not matter."""
    update = {"retriever": "superlinked", "superlinked_url": server.url}
    with Retriever(settings.model_copy(update=update), embedder=minilm) as opened:
        opened.ingest_documents(documents())
        yield opened


def ask(retriever: Retriever, **fields: Any) -> list[str]:
    """Return the documents found, best first."""
    request = {"query": "How many days of leave?", **fields}
    response = retriever.retrieve(RetrieveRequest.model_validate(request))
    return [result.document_id for result in response.results]


def test_weights_and_category_change_the_order(asked: Retriever) -> None:
    """The same question finds the alike, the new, or those of a category first."""
    assert ask(asked)[:2] in (["old.md", "new.md"], ["new.md", "old.md"])
    assert ask(asked, retrieve={"weights": {"text": 1.0, "recency": 3.0}})[0] == "new.md"
    assert ask(asked, retrieve={"category": "it", "weights": {"category": 3.0}})[0] == "vpn.md"
    assert ask(asked, retrieve={"category": "it", "weights": {"text": 0.0}})[0] == "vpn.md"


def test_the_response_keeps_the_contract(asked: Retriever) -> None:
    """Every field of a passage is there, the signals are in `scores`, and provenance says who."""
    request = RetrieveRequest(query="days of leave", top_k=2)
    response = asked.retrieve(request)
    first = response.results[0]

    assert first.text == TEXTS[first.document_id][0]
    assert first.span == [0, len(first.text)]
    assert first.metadata == TEXTS[first.document_id][1]
    assert list(first.scores) == ["dense", "text", "recency", "category"]
    assert first.scores["text"] == pytest.approx(first.scores["dense"], abs=1e-4)
    assert response.provenance["retrieve"]["retriever"] == "superlinked"
    assert response.provenance["retrieve"]["corpus_digest"]


def test_the_store_is_sent_once_and_again_when_it_changed(
    asked: Retriever, server: SuperlinkedDouble
) -> None:
    """An unchanged collection sends nothing; a deleted document is no longer found."""
    ask(asked)
    server.requests.clear()
    ask(asked)
    assert server.requests == ["POST /collections/default/search"]

    asked.delete_documents("default", ["new.md"])

    assert "new.md" not in ask(asked)
    assert "PUT /collections/default" in server.requests


def test_a_second_process_finds_the_server_up_to_date(
    chosen: RetrieveSettings, asked: Retriever, server: SuperlinkedDouble, minilm: Embedder
) -> None:
    """What the server holds is known by digest: opening again sends nothing."""
    expected = ask(asked)
    asked.close()
    server.requests.clear()
    with Retriever(chosen, embedder=minilm) as again:
        again.preload()
        assert server.requests == ["GET /readyz", "GET /collections/default"]
        assert ask(again) == expected


def test_a_server_that_forgot_is_filled_again(
    embedded: Retriever, server: SuperlinkedDouble
) -> None:
    """After a restart in memory the next question fills it; the caller sees no difference."""
    expected = ask(embedded)
    server.collections.clear()

    assert ask(embedded) == expected


def test_vectors_and_signals_are_sent_as_they_are(
    embedded: Retriever, server: SuperlinkedDouble, minilm: Embedder
) -> None:
    """The server gets the store's own vectors, dates as seconds, and the newest as `now`."""
    ask(embedded)

    live = server.collections["default"]
    stored = {chunk["document_id"]: chunk for chunk in live["stored"].values()}
    (expected,) = minilm.embed([NEW_TEXT])
    assert live["categories"] == ["hr", "it"]
    assert live["now"] == stored["new.md"]["timestamp"] == 1_714_521_600
    assert (stored["tea.md"]["timestamp"], stored["tea.md"]["category"]) == (0, None)
    assert np.dot(stored["new.md"]["vector"], expected) == pytest.approx(1.0, abs=0.01)


def test_the_document_cap_and_the_threshold_hold(embedded: Retriever) -> None:
    """`max_per_document` and `min_score` mean what they mean for the builtin retriever."""
    long = "\n\n".join(f"# Part {n}\n\n{OLD_TEXT} Rule {n}." for n in range(5))
    embedded.ingest_documents([LoadedDocument("long.md", "", "long.md", long, "text/markdown")])

    capped = ask(embedded, top_k=4, retrieve={"max_per_document": 1})
    assert len(capped) == len(set(capped)) == 4
    assert ask(embedded, min_score=100.0) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"filters": {"year": 2024}}, "filters"),
    ({"retrieve": {"mode": "dense"}}, "retrieve.mode"),
    ({"retrieve": {"fusion": "rrf"}}, "retrieve.fusion"),
    ({"retrieve": {"weights": {"category": 1.0}}}, "retrieve.weights.category"),
    ({"retrieve": {"weights": {"text": 0.0}}}, "retrieve.weights"),
    ({"retrieve": {"category": "hrr"}}, "retrieve.category"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value))
def test_what_would_be_ignored_is_refused(
    embedded: Retriever, fields: dict[str, Any], param: str
) -> None:
    """Filters, options of the other retriever and weights without effect are errors."""
    with pytest.raises(StepError) as caught:
        ask(embedded, **fields)

    assert (caught.value.code, caught.value.param) == ("invalid_request", param)


@pytest.mark.parametrize("options", [{"weights": {"recency": 1.0}}, {"category": "hr"}])
def test_the_builtin_retriever_refuses_weights(
    retriever: Retriever, options: dict[str, Any]
) -> None:
    """Without Superlinked weights would do nothing, so the message says how to get it."""
    retriever.ingest_documents(documents())

    with pytest.raises(StepError, match="RAG_RETRIEVER=superlinked") as caught:
        ask(retriever, retrieve=options)

    assert caught.value.code == "invalid_request"


def test_superlinked_without_a_url_is_misconfigured(
    settings: RetrieveSettings, minilm: Embedder
) -> None:
    """The message names the variable and the way back."""
    with pytest.raises(StepError, match="RAG_SUPERLINKED_URL") as caught:
        Retriever(settings.model_copy(update={"retriever": "superlinked"}), embedder=minilm)

    assert caught.value.code == "retriever_misconfigured"


NOT_READY = {"code": "not_ready", "message": "loading", "param": None}
BROKEN = [
    (200, b"<!doctype html><title>Sign in</title>", "retriever_bad_response"),
    (200, b"[]", "retriever_bad_response"),
    (500, b"{}", "retriever_bad_response"),
    (200, b'{"corpus_digest": "x"}', "retriever_bad_response"),
    (503, json.dumps({"error": NOT_READY}).encode(), "retriever_unavailable"),
]


@pytest.mark.parametrize(("status", "body", "code"), BROKEN, ids=[one[1][:20] for one in BROKEN])
def test_an_answer_that_cannot_be_used_is_told(
    embedded: Retriever, server: SuperlinkedDouble, status: int, body: bytes, code: str
) -> None:
    """A proxy's page, a wrong shape and a server that still loads have clear errors."""
    ask(embedded)
    server.answer_with = (status, body)

    with pytest.raises(StepError, match="RAG_SUPERLINKED_URL") as caught:
        ask(embedded)

    assert caught.value.code == code


def test_a_server_that_is_gone_is_unavailable_and_preload_goes_on(
    settings: RetrieveSettings, minilm: Embedder
) -> None:
    """A step starts without its Superlinked server; questions say what to do until it is there."""
    with SuperlinkedDouble() as gone:
        url = gone.url
    update = {"retriever": "superlinked", "superlinked_url": url}
    with Retriever(settings.model_copy(update=update), embedder=minilm) as opened:
        opened.ingest_documents(documents())
        opened.preload()
        with pytest.raises(StepError, match="RAG_SUPERLINKED_URL") as caught:
            ask(opened)

    assert caught.value.code == "retriever_unavailable"


def test_a_step_that_starts_beside_a_server_that_loads_waits_for_it(
    embedded: Retriever, server: SuperlinkedDouble
) -> None:
    """Its port answers before it can search: the first question of a fresh session must not meet that."""
    server.loading = 2

    embedded.preload()

    assert server.requests[:3] == ["GET /readyz"] * 3
    assert len(server.collections["default"]["stored"]) == len(TEXTS)


def test_a_server_that_loads_for_ever_is_waited_for_a_bounded_time(
    embedded: Retriever, server: SuperlinkedDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step starts all the same; the question says what is wrong."""
    monkeypatch.setattr("rag_retrieve.superlinked.LOADING_S", 0.0)
    server.loading = 10**6

    embedded.preload()

    assert server.requests == ["GET /readyz"]
    with pytest.raises(StepError, match="still loading"):
        ask(embedded)


def test_a_server_that_hangs_meets_the_deadline(
    settings: RetrieveSettings, server: SuperlinkedDouble, minilm: Embedder
) -> None:
    """The time limit is a setting, and the message names it."""
    update = {
        "retriever": "superlinked",
        "superlinked_url": server.url,
        "superlinked_timeout_s": 0.2,
    }
    with Retriever(settings.model_copy(update=update), embedder=minilm) as opened:
        opened.ingest_documents(documents())
        server.hold = threading.Event()
        with pytest.raises(StepError, match="RAG_SUPERLINKED_TIMEOUT_S") as caught:
            ask(opened)
        server.hold.set()

    assert caught.value.code == "deadline_exceeded"


def test_a_collection_that_is_not_there_is_told_as_always(embedded: Retriever) -> None:
    """The store decides what exists, not the Superlinked server."""
    with pytest.raises(StepError) as caught:
        ask(embedded, collection="nowhere")

    assert caught.value.code == "collection_not_found"


DATES = [
    ("2024-05-01", 1_714_521_600),
    ("2024-05-01T02:00:00+02:00", 1_714_521_600),
    ("2024-05-01T00:00:00Z", 1_714_521_600),
    (1_714_521_600, 1_714_521_600),
    (1_714_521_600.9, 1_714_521_600),
    ("1714521600", 1_714_521_600),
    ("last spring", 0),
    (True, 0),
    (None, 0),
    (-5, 0),
    (10**15, 0),
    ("1950-01-01", 0),
    (["2024-05-01"], 0),
]


@pytest.mark.parametrize(("value", "seconds"), DATES, ids=lambda value: str(value))
def test_a_date_in_metadata_is_read(value: object, seconds: int) -> None:
    """ISO dates and times, and seconds since 1970; anything else counts as no date."""
    assert timestamp_of(value) == seconds
