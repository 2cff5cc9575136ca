"""The shapes of the composite, one answer: function, command, and servers over both kinds of steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rag_command import environment, run_module, write_documents

from rag_pipeline.settings import RagSettings
from rag_pipeline.steps.local import open_local
from rag_pipeline.wire import open_pipeline

REQUESTS: dict[str, dict[str, Any]] = {
    "answer": {"query": "Who may sign contracts?"},
    "no context": {"query": "zygomorphic quaternion xylophone", "debug": True},
    "options": {
        "query": "When are the accounts audited?",
        "top_k": 1,
        "retrieve": {"mode": "sparse"},
        "augment": {"seed": 1},
        "request_id": "mine",
    },
    "unknown collection": {"query": "x", "collection": "nope"},
    "bad option": {"query": "x", "retrieve": {"rrf_k": 0}, "request_id": "mine"},
    "unknown field": {"query": "x", "qdrant_host": "10.0.0.1"},
    "empty question": {"query": " "},
}
STEPS = ("retrieve", "augment", "generate")


@contextmanager
def served(module: str, home: Path, **variables: str) -> Iterator[str]:
    """Run `python -m module serve` and yield its URL once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "serve", "--port", "0"],
        env=environment(home, **variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = (re.search(r"running on (http://\S+)", line) for line in process.stderr)
        found = next(filter(None, lines), None)
        assert found, "the server did not start"
        url = found[1]
        with httpx.Client(trust_env=False, timeout=60) as client:
            while client.get(f"{url}/readyz").json().get("status") != "ready":
                assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def post(url: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the server's shape as a function."""

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        response = httpx.post(f"{url}/run", json=request, trust_env=False, timeout=60)
        body: dict[str, Any] = response.json()
        assert (response.status_code == 200) is ("error" not in body)
        return body

    return ask


def command(folder: Path, home: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the command's shape as a function; it runs in this process."""

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        source, target = folder / "in.json", folder / "out.json"
        source.write_text(json.dumps(request), encoding="utf-8")
        files = ("--input", str(source), "--output", str(target))
        done = run_module(*files, home=home)
        body: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        assert done.code == (1 if "error" in body else 0), done.err
        return body

    return ask


def process(home: Path, **variables: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the command's shape in a process of its own, from pipe to pipe."""

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "rag_pipeline", "--input", "-"],
            env=environment(home, **variables),
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
        )
        body: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if "error" in body else 0), done.stderr
        return body

    return ask


@pytest.fixture(scope="module")
def shapes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Every shape over its own copy of the same store, as functions of a request."""
    folder = tmp_path_factory.mktemp("parity")
    with open_local(home=folder / "home") as pipeline:
        pipeline.retriever.ingest([write_documents(folder)])
    homes = {name: folder / name for name in ("function", "command", "process", "server", "steps")}
    for home in homes.values():
        subprocess.run(["cp", "-r", "--sparse=always", str(folder / "home"), str(home)], check=True)
    with ExitStack() as stack:
        local = stack.enter_context(open_local(home=homes["function"]))
        server = stack.enter_context(served("rag_pipeline", homes["server"]))
        urls = {step: stack.enter_context(served(f"rag_{step}", homes["steps"])) for step in STEPS}
        variables = {f"RAG_{step.upper()}_URL": url for step, url in urls.items()}
        settings = RagSettings.model_validate({f"{step}_url": url for step, url in urls.items()})
        over_steps = stack.enter_context(served("rag_pipeline", folder / "none", **variables))
        yield {
            "function": local.answer,
            "command": command(folder, homes["command"]),
            "process": process(homes["process"]),
            "server": post(server),
            "function over servers": stack.enter_context(open_pipeline(settings)).answer,
            "server over servers": post(over_steps),
            "process over servers": process(folder / "none", **variables),
        }


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    """Take out what differs by nature: a new id, the time it took, a random marker."""
    given = dict(response)
    given.pop("timings_ms", None)
    if given.get("id") != "mine":
        given.pop("id", None)
    return given


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REQUESTS)
def test_every_shape_gives_the_same_answer(
    shapes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]], name: str
) -> None:
    """Answers and errors are equal JSON in all shapes, but for new ids and timings."""
    asked = {
        shape: ask
        for shape, ask in shapes.items()
        if not shape.startswith("process") or name in ("answer", "unknown collection")
    }
    answers = {shape: comparable(ask(REQUESTS[name])) for shape, ask in asked.items()}
    expected = answers["function"]

    assert answers == dict.fromkeys(asked, expected)
    assert ("error" in expected) is (name not in ("answer", "no context", "options"))
