"""A service over a Qdrant server that gives what it must not, or is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from inside import Inside
from qdrant_double import Faults, QdrantDouble
from service_kit import settings
from test_tenants import upload

pytestmark = pytest.mark.xdist_group("over_qdrant")


@pytest.fixture(scope="module")
def double() -> Iterator[QdrantDouble]:
    with QdrantDouble() as double:
        yield double


@pytest.fixture(scope="module")
def service(double: QdrantDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    env = {"RAG_STORE": "qdrant", "RAG_QDRANT_URL": double.url, "RAG_QDRANT_TIMEOUT_S": "30"}
    home = tmp_path_factory.mktemp("over")
    with Inside(settings(probe_retry_s=0.05), home, env) as service:
        yield service


@contextmanager
def searching(
    double: QdrantDouble, *, unfiltered: bool = False, collection: str = ""
) -> Iterator[None]:
    """Change what the double searches, its filter or collection; everything else stays right."""
    right = double.answer

    def wrong(method: str, path: str, body: Any) -> Any:
        if path.endswith("/points/query/batch"):
            path = f"/collections/{collection}/points/query/batch" if collection else path
            if unfiltered:
                body = {"searches": [search | {"filter": None} for search in body["searches"]]}
        return right(method, path, body)

    double.answer = wrong  # type: ignore[method-assign]
    try:
        yield
    finally:
        del double.answer  # type: ignore[method-assign]


def test_threat_cross_tenant_leak_by_a_store_that_ignores_filter_and_collection(
    service: Inside, double: QdrantDouble
) -> None:
    """What the filter excludes is 502; what belongs to another collection is left out."""
    for tenant in (1, 2):
        names = [f"{tenant}.txt", "same.txt"]
        url = f"/v1/documents?collection=t{tenant}-a"
        made = service.ask("POST", url, json=upload(tenant, *names))
        assert made.status_code == 200, made.text
    own = {"query": "ferry at seven", "collection": "t1-a", "top_k": 20}
    filtered = own | {"filters": {"owner": {"$ne": "owner1"}}}
    good = service.ask("POST", "/v1/search", json=own)
    none = service.ask("POST", "/v1/search", json=filtered)
    violated = service.metric("rag_contract_violation_total")
    paths = ("/v1/search", "/rag_modules")
    with searching(double, unfiltered=True):
        ignoring = [service.ask("POST", path, json=filtered) for path in paths]
    with searching(double, collection="rag_t2-a"):
        mixed = [service.ask("POST", path, json=own) for path in paths]

    assert {one["document_id"] for one in good.json()["results"]} == {"1.txt", "same.txt"}
    assert none.json()["results"] == []
    assert [one.status_code for one in ignoring] == [502, 502]
    assert {one.json()["error"]["code"] for one in ignoring} == {"retriever_bad_response"}
    assert service.metric("rag_contract_violation_total") - violated == 2
    assert [one.status_code for one in mixed] == [200, 200]
    assert mixed[0].json()["results"] == []
    assert mixed[1].json()["finish_reason"] == "no_context"
    assert not any("mark2x" in one.text for one in (*ignoring, *mixed))
    assert not any("mark1x" in one.text for one in ignoring)


def until(service: Inside, status: int) -> Any:
    """Return the answer of /readyz once it has this status."""
    end = time.monotonic() + 60
    while (answer := service.ask("GET", "/readyz")).status_code != status:
        assert time.monotonic() < end, answer.text
    return answer


def test_fault_liveness_and_readiness_while_the_store_is_gone(
    service: Inside, double: QdrantDouble
) -> None:
    """An outage of what a question needs: not ready, alive, not restarted; ready again by itself."""
    ready = until(service, 200)
    double.faults = Faults(status=500)
    gone = until(service, 503)
    alive = service.ask("GET", "/healthz")
    asked = service.ask("POST", "/v1/search", json={"query": "ferry"})
    double.faults = Faults()
    again = until(service, 200)

    assert ready.json() == again.json()
    assert (again.json()["status"], again.json()["runner"]) == ("ready", "local")
    assert gone.json()["error"]["code"] == "retriever_unavailable"
    assert int(gone.headers["retry-after"]) >= 1
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert asked.json()["error"]["code"] == "retriever_unavailable"
