"""Ingest through the real model and the embedded store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from crash_kit import HashedWords

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Embedder, Vectors
from rag_retrieve.index.ingest import Ingest


def ask(retriever: Retriever, query: str, **fields: object) -> list[tuple[str, str]]:
    """Return (document id, text) of the results."""
    response = retriever.retrieve(RetrieveRequest.model_validate({"query": query, **fields}))
    return [(result.document_id, result.text) for result in response.results]


def test_a_folder_becomes_searchable_with_exact_spans(retriever: Retriever, folder: Path) -> None:
    """Each result's text is the file's text at its span."""
    report = retriever.ingest([folder])
    response = retriever.retrieve(RetrieveRequest(query="How many moons has Mars?"))

    assert report.added == ["notes/mars.md", "notes/moon.md", "notes/tea.txt"]
    assert response.results[0].document_id == "notes/mars.md"
    for result in response.results:
        start, end = result.span
        text = (folder.parent / result.document_id).read_text()
        assert text[start:end] == result.text


def test_unchanged_documents_compute_no_embedding(retriever: Retriever, folder: Path) -> None:
    """A second ingest of the same files embeds nothing and writes nothing."""
    retriever.ingest([folder])
    before = retriever.counters.texts_embedded

    report = retriever.ingest([folder])

    assert retriever.counters.texts_embedded == before
    assert report.embeddings == 0
    assert sorted(report.unchanged) == ["notes/mars.md", "notes/moon.md", "notes/tea.txt"]


def test_unchanged_stays_unchanged_in_another_process(
    settings: RetrieveSettings, folder: Path
) -> None:
    """Content hashes are stored, not remembered."""
    with Retriever.open(settings) as first:
        first.ingest([folder])
    with Retriever.open(settings) as second:
        report = second.ingest([folder])

        assert second.counters.texts_embedded == 0
        assert len(report.unchanged) == 3


def test_a_changed_document_replaces_its_old_passages(retriever: Retriever, folder: Path) -> None:
    """After an update the old text is gone and only the changed file was embedded."""
    retriever.ingest([folder])
    (folder / "tea.txt").write_text("Green tea is best brewed at 70 degrees Celsius.\n")

    report = retriever.ingest([folder])

    assert report.updated == ["notes/tea.txt"]
    assert report.embeddings == 1
    texts = [text for _, text in ask(retriever, "temperature for green tea", top_k=10)]
    assert any("70 degrees" in text for text in texts)
    assert not any("80 degrees" in text for text in texts)


def test_a_file_that_is_gone_is_reported_and_pruned_on_request(
    retriever: Retriever, folder: Path
) -> None:
    """Nothing is deleted unless asked."""
    retriever.ingest([folder])
    (folder / "tea.txt").unlink()

    told = retriever.ingest([folder])
    pruned = retriever.ingest([folder], prune=True)

    assert told.missing == ["notes/tea.txt"]
    assert told.deleted == []
    assert pruned.deleted == ["notes/tea.txt"]
    assert "notes/tea.txt" not in [info.document_id for info in retriever.documents("default")]


def test_a_broken_record_is_reported_and_its_old_version_stays(
    retriever: Retriever, tmp_path: Path
) -> None:
    """The other records are read; every ingest of the file repeats the warning."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "Tea is hot."}\n{"id": 2, "text": "Ice is cold."}\n')
    retriever.ingest([path])
    path.write_text('{"id": 1, "text": "Tea is hot."}\n{"id": 2, "text": "Ice\n')

    reports = [retriever.ingest([path], prune=True) for _ in range(2)]

    for report in reports:
        assert (report.unchanged, report.failed, report.deleted) == (["a.jsonl#1"], [], [])
        assert [(one.document_id, one.message[:24]) for one in report.warnings] == [
            ("a.jsonl", "line 2 is not valid JSON")
        ]


