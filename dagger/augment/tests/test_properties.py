from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_augment.models import AugmentResponse

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.one_of(
    NAMES,
    st.lists(
        st.sampled_from(["the", "board", "may", "sign", "not", "5", "6", "\u200b"]), max_size=60
    ).map(" ".join),
)
RESULTS = st.fixed_dictionaries(
    {
        "chunk_id": NAMES,
        "document_id": st.sampled_from(["a", "b"]),
        "text": TEXTS,
        "span": st.lists(st.integers(-5, 400), min_size=2, max_size=2),
        "score": FLOATS,
    },
    optional={
        "title": NAMES,
        "source": NAMES,
        "page": st.none() | st.integers(1, 9),
        "scores": st.dictionaries(st.sampled_from(["dense", "sparse", "rerank"]), FLOATS),
        "metadata": st.dictionaries(NAMES, JSON, max_size=3),
        "foreign": JSON,
        "marker": JSON,
    },
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS}
)
OPTIONS = st.fixed_dictionaries(
    {"seed": st.integers()},
    optional={
        "max_context_tokens": st.integers(16, 100),
        "near_duplicate": st.floats(0.1, 1),
        "order": st.sampled_from(["score", "document"]),
        "spotlight": st.sampled_from(["delimit", "datamark", "none"]),
        "min_relevance": st.none() | FLOATS,
        "max_history_messages": st.integers(0, 4),
        "max_history_tokens": st.integers(0, 50),
    },
)
REQUESTS = st.fixed_dictionaries(
    {
        "query": NAMES.map(lambda text: f"q{text}"),
        "results": st.lists(RESULTS, max_size=8),
        "augment": OPTIONS,
    },
    optional={
        "messages": st.lists(MESSAGES, max_size=5),
        "no_context": st.sampled_from(["abstain", "answer", "error"]),
        "collection": NAMES,
        "unknown": JSON,
        "warnings": st.lists(NAMES, max_size=2),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=REQUESTS)
def test_whatever_is_sent_survives_and_is_accounted_for(handler, sent: dict[str, Any]) -> None:
    """Each result is in the prompt or left out, once; what is in the prompt is untouched."""
    text = handler(json.dumps(sent))
    assert handler(json.dumps(sent)) == text
    response = json.loads(text)
    AugmentResponse.model_validate(response, strict=True)
    placed = [item["chunk_id"] for item in [*response["contexts"], *response["left_out"]]]
    assert Counter(placed) == Counter(item["chunk_id"] for item in sent["results"])
    assert [item["marker"] for item in response["contexts"]] == [
        n for n, _ in enumerate(response["contexts"], start=1)
    ]
    unmatched = list(sent["results"])
    for context in response["contexts"]:
        original = next(item for item in unmatched if _untouched(item, context))
        unmatched.remove(original)
    for name in ("collection", "unknown", "augment", "query"):
        assert response.get(name) == sent.get(name)
    budget = sent["augment"].get("max_context_tokens", 2048)
    assert response["context_usage"]["context_tokens"] <= budget
    wanted = response["decision"]["answerable"] or response["no_context"] == "answer"
    assert bool(response["prompt"]) is wanted
    assert response["warnings"][: len(sent.get("warnings", []))] == sent.get("warnings", [])


def _untouched(result: dict[str, Any], context: dict[str, Any]) -> bool:
    return all(
        name in context and context[name] == value
        for name, value in result.items()
        if name != "marker"
    )
