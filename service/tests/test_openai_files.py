"""Files and vector stores, by the official `openai` client: upload, attach, ask, delete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from service_kit import copy_home, serving, settings

from rag_kit.errors import StepError
from rag_service.api.openai_lists import Paging
from rag_service.api.openai_stores import StoreFile
from rag_service.library.files import Attachment, Files, VectorStore

KEYS = {name: f"k-{name}-0123456789abcdef" for name in ("editors", "others", "readers", "hr")}
API_KEYS = json.dumps(
    [
        {"name": "editors", "key": KEYS["editors"], "write": True},
        {"name": "others", "key": KEYS["others"], "write": True},
        {"name": "readers", "key": KEYS["readers"]},
        {"name": "hr", "key": KEYS["hr"], "write": True, "collections": ["hr", "hr-*"]},
    ]
)
POLICY = (
    b"# Parking\n\nThe garage opens at five. Bicycles are parked in the yard behind the house.\n"
)
MENU = b"# Canteen\n\nOn Fridays the canteen serves fish. Vegetarian dishes are there every day.\n"


@pytest.fixture(scope="module")
def url(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = copy_home(filled, tmp_path_factory.mktemp("files") / "home")
    given = settings(api_keys=API_KEYS, max_files_bytes=100_000)
    with serving(given, home=home) as url:
        yield f"{url}/v1"


def client_of(url: str, name: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=KEYS[name], max_retries=0)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url, "editors") as client:
        yield client


def uploaded(client: openai.OpenAI, name: str, content: bytes) -> Any:
    return client.files.create(file=(name, BytesIO(content)), purpose="assistants")


def test_a_file_from_upload_to_answer_to_deletion(client: openai.OpenAI, url: str) -> None:
    """Uploaded, attached with attributes, found, cited with its id and name, read, taken out, deleted."""
    file = uploaded(client, "parking.md", POLICY)
    store = client.vector_stores.create(name="House rules", metadata={"team": "office"})
    assert (store.id, store.name, store.metadata) == (
        "House-rules",
        "House rules",
        {"team": "office"},
    )
    assert client.vector_stores.search(store.id, query="garage").data == []

    attached = client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, attributes={"floor": 3}, poll_interval_ms=20
    )
    found = client.vector_stores.search(
        store.id, query="garage", filters={"type": "eq", "key": "floor", "value": 3}
    )
    answer = client.responses.create(
        model="rag",
        input="When does the garage open?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
    )

    assert (attached.status, attached.attributes, attached.last_error) == (
        "completed",
        {"floor": 3},
        None,
    )
    assert [(one.file_id, one.filename) for one in found] == [(file.id, "parking.md")]
    cited: Any = answer.output[1]
    (citation,) = cited.content[0].annotations
    assert (citation.file_id, citation.filename) == (file.id, "parking.md")
    shown = httpx.get(
        citation.url, headers={"authorization": f"Bearer {KEYS['editors']}"}, trust_env=False
    )
    assert "garage opens at five" in shown.text
    assert f"rag/{store.id}" in [one.id for one in client.models.list()]
    (content,) = client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert content.text == POLICY.decode()
    state = client.vector_stores.retrieve(store.id)
    assert (state.status, state.file_counts.completed, state.file_counts.total) == (
        "completed",
        1,
        1,
    )
    assert client.files.content(file.id).read() == POLICY

    client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert client.vector_stores.search(store.id, query="garage").data == []
    assert client.files.retrieve(file.id).filename == "parking.md"
    assert client.files.delete(file.id).deleted
    assert client.vector_stores.delete(store.id).deleted
    for gone in (
        lambda: client.files.retrieve(file.id),
        lambda: client.vector_stores.retrieve(store.id),
        lambda: client.vector_stores.search(store.id, query="garage"),
    ):
        with pytest.raises(openai.NotFoundError):
            gone()


def test_a_batch_and_what_cannot_be_read(client: openai.OpenAI) -> None:
    """Each file has its own state; two may have one name; a deleted file leaves its stores."""
    files = [
        uploaded(client, "menu.md", MENU),
        uploaded(client, "menu.md", POLICY),
        uploaded(client, "page.pdf", b"%PDF-1.4 broken"),
        uploaded(client, "notes.xyz", b"text"),
    ]
    store = client.vector_stores.create()
    assert store.id.startswith("vs_")

    batch = client.vector_stores.file_batches.create_and_poll(
        vector_store_id=store.id, file_ids=[file.id for file in files], poll_interval_ms=20
    )
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    states = {file.id: file for file in listed}

    assert batch.status == "completed"
    assert (batch.file_counts.completed, batch.file_counts.failed) == (2, 2)
    assert [states[file.id].status for file in files] == ["completed"] * 2 + ["failed"] * 2
    errors = [states[file.id].last_error for file in files[2:]]
    assert [error and error.code for error in errors] == ["invalid_file", "unsupported_file"]
    failed = client.vector_stores.files.list(store.id, filter="failed")
    assert {file.id for file in failed} == {file.id for file in files[2:]}
    client.files.delete(files[0].id)
    left = client.vector_stores.search(store.id, query="canteen fish").data
    assert {item.file_id for item in left} == {files[1].id}
    client.vector_stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id)


def test_upload_and_poll_in_one_call(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="menus")
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("a.md", BytesIO(MENU)), ("b.md", BytesIO(POLICY))], poll_interval_ms=20
    )
    again = client.vector_stores.create(name="menus")

    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    assert again.id.startswith("menus-") and again.name == "menus"
    for one in (store, again):
        client.vector_stores.delete(one.id)


def test_collections_that_were_indexed_are_vector_stores(client: openai.OpenAI) -> None:
    """With the ids of their documents in place of files'."""
    stores = {store.id: store for store in client.vector_stores.list()}
    files = list(client.vector_stores.files.list("default", order="asc"))

    assert stores["default"].file_counts.completed == 3
    assert [file.id for file in files] == ["building.txt", "hours.md", "travel.md"]
    assert files[2].attributes == {"year": 2024, "topic": "travel", "owner": "finance"}
    content = client.vector_stores.files.content("travel.md", vector_store_id="default").data
    assert "finance director" in (content[0].text or "")