def test_an_unreadable_file_is_reported_and_its_old_version_stays(
    retriever: Retriever, folder: Path
) -> None:
    """A broken update loses nothing and does not stop the other files; prune spares it."""
    retriever.ingest([folder])
    (folder / "tea.txt").write_bytes(b"\xff\xfebroken\xc3\x28" + b"\x00" * 3)
    (folder / "sun.md").write_text("# Sun\n\nThe Sun is a star.\n")

    report = retriever.ingest([folder], prune=True)

    assert [failure.document_id for failure in report.failed] == ["notes/tea.txt"]
    assert report.failed[0].code == "document_unreadable"
    assert report.added == ["notes/sun.md"]
    assert report.deleted == []
    assert any("80 degrees" in text for _, text in ask(retriever, "green tea temperature"))


def test_deleting_a_document_removes_all_its_passages(retriever: Retriever, folder: Path) -> None:
    """Deleted documents are not found; unknown ids are reported as missing."""
    retriever.ingest([folder])

    report = retriever.delete_documents("default", ["notes/mars.md", "nothing.md"])

    assert (report.deleted, report.missing) == (["notes/mars.md"], ["nothing.md"])
    assert all(name != "notes/mars.md" for name, _ in ask(retriever, "moons of Mars", top_k=10))
    assert retriever.collections()[0].documents == 2


def test_the_corpus_digest_depends_on_content_not_on_history(
    retriever: Retriever, folder: Path
) -> None:
    """Adding and deleting comes back to the same digest, in whatever order."""
    retriever.ingest([folder])
    digest = retriever.collections()[0].corpus_digest
    (folder / "sun.md").write_text("The Sun is a star.\n")

    retriever.ingest([folder])
    changed = retriever.collections()[0].corpus_digest
    retriever.delete_documents("default", ["notes/sun.md"])

    assert changed != digest
    assert retriever.collections()[0].corpus_digest == digest


def test_a_stored_document_is_given_back_whole(retriever: Retriever, folder: Path) -> None:
    """The text stored is the file's text; an unknown id is a clear error."""
    retriever.ingest([folder])

    assert retriever.document("default", "notes/tea.txt").text == (folder / "tea.txt").read_text()
    with pytest.raises(StepError) as caught:
        retriever.document("default", "nope.txt")
    assert caught.value.code == "document_not_found"


def test_fault_collection_mismatch_is_refused_with_the_command_that_mends_it(
    settings: RetrieveSettings, folder: Path
) -> None:
    """A collection of another model or other passages is not used; reindex makes it fit."""
    with Retriever.open(settings) as first:
        first.ingest([folder])
    with Retriever(settings, embedder=HashedWords()) as smaller:
        for use in (lambda: ask(smaller, "moons"), lambda: smaller.ingest([folder])):
            with pytest.raises(StepError) as refused:
                use()
            assert (refused.value.code, refused.value.status) == ("collection_mismatch", 409)
            assert "MiniLM" in refused.value.message and "hashed-words" in refused.value.message
            assert "rag reindex --collection default" in refused.value.message
    other = settings.model_copy(update={"chunk_tokens": 32})
    with Retriever.open(other) as second:
        with pytest.raises(StepError) as caught:
            ask(second, "moons")

        second.reindex("default")

        assert caught.value.code == "collection_mismatch"
        assert "rag reindex --collection default" in caught.value.message
        assert "32" in caught.value.message and "200" in caught.value.message
        assert ask(second, "How many moons has Mars?")[0][0] == "notes/mars.md"
    with Retriever.open(other) as third:
        assert ask(third, "How many moons has Mars?")[0][0] == "notes/mars.md"


def test_an_unknown_collection_and_path_are_clear_errors(
    retriever: Retriever, tmp_path: Path
) -> None:
    """Both name the value and the way out."""
    with pytest.raises(StepError) as caught:
        ask(retriever, "x", collection="hr2")
    assert (caught.value.code, caught.value.param) == ("collection_not_found", "collection")
    with pytest.raises(StepError, match="there is no file or folder"):
        retriever.ingest([tmp_path / "absent"])
    with pytest.raises(StepError, match="does not exist"):
        retriever.delete_collection("hr2")


