"""Access lists: documents of shared collections, each for some groups; nobody reads another's."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from inside import Inside, questions
from pydantic import SecretStr
from service_kit import settings

pytestmark = pytest.mark.xdist_group("access")

MARK = re.compile(r"mark(\d+)x")
USERS, GROUPS = 50, [f"g{at}" for at in range(12)]
COLLECTIONS, DOCUMENTS = ("east", "west", "north"), 16
WORDS = ("Who may sign contracts?", "the keeper of the lighthouse", "ferry at seven", "Anna", "*")
FIELD = "allowed_groups"


class World:
    """Users by name with their groups, and documents by number with who may read them."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.users: dict[str, list[str] | None] = {
            f"u{at}": chance.sample(GROUPS, k=chance.randint(0, 4)) for at in range(USERS)
        }
        self.users["everything"] = None
        self.documents: dict[int, Any] = {}
        for at in range(len(COLLECTIONS) * DOCUMENTS):
            some = chance.sample(GROUPS, k=chance.randint(1, 3))
            self.documents[at] = chance.choice([None, some, some, some[0]])

    def collection(self, document: int) -> str:
        return COLLECTIONS[document // DOCUMENTS]

    def metadata(self, document: int) -> dict[str, Any]:
        allowed = self.documents[document]
        return {"number": document} | ({} if allowed is None else {FIELD: allowed})

    def readable(self, user: str) -> set[int]:
        """What a user may read, in all collections."""
        groups = self.users[user]
        return {
            at
            for at, allowed in self.documents.items()
            if groups is None
            or allowed is None
            or set(groups) & set(allowed if isinstance(allowed, list) else [allowed])
        }


def bearer(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-of-{user}-0123456789"}


@pytest.fixture(scope="module")
def world(lane: Any) -> World:
    return World(lane.seed)


@pytest.fixture(scope="module")
def inside(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """A service with the documents and users of the world."""
    keys = [
        {"name": name, "key": f"key-of-{name}-0123456789", "write": True, "groups": groups}
        for name, groups in world.users.items()
    ]
    given = settings(api_keys=SecretStr(json.dumps(keys)), max_concurrency=4)
    with Inside(given, tmp_path_factory.mktemp("access")) as opened:
        for collection in COLLECTIONS:
            documents = [
                {
                    "document_id": f"d{at}.txt",
                    "text": f"The keeper of the lighthouse is Anna mark{at}x. The ferry leaves at "
                    f"seven, says mark{at}x. The board of mark{at}x may sign contracts.",
                    "metadata": world.metadata(at),
                }
                for at in world.documents
                if world.collection(at) == collection
            ]
            url = f"/v1/documents?collection={collection}"
            body = {"documents": documents}
            made = opened.ask("POST", url, json=body, headers=bearer("everything"))
            assert len(made.json()["added"]) == DOCUMENTS, made.text
        yield opened


def marks(answer: httpx.Response) -> set[int]:
    """The documents whose words are in an answer."""
    return {int(found) for found in MARK.findall(f"{answer.text} {answer.headers!r}")}


def tricks(chance: random.Random, world: World) -> dict[str, Any] | None:
    """A filter, often one that asks for what the user may not read."""
    group = chance.choice(GROUPS)
    return chance.choice(
        [
            None,
            {FIELD: group},
            {FIELD: {"$in": GROUPS}},
            {FIELD: {"$exists": True}},
            {"$not": {FIELD: {"$nin": GROUPS}}},
            {"$or": [{FIELD: {"$exists": True}}, {FIELD: {"$exists": False}}]},
            {"number": chance.choice(list(world.documents))},
            {"number": {"$gte": 0}},
        ]
    )


def test_a_search_finds_exactly_what_its_user_may_read(inside: Inside, world: World) -> None:
    """Not less either: the rule is applied before the best are chosen."""
    for user in world.users:
        for collection in COLLECTIONS:
            body = {"query": "keeper of the lighthouse", "collection": collection, "top_k": 100}
            body["retrieve"] = {"max_per_document": 1}
            found = inside.ask("POST", "/v1/search", json=body, headers=bearer(user))
            here = {at for at in world.documents if world.collection(at) == collection}
            assert marks(found) == world.readable(user) & here, user


@pytest.mark.timeout(7200)
def test_threat_cross_tenant_leak_by_access_lists(
    inside: Inside, world: World, lane: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 users, shared collections, every interface, filters that ask for more (full: 100,000)."""
    chance = random.Random(lane.seed)
    users = sorted(world.users)
    found = asked = 0
    for _ in range(lane(200, 100_000)):
        user, collection = chance.choice(users), chance.choice(COLLECTIONS)
        document = chance.choice(list(world.documents))
        where = f"collection={world.collection(document)}"
        calls = [
            *questions(collection, chance.choice(WORDS), tricks(chance, world)),
            {"method": "GET", "url": f"/v1/documents?{where}"},
            {"method": "GET", "url": f"/v1/documents/d{document}.txt?{where}"},
        ]
        call = chance.choice(calls)
        headers = {**bearer(user), **call.get("headers", {})}
        more = {"json": call["json"]} if "json" in call else {}
        answer = inside.ask(call.get("method", "POST"), call["url"], headers=headers, **more)
        assert answer.status_code in (200, 404), (user, call, answer.text)
        told = marks(answer)
        if answer.headers["content-type"] == "application/json" and "documents?" in call["url"]:
            told |= {int(each["document_id"][1:-4]) for each in answer.json()["documents"]}
        assert told <= world.readable(user), (user, call, answer.text)
        found, asked = found + len(told), asked + 1
    assert found > asked / 10, "most requests find something that may be read"
    with capsys.disabled():
        if lane.name == "full":
            sys.stdout.write(f"\nusers {USERS}, requests {asked}, foreign 0 (seed {lane.seed})\n")


def hidden_from(world: World, user: str) -> int:
    return min(set(world.documents) - world.readable(user))


def test_a_hidden_document_looks_as_if_it_did_not_exist(inside: Inside, world: World) -> None:
    """Shown or deleted; what concerns the whole collection is not for those who see a part of it."""
    user = "u0"
    document = hidden_from(world, user)
    where = f"collection={world.collection(document)}"
    for method in ("GET", "DELETE"):
        told = [
            inside.ask(method, f"/v1/documents/{name}.txt?{where}", headers=bearer(user))
            for name in (f"d{document}", "nothere")
        ]
        assert [one.status_code for one in told] == [404, 404]
        bodies = [re.sub("nothere|d[0-9]+|req_[0-9a-f]+", "NAME", one.text) for one in told]
        assert bodies[0] == bodies[1]
    url = f"/v1/documents/d{document}.txt?{where}"
    assert inside.ask("GET", url, headers=bearer("everything")).status_code == 200
    for method, path in (
        ("DELETE", "/v1/collections/east"),
        ("POST", "/v1/collections/east/reindex"),
    ):
        assert inside.ask(method, path, headers=bearer(user)).status_code == 403


def test_another_user_s_ingest_reads_like_an_unknown_one(inside: Inside) -> None:
    body = {"documents": [{"document_id": "own.txt", "text": "Own."}]}
    made = inside.ask("POST", "/v1/documents?collection=own", json=body, headers=bearer("u1"))
    told = [
        inside.ask("GET", f"/v1/ingests/{job}", headers=bearer("u2"))
        for job in (made.json()["id"], "ingest_" + "0" * 32)
    ]
    bodies = [re.sub("ingest_[0-9a-f]+|req_[0-9a-f]+", "NAME", one.text) for one in told]
    assert [one.status_code for one in told] == [404, 404]
    assert bodies[0] == bodies[1]
    assert inside.ask("GET", f"/v1/ingests/{made.json()['id']}", headers=bearer("u1")).is_success


def test_an_error_about_a_filter_is_about_the_caller_s_own(inside: Inside) -> None:
    body = {"query": "x", "collection": "east", "filters": {"number": {"$nope": 7}}}
    told = [
        inside.ask("POST", "/v1/search", json=body, headers=bearer(user)).json()["error"]
        for user in ("u0", "everything")
    ]
    assert [one["param"] for one in told] == ["filters.number.$nope"] * 2
    assert told[0]["message"] == told[1]["message"]


@pytest.mark.parametrize("allowed", [[], None, 5, ["g1", 5], {"g1": True}])
def test_an_access_list_that_names_no_group_is_refused(inside: Inside, allowed: Any) -> None:
    """It would hide a document from everybody, or from nobody."""
    document = {"document_id": "odd.txt", "text": "Odd.", "metadata": {FIELD: allowed}}
    url = "/v1/documents?collection=odd"
    body = {"documents": [document]}
    answer = inside.ask("POST", url, json=body, headers=bearer("everything"))
    assert answer.status_code == 422
    assert FIELD in answer.json()["error"]["message"]


def test_files_are_for_the_groups_that_their_upload_names(inside: Inside, world: World) -> None:
    files = {
        "files": ("plan.md", b"---\nallowed_groups: [g9]\n---\n# Plan\n\nThe plan mark999x.\n")
    }
    url = "/v1/documents?collection=files&allowed_groups=g1&allowed_groups=g2"
    assert inside.ask("POST", url, files=files, headers=bearer("everything")).status_code == 200
    for user, groups in world.users.items():
        shown = inside.ask("GET", "/v1/documents/plan.md?collection=files", headers=bearer(user))
        assert shown.is_success is (groups is None or bool({"g1", "g2"} & set(groups))), user


# -- groups from a trusted proxy ---------------------------------------------------------------


Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module", params=["trusted", "untrusted"])
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[bool, Ask]]:
    """A service that takes groups from a header; whether it believes it, and how to search."""
    trusted = request.param == "trusted"
    keys = [
        {"name": "app", "key": "key-of-app-0123456789"},
        {"name": "half", "key": "key-of-half-0123456789", "groups": ["g1", "g2"]},
        {"name": "writer", "key": "key-of-writer-0123456789", "write": True},
    ]
    given = settings(
        api_keys=SecretStr(json.dumps(keys)),
        groups_header="X-Auth-Groups",
        trusted_proxies=("127.0.0.1",) if trusted else ("10.0.0.0/8",),
    )
    with Inside(given, tmp_path_factory.mktemp("header")) as opened:
        documents = [
            {"document_id": "0", "text": "For everybody, mark0x."},
            *(
                {
                    "document_id": f"{at}",
                    "text": f"For some, mark{at}x.",
                    "metadata": {FIELD: f"g{at}"},
                }
                for at in (1, 2, 3)
            ),
        ]
        body = {"documents": documents}
        assert opened.ask("POST", "/v1/documents", json=body, headers=bearer("writer")).is_success

        def search(user: str, groups: str | None) -> httpx.Response:
            told = {} if groups is None else {"x-auth-groups": groups}
            body = {"query": "For some", "top_k": 100}
            return opened.ask("POST", "/v1/search", json=body, headers={**bearer(user), **told})

        yield trusted, search


@pytest.mark.parametrize(
    ("user", "groups", "believed", "otherwise"),
    [
        ("app", "g1, g3", {0, 1, 3}, {0}),
        ("app", "", {0}, {0}),
        ("app", None, {0}, {0}),
        ("app", " g2 ,,", {0, 2}, {0}),
        ("app", "G2", {0}, {0}),
        ("half", "g2,g3", {0, 2}, {0, 1, 2}),
        ("half", None, {0, 1, 2}, {0, 1, 2}),
        ("half", "", {0}, {0, 1, 2}),
    ],
)
def test_groups_come_from_trusted_proxies_alone_and_narrow_a_key_s_own(
    proxied: tuple[bool, Ask],
    user: str,
    groups: str | None,
    believed: set[int],
    otherwise: set[int],
) -> None:
    trusted, search = proxied
    assert marks(search(user, groups)) == (believed if trusted else otherwise)


def test_more_groups_than_can_be_checked_are_refused(proxied: tuple[bool, Ask]) -> None:
    trusted, search = proxied
    answer = search("app", ",".join(f"group{at}" for at in range(257)))
    assert answer.status_code == (403 if trusted else 200)


# -- a retriever that does not do what the filter says ------------------------------------------


@pytest.mark.parametrize("kind", ["results", "contexts"])
def test_what_comes_back_is_checked_again(kind: str) -> None:
    from rag_kit.errors import StepError
    from rag_service.access import check_passages

    def text(allowed: Any) -> str:
        metadata = {} if allowed is None else {FIELD: allowed}
        return json.dumps({kind: [{"metadata": {}}, {"metadata": metadata}]})

    for allowed in (None, "g1", ["g3", "g1"]):
        check_passages(frozenset({"g1"}), text(allowed))
    for allowed in ("g2", ["g2"], [1], {"g1": 1}, 5, ""):
        check_passages(None, text(allowed))
        with pytest.raises(StepError) as refused:
            check_passages(frozenset({"g1"}), text(allowed))
        assert refused.value.code == "retriever_bad_response"
