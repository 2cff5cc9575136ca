"""Filters on metadata: what is refused, what each operator means, and both stores agreeing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_kit.errors import StepError
from rag_retrieve.search.filters import Compare, Condition, matches, parse_filters
from rag_retrieve.stores.base import Point
from rag_retrieve.stores.embedded.collection import EdgeStore
from rag_retrieve.stores.embedded.database import EdgeStores


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
        ({"year": {"$gt": "2020"}}, "filters.year.$gt", "numbers only, but got text"),
        ({"year": {"$gt": True}}, "filters.year.$gt", "a boolean"),
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


def found(store: EdgeStore, condition: Condition) -> set[int]:
    [hits] = store.search([("dense", [1.0], 100)], condition)
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
    stored(store, [metadata for _, metadata, _ in MEANING])
    for at, (raw, _, passes) in enumerate(MEANING):
        assert (at in found(store, parsed(raw))) is passes, raw
    store.close()


WORDS = ["", "a", "A", "1", "true", "ü", "a.b", "null"]
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


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    documents=st.lists(METADATA, min_size=30, max_size=30),  # each example replaces all of them
    filters=st.lists(FILTERS, min_size=20, max_size=30),
)
def test_the_engine_finds_what_brute_force_finds(
    documents: list[dict[str, Any]], filters: list[dict[str, Any]], random_store: EdgeStore
) -> None:
    """Random filters over random metadata: the engine's answer is the reference's."""
    stored(random_store, documents)
    for raw in filters:
        condition = parsed(raw)
        expected = {at for at, one in enumerate(documents) if matches(condition, one)}
        assert found(random_store, condition) == expected, raw