def test_a_vector_store_is_renamed_and_described_anew(client: openai.OpenAI, url: str) -> None:
    """One that was created, and a collection that was indexed; what is not named stays as it is."""
    store = client.vector_stores.create(name="Drafts", metadata={"team": "office", "state": "new"})

    renamed = client.vector_stores.update(store.id, name="Plans")
    described = client.vector_stores.update(store.id, metadata={"team": "board"})
    emptied = client.vector_stores.update(store.id, metadata={})
    indexed = client.vector_stores.update("hr", name="People", metadata={"a": "b"})

    assert (renamed.id, renamed.name, renamed.metadata) == (store.id, "Plans", store.metadata)
    assert (described.name, described.metadata) == ("Plans", {"team": "board"})
    assert emptied.metadata == {} and emptied.created_at == store.created_at
    assert (indexed.id, indexed.file_counts.completed) == ("hr", 1)
    shown = client.vector_stores.retrieve("hr")
    assert (shown.name, shown.metadata) == ("People", {"a": "b"})

    with pytest.raises(openai.NotFoundError):
        client.vector_stores.update("nowhere", name="x")
    with pytest.raises(openai.APIStatusError, match="do not expire here") as refused:
        client.vector_stores.update(
            store.id, expires_after={"anchor": "last_active_at", "days": 7}, name="Gone"
        )
    assert refused.value.param == "expires_after"
    assert client.vector_stores.retrieve(store.id).name == "Plans"
    with client_of(url, "readers") as reader, pytest.raises(openai.PermissionDeniedError):
        reader.vector_stores.update(store.id, name="Mine")


def test_one_key_knows_nothing_of_anothers_files(client: openai.OpenAI, url: str) -> None:
    file = uploaded(client, "secret.md", POLICY)
    with client_of(url, "others") as other:
        store = other.vector_stores.create(name="theirs")
        for call in (
            lambda: other.files.retrieve(file.id),
            lambda: other.files.content(file.id),
            lambda: other.files.delete(file.id),
            lambda: other.vector_stores.files.create(store.id, file_id=file.id),
            lambda: other.vector_stores.create(file_ids=[file.id]),
        ):
            with pytest.raises(openai.NotFoundError) as unknown:
                call()
            assert unknown.value.code == "not_found"
        assert list(other.files.list()) == []
        other.vector_stores.delete(store.id)
    client.files.delete(file.id)


