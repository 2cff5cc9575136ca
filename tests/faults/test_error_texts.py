"""Errors about files of the service's machine, as its callers read them on every interface."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from inside import Inside, questions
from service_kit import settings

from rag_kit.errors import StepError
from rag_retrieve import Retriever
from rag_service.http.errors import FOR_CALLERS, for_callers

PLACE = "/var/lib/rag/store/bylaws"
HIDDEN = f"{PLACE} cannot be used; delete it with `rag collections delete` or set RAG_HOME"


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with Inside(settings(probe_retry_s=0.05), tmp_path_factory.mktemp("texts")) as opened:
        body = {"documents": [{"document_id": "a", "text": "The treasurer signs cheques."}]}
        assert opened.ask("POST", "/v1/documents", json=body).is_success
        yield opened


@pytest.mark.parametrize("code", FOR_CALLERS)
def test_no_interface_tells_a_caller_of_the_service_s_files(
    code: str, inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They cannot see them; the code stays, and the log has the text for the operator."""

    def fail(*args: Any, **more: Any) -> NoReturn:
        raise StepError(code, HIDDEN)

    while inside.app.state.service.missing is not None:  # a probe failed as the one before did
        time.sleep(0.01)
    monkeypatch.setattr(Retriever, "_collection", fail)
    upload = {"documents": [{"document_id": "b", "text": "More."}]}
    calls = [
        *questions("default", "Who signs cheques?", None),
        {"url": "/v1/documents", "json": upload},
        {"url": "/v1/documents", "json": upload, "headers": {"accept": "text/event-stream"}},
        {"url": "/v1/documents", "method": "GET"},
        {"url": "/v1/documents/a", "method": "DELETE"},
        {"url": "/v1/collections/default/reindex"},
    ]

    with caplog.at_level(logging.WARNING):
        for call in calls:
            given = {name: value for name, value in call.items() if name not in ("url", "method")}
            answer = inside.ask(call.get("method", "POST"), call["url"], **given)
            assert code in answer.text, call
            assert PLACE not in answer.text, call
            assert "rag collections" not in answer.text, call
    job = answer.json().get("id")
    assert job is None or PLACE not in inside.ask("GET", f"/v1/ingests/{job}").text
    assert (HIDDEN in caplog.text) is (code != "not_ready")


def test_an_attached_file_that_could_not_be_stored_tells_no_path(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `last_error`, which is read long after the request."""

    def fail(*args: Any, **more: Any) -> NoReturn:
        raise StepError("storage_full", HIDDEN)

    monkeypatch.setattr(Retriever, "ingest_documents", fail)
    made = inside.ask("POST", "/v1/files", files={"file": ("c.txt", b"More.")}).json()["id"]
    where = "/v1/vector_stores/default/files"
    inside.ask("POST", where, json={"file_id": made})
    while (told := inside.ask("GET", f"{where}/{made}").json())["status"] == "in_progress":
        time.sleep(0.01)

    assert told["last_error"] == {"code": "server_error", "message": FOR_CALLERS["storage_full"]}


def test_a_text_without_a_path_is_told_as_it_is() -> None:
    """A setting that is missing, a server of Qdrant that is full: the caller may be the operator."""
    for text in ("set RAG_LLM_MODEL", "http://qdrant:6333/x is full", "use /v1 or 3/4"):
        error = StepError("misconfigured", text, param="x", retry_after=3)
        assert for_callers(error) is error
    path = Path.cwd() / "x"
    assert str(path) not in for_callers(StepError("storage_full", f"no space for {path}")).message
