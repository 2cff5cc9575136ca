"""Languages and spelling on the embedded store and on a server: the same terms, the same passages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from qdrant_kit import Qdrant

from rag_kit.errors import StepError
from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.index.languages import language_of
from rag_retrieve.stores.embedded.database import EdgeStores

TEXTS = {
    "leave": "Maternity leave lasts 16 weeks at full pay, and the café is open.",
    "secret": "The merger with Northwind is planned for the spring of next year.",
    "vertrag": "Die Kündigungsfristen stehen im Arbeitsvertrag jedes Beschäftigten der Firma.",
    "russe": "Сотрудникам положено 25 дней ежегодного отпуска.",
    "nihon": "社員には年間25日の有給休暇が与えられる。",
}


def document(name: str, text: str) -> LoadedDocument:
    metadata = {"hidden": name == "secret"}
    return LoadedDocument(name, "", f"{name}.txt", text, "text/plain", metadata=metadata)


def filled(retriever: Retriever, collection: str) -> Retriever:
    retriever.ingest_documents(
        [document(name, text) for name, text in TEXTS.items()], collection=collection
    )
    return retriever


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, minilm: Embedder) -> Iterator[Retriever]:
    home = tmp_path_factory.mktemp("languages")
    with Retriever(RetrieveSettings(home=home), embedder=minilm) as opened:
        yield filled(opened, "docs")


@pytest.fixture
def served(qdrant: Qdrant, minilm: Embedder) -> Iterator[Retriever]:
    with Retriever(qdrant.settings(), embedder=minilm) as opened:
        yield filled(opened, "docs")


def search(retriever: Retriever, query: str, mode: str = "sparse", **fields: Any) -> Any:
    request = {"query": query, "collection": "docs", "retrieve": {"mode": mode}, **fields}
    return retriever.retrieve(RetrieveRequest.model_validate(request))


def found(response: Any) -> list[tuple[str, float]]:
    return [(one.document_id, round(one.score, 4)) for one in response.results]


QUESTIONS = [
    "Wie lang ist die Frist?",
    "Verträge",
    "отпуск",
    "有給休暇は何日ですか",
    "How long is maternaty leave?",
]


def test_a_server_finds_what_the_embedded_store_finds(
    embedded: Retriever, served: Retriever
) -> None:
    """Passages, scores and warnings are equal."""
    for question in QUESTIONS:
        here, there = search(embedded, question), search(served, question)
        assert found(here) == found(there)
        assert len(here.results) == 1
        assert here.warnings == there.warnings


def test_the_nearest_word_of_a_misspelt_one_is_searched_and_named(embedded: Retriever) -> None:
    """In `warnings` and in the provenance; a word that passages have is left alone."""
    response = search(embedded, "maternaty", "hybrid")
    assert response.results[0].document_id == "leave"
    assert response.warnings == [
        "spelling: no passage has 'maternaty'; 'maternity' was searched, too"
    ]
    assert response.provenance["retrieve"]["corrected"] == {"maternaty": "maternity"}
    right = search(embedded, "maternity", "hybrid")
    assert right.warnings == [] and "corrected" not in right.provenance["retrieve"]


def test_a_checkup_names_the_languages_that_the_embedder_does_not_know(embedded: Retriever) -> None:
    """`rag doctor` shows it; nothing is wrong with the collection."""
    checkup = embedded.checkup("docs")
    assert checkup.problems == []
    (note,) = checkup.notes
    assert "documents in german, japanese, russian are found by their words" in note


def test_codes_and_what_nothing_is_near_are_left_alone(embedded: Retriever) -> None:
    """No warning, no other search."""
    for question in ("maternaty-16", "MATERNATY leave", "zyzzyva", "17"):
        assert "corrected" not in search(embedded, question).provenance["retrieve"]


def test_no_word_of_a_hidden_passage_is_given_away(embedded: Retriever) -> None:
    """Only passages that pass the filter tell how a word is spelt."""
    assert found(search(embedded, "Nortwind merger"))[0][0] == "secret"
    response = search(embedded, "Nortwind mergre", filters={"hidden": False})
    assert response.results == [] and response.warnings == []


def test_a_question_costs_no_further_request_unless_a_word_is_unknown(
    served: Retriever, qdrant: Qdrant
) -> None:
    """Whether a word is known is asked with the search itself."""
    if qdrant.double is None:
        pytest.skip("only the double counts requests")
    counts = []
    for question in ("maternity leave", "weeks"):
        before = len(qdrant.double.requests)
        search(served, question)
        counts.append(sum("query" in str(one) for one in list(qdrant.double.requests)[before:]))
    assert counts == [1, 1]


def test_a_collection_of_an_earlier_version_is_searched_as_it_was(
    settings: RetrieveSettings, minilm: Embedder
) -> None:
    """By the words of one language, without corrections; `rag reindex` is what its warning names."""
    with Retriever(settings, embedder=minilm) as opened:
        opened.ingest_documents([document("tea", "Tea")], collection="docs")
    with closing(EdgeStores(settings.home)) as stores:
        manifest = stores.read_manifest("docs") or {}
        stores.write_manifest("docs", {**manifest, "indexing": 2, "languages": []})
    with Retriever(settings, embedder=minilm) as later:
        filled(later, "docs")
        earlier = search(later, "Verträge maternaty")
        assert earlier.results == [] and "corrected" not in earlier.provenance["retrieve"]
        assert "brings search by the words of each document's own language" in earlier.warnings[0]
        assert found(search(later, "maternity leave"))[0][0] == "leave"
        later.reindex("docs")
        assert {name for name, _ in found(search(later, "Verträge maternaty"))} == {
            "leave",
            "vertrag",
        }


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The pump and the valve of the boiler are to be serviced.", "english"),
        ("Der Kessel wird jährlich geprüft, und zwar im Herbst.", "german"),
        ("La caldera se revisa cada año en otoño.", "spanish"),
        ("Kazan her yıl sonbaharda kontrol edilir.", "turkish"),
        ("ボイラーを点検する", "japanese"),
        ("Котёл проверяют каждый год осенью.", "russian"),
        ("name,qty\nbolt,3\nnut,5", "other"),
        ("17 / 4 = 4.25", "other"),
        ("", "other"),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    """Short texts, tables and numbers have the collection's."""
    assert language_of(text, "other") == language


def test_an_unknown_language_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A code is a name, too."""
    monkeypatch.setenv("RAG_LANGUAGE", "klingon")
    with pytest.raises(StepError, match=r"RAG_LANGUAGE.*arabic, .*klingon"):
        RetrieveSettings.read()
    monkeypatch.setenv("RAG_LANGUAGE", "DE")
    assert RetrieveSettings.read().language == "german"
