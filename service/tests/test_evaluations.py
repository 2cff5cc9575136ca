"""Runs of `rag eval --save` over HTTP: listed, shown, compared, and only to who may read them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from eval_reports import report
from service_kit import environment, settings

from rag_kit.errors import StepError
from rag_pipeline.quality.runs import save_run
from rag_service.app import create_app

KEYS = [
    {"name": "me", "key": "a-key-of-this-test-1"},
    {"name": "you", "key": "a-key-of-this-test-2", "collections": ["public"]},
    {"name": "some", "key": "a-key-of-this-test-3", "groups": ["hr"]},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three runs, one that cannot be read, and one of another collection."""
    folder = tmp_path_factory.mktemp("evaluations")
    save_run(folder, "first", report([1, 1, 1, 1, 1, 1, 0]))
    save_run(folder, "second", report([0, 0, 0, 0, 0, 0, 0]))
    save_run(folder, "other", report([1] * 7, top_k=5))
    save_run(folder, "public", report([1], request={"collection": "public"}))
    (folder / "evaluations" / "damaged.json").write_text("{")
    return folder


def test_a_run_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StepError, match=r"the report cannot be stored in .*file") as failed:
        save_run(tmp_path / "file", "first", report([1]))
    assert failed.value.code == "storage_full"


def get(home: Path, path: str, key: int = 0) -> httpx.Response:
    """Ask the application in this process."""

    async def talk() -> httpx.Response:
        with environment({"RAG_HOME": str(home)}):
            app = create_app(settings(api_keys=json.dumps(KEYS)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"authorization": f"Bearer {KEYS[key]['key']}"})

    return asyncio.run(talk())


def test_runs_are_listed_newest_first(home: Path) -> None:
    """One that cannot be read is left out."""
    runs = get(home, "/v1/evaluations").json()["runs"]
    assert [run["name"] for run in runs] == ["public", "other", "second", "first"]
    assert runs[-1]["metrics"]["answer_rate"]["value"] == pytest.approx(6 / 7)
    assert "scored" not in runs[0]


def test_two_runs_are_compared_question_by_question(home: Path) -> None:
    """The first minus the second, with the interval and test of `rag eval --compare`."""
    found = get(home, "/v1/evaluations/first/comparison?with=second").json()
    difference = found["differences"]["answer_rate"]
    assert (difference["n"], difference["real"]) == (7, True)
    assert difference["low"] > 0
    shown = get(home, "/v1/evaluations/first").json()
    assert shown["report"]["scored"][0]["query"] == "Question 0?"


@pytest.mark.parametrize(
    ("path", "key", "code"),
    [
        ("/v1/evaluations/nowhere", 0, "not_found"),
        ("/v1/evaluations/..%2f..%2fetc%2fpasswd", 0, "not_found"),
        ("/v1/evaluations/damaged", 0, "invalid_request"),
        ("/v1/evaluations/first/comparison?with=other", 0, "invalid_request"),
        ("/v1/evaluations/first/comparison", 0, "invalid_request"),
        ("/v1/evaluations/first", 1, "not_found"),
        ("/v1/evaluations/public/comparison?with=first", 1, "not_found"),
        ("/v1/evaluations", 2, "forbidden"),
        ("/v1/evaluations/public", 2, "forbidden"),
    ],
)
def test_what_cannot_be_shown_is_refused(home: Path, path: str, key: int, code: str) -> None:
    """A run about another collection looks as if it did not exist."""
    assert get(home, path, key).json()["error"]["code"] == code


def test_a_key_sees_the_runs_of_its_collections(home: Path) -> None:
    """The others are not listed."""
    assert [run["name"] for run in get(home, "/v1/evaluations", 1).json()["runs"]] == ["public"]
    page = get(home, "/eval")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
