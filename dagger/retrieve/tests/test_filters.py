"""Filters on metadata: what is refused, what each operator means, and both stores agreeing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import qdrant_double
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_kit.errors import StepError
from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest
from rag_retrieve.search.dates import parse_date
from rag_retrieve.search.filters import (
    Compare,
    Condition,
    matches,
    parse_filters,
    text_fields,
    values_at,
    without_text,
)
from rag_retrieve.stores.base import Point
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores
from rag_retrieve.stores.qdrant.collection import to_client


def parsed(raw: Any) -> Condition:
    condition = parse_filters(raw)
    assert condition is not None
    return condition


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        ({"year": {"$near": 3}}, "filters.year.$near", "use one of $eq"),
        ({"$xor": []}, "filters.$xor", "use $and"),
        ({"year": {}}, "filters.year", "empty object"),
        ({"year": []}, "filters.year", "see $in"),
        ({"year": {"$in": []}}, "filters.year.$in", "a list that is empty"),
        ({"year": {"$in": 5}}, "filters.year.$in", "a number"),
        ({"year": {"$in": [1, [2]]}}, "filters.year.$in[1]", "a list"),
        ({"year": {"$in": list(range(257))}}, "filters.year.$in", "at most 256"),
        ({"year": {"$gt": None}}, "filters.year.$gt", "numbers, texts and dates, but got null"),
        ({"year": {"$gt": True}}, "filters.year.$gt", "a boolean"),
        ({"tags": {"$exists": 1}}, "filters.tags.$exists", "true or false, but got a number"),
        ({"tags": {"$contains": ""}}, "filters.tags.$contains", "not empty"),
        ({"tags": {"$contains": []}}, "filters.tags.$contains", "a list that is empty"),
        ({"tags": {"$contains": {}}}, "filters.tags.$contains", "an object"),
        ({"name": {"$startsWith": 1}}, "filters.name.$startsWith", "text that is not empty"),
        ({"name": {"$endsWith": ""}}, "filters.name.$endsWith", "text that is not empty"),
        ({"year": {"$gt": float("nan")}}, "filters.year.$gt", "finite"),
        ({"year": float("inf")}, "filters.year", "finite"),
        ({"id": 2**63}, "filters.id", "beyond 64 bits"),
        ({"year": {"$not": 5}}, "filters.year.$not", "see $ne"),
        ({"$and": []}, "filters.$and", "at least one filter"),
        ({"$or": [{}]}, "filters.$or[0]", "empty object"),
        ({"$not": [1]}, "filters.$not", "a list"),
        ({"a..b": 1}, "filters.a..b", "empty part"),
        ({"a.$b": 1}, "filters.a.$b", "starts with '$'"),
        ({'a"b': 1}, "filters", "quote"),
        ({"a": "\ud800"}, "filters.a", "surrogate"),
        ({str(n): n for n in range(65)}, "filters", "65 comparisons"),
    ],
)
def test_a_bad_filter_is_refused_with_its_place_and_the_way_out(
    raw: dict[str, Any], param: str, says: str
) -> None:
    """Every refusal names the place and what would be right."""
    with pytest.raises(StepError) as caught:
        parse_filters(raw)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert says in caught.value.message


def test_a_filter_nested_too_deep_is_refused() -> None:
    """Eight levels pass, nine do not; thousands do not overflow the stack."""
    raw: dict[str, Any] = {"a": 1}
    for _ in range(7):
        raw = {"$not": raw}
    assert parse_filters(raw) is not None
    for _ in range(5000):
        raw = {"$and": [raw]}
    with pytest.raises(StepError, match="deeper than 8"):
        parse_filters(raw)


def test_no_filter_is_none() -> None:
    """None and an empty object let everything pass."""
    assert parse_filters(None) is None
    assert parse_filters({}) is None


def test_a_value_is_short_for_equality() -> None:
    """`{"dept": "hr"}` and `{"dept": {"$eq": "hr"}}` are the same tree."""
    assert parse_filters({"dept": "hr"}) == parse_filters({"dept": {"$eq": "hr"}})
    assert parse_filters({"dept": "hr"}) == Compare("dept", "eq", "hr")


MEANING = [
    ({"x": 1}, {"x": 1}, True),
    ({"x": 1}, {"x": 1.0}, True),
    ({"x": 1}, {"x": True}, False),
    ({"x": True}, {"x": 1}, False),
    ({"x": "1"}, {"x": 1}, False),
    ({"x": 1}, {}, False),
    ({"x": {"$ne": 1}}, {}, True),
    ({"x": {"$nin": [1]}}, {}, True),
    ({"x": {"$gt": 0}}, {}, False),
    ({"x": {"$gt": 0}}, {"x": "5"}, False),
    ({"x": {"$gt": 0}}, {"x": True}, False),
    ({"x": None}, {"x": None}, True),
    ({"x": None}, {"x": [[None], []]}, False),
    ({"x": None}, {"x": [[1], None]}, True),
    ({"x": None}, {}, False),
    ({"x": {"$ne": None}}, {}, True),
    ({"x": 2}, {"x": [1, 2]}, True),
    ({"x": {"$ne": 2}}, {"x": [1, 2]}, False),
    ({"x": 2}, {"x": [[2]]}, False),
    ({"x": None}, {"x": [1, None]}, True),
    ({"x": None}, {"x": []}, False),
    ({"x": {"$gt": 1, "$lt": 1}}, {"x": [0, 2]}, True),
    ({"x": 2**53}, {"x": 2**53 + 1}, False),
    ({"x": 2**63 - 1}, {"x": 2**63 - 1}, True),
    ({"a.b": 1}, {"a": {"b": 1}}, True),
    ({"a.b": 1}, {"a.b": 1}, False),
    ({"a.b": 1}, {"a": [{"b": 1}]}, False),
    ({"a b.ü": "ö"}, {"a b": {"ü": "ö"}}, True),
    ({"a]b[0]": 1}, {"a]b[0]": 1}, True),
    ({"x": {"$not": {"$gte": 2}}}, {"x": 1}, True),
    ({"$not": {"x": 1}, "y": 2}, {"x": 2, "y": 2}, True),
    ({"$or": [{"x": 1}, {"y": 1}]}, {"y": 1}, True),
    ({"$and": [{"x": 1}, {"y": 1}]}, {"y": 1}, False),
    ({"x": {"$in": [1.5, "a", None, False]}}, {"x": False}, True),
    ({"x": -0.0}, {"x": 0}, True),
    ({"x": {"$gte": "2024-03-15"}}, {"x": "2024-03-15"}, True),
    ({"x": {"$gte": "2024-03-15"}}, {"x": "2024-03-14T23:59"}, False),
    ({"x": {"$lte": "2024-03-15"}}, {"x": "2024-03-15T18:00:00Z"}, True),
    ({"x": {"$gt": "2024-03"}}, {"x": "2024-03-31"}, False),
    ({"x": {"$gt": "2024-03"}}, {"x": "1 April 2024"}, True),
    ({"x": {"$lt": "2024-03-15"}}, {"x": "14.03.2024"}, True),
    ({"x": {"$lt": "2024-03-15"}}, {"x": "2024"}, True),
    ({"x": {"$gte": "2024-03-15T10:00:00Z"}}, {"x": "2024-03-15T11:30:00+02:00"}, False),
    ({"x": {"$gte": "2024-03-15T10:00:00"}}, {"x": "2024-03-15 11:30"}, True),
    ({"x": {"$gte": "2024-03-15"}}, {"x": 20240316}, False),
    ({"x": {"$gte": "2024-03-15"}}, {"x": ["2023-01-01", "2025-01-01"]}, True),
    ({"x": {"$gt": "b"}}, {"x": "c"}, True),
    ({"x": {"$gt": "b"}}, {"x": "B"}, False),
    ({"x": {"$gt": "b"}}, {}, False),
    ({"x": {"$contains": "nua"}}, {"x": "manual"}, True),
    ({"x": {"$contains": "Nua"}}, {"x": "manual"}, False),
    ({"x": {"$contains": "hr"}}, {"x": ["it", "hr"]}, True),
    ({"x": {"$contains": 2}}, {"x": [1, 2]}, True),
    ({"x": {"$contains": ["hr", "it"]}}, {"x": ["it", "hr"]}, True),
    ({"x": {"$contains": ["hr", "it"]}}, {"x": ["hr"]}, False),
    ({"x": {"$startsWith": "man"}}, {"x": "manual"}, True),
    ({"x": {"$startsWith": "man"}}, {"x": "a manual"}, False),
    ({"x": {"$not": {"$startsWith": "man"}}}, {}, True),
    ({"x": {"$endsWith": "ual"}}, {"x": "manual"}, True),
    ({"x": {"$endsWith": "ual"}}, {"x": "manuals"}, False),
    ({"x": {"$endsWith": "1"}}, {"x": 1}, False),
    ({"x": {"$endsWith": "b"}}, {"x": ["a", "ab"]}, True),
    ({"x": {"$exists": True}}, {"x": 0}, True),
    ({"x": {"$exists": True}}, {"x": None}, True),
    ({"x": {"$exists": True}}, {"x": []}, False),
    ({"x": {"$exists": True}}, {"x": {}}, True),
    ({"x": {"$exists": False}}, {"y": 1}, True),
    ({"a.b": {"$exists": True}}, {"a": {"b": [0]}}, True),
    ({"a.b": {"$exists": True}}, {"a": [{"b": 1}]}, False),
]


@pytest.fixture(scope="module")
def stores() -> Iterator[EdgeStores]:
    with tempfile.TemporaryDirectory() as folder:
        opened = EdgeStores(Path(folder))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def random_store(stores: EdgeStores) -> EdgeStore:
    return stores.create("random", dim=1)


def stored(store: EdgeStore, documents: list[dict[str, Any]]) -> None:
    store.upsert(
        [
            Point(str(UUID(int=at)), {"kind": "chunk", "metadata": metadata}, [1.0])
            for at, metadata in enumerate(documents)
        ]
    )


def found(store: EdgeStore, condition: Condition, documents: list[dict[str, Any]]) -> set[int]:
    texts = {
        field: {
            one
            for document in documents
            for one in values_at(document, field)
            if isinstance(one, str)
        }
        for field in text_fields(condition)
    }
    native = without_text(condition, texts)
    [hits] = store.search([("dense", [1.0], 100)], native)
    sent = to_client(native).model_dump(mode="json", exclude_none=True)
    [on_server] = store._fetch([("dense", [1.0], 100)], qdrant_double._filter(sent), False)
    assert {hit.id for hit in on_server} == {hit.id for hit in hits}
    return {UUID(hit.id).int for hit in hits}


@pytest.mark.parametrize(("raw", "metadata", "passes"), MEANING)
def test_an_operator_means_what_the_text_says(
    raw: dict[str, Any], metadata: dict[str, Any], passes: bool
) -> None:
    """The documented meaning, case by case, in the reference."""
    assert matches(parsed(raw), metadata) is passes


def test_the_embedded_store_means_the_same(stores: EdgeStores) -> None:
    """Every documented case again, in the engine."""
    store = stores.create("meaning", dim=1)
    documents = [metadata for _, metadata, _ in MEANING]
    stored(store, documents)
    for at, (raw, _, passes) in enumerate(MEANING):
        assert (at in found(store, parsed(raw), documents)) is passes, raw
    store.close()


WORDS = ["", "a", "A", "1", "true", "ü", "a.b", "null", "2024", "2024-03-15", "2024-03-15T10:00Z"]
NUMBERS = [0, 1, 2, -1, 1.0, 1.5, -0.0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 1e300, 0.1, 3]
SCALARS = st.sampled_from([*WORDS, *NUMBERS, True, False, None])
FIELDS = ["x", "y", "a.b", "a", "a b", "n-1"]
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
    st.dictionaries(
        st.sampled_from(["b", "c", "1"]), st.one_of(SCALARS, st.lists(SCALARS, max_size=2))
    ),
)
METADATA = st.dictionaries(st.sampled_from(["x", "y", "a", "a b", "n-1"]), VALUES)
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), SCALARS),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from(NUMBERS)),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from(WORDS)),
    st.tuples(
        st.sampled_from(["$contains", "$startsWith", "$endsWith"]), st.sampled_from(WORDS[1:])
    ),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, min_size=1, max_size=4)),
)
LEAVES = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), SCALARS, min_size=1, max_size=2),
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.lists(OPERATIONS, min_size=1, max_size=2).map(dict),
        min_size=1,
        max_size=2,
    ),
    st.builds(lambda f, o: {f: {"$not": dict([o])}}, st.sampled_from(FIELDS), OPERATIONS),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda one: {"$not": one}, inner),
        st.builds(lambda many: {"$and": many}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda many: {"$or": many}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_the_engine_finds_what_brute_force_finds(random_store: EdgeStore, examples: int) -> None:
    """Random filters over random metadata: the engine's answer is the reference's."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        documents=st.lists(METADATA, min_size=30, max_size=30),  # each example replaces all of them
        filters=st.lists(FILTERS, min_size=20, max_size=30),
    )
    def agree(documents: list[dict[str, Any]], filters: list[dict[str, Any]]) -> None:
        stored(random_store, documents)
        for raw in filters:
            condition = parsed(raw)
            expected = {at for at, one in enumerate(documents) if matches(condition, one)}
            assert found(random_store, condition, documents) == expected, raw

    agree()


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024", "2024"), ("2024-03", "2024-03"), ("2024-03-15", "2024-03-15"),
        ("2024-03-15T10:30:00.123+02:00", "2024-03-15"), ("2024/03/15", "2024-03-15"),
        ("15.3.2024", "2024-03-15"), ("15. März 2024", "2024-03-15"), ("15 mars 2024", "2024-03-15"),
        ("March 15, 2024", "2024-03-15"), ("1st of May 2025", "2025-05-01"), ("Sept 2024", "2024-09"),
        ("Fri, 15 Mar 2024 10:30:00 +0100", "2024-03-15"),
        ("2024-13-01", None), ("30.02.2024", None), ("1.10", None), ("2024-3", None),
        ("12345", None), ("Room 2024", None), ("03/04/2024", None), ("", None),
    ],
)  # fmt: skip
def test_dates_are_read_as_people_write_them(text: str, date: str | None) -> None:
    """With the precision they have; what is ambiguous or impossible is none."""
    moment = parse_date(text)

    assert (moment and moment.text) == date


def test_a_field_that_nobody_has_is_named(retriever: Retriever) -> None:
    """In the warnings of the response, whether something passes or nothing does."""
    retriever.ingest_documents(
        LoadedDocument(name, "", name, f"Note {name}.", "text/plain", metadata={"date": date})
        for name, date in (("a", "2024-03-15"), ("b", "2025-01-01"))
    )

    def ask(filters: dict[str, Any]) -> tuple[list[str], list[str]]:
        answer = retriever.retrieve(RetrieveRequest(query="note", filters=filters))
        return sorted(one.document_id for one in answer.results), answer.warnings

    assert ask({"date": {"$gte": "2025"}}) == (["b"], [])
    assert ask({"date": {"$contains": "03"}}) == (["a"], [])
    for filters, passes in (({"dat": "x"}, []), ({"dat": {"$ne": "x"}}, ["a", "b"])):
        results, (warning,) = ask(filters)
        assert results == passes
        assert "metadata field 'dat'" in warning
    retriever.ingest_documents(
        [LoadedDocument("c", "", "c", "Note c.", "text/plain", metadata={"dat": "x"})]
    )
    assert ask({"dat": {"$startsWith": "x"}}) == (["c"], [])
