"""The client of a reranking server, against a double of each shape and each fault."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reranker_double as doubles
from reranker_double import RerankerDouble, Row, changed

from rag_kit.errors import StepError
from rag_rerank.server import MAX_REPLY_BYTES, RerankServer
from rag_rerank.settings import RerankSettings
from rag_rerank.wire import open_step

KINDS = ["cohere", "tei"]
QUERY = "Who may sign?"
TEXTS = ["The books.", "Only the board may sign.", "The board may grant a delay."]
SCORES = [0.0, 2 / 3, 1 / 3]


def settings(double: RerankerDouble, kind: str = "cohere", **more: Any) -> RerankSettings:
    given: dict[str, Any] = {"reranker": kind, "reranker_url": double.url, **more}
    return RerankSettings(**given)


def score(configured: RerankSettings, texts: list[str] = TEXTS) -> list[float]:
    server = RerankServer(configured)
    try:
        return server.score(QUERY, texts).scores
    finally:
        server.close()


def failure(configured: RerankSettings) -> StepError:
    with pytest.raises(StepError) as caught:
        score(configured)
    assert "127.0.0.1" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_each_shape_is_spoken(double: RerankerDouble, kind: str) -> None:
    """The texts go in one request; the scores come back in the order of the texts."""
    assert score(settings(double, kind, reranker_model="m")) == SCORES

    [body] = double.bodies
    expected: dict[str, Any] = {
        "cohere": {"model": "m", "query": QUERY, "documents": TEXTS, "top_n": 3},
        "tei": {"query": QUERY, "texts": TEXTS, "raw_scores": False, "truncate": True},
    }
    assert body == expected[kind]


@pytest.mark.parametrize(
    ("kind", "path", "asked"),
    [
        ("cohere", "", "/v1/rerank"),
        ("cohere", "/", "/v1/rerank"),
        ("cohere", "/v1", "/v1/rerank"),
        ("cohere", "/v2/", "/v2/rerank"),
        ("cohere", "/api/v1/rerank", "/api/v1/rerank"),
        ("cohere", "/rerank", "/rerank"),
        ("tei", "", "/rerank"),
        ("tei", "/models/a", "/models/a/rerank"),
        ("tei", "/rerank", "/rerank"),
    ],
)
def test_the_path_of_the_endpoint_is_completed(
    double: RerankerDouble, kind: str, path: str, asked: str
) -> None:
    """A base address, one with a version and the whole one all work."""
    score(RerankSettings(reranker=kind, reranker_url=double.url + path))  # type: ignore[arg-type]

    assert double.paths == [asked]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_reply_does_not_matter(double: RerankerDouble, kind: str) -> None:
    """Scores belong to indexes."""
    double.behave(changed(lambda rows: sorted(rows, key=lambda row: row[1])))

    assert score(settings(double, kind)) == SCORES


FAULTS: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "an index that is none": (lambda rows: [(3, 0.5), *rows[1:]], "the index 3 is none of the 3"),
    "a negative index": (lambda rows: [(-1, 0.5), *rows[1:]], "the index -1 is none"),
    "an index as text": (lambda rows: [("0", 0.5), *rows[1:]], "the index 0 is none"),  # type: ignore[list-item]
    "an index as a boolean": (lambda rows: [(True, 0.5), *rows[1:]], "the index True is none"),
    "no index": (lambda rows: [(None, 0.5), *rows[1:]], "the index None is none"),  # type: ignore[list-item]
    "an index twice": (lambda rows: [rows[0], rows[0], rows[2]], "the text 0 has two scores"),
    "more than were sent": (lambda rows: [*rows, rows[0]], "the text 0 has two scores"),
    "one missing": (lambda rows: rows[1:], "1 of 3 texts have no score"),
    "none": (lambda rows: [], "3 of 3 texts have no score"),
    "NaN": (lambda rows: [(0, math.nan), *rows[1:]], "the score nan is no finite number"),
    "infinity": (lambda rows: [(0, math.inf), *rows[1:]], "the score inf is no finite number"),
    "a score as text": (lambda rows: [(0, "0.5"), *rows[1:]], "the score 0.5 is no finite number"),
    "a score that is null": (lambda rows: [(0, None), *rows[1:]], "the score None is no finite"),
    "logits": (lambda rows: [(0, -4.2), *rows[1:]], "RAG_RERANKER_LOGITS=true"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_cannot_be_used_are_refused(
    double: RerankerDouble, kind: str, fault: str
) -> None:
    """Half a ranking is none: every text needs one finite score from 0 to 1; it is not tried again."""
    change, words = FAULTS[fault]
    double.behave(changed(change))

    error = failure(settings(double, kind))

    assert (error.code, words in error.message) == ("reranker_bad_response", True), error.message
    assert len(double.bodies) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>", "no JSON"),
        ('{"results": [{"index": 0', "no JSON"),
        ("null", "no object with a list"),
        ('{"data": []}', "no object with a list"),
        ('[{"index": 0, "score": 0.5}]', "no object with a list"),
        ('{"results": [[0, 0.5]]}', "a result is no object"),
        ('{"results": {"0": 0.5}}', "no object with a list"),
        (" " * (MAX_REPLY_BYTES + 1), "more than"),
    ],
)
def test_a_reply_of_another_shape_is_refused(double: RerankerDouble, body: str, words: str) -> None:
    """The message says what it is, and which setting tells what the server speaks."""
    double.behave(doubles.text(body))

    error = failure(settings(double))

    assert (error.code, words in error.message) == ("reranker_bad_response", True), error.message


def test_logits_become_probabilities(double: RerankerDouble) -> None:
    """With RAG_RERANKER_LOGITS the sigmoid is the score, for any finite logit."""
    double.behave(changed(lambda rows: [(0, -1000), (1, 0), (2, 1000)]))

    assert score(settings(double, reranker_logits=True)) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("behaviour", "code", "calls"),
    [
        (doubles.status(500), "reranker_unavailable", 2),
        (doubles.status(503), "reranker_unavailable", 2),
        (doubles.status(429), "reranker_unavailable", 2),
        (doubles.status(429, retry_after="30"), "reranker_unavailable", 1),
        (doubles.reset, "reranker_unavailable", 2),
        (doubles.half, "reranker_unavailable", 2),
        (doubles.status(401), "reranker_misconfigured", 1),
        (doubles.status(403), "reranker_misconfigured", 1),
        (doubles.status(404), "reranker_misconfigured", 1),
        (doubles.status(307, location="http://127.0.0.1:9/"), "reranker_misconfigured", 1),
        (doubles.status(400), "reranker_bad_response", 1),
        (doubles.status(413), "reranker_bad_response", 1),
        (doubles.status(422), "reranker_bad_response", 1),
        (doubles.status(204), "reranker_bad_response", 1),
    ],
)
def test_a_failure_has_its_code_and_its_attempts(
    double: RerankerDouble, behaviour: doubles.Behaviour, code: str, calls: int
) -> None:
    """What may be over soon is tried twice; what the operator must mend is not."""
    double.behave(behaviour)

    error = failure(settings(double))

    assert (error.code, len(double.bodies)) == (code, calls)


def test_a_second_attempt_may_succeed(double: RerankerDouble) -> None:
    """One failure costs one more request."""
    double.behave(doubles.status(502), doubles.good)

    assert score(settings(double)) == SCORES
    assert len(double.bodies) == 2


@pytest.mark.parametrize("behaviour", [doubles.never, doubles.drip], ids=["silent", "drip"])
def test_the_deadline_holds_for_all(double: RerankerDouble, behaviour: doubles.Behaviour) -> None:
    """A server that is silent, and one that sends a byte now and then."""
    double.behave(behaviour)

    error = failure(settings(double, reranker_timeout_s=0.3))

    assert error.code == "deadline_exceeded"
    assert "0.3 s (RAG_RERANKER_TIMEOUT_S)" in error.message


def test_many_texts_go_in_batches(double: RerankerDouble) -> None:
    """No request has more texts than RAG_RERANKER_BATCH; the scores are in the texts' order."""
    texts = [f"sign {number}" if number % 2 else "who may sign" for number in range(7)]

    scores = score(settings(double, reranker_batch=3), texts)

    assert sorted(len(body["documents"]) for body in double.bodies) == [1, 3, 3]
    assert scores == [1 / 3 if number % 2 else 1.0 for number in range(7)]


