"""Keys with collections of their own: nobody gets to see what belongs to another one.

A state machine of random requests on every interface, by up to 50 tenants of one service.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from inside import TENANTS, Inside, bearer, questions

pytestmark = pytest.mark.xdist_group("inside")

MARK = re.compile(r"mark(\d+)x")
SUFFIXES = ("a", "b")
DOCUMENTS = ("one.txt", "two.txt", "same.txt")
FIELDS = ("owner", "topic", "nothing")


def text_of(tenant: int, name: str) -> str:
    """A document that says in every sentence whose it is."""
    return (
        f"The keeper of the lighthouse is Anna mark{tenant}x. The ferry of {name} leaves at seven, "
        f"says mark{tenant}x. Who may sign contracts? The board of mark{tenant}x may sign contracts."
    )


# -- the interfaces ------------------------------------------------------------------------------


def others(collection: str, document: str) -> list[dict[str, Any]]:
    """Everything else that can be asked of a collection."""
    where = f"collection={collection}"
    return [
        {"method": "GET", "url": f"/v1/documents?{where}"},
        {"method": "GET", "url": f"/v1/documents/{document}?{where}"},
        {"method": "DELETE", "url": f"/v1/documents/{document}?{where}"},
        {"method": "POST", "url": f"/v1/documents?{where}", "json": upload(0, "x.txt")},
        {"method": "POST", "url": f"/v1/collections/{collection}/reindex"},
        {"method": "DELETE", "url": f"/v1/collections/{collection}"},
        {"method": "GET", "url": f"/v1/models/rag/{collection}"},
    ]


def upload(tenant: int, *names: str) -> dict[str, Any]:
    metadata = {"owner": f"owner{tenant}", "topic": "ferry", "mark": f"mark{tenant}x"}
    return {
        "documents": [
            {"document_id": name, "text": text_of(tenant, name), "metadata": metadata}
            for name in names
        ]
    }


def ask(inside: Inside, tenant: int | None, request: dict[str, Any]) -> httpx.Response:
    """Send it with a tenant's key (None: the key of all)."""
    name = "all" if tenant is None else f"t{tenant}"
    headers = {"x-request-id": "same", **bearer(name), **request.get("headers", {})}
    more = {"json": request["json"]} if "json" in request else {}
    return inside.ask(request.get("method", "POST"), request["url"], headers=headers, **more)


def foreign(answer: httpx.Response, tenant: int) -> set[str]:
    """Marks of others in an answer, its headers too."""
    told = f"{answer.text} {answer.headers!r}"
    return {found for found in MARK.findall(told) if found != str(tenant)}


# -- random walks ---------------------------------------------------------------------------------