def test_a_key_makes_vector_stores_of_its_own_names(url: str) -> None:
    with client_of(url, "hr") as hr, client_of(url, "readers") as readers:
        assert [store.id for store in hr.vector_stores.list()] == ["hr"]
        with pytest.raises(openai.PermissionDeniedError) as refused:
            hr.vector_stores.create(name="finance")
        assert refused.value.param == "name" and "hr-*" in refused.value.message
        store = hr.vector_stores.create(name="hr-forms")
        hr.vector_stores.delete(store.id)
        for foreign in ("default", "nowhere"):
            with pytest.raises(openai.NotFoundError):
                hr.vector_stores.retrieve(foreign)
        with pytest.raises(openai.PermissionDeniedError):
            uploaded(readers, "a.md", POLICY)
        with pytest.raises(openai.PermissionDeniedError):
            readers.vector_stores.create(name="x")
        with pytest.raises(openai.PermissionDeniedError):
            readers.vector_stores.delete("default")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/vector_stores", {"metadata": {"a": 1}}, 422, "metadata.a"),
        ("/vector_stores", {"file_ids": ["file-x"]}, 404, "file_ids.0"),
        ("/vector_stores/default/files", {}, 422, "file_id"),
        ("/vector_stores/default/files", {"file_id": "../x"}, 404, "file_id"),
        (
            "/vector_stores/default/files",
            {"file_id": "x", "attributes": {"a": []}},
            422,
            "attributes.a",
        ),
        ("/vector_stores/default/file_batches", {}, 422, "file_ids"),
        ("/vector_stores/default/file_batches", {"file_ids": []}, 422, "file_ids"),
        ("/vector_stores/default/file_batches", {"files": [{"file_id": "x"}]}, 404, "file_ids.0"),
        ("/vector_stores/a%20b/files", {"file_id": "x"}, 422, "collection"),
    ],
)
def test_refused(client: openai.OpenAI, path: str, body: Any, status: int, param: str) -> None:
    with pytest.raises(openai.APIStatusError) as failed:
        client.post(path, body=body, cast_to=object)

    assert (failed.value.status_code, failed.value.param) == (status, param)


def test_uploads_that_cannot_be(url: str) -> None:
    """No file, no form, a purpose that is none, more than a key may keep."""
    headers = {"authorization": f"Bearer {KEYS['others']}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:

        def outcome(**sent: Any) -> tuple[int, str | None]:
            response = client.post("/files", **sent)
            return response.status_code, response.json()["error"]["param"]

        assert outcome(data={"purpose": "x"}, files={"other": b"x"}) == (422, "file")
        assert outcome(json={"file": "x"}) == (415, None)
        assert outcome(files={"file": b"x"}, data={"purpose": "\n"}) == (422, "purpose")
        assert outcome(files={"file": b"x" * 100_001}) == (413, "file")
        named = client.post(
            "/files", files={"file": ("../../a\u202e.md", b"x")}, data={"extra": "1"}
        )
        assert named.json()["filename"] == "a.md"
        assert named.headers["x-rag-warning"] == "ignored: extra"
        shown = client.get(f"/files/{named.json()['id']}/content")
        assert shown.headers["content-disposition"].startswith("attachment")
        assert shown.headers["content-type"] == "application/octet-stream"
        client.delete(f"/files/{named.json()['id']}")


def test_they_outlive_the_service(tmp_path: Path) -> None:
    """Files, stores and attachments are on disk; an upload that was cut off is swept away."""
    files = Files(tmp_path, 1000)
    kept = files.add("me", "a.md", "assistants", BytesIO(b"text"), 4)
    files.create_store(VectorStore("s", "S", {"a": "b"}, 5))
    files.attach([Attachment("s", kept.id, "job", "batch", {"x": 1}, 7)])
    part = tmp_path / "files" / "file-0.part"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))

    again = Files(tmp_path, 1000)

    assert again.files("me") == [kept] and again.files("you") == []
    assert again.path(kept).read_bytes() == b"text"
    assert again.stores() == {"s": VectorStore("s", "S", {"a": "b"}, 5)}
    assert again.attachments("s") == again.attachments_of(kept.id)
    assert not again.create_store(VectorStore("s", "other", {}, 6))
    again.add("me", "b.md", "assistants", BytesIO(b"x"), 1)
    assert not part.exists()
    with pytest.raises(StepError, match="RAG_MAX_FILES_BYTES"):
        again.add("me", "c.md", "assistants", BytesIO(), 996)


@pytest.mark.parametrize(
    ("asked", "ids", "more"),
    [
        ({}, "dcba", False),
        ({"order": "asc"}, "abcd", False),
        ({"limit": 2}, "dc", True),
        ({"limit": 2, "after": "c"}, "ba", False),
        ({"order": "asc", "before": "d", "limit": 2}, "bc", True),
        ({"order": "asc", "after": "a", "before": "d"}, "bc", False),
        ({"after": "a"}, "", False),
    ],
)
def test_pages(asked: dict[str, Any], ids: str, more: bool) -> None:
    files = [
        StoreFile(id=one, created_at=1, vector_store_id="s", status="completed", usage_bytes=0)
        for one in "abcd"
    ]
    paging = Paging(**{"limit": 20, "order": "desc", "after": "", "before": "", **asked})

    page = paging.page(files, lambda file: file.id)

    assert "".join(file.id for file in page.data) == ids
    assert (page.has_more, page.first_id, page.last_id) == (
        *(more, ids[:1] or None, ids[-1:] or None),
    )
    with pytest.raises(StepError, match="'z' is not in this list"):
        Paging(20, "asc", "z", "").page(files, lambda file: file.id)