def test_the_breaker_stops_asking(double: RerankerDouble) -> None:
    """After enough failures nothing is sent; the error says when the next one is tried."""
    double.behave(doubles.status(500))
    server = RerankServer(settings(double, breaker_calls=4, breaker_probe_s=60))
    try:
        for _ in range(4):
            with pytest.raises(StepError):
                server.score(QUERY, TEXTS)
        sent = len(double.bodies)
        with pytest.raises(StepError, match="is not asked now") as caught:
            server.score(QUERY, TEXTS)
    finally:
        server.close()

    assert (len(double.bodies), server.breaker.open) == (sent, True)
    assert caught.value.retry_after is not None


def test_a_cancelled_request_is_given_up(double: RerankerDouble) -> None:
    """The client's request ends when the question is cancelled, and says nothing of the server."""
    double.behave(doubles.never)
    with open_step(settings(double, breaker_calls=1)) as handler:

        async def ask() -> None:
            passage = {"chunk_id": "c", "document_id": "d", "text": "x", "span": [0, 1], "score": 1}
            asking = asyncio.ensure_future(
                handler.serve(json.dumps({"query": QUERY, "results": [passage]}))
            )
            while not double.bodies:
                await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.wait((asking,))
            assert asking.cancelled()

        asyncio.run(ask())
        [breaker] = handler.breakers

    assert not breaker.open


def test_the_key_is_sent_and_never_told(double: RerankerDouble, tmp_path: Path) -> None:
    """As a bearer token, from its file; no message of a failure holds it."""
    file = tmp_path / "key"
    file.write_text("s3cret-key-of-a-reranker\n")
    configured = settings(double, reranker_api_key_file=file)
    double.behave(doubles.status(401, '{"error": "s3cret-key-of-a-reranker is wrong"}'))

    error = failure(configured)

    assert double.keys == ["Bearer s3cret-key-of-a-reranker"]
    assert "s3cret" not in error.message + repr(configured)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reranker": "tei"}, "RAG_RERANKER=tei needs the URL"),
        ({"reranker": "cohere"}, "RAG_RERANKER=cohere needs the URL"),
        ({"reranker_url": "http://x", "reranker_api_key": "a\nb"}, "no header can carry"),
        ({"reranker_url": "http://x", "reranker_api_key": " "}, "no header can carry"),
        ({"reranker_url": "http://x", "reranker_api_key_file": "/nowhere/key"}, "cannot be read"),
    ],
)
def test_a_setting_that_cannot_work_is_told_at_the_start(given: Any, words: str) -> None:
    """The message names the variable and the way out."""
    with pytest.raises(StepError, match=words) as caught, open_step(RerankSettings(**given)):
        pass

    assert caught.value.code == "reranker_misconfigured"


def test_questions_at_once_do_not_mix(double: RerankerDouble) -> None:
    """Each of many threads gets the scores of its own texts."""
    server = RerankServer(settings(double))
    got: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        texts = ["who may sign" if at == number else "x" for at in range(8)]
        got[number] = server.score(QUERY, texts).scores

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.close()

    assert got == {n: [float(at == n) for at in range(8)] for n in range(8)}