def machine_of(inside: Inside, tenants: int) -> type[RuleBasedStateMachine]:
    """Return the machine for so many tenants."""
    who = st.integers(0, tenants - 1)
    suffix, name = st.sampled_from(SUFFIXES), st.sampled_from(DOCUMENTS)
    words = st.sampled_from(
        ["Who may sign contracts?", "the keeper of the lighthouse", "ferry at seven", "*", "Anna"]
    )

    class Machine(RuleBasedStateMachine):
        """What there is by tenant and collection; every answer is compared with it."""

        def __init__(self) -> None:
            super().__init__()
            self.there: dict[tuple[int, str], set[str]] = {}
            self.jobs: list[tuple[int, str]] = []

        def send(self, tenant: int, request: dict[str, Any]) -> httpx.Response:
            answer = ask(inside, tenant, request)
            assert answer.status_code < 500, (request, answer.text)
            assert foreign(answer, tenant) == set(), (tenant, request, answer.text)
            return answer

        @initialize(chosen=st.sets(who, min_size=2, max_size=2))
        def begin(self, chosen: set[int]) -> None:
            for tenant in chosen:
                self.ingest(tenant, "a", {"one.txt", "same.txt"})

        @rule(tenant=who, suffix=suffix, names=st.sets(name, min_size=1))
        def ingest_some(self, tenant: int, suffix: str, names: set[str]) -> None:
            self.ingest(tenant, suffix, names)

        def ingest(self, tenant: int, suffix: str, names: set[str]) -> None:
            url = f"/v1/documents?collection=t{tenant}-{suffix}"
            answer = self.send(tenant, {"url": url, "json": upload(tenant, *sorted(names))})
            assert answer.status_code == 200, answer.text
            self.there.setdefault((tenant, suffix), set()).update(names)
            self.jobs.append((tenant, answer.json()["id"]))

        def one_of(self, data: Any) -> tuple[int, str]:
            known = sorted(self.there)
            anyone = st.tuples(who, suffix)
            found: tuple[int, str] = data.draw(st.sampled_from(known) if known else anyone)
            return found

        @rule(query=words, at=st.integers(0, 8), data=st.data())
        def question(self, query: str, at: int, data: Any) -> None:
            tenant, suffix = self.one_of(data)
            filters = data.draw(st.none() | conditions(tenants))
            request = questions(f"t{tenant}-{suffix}", query, filters)[at]
            answer = self.send(tenant, request)
            known = self.there.get((tenant, suffix))
            if request["url"] != "/mcp":
                assert (answer.status_code == 404) is (known is None), answer.text

        @rule(tenant=who, at=st.integers(0, 8), data=st.data())
        def question_to_another(self, tenant: int, at: int, data: Any) -> None:
            of, suffix = self.one_of(data)
            if tenant == of:
                return
            answer = self.send(tenant, questions(f"t{of}-{suffix}", "ferry at seven", None)[at])
            assert answer.status_code == 404 or "collection_not_found" in answer.text

        @rule(tenant=who, name=name, at=st.integers(0, 6), data=st.data())
        def reach_for_another(self, tenant: int, name: str, at: int, data: Any) -> None:
            of, suffix = self.one_of(data)
            if tenant == of:
                return
            assert self.send(tenant, others(f"t{of}-{suffix}", name)[at]).status_code == 404

        @rule(tenant=who, name=crafted(tenants), at=st.integers(0, 8))
        def crafted_name(self, tenant: int, name: str, at: int) -> None:
            if name.startswith(f"t{tenant}-"):
                return
            answer = self.send(tenant, questions(name, "ferry at seven", None)[at])
            assert (
                answer.status_code in (404, 405, 422)
                or "collection_not_found" in answer.text
                or ("invalid_request" in answer.text)
            ), (name, answer.text)

        @rule(tenant=who, suffix=suffix, name=name)
        def delete(self, tenant: int, suffix: str, name: str) -> None:
            url = f"/v1/documents/{name}?collection=t{tenant}-{suffix}"
            answer = self.send(tenant, {"method": "DELETE", "url": url})
            known = self.there.get((tenant, suffix), set())
            assert (answer.status_code == 200) is (name in known)
            known.discard(name)

        @rule(tenant=who, suffix=suffix)
        def drop(self, tenant: int, suffix: str) -> None:
            url = f"/v1/collections/t{tenant}-{suffix}"
            answer = self.send(tenant, {"method": "DELETE", "url": url})
            assert (answer.status_code == 200) is ((tenant, suffix) in self.there)
            self.there.pop((tenant, suffix), None)

        @rule(tenant=who, suffix=suffix)
        def listing(self, tenant: int, suffix: str) -> None:
            own = {f"t{tenant}-{one}" for of, one in self.there if of == tenant}
            found = self.send(tenant, {"method": "GET", "url": "/v1/collections"}).json()
            assert {one["name"] for one in found["collections"]} == own
            models = self.send(tenant, {"method": "GET", "url": "/v1/models"}).json()
            assert {one["id"] for one in models["data"]} == {f"rag/{name}" for name in own}
            url = f"/v1/documents?collection=t{tenant}-{suffix}"
            answer = self.send(tenant, {"method": "GET", "url": url})
            if (known := self.there.get((tenant, suffix))) is not None:
                assert {one["document_id"] for one in answer.json()["documents"]} == known

        @rule(tenant=who, data=st.data(), more=st.sampled_from(["", "/events"]))
        def jobs_of_others(self, tenant: int, data: Any, more: str) -> None:
            if not self.jobs:
                return
            owner, job = data.draw(st.sampled_from(self.jobs))
            answer = self.send(tenant, {"method": "GET", "url": f"/v1/ingests/{job}{more}"})
            assert answer.status_code == 404 or owner == tenant

        def teardown(self) -> None:
            for tenant, suffix in self.there:
                url = f"/v1/collections/t{tenant}-{suffix}"
                ask(inside, None, {"method": "DELETE", "url": url})

    return Machine