def test_records_of_a_jsonl_file_are_documents_of_their_own(
    retriever: Retriever, tmp_path: Path
) -> None:
    """Ids carry the file's name, and metadata can be filtered on."""
    path = tmp_path / "staff.jsonl"
    path.write_text(
        '{"id": "1", "title": "Ann", "text": "Ann leads sales.", "year": 2023}\n'
        '{"id": "2", "title": "Bob", "text": "Bob leads research.", "year": 2025}\n'
    )

    report = retriever.ingest([path])

    assert report.added == ["staff.jsonl#1", "staff.jsonl#2"]
    assert ask(retriever, "who leads?", filters={"year": {"$gte": 2024}}) == [
        ("staff.jsonl#2", "Bob leads research.")
    ]


def test_progress_reaches_its_total(retriever: Retriever, folder: Path) -> None:
    """The last report says that all known documents are done."""
    seen = []

    retriever.ingest([folder], progress=seen.append)

    assert (seen[-1].done, seen[-1].total) == (3, 3)


def test_documents_given_twice_in_one_run_are_reported(retriever: Retriever) -> None:
    """The second document of an id does not replace the first silently."""
    document = LoadedDocument("d", "T", "s", "Some text.", "text/plain")

    report = retriever.ingest_documents([document, document])

    assert (report.added, [item.document_id for item in report.failed]) == (["d"], ["d"])


def test_nothing_is_loaded_on_the_request_path(settings: RetrieveSettings, folder: Path) -> None:
    """Ten questions load no model and open no store; both were loaded once, at the start."""
    with Retriever.open(settings) as retriever:
        retriever.ingest([folder])
    with Retriever.open(settings) as retriever:
        retriever.preload()
        before = (retriever.counters.model_loads, retriever.counters.store_opens)

        for number in range(10):
            ask(retriever, f"question {number}")

        assert (retriever.counters.model_loads, retriever.counters.store_opens) == before == (1, 1)
        assert retriever.counters.queries_embedded == 10


def test_a_reindex_leaves_out_no_stored_document(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the rules of today refuse, as of an earlier version, ends it; all of them stay."""
    retriever.ingest([folder])
    before = [one.document_id for one in retriever.documents("default")]
    monkeypatch.setattr(
        Ingest, "_fault", lambda self, one: "too old" if one.document_id == before[0] else None
    )

    with pytest.raises(StepError, match="cannot be indexed again: too old") as caught:
        retriever.reindex("default")

    assert before[0] in caught.value.message
    assert [one.document_id for one in retriever.documents("default")] == before
    monkeypatch.undo()
    assert sorted(retriever.reindex("default").added) == sorted(before)


def test_a_reindex_that_fails_leaves_the_collection_as_it_was(
    settings: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """When the embedder fails half way, the old passages still answer and a retry works."""

    class Failing:
        """A double of an embedding service that goes away after one call."""

        model, identity, dim = minilm.model, "another", minilm.dim
        calls = 0

        def embed(self, texts: Sequence[str]) -> Vectors:
            self.calls += 1
            if self.calls == 1:
                raise StepError("embedder_unavailable", "gone")
            return minilm.embed(texts)

        def embed_query(self, query: str) -> Vectors:
            return minilm.embed_query(query)

    with Retriever(settings, embedder=minilm) as first:
        first.ingest([folder])
    with Retriever(settings, embedder=Failing()) as second:
        with pytest.raises(StepError, match="gone"):
            second.reindex("default")
        with pytest.raises(StepError) as caught:
            ask(second, "moons")
        assert caught.value.code == "collection_mismatch"
        second.reindex("default")
        assert ask(second, "How many moons has Mars?")[0][0] == "notes/mars.md"
