"""Documents over HTTP, as a client meets them: the real application, real files, a real socket."""

from __future__ import annotations

import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import docx
import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from qdrant_double import QdrantDouble
from reportlab.pdfgen.canvas import Canvas
from service_kit import QUESTION, free_port, serving, settings

from rag_service.library.uploads import MAX_FILES, MAX_PART_BYTES, safe_name

KEYS = [
    {"name": "writer", "key": "w" * 16, "collections": ["team-*"], "write": True},
    {"name": "reader", "key": "r" * 16, "collections": ["team-*"]},
    {"name": "other", "key": "o" * 16, "collections": ["other"], "write": True},
]


def make_pdf(text: str) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.drawString(72, 720, text)
    canvas.save()
    return buffer.getvalue()


def make_docx(text: str) -> bytes:
    document, buffer = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(buffer)
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str, str]] = {
    "papers/heron.md": (
        b"# Herons\n\nThe grey heron Balthasar nests on the third chimney of the mill.\n",
        "On which chimney does the heron Balthasar nest?",
        "third chimney",
    ),
    "ferry.txt": (
        b"The ferry to the island Quirrel leaves at 7:40 from the eastern pier.\n",
        "When does the ferry to Quirrel leave?",
        "7:40",
    ),
    "clock.html": (
        b"<html><head><title>Clock</title></head><body><p>The clock of Ostrava tower was "
        b"repaired by Ludmila Novak.</p></body></html>",
        "Who repaired the clock of Ostrava tower?",
        "Ludmila Novak",
    ),
    "bridge.pdf": (
        make_pdf("The Lindholm bridge carries at most 18 tonnes."),
        "How much does the Lindholm bridge carry?",
        "18 tonnes",
    ),
    "orchard.docx": (
        make_docx("The orchard of Tamsin has ninety pear trees."),
        "How many pear trees does the orchard of Tamsin have?",
        "ninety",
    ),
    "boats.csv": (
        b"boat,captain\nAlbatross,Ingrid Solheim\nPetrel,Joan Marsh\n",
        "Who is the captain of the Albatross?",
        "Ingrid Solheim",
    ),
    "wells.jsonl": (
        b'{"id": "w1", "text": "The well at Marrow farm is 63 metres deep."}\n',
        "How deep is the well at Marrow farm?",
        "63 metres",
    ),
}