def conditions(tenants: int) -> st.SearchStrategy[dict[str, Any]]:
    """Filters that name other owners, and those that everything passes."""
    field = st.sampled_from(FIELDS)
    value = st.integers(0, tenants - 1).map(lambda at: f"owner{at}")
    one = st.one_of(
        st.builds(lambda name, text: {name: text}, field, value),
        st.builds(lambda name, text: {name: {"$ne": text}}, field, value),
        st.builds(
            lambda name, texts: {name: {"$nin": texts}},
            field,
            st.lists(value, min_size=1, max_size=3),
        ),
        st.just({"$not": {"nothing": {"$eq": None}}}),
    )
    return one | st.builds(lambda parts: {"$or": parts}, st.lists(one, min_size=1, max_size=3))


def crafted(tenants: int) -> st.SearchStrategy[str]:
    """Names that are no own collection, but look like some or like patterns, paths and aliases."""
    of = st.integers(0, tenants - 1)
    forms = ("t{}-*", "t{}-a~g1", "t{}-[ab]", "t{}-?", "*", "T{}-a", "t{}-a.", "t{}_a", "rag_t{}-a")
    forms += (
        "t{}-a%2F..",
        "..%2Ft{}-a",
        "t{}-a%00",
        "%74{}-a",
        "t{}-a%20",
        "t{}-a;t0-a",
        "default",
    )
    return st.builds(lambda form, at: form.format(at), st.sampled_from(forms), of)


@pytest.mark.timeout(3600)
def test_threat_cross_tenant_leak(
    inside: Inside, lane: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of requests (full lane: 20,000) of all kinds: nothing of another tenant in any answer."""
    tenants, before = lane(6, TENANTS), inside.requests
    wanted, steps = lane(250, 20_000), 50
    at = 0
    while (asked := inside.requests - before) < wanted:
        machine = seed(lane.seed + at)(machine_of(inside, tenants))
        at += 1
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=lane(3, 40),
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    with capsys.disabled():
        if lane.name == "full":
            sys.stdout.write(
                f"\ntenants {tenants}, requests {asked}, foreign 0 (seed {lane.seed})\n"
            )


def test_fault_foreign_collection_looks_like_one_that_does_not_exist(inside: Inside) -> None:
    """Byte for byte the same answer but for the name, on every interface and route."""
    made = ask(inside, 1, {"url": "/v1/documents?collection=t1-aaaa", "json": upload(1, "one.txt")})
    assert made.status_code == 200
    denied = inside.metric("rag_authz_deny_total")
    pairs = zip(
        [*questions("t1-aaaa", "ferry", None), *others("t1-aaaa", "one.txt")],
        [*questions("t1-zzzz", "ferry", None), *others("t1-zzzz", "one.txt")],
        strict=True,
    )
    number = 0
    for foreign_one, missing_one in pairs:
        told = [ask(inside, 2, request) for request in (foreign_one, missing_one)]
        number += 2
        status = 200 if foreign_one["url"] == "/mcp" else 404
        assert [one.status_code for one in told] == [status, status], foreign_one
        bodies = [re.sub("t1-(aaaa|zzzz)", "NAME", one.text) for one in told]
        heads = [sorted(one.headers.items()) for one in told]
        assert bodies[0] == bodies[1], foreign_one
        assert heads[0] == heads[1], foreign_one
        assert "collection_not_found" in bodies[0] or "model" in foreign_one["url"]

    assert inside.metric("rag_authz_deny_total") - denied >= number - 2
    assert ask(inside, 1, {"method": "DELETE", "url": "/v1/collections/t1-aaaa"}).status_code == 200


def test_a_name_said_twice_is_checked_as_it_is_searched(inside: Inside) -> None:
    """The last one counts, for both: there is one parser."""
    ask(inside, 3, {"url": "/v1/documents?collection=t3-a", "json": upload(3, "one.txt")})
    told = []
    for first, last in (("t4-a", "t3-a"), ("t3-a", "t4-a")):
        body = f'{{"query": "ferry", "collection": "{first}", "collection": "{last}"}}'
        headers = {**bearer("t4"), "content-type": "application/json"}
        told.append(inside.ask("POST", "/v1/search", content=body, headers=headers))
    ask(inside, 3, {"method": "DELETE", "url": "/v1/collections/t3-a"})

    assert [one.status_code for one in told] == [404, 404]
    assert not any(MARK.findall(one.text) for one in told)
