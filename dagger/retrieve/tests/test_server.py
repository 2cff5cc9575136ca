"""The whole retriever over a Qdrant server: the double of its REST API, or a real one."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from qdrant_double import Faults, QdrantDouble
from qdrant_kit import SERVERS, real_qdrant

from rag_kit.reports import CollectionInfo
from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.stores.qdrant.database import ServerStores

QUESTIONS = ["How many moons has Mars?", "temperature for green tea", "orbit of the Moon"]


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest) -> Iterator[RetrieveSettings]:
    """Settings for a server without a collection `test-notes`."""
    if request.param == "real":
        settings = real_qdrant().settings()
    else:
        url = request.getfixturevalue("double").url
        settings = RetrieveSettings(store="qdrant", qdrant_url=url, qdrant_timeout_s=20)
    yield settings
    stores = ServerStores(str(settings.qdrant_url), settings)
    if stores.exists("test-notes"):
        stores.delete("test-notes")
    stores.close()


def answers(retriever: Retriever, mode: str) -> list[list[tuple[str, str, float]]]:
    """Return (chunk id, text, score) of the results of every question."""
    found = []
    for query in QUESTIONS:
        fields = {"query": query, "collection": "test-notes", "retrieve": {"mode": mode}}
        results = retriever.retrieve(RetrieveRequest.model_validate(fields)).results
        found.append([(r.chunk_id, r.text, pytest.approx(r.score, abs=1e-4)) for r in results])
    return found


def listed(retriever: Retriever) -> CollectionInfo:
    """Return what the list says of the collection; a real server has others, too."""
    return next(one for one in retriever.collections() if one.name == "test-notes")


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_both_stores_give_the_same_results_and_digest(
    served: RetrieveSettings, settings: RetrieveSettings, minilm: Embedder, folder: Path, mode: str
) -> None:
    """The same documents are found alike in both stores, score for score."""
    found, digests = [], []
    for chosen in (settings, served):
        with Retriever(chosen, embedder=minilm) as retriever:
            retriever.ingest([folder], collection="test-notes")
            found.append(answers(retriever, mode))
            digests.append(listed(retriever).corpus_digest)

    assert found[0] == found[1]
    assert digests[0] == digests[1]


def test_an_update_and_a_prune_leave_both_stores_with_the_same_passages(
    served: RetrieveSettings, settings: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """Both find the same, score for score: replaced and deleted passages count no more."""
    found, digests = [], []
    for chosen in (settings, served):
        (folder / "tea.txt").write_text("Green tea is best brewed at 80 degrees Celsius.\n")
        (folder / "gone.txt").write_text("This note about Mars is deleted later.\n")
        with Retriever(chosen, embedder=minilm) as retriever:
            retriever.ingest([folder], collection="test-notes")
            (folder / "tea.txt").write_text("Green tea is best brewed at 70 degrees Celsius.\n")
            (folder / "gone.txt").unlink()
            report = retriever.ingest([folder], collection="test-notes", prune=True)
            found.append(answers(retriever, "hybrid") + answers(retriever, "sparse"))
            digests.append(listed(retriever).corpus_digest)
        assert (report.updated, report.deleted) == (["notes/tea.txt"], ["notes/gone.txt"])

    assert found[0] == found[1]
    assert digests[0] == digests[1]


def test_a_second_process_reads_what_the_first_wrote(
    served: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """A server has many readers; a new version is seen without opening anything again."""
    with (
        Retriever(served, embedder=minilm) as writer,
        Retriever(served, embedder=minilm) as reader,
    ):
        writer.ingest([folder], collection="test-notes")
        assert answers(reader, "hybrid") == answers(writer, "hybrid")
        (folder / "sun.md").write_text("The Sun is orbited by Mars and by the Moon's planet.\n")
        writer.ingest([folder], collection="test-notes")

        texts = {text for found in answers(reader, "hybrid") for _, text, _ in found}
        assert any("The Sun" in text for text in texts)
        assert answers(reader, "hybrid") == answers(writer, "hybrid")
        assert listed(reader) == listed(writer)


def test_passages_of_an_unpublished_version_are_not_found(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """A writer that died before publishing leaves passages that no reader sees, and a retry clears."""
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)

    class DiedError(Exception):
        pass

    def die(step: str) -> None:
        if step == "upserted":
            double.faults.status = 503  # the server does not let it clean up
            raise DiedError

    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
    (folder / "tea.txt").write_text("Green tea is best brewed at 70 degrees Celsius.\n")
    with Retriever(settings, embedder=minilm, on_step=die) as dying, pytest.raises(DiedError):
        dying.ingest([folder], collection="test-notes")
    double.faults.status = None

    with Retriever(settings, embedder=minilm) as retriever:
        texts = {text for found in answers(retriever, "hybrid") for _, text, _ in found}
        assert any("80 degrees" in text for text in texts)
        assert not any("70 degrees" in text for text in texts)
        retriever.ingest([folder], collection="test-notes")
        texts = {text for found in answers(retriever, "hybrid") for _, text, _ in found}
        assert any("70 degrees" in text for text in texts)
        assert not any("80 degrees" in text for text in texts)


def test_reindex_swaps_on_the_server(
    served: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """The new generation takes the alias; a reader that was open follows it."""
    other = served.model_copy(update={"chunk_tokens": 32})
    with Retriever(served, embedder=minilm) as first:
        first.ingest([folder], collection="test-notes")
    with Retriever(other, embedder=minilm) as second:
        second.reindex("test-notes")

        assert answers(second, "hybrid")[0][0][1].startswith("# Mars")
    with Retriever(served, embedder=minilm) as first, pytest.raises(StepError) as caught:
        answers(first, "hybrid")
    assert caught.value.code == "collection_mismatch"


def test_a_search_is_a_constant_number_of_requests(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """One question asks the server a fixed number of times, whatever is found.

    "temperature" is in no passage: its neighbours are looked for, which asks twice more. The counts of
    terms are read once, by the first question after they changed.
    """
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
        double.requests.clear()
        answers(retriever, "hybrid")
        hybrid = len(double.requests)
        double.requests.clear()
        answers(retriever, "dense")

    assert hybrid == 5 * len(QUESTIONS) + 2 + 1
    assert len(double.requests) == 4 * len(QUESTIONS)


@pytest.mark.parametrize(
    "large",
    [
        LoadedDocument("large", "", "d", "word " * 300_000, "text/plain"),
        LoadedDocument("large", "", "d", "ää\n" * 240_000, "text/plain"),
        LoadedDocument("large", "", "d", "\x01" * 200_000, "text/plain"),
        LoadedDocument("large", "", "d", "x", "text/plain", metadata={"notes": ["n" * 1_100_000]}),
    ],
    ids=["text", "umlauts", "control characters", "metadata"],
)
def test_a_document_that_no_request_can_hold_is_refused_before_anything_is_written(
    double: QdrantDouble, large: LoadedDocument
) -> None:
    """The error names it, its size and the way out; the others are indexed."""
    settings = RetrieveSettings(
        store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20, qdrant_max_request_mb=1
    )
    small = LoadedDocument("small", "", "d", "Small text.", "text/plain")
    with Retriever(settings, embedder=HashedWords()) as retriever:
        report = retriever.ingest_documents([large, small])
        assert report.added == ["small"]
        (failure,) = report.failed
        assert (failure.document_id, failure.code) == ("large", "document_unreadable")
        assert "MiB" in failure.message and "RAG_QDRANT_MAX_REQUEST_MB" in failure.message
        assert set(whole(retriever)) == {"small"}


# -- a server that fails ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(
    minilm: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Retriever, QdrantDouble]]:
    """A retriever over a server with a key, filled; it takes any number of failures."""
    root = tmp_path_factory.mktemp("files")
    (root / "mars.md").write_text("# Mars\n\nMars has two moons, Phobos and Deimos.\n")
    (root / "tea.txt").write_text("Green tea is best brewed at 80 degrees Celsius.\n")
    with QdrantDouble("canary-key") as double:
        settings = RetrieveSettings(
            store="qdrant",
            qdrant_url=double.url,
            qdrant_api_key="canary-key",  # type: ignore[arg-type]
            qdrant_timeout_s=20,
            breaker_calls=10**6,
            retry_share=1,
        )
        with Retriever(settings, embedder=minilm) as retriever:
            retriever.ingest([root], collection="test-notes")
            yield retriever, double


@pytest.fixture
def failing(filled: tuple[Retriever, QdrantDouble]) -> Iterator[Retriever]:
    """That retriever; its server fails as its `faults` say until the test ends."""
    retriever, double = filled
    double.requests.clear()
    yield retriever
    double.faults = Faults()


@pytest.fixture
def server(filled: tuple[Retriever, QdrantDouble]) -> QdrantDouble:
    """The server of `failing`."""
    return filled[1]


def ask(retriever: Retriever) -> list[str]:
    request = RetrieveRequest(query=QUESTIONS[0], collection="test-notes")
    return [result.text for result in retriever.retrieve(request).results]


def failure(retriever: Retriever) -> StepError:
    with pytest.raises(StepError) as caught:
        ask(retriever)
    assert "canary" not in caught.value.message
    assert "127.0.0.1" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_fault_retriever_unavailable_status(
    failing: Retriever, server: QdrantDouble, status: int
) -> None:
    """A read is tried once more, and no more often."""
    server.faults.status = status

    assert failure(failing).code == "retriever_unavailable"
    assert len(server.requests) == 2


def test_fault_retriever_unavailable_too_many_requests(
    failing: Retriever, server: QdrantDouble
) -> None:
    """A server that is over its rate is not asked again at once; the caller is told when."""
    server.faults.status = 429

    error = failure(failing)

    assert (error.code, error.retry_after, len(server.requests)) == (
        "retriever_unavailable",
        1.0,
        1,
    )


def test_fault_retriever_unavailable_reset(failing: Retriever, server: QdrantDouble) -> None:
    """One lost connection is not seen; two in a row are."""
    server.faults.drop = 1
    assert ask(failing)

    server.faults.drop = 2
    server.requests.clear()

    assert failure(failing).code == "retriever_unavailable"
    assert len(server.requests) == 2


def test_fault_retriever_unavailable_is_left_alone(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """After enough failed calls none is made; once the server works, a probe finds out."""
    settings = RetrieveSettings(
        store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20, breaker_calls=30,
        breaker_probe_s=2,
    )  # fmt: skip
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
        (breaker,) = retriever.breakers
        double.faults.status = 503
        while not breaker.open:
            assert failure(retriever).code == "retriever_unavailable"
        double.requests.clear()

        error = failure(retriever)

        assert error.code == "retriever_unavailable"
        assert error.retry_after is not None and 0 < error.retry_after <= 2
        assert len(double.requests) <= 1
        double.faults.status = None
        end = time.monotonic() + 20
        while breaker.open and time.monotonic() < end:
            with suppress(StepError):
                ask(retriever)
        assert ask(retriever)


def test_fault_retriever_slow_is_the_deadlines_code(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """A read has its time in all, and is not tried again after it."""
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
    quick = settings.model_copy(update={"qdrant_timeout_s": 1})
    with Retriever(quick, embedder=minilm) as retriever:
        double.requests.clear()
        double.faults.hold = threading.Event()
        error = failure(retriever)
        while not double.requests:  # it may read later than the client gives up
            time.sleep(0.01)
        double.faults.hold.set()

    assert (error.code, len(double.requests)) == ("deadline_exceeded", 1)


@pytest.mark.parametrize("status", [401, 403])
def test_fault_retriever_misconfigured_key(
    failing: Retriever, server: QdrantDouble, status: int
) -> None:
    """The message names the setting, never the key; nothing is tried again."""
    server.faults.status = status

    error = failure(failing)

    assert (error.code, len(server.requests)) == ("retriever_misconfigured", 1)
    assert "RAG_QDRANT_API_KEY" in error.message


def _payloads(result: Any) -> Iterator[dict[str, Any]]:
    for batch in result if isinstance(result, list) else []:
        yield from batch.get("points", [batch])


def _without(name: str) -> Callable[[Any], Any]:
    def alter(result: Any) -> Any:
        for point in _payloads(result):
            point["payload"].pop(name, None)
        return result

    return alter


def _with(name: str, value: Any) -> Callable[[Any], Any]:
    def alter(result: Any) -> Any:
        for point in _payloads(result):
            if name in point["payload"]:
                point["payload"][name] = value
        return result

    return alter


def _renamed(result: Any) -> Any:
    for point in _payloads(result):
        point["id"] = str(uuid.uuid4())
    return result


def _payload_of_another_kind(result: Any) -> Any:
    for point in _payloads(result):
        point["payload"] = ["not", "an", "object"]
    return result


SEARCH, GET = "/points/query/batch", "POST /collections/rag_test-notes/points"


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(html=True), id="html"),
        pytest.param(Faults(nan=True, only=SEARCH), id="nan"),
        pytest.param(Faults(status=302), id="redirect"),
        pytest.param(Faults(alter=lambda result: None), id="null"),
        pytest.param(Faults(alter=lambda result: [], only=SEARCH), id="no searches"),
        pytest.param(Faults(alter=lambda result: result * 2, only=SEARCH), id="more searches"),
        pytest.param(Faults(alter=lambda result: {"x": 1}), id="another shape"),
        pytest.param(Faults(alter=_payload_of_another_kind), id="payload of another kind"),
        pytest.param(Faults(alter=_renamed, only=GET), id="points not asked for"),
        *[
            pytest.param(Faults(alter=_without(name), only=GET), id=f"without {name}")
            for name in ("document_id", "version", "content_hash", "text", "span", "metadata")
        ],
        *[
            pytest.param(Faults(alter=_with(name, value), only=GET), id=f"{name} {value}")
            for name, value in (
                ("document_id", ["x"]), ("version", 7), ("content_hash", None), ("text", 5),
                ("span", "x"), ("metadata", "x"), ("title", {}),
            )
        ],
    ],
)  # fmt: skip
def test_fault_retriever_bad_data_of_the_server(
    failing: Retriever, server: QdrantDouble, faults: Faults
) -> None:
    """Whatever it is, it has the one code, and comes from one call of the kind at fault."""
    server.faults = faults

    assert failure(failing).code == "retriever_bad_response"


def test_vectors_of_another_dimension_are_bad_data(
    failing: Retriever, server: QdrantDouble
) -> None:
    """Passages handed on with their vectors are checked, too."""

    def shorter(result: Any) -> Any:
        for point in _payloads(result):
            if "vector" in point:
                point["vector"]["dense"] = [1.0, 2.0]
        return result

    collection = failing._collection("test-notes")
    server.faults.alter = shorter
    with pytest.raises(StepError) as caught:
        list(collection.passages(10))

    assert caught.value.code == "retriever_bad_response"


def test_a_passage_of_another_collection_is_not_found(
    failing: Retriever, server: QdrantDouble
) -> None:
    """What belongs to no published document of the collection is left out, whoever gives it."""
    server.faults.alter = _with("document_id", "another.md")
    server.faults.only = SEARCH

    assert ask(failing) == []