@contextmanager
def connected(*given: Any, **more: Any) -> Iterator[httpx.Client]:
    """Serve as `serving` does, and give a client of it."""
    with (
        serving(*given, **more) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(home=tmp_path_factory.mktemp("documents")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    """A collection of this test alone."""
    name: str = request.node.name
    return name.partition("[")[0][:60]


def form(*files: tuple[str, bytes | str]) -> list[tuple[str, tuple[str, bytes]]]:
    return [
        ("files", (name, text.encode() if isinstance(text, str) else text)) for name, text in files
    ]


def upload(
    client: httpx.Client, collection: str, *files: tuple[str, bytes | str], **more: Any
) -> httpx.Response:
    params = {"collection": collection, **more.pop("params", {})}
    return client.post("/v1/documents", params=params, files=form(*files), **more)


def many(number: int) -> list[tuple[str, str]]:
    return [(f"many/{n:03}.txt", f"Note {n} is about the number {n}.") for n in range(number)]


def texts(*documents: dict[str, Any]) -> dict[str, Any]:
    return {"documents": list(documents)}


def ids(client: httpx.Client, collection: str) -> list[str]:
    answer = client.get("/v1/documents", params={"collection": collection}).json()
    return [one["document_id"] for one in answer["documents"]]


def failure(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    found = []
    for event in EventSource(response).iter_sse():
        data = event.data if event.data == "[DONE]" else json.loads(event.data)
        found.append((event.event, data))
    return found


# -- adding and asking ----------------------------------------------------------------------


def test_what_was_uploaded_is_answered_from_and_cited(
    client: httpx.Client, collection: str
) -> None:
    """Every kind of file; the very next question finds it."""
    report = upload(client, collection, *((name, data) for name, (data, *_) in FILES.items()))
    assert report.status_code == 200, report.text
    body = report.json()
    assert body["id"].startswith("ingest_") and body["failed"] == []
    expected = {name if name != "wells.jsonl" else "wells.jsonl#w1" for name in FILES}
    assert set(body["added"]) == expected
    for name, (_, question, words) in FILES.items():
        answer = client.post("/rag_modules", json={"query": question, "collection": collection})
        assert words in answer.json()["answer"], (name, answer.text)
        assert answer.json()["citations"][0]["document_id"].startswith(name)
        stored = client.get(
            f"/v1/documents/{name}" + ("%23w1" if name == "wells.jsonl" else ""),
            params={"collection": collection},
        ).json()
        assert words in stored["text"]
        assert stored["source"] == name
        assert tempfile.gettempdir() not in json.dumps(stored)


def test_the_same_files_again_cost_nothing_and_a_changed_one_replaces(
    client: httpx.Client, collection: str
) -> None:
    upload(client, collection, ("a.md", "The code is blue."), ("b.md", "The bell is large."))
    again = upload(
        client, collection, ("a.md", "The code is blue."), ("b.md", "The bell is large.")
    )
    assert again.json()["unchanged"] == ["a.md", "b.md"]
    assert (again.json()["embeddings"], again.json()["added"], again.json()["missing"]) == (
        0,
        [],
        [],
    )
    changed = upload(client, collection, ("a.md", "The code is green."))
    assert (changed.json()["updated"], changed.json()["missing"]) == (["a.md"], [])
    answer = client.post(
        "/rag_modules", json={"query": "What is the code?", "collection": collection}
    )
    assert "green" in answer.json()["answer"] and "blue" not in answer.json()["answer"]


def test_texts_are_added_as_json(client: httpx.Client, collection: str) -> None:
    body = texts(
        {"document_id": "kb/7", "text": "The safe opens with 4711.", "title": "Safe",
         "metadata": {"level": 3}},
        {"document_id": "kb/8", "text": " "},
    )  # fmt: skip
    report = client.post("/v1/documents", params={"collection": collection}, json=body).json()
    assert report["added"] == ["kb/7"]
    assert [one["document_id"] for one in report["failed"]] == ["kb/8"]
    found = client.post(
        "/v1/search",
        json={"query": "safe", "collection": collection, "filters": {"level": 3}},
    ).json()
    assert [one["title"] for one in found["results"]] == ["Safe"]
    again = client.post("/v1/documents", params={"collection": collection}, json=body).json()
    assert (again["unchanged"], again["embeddings"]) == (["kb/7"], 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "documents"),
        ({"documents": []}, "documents"),
        (texts({"document_id": "a"}), "documents.0.text"),
        (texts({"document_id": "", "text": "b"}), "documents.0.document_id"),
        (texts({"document_id": "a\u0007", "text": "b"}), "documents.0.document_id"),
        (texts({"document_id": "a", "text": "b", "embedding": [1]}), "documents.0.embedding"),
        (texts({"document_id": "a", "text": "b", "metadata": []}), "documents.0.metadata"),
    ],
)
def test_a_wrong_json_body_names_the_field(
    client: httpx.Client, collection: str, body: Any, param: str
) -> None:
    answer = client.post("/v1/documents", params={"collection": collection}, json=body)
    assert failure(answer) == (422, "invalid_request")
    assert answer.json()["error"]["param"] == param


def test_a_json_body_never_names_a_host(client: httpx.Client) -> None:
    body = {"documents": [{"document_id": "a", "text": "b"}], "qdrant_host": "10.0.0.1"}
    assert failure(client.post("/v1/documents", json=body)) == (422, "target_not_allowed")


def test_other_bodies_are_refused(client: httpx.Client) -> None:
    plain = client.post("/v1/documents", content=b"x", headers={"content-type": "text/plain"})
    assert failure(plain) == (415, "unsupported_media_type")
    assert failure(client.post("/v1/documents")) == (415, "unsupported_media_type")
    field = client.post("/v1/documents", files=[("file", ("a.md", b"x"))])
    assert failure(field) == (422, "invalid_request")
    assert field.json()["error"]["param"] == "file"
    none = client.post("/v1/documents", files=[("files", (None, b"x"))])
    assert failure(none) == (422, "invalid_request")
    torn = {"content-type": "multipart/form-data; boundary=x"}
    broken = client.post("/v1/documents", content=b"--y\r\nnonsense", headers=torn)
    assert failure(broken) == (422, "invalid_request")
    many_files = form(*((f"{n}.txt", "x") for n in range(MAX_FILES + 1)))
    too_many = client.post("/v1/documents", files=many_files)
    assert failure(too_many) == (422, "invalid_request")
    assert str(MAX_FILES) in too_many.json()["error"]["message"]


# -- what cannot be read --------------------------------------------------------------------


def test_files_that_cannot_be_read_are_reported_each(client: httpx.Client, collection: str) -> None:
    report = upload(
        client,
        collection,
        ("good.md", "The gate is open."),
        ("image.png", b"\x89PNG"),
        ("empty.txt", b""),
        ("broken.pdf", b"no pdf"),
        ("../good.md", "The gate is closed."),
    )
    assert report.status_code == 200
    assert report.json()["added"] == ["good.md"]
    failed = {one["document_id"]: one for one in report.json()["failed"]}
    assert set(failed) == {"image.png", "empty.txt", "broken.pdf", "good.md"}
    assert {one["code"] for one in failed.values()} == {"document_unreadable"}
    assert "it is an image" in failed["image.png"]["message"]
    assert "two files of this upload" in failed["good.md"]["message"]
    stored = client.get("/v1/documents/good.md", params={"collection": collection}).json()
    assert "open" in stored["text"]


def test_an_upload_of_which_nothing_can_be_read_fails_and_makes_nothing(
    client: httpx.Client, collection: str
) -> None:
    answer = upload(client, collection, ("a.png", b"\x89PNG"), ("b.exe", b"MZ"))
    assert failure(answer) == (422, "document_unreadable")
    message = answer.json()["error"]["message"]
    assert "a.png" in message and "1 more" in message
    state = client.get(message.rpartition("see ")[2]).json()
    assert (state["status"], len(state["report"]["failed"])) == ("done", 2)
    listed = client.get("/v1/collections").json()["collections"]
    assert collection not in [one["name"] for one in listed]
    missing = client.get("/v1/documents", params={"collection": collection})
    assert failure(missing) == (404, "collection_not_found")


def test_an_upload_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with connected(settings(max_upload_bytes=4096), home=tmp_path) as client:
        assert failure(upload(client, "c", ("a.txt", "x" * 5000))) == (413, "body_too_large")

        def chunks() -> Iterator[bytes]:
            yield b"--x\r\ncontent-disposition: form-data; name=files; filename=a.txt\r\n\r\n"
            for _ in range(20):
                yield b"x" * 1024

        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/documents", content=chunks(), headers=kind)
        assert failure(answer) == (413, "body_too_large")
        assert client.get("/v1/collections").json() == {"collections": []}


# -- hostile names --------------------------------------------------------------------------

HOSTILE = {
    "../../../../etc/passwd.txt": "etc/passwd.txt",
    "/etc/shadow.txt": "etc/shadow.txt",
    "C:\\Windows\\system.txt": "Windows/system.txt",
    "C:C:..\\..\\x.txt": "x.txt",
    "\\\\server\\share\\y.txt": "server/share/y.txt",
    "a/./b//c/.. /d.txt": "a/b/c/d.txt",
    "line\r\nbreak\x00.txt": "linebreak.txt",
    "gnp.\u202etxt.exe.txt": "gnp.txt.exe.txt",
    "cafe\u0301.txt": "caf\u00e9.txt",
    "..": "unnamed",
    "": "unnamed",
    " / . / .. ": "unnamed",
    ". .": ". .",
}


@pytest.mark.parametrize(("name", "safe"), HOSTILE.items())
def test_hostile_names_become_safe_paths(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@hypothesis_settings(deadline=None)
@given(st.text(alphabet=st.characters(), max_size=600) | st.text("./\\C:ä ", max_size=600))
def test_a_safe_name_is_relative_and_clean_and_stays_as_it_is(name: str) -> None:
    safe = safe_name(name)
    path = PurePosixPath(safe)
    assert not path.is_absolute() and path.parts and ".." not in path.parts
    assert all(0 < len(part.encode()) <= MAX_PART_BYTES for part in safe.split("/"))
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in safe)
    assert safe_name(safe) == safe


def test_long_names_keep_their_extension() -> None:
    safe = safe_name("x/" + "\N{CAT FACE}" * 100 + ".md")
    assert safe.endswith(".md") and safe.startswith("x/\N{CAT FACE}")


def test_hostile_names_arrive_as_safe_ids(
    client: httpx.Client, collection: str, tmp_path: Path
) -> None:
    """Names as sent on the wire, past what a well-behaved client would send."""
    names = ["../../etc/passwd.md", "C:\\\\dir\\\\evil.md", "/abs.md", "x\u202egpj.md", "a\x01b.md"]
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\nText %d.\r\n'
        % (name.encode(), number)
        for number, name in enumerate(names)
    )
    answer = client.post(
        "/v1/documents",
        params={"collection": collection},
        content=parts + b"--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 200, answer.text
    assert not answer.json()["failed"]
    found = ids(client, collection)
    assert len(found) == len(names)
    assert all(safe_name(one) == one for one in found)
    assert "etc/passwd.md" in found and "xgpj.md" in found


# -- progress -------------------------------------------------------------------------------


def test_progress_comes_in_order_and_complete(client: httpx.Client, collection: str) -> None:
    with client.stream(
        "POST",
        "/v1/documents",
        params={"collection": collection},
        files=form(*many(70), ("bad.png", b"\x89PNG")),
        headers={"accept": "text/event-stream"},
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        location = response.headers["location"]
        found = events(response)
    names = [name for name, _ in found]
    assert names == ["progress"] * (len(names) - 2) + ["report", "message"]
    assert found[-1][1] == "[DONE]"
    steps = [data for _, data in found[:-2]]
    assert list(dict.fromkeys(step["done"] for step in steps)) == [0, 32, 64, 70]
    assert list(dict.fromkeys(step["total"] for step in steps)) == [71, 70]
    report = found[-2][1]
    passages = [step["passages"] for step in steps]
    assert passages == sorted(passages)
    assert passages[-1] == steps[-1]["passages_total"] == report["chunks"]
    assert location == f"/v1/ingests/{report['id']}"
    assert {step["id"] for step in steps} == {report["id"]}
    assert len(report["added"]) == 70 and len(report["failed"]) == 1


def test_an_ingest_goes_on_when_its_client_goes_away(client: httpx.Client, collection: str) -> None:
    with client.stream(
        "POST",
        "/v1/documents",
        params={"collection": collection},
        files=form(*many(150)),
        headers={"accept": "text/event-stream"},
    ) as response:
        location = response.headers["location"]
        next(iter(EventSource(response).iter_sse()))  # then the connection is closed
    with client.stream("GET", f"{location}/events") as following:
        found = events(following)
    assert [name for name, _ in found[-2:]] == ["report", "message"]
    assert len(found[-2][1]["added"]) == 150
    done = [data["done"] for name, data in found if name == "progress"]
    assert done == sorted(done) and done[-1] == 150
    with client.stream("GET", f"{location}/events") as late:
        assert [name for name, _ in events(late)] == ["progress", "report", "message"]
    assert len(ids(client, collection)) == 150


def test_an_upload_that_breaks_off_changes_nothing(client: httpx.Client, collection: str) -> None:
    def half() -> Iterator[bytes]:
        yield b"--x\r\ncontent-disposition: form-data; name=files; filename=a.txt\r\n\r\nHalf of"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        client.post(
            "/v1/documents",
            params={"collection": collection},
            content=half(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
    missing = client.get("/v1/documents", params={"collection": collection})
    assert failure(missing) == (404, "collection_not_found")


def test_nobody_has_to_wait(client: httpx.Client, collection: str) -> None:
    accepted = upload(client, collection, *many(3), params={"wait": "false"})
    assert accepted.status_code == 202
    body = accepted.json()
    assert body["status"] in ("queued", "running")
    assert accepted.headers["location"] == f"/v1/ingests/{body['id']}"
    with client.stream("GET", body["events"]) as response:
        assert events(response)[-2][0] == "report"
    state = client.get(accepted.headers["location"]).json()
    assert (state["status"], state["collection"], state["error"]) == ("done", collection, None)
    last = state["progress"]
    assert (last["done"], last["total"], last["document_id"]) == (3, 3, "many/002.txt")
    assert last["passages"] == last["passages_total"] == state["report"]["chunks"]
    assert state["ahead"] == body["ahead"] == 0
    assert len(state["report"]["added"]) == 3
    assert failure(client.get("/v1/ingests/ingest_0")) == (404, "not_found")
    wrong = upload(client, collection, ("a.md", "x"), params={"wait": "maybe"})
    assert failure(wrong) == (422, "invalid_request")


def test_a_wait_over_the_deadline_becomes_an_accepted(tmp_path: Path) -> None:
    with connected(settings(deadline_s=0.2, heartbeat_s=0.05), home=tmp_path) as client:
        accepted = upload(client, "c", *many(400))
        assert accepted.status_code == 202
        with client.stream("GET", accepted.json()["events"]) as response:
            lines = list(response.iter_lines())
        assert ": ping" in lines, "silence is filled"
        assert "event: report" in lines and lines[-2] == "data: [DONE]"


def test_an_ingest_can_be_stopped(client: httpx.Client, collection: str) -> None:
    accepted = upload(client, collection, *many(400), params={"wait": "false"}).json()
    stopped = client.delete(f"/v1/ingests/{accepted['id']}")
    assert stopped.status_code == 202
    with client.stream("GET", accepted["events"]) as response:
        if response.status_code == 200:
            name, data = events(response)[-1]
            assert name == "error"
        else:
            response.read()
            data = response.json()
    assert data["error"]["code"] == "client_cancelled"
    left = client.get("/v1/documents", params={"collection": collection})
    assert failure(left) == (404, "collection_not_found"), "nothing of it stays"
    state = client.get(f"/v1/ingests/{accepted['id']}").json()
    assert (state["status"], state["report"]) == ("failed", None)
    assert state["error"]["code"] == "client_cancelled"


def test_a_collection_is_built_anew(client: httpx.Client, collection: str) -> None:
    upload(client, collection, *many(5))
    report = client.post(f"/v1/collections/{collection}/reindex")
    assert report.status_code == 200
    assert len(report.json()["added"]) == 5
    assert len(ids(client, collection)) == 5
    none = client.post("/v1/collections/nowhere/reindex")
    assert failure(none) == (404, "collection_not_found")


# -- listing, showing, deleting -------------------------------------------------------------


def test_documents_are_listed_by_pages(client: httpx.Client, collection: str) -> None:
    upload(client, collection, *many(7))
    found, after, sizes = [], None, []
    while True:
        params = {"collection": collection, "limit": "3", "after": after or ""}
        page = client.get("/v1/documents", params=params).json()
        sizes.append(len(page["documents"]))
        found += [one["document_id"] for one in page["documents"]]
        after = page["next"]
        if after is None:
            break
    assert sizes == [3, 3, 1]
    assert found == [name for name, _ in many(7)]
    for limit in ("0", "1001", "ten", "-1", "9" * 5000):
        answer = client.get("/v1/documents", params={"collection": collection, "limit": limit})
        assert failure(answer) == (422, "invalid_request")


def test_a_deleted_document_is_found_no_more(client: httpx.Client, collection: str) -> None:
    upload(client, collection, ("a/b #1?.md", "The parrot is called Ernst."), ("c.md", "Else."))
    path = "/v1/documents/a/b%20%231%3F.md"
    assert client.get(path, params={"collection": collection}).status_code == 200
    deleted = client.delete(path, params={"collection": collection})
    assert deleted.json()["deleted"] == ["a/b #1?.md"]
    assert failure(client.get(path, params={"collection": collection})) == (
        404,
        "document_not_found",
    )
    assert failure(client.delete(path, params={"collection": collection})) == (
        404,
        "document_not_found",
    )
    answer = client.post("/v1/search", json={"query": "parrot Ernst", "collection": collection})
    assert "c.md" in answer.text and "Ernst." not in answer.text


def test_a_deleted_collection_is_gone(client: httpx.Client, collection: str) -> None:
    upload(client, collection, ("a.md", "Something."))
    listed = client.get("/v1/collections").json()["collections"]
    mine = next(one for one in listed if one["name"] == collection)
    assert (mine["documents"], mine["chunks"]) == (1, 1)
    deleted = client.delete(f"/v1/collections/{collection}")
    assert deleted.json() == {"collection": collection, "deleted": True}
    gone = client.delete(f"/v1/collections/{collection}")
    assert failure(gone) == (404, "collection_not_found")
    asked = client.post("/rag_modules", json={"query": "Something?", "collection": collection})
    assert failure(asked) == (404, "collection_not_found")


@pytest.mark.parametrize("name", ["..", "../default", "a/b", "a b", "é", "x" * 64, "a\n"])
def test_a_collection_has_a_plain_name(client: httpx.Client, name: str) -> None:
    for answer in (
        client.get("/v1/documents", params={"collection": name}),
        upload(client, name, ("a.md", "x")),
        client.delete("/v1/documents/a.md", params={"collection": name}),
    ):
        assert failure(answer) == (422, "invalid_request")
        assert answer.json()["error"]["param"] == "collection"


# -- sent twice -----------------------------------------------------------------------------


def test_fault_repeated_ingestion_is_done_once(client: httpx.Client, collection: str) -> None:
    key = {"idempotency-key": f"key of {collection}"}
    first = upload(client, collection, ("a.md", "The first text."), headers=key)
    again = upload(client, collection, ("a.md", "The first text."), headers=key)
    assert again.json() == first.json()
    assert again.json()["added"] == ["a.md"], "the report of the first, not a new one"
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    with client.stream(
        "POST",
        "/v1/documents",
        params={"collection": collection},
        files=form(("a.md", "The first text.")),
        headers={**key, "accept": "text/event-stream"},
    ) as response:
        assert events(response)[-2] == ("report", first.json())
    for files, where in ((("a.md", "Other."), collection), (("a.md", "The first text."), "else")):
        other = upload(client, where, files, headers=key)
        assert failure(other) == (422, "idempotency_mismatch")
    told = client.get("/metrics").text
    assert 'rag_idem_total{outcome="mismatch"}' in told
    free = re.search(r"^rag_storage_free_bytes (\S+)$", told, re.MULTILINE)
    assert free is not None and float(free[1]) > 0


def test_fault_repeated_ingestion_while_the_first_is_at_work(
    client: httpx.Client, collection: str
) -> None:
    key = {"idempotency-key": f"key of {collection}"}
    first = upload(client, collection, *many(300), headers=key, params={"wait": "false"})
    again = upload(client, collection, *many(300), headers=key)
    assert failure(again) == (409, "in_progress")
    with client.stream("GET", first.json()["events"]) as response:
        assert events(response)[-2][0] == "report"
    replayed = upload(client, collection, *many(300), headers=key)
    assert (replayed.status_code, len(replayed.json()["added"])) == (200, 300)


def test_a_damaged_collection_costs_no_other(home: Path) -> None:
    """It is listed with what is wrong; vector stores and MCP resources are those of the others."""
    kept = home / "store" / "collections" / "hr" / "manifest.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "manifest": {}}))
    ask = {"jsonrpc": "2.0", "id": 1, "method": "resources/list", "params": {}}
    accept = {"accept": "application/json, text/event-stream"}
    with serving(home=home) as url, httpx.Client(base_url=url, trust_env=False) as client:
        listed = client.get("/v1/collections").json()["collections"]
        stores = client.get("/v1/vector_stores").json()["data"]
        resources = client.post("/mcp", json=ask, headers=accept).json()["result"]["resources"]
        answer = client.post("/rag_modules", json={"query": QUESTION})

    problems = {one["name"]: one["problem"] for one in listed}
    assert "the manifest of collection 'hr' is not valid" in problems.pop("hr")
    assert problems and set(problems.values()) == {None}
    assert [one["id"] for one in stores] == sorted(problems)
    assert resources and not any("/hr/" in one["uri"] for one in resources)
    assert answer.json()["answerable"]


# -- who may --------------------------------------------------------------------------------


def test_a_key_sees_and_changes_only_its_collections(tmp_path: Path) -> None:
    with serving(settings(api_keys=json.dumps(KEYS)), home=tmp_path) as url:

        def client(key: str) -> httpx.Client:
            auth = {"authorization": f"Bearer {key * 16}"}
            return httpx.Client(base_url=url, trust_env=False, timeout=60, headers=auth)

        with client("w") as writer, client("r") as reader, client("o") as other:
            report = upload(writer, "team-a", ("a.md", "The secret is Rosebud."))
            job = f"/v1/ingests/{report.json()['id']}"
            params = {"collection": "team-a"}
            for who in (writer, reader):
                listed = who.get("/v1/collections").json()["collections"]
                assert [one["name"] for one in listed] == ["team-a"]
                assert who.get("/v1/documents/a.md", params=params).status_code == 200
                assert who.get(job).json()["status"] == "done"

            for refused in (
                upload(reader, "team-a", ("a.md", "Changed.")),
                reader.delete("/v1/documents/a.md", params=params),
                reader.delete("/v1/collections/team-a"),
                reader.post("/v1/collections/team-a/reindex"),
                reader.delete(job),
            ):
                assert failure(refused) == (403, "forbidden")

            assert other.get("/v1/collections").json() == {"collections": []}
            for unseen, absent in (
                (other.get("/v1/documents", params=params), "/v1/documents"),
                (other.get("/v1/documents/a.md", params=params), "/v1/documents/a.md"),
            ):
                reference = other.get(absent, params={"collection": "team-b"})
                assert failure(unseen) == failure(reference) == (404, "collection_not_found")
                text = unseen.json()["error"]["message"].replace("team-a", "team-b")
                assert text == reference.json()["error"]["message"]
            for unseen in (
                upload(other, "team-a", ("a.md", "Changed.")),
                other.delete("/v1/documents/a.md", params=params),
                other.delete("/v1/collections/team-a"),
                other.post("/v1/collections/team-a/reindex"),
            ):
                assert failure(unseen) == (404, "collection_not_found")
            for unseen in (other.get(job), other.get(f"{job}/events"), other.delete(job)):
                assert failure(unseen) == (404, "not_found")
            stored = writer.get("/v1/documents/a.md", params=params).json()
            assert "Rosebud" in stored["text"]

            key = {"idempotency-key": "shared"}
            upload(writer, "team-a", ("b.md", "B."), headers=key)
            mine = upload(other, "other", ("b.md", "B."), headers=key)
            assert mine.json()["added"] == ["b.md"], "a key is of one client"


# -- other runners --------------------------------------------------------------------------


def test_documents_of_another_runner_are_managed_elsewhere() -> None:
    given = settings(runner="remote", composite_url=f"http://127.0.0.1:{free_port()}")
    with connected(given, until="/healthz") as client:
        for answer in (
            client.get("/v1/collections"),
            client.get("/v1/documents"),
            upload(client, "c", ("a.md", "x")),
            client.get("/v1/ingests/ingest_1"),
        ):
            assert failure(answer) == (501, "not_supported")
            assert "RAG_QDRANT_URL" in answer.json()["error"]["message"]
        assert client.get("/v1/info").json()["documents"] is False


def test_another_runner_s_documents_are_managed_on_its_qdrant_server() -> None:
    with QdrantDouble() as double:
        given = settings(
            runner="remote",
            composite_url=f"http://127.0.0.1:{free_port()}",
            qdrant_url=double.url,
        )
        with connected(given, until="/healthz") as client:
            report = upload(client, "c", ("a.md", "The text."))
            assert report.json()["added"] == ["a.md"], report.text
            assert ids(client, "c") == ["a.md"]
            assert client.delete("/v1/documents/a.md?collection=c").status_code == 200
            assert ids(client, "c") == []


# -- what is left behind --------------------------------------------------------------------


def test_nothing_of_an_upload_stays_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big enough to be spooled to disk, read and unreadable, finished and broken off."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with connected(home=tmp_path / "home") as client:
        big = b"\x89PNG" + bytes(3 * 2**20)
        failed = upload(client, "c", ("a.png", big), ("b.png", big))
        assert failure(failed) == (422, "document_unreadable")
        stored = upload(client, "c", ("a.md", "Kept."), ("b.png", big))
        assert stored.json()["added"] == ["a.md"]

        def half() -> Iterator[bytes]:
            yield b"--x\r\ncontent-disposition: form-data; name=files; filename=a.txt\r\n\r\n"
            yield big
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError):
            kind = {"content-type": "multipart/form-data; boundary=x"}
            client.post("/v1/documents", content=half(), headers=kind)
        assert list(folder.iterdir()) == []
        texts_of = client.get("/v1/documents/a.md?collection=c").text
    assert list(folder.iterdir()) == []
    assert str(folder) not in texts_of
