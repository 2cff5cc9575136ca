"""The code of docs/transition.md, run as written: one request, the same answer in every shape."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs/transition.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples/keyword-retriever/src"
REQUEST = {"query": "Until when can I cancel a booking?", "top_k": 3, "augment": {"seed": 7}}


def block(begins: str, language: str = "python") -> str:
    """Return the one block of code that begins with a text."""
    found = [
        code for code in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
        if code.startswith(begins)
    ]  # fmt: skip
    assert len(found) == 1, f"{len(found)} blocks begin with {begins!r}"
    return str(found[0])


def environment(**more: str) -> dict[str, str]:
    """Return what the guide's reader has: this project installed, the retriever's package at hand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(EXAMPLE), **more}


@contextmanager
def serving(*command: str, cwd: Path, **variables: str) -> Iterator[str]:
    """Run a server on a free port until the block ends; yield its URL once it is ready."""
    with httpx.Client(trust_env=False, timeout=60) as client, ExitStack() as stack:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *command, port],
                cwd=cwd,
                env=environment(**variables),
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, f"{command} ended"
            try:
                if client.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guide's files and a request."""
    made = tmp_path_factory.mktemp("guide")
    (made / "main.py").write_text(block("import argparse"))
    (made / "server.py").write_text(block("import json\nimport sys\nfrom http.server"))
    (made / "application.py").write_text(block("import os\n\nimport httpx"))
    (made / "request.json").write_text(json.dumps(REQUEST))
    return made


@pytest.fixture(scope="module")
def chained(folder: Path) -> dict[str, dict[str, Any]]:
    """What the chain of stage 1 leaves in its files."""
    chain = block("python main.py", "sh")
    subprocess.run(["sh", "-ec", chain], cwd=folder, env=environment(), check=True)
    names = ("retrieved", "augmented", "answer")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The guide's resident step."""
    with serving("server.py", cwd=folder) as url:
        yield url


@pytest.fixture(scope="module")
def composite(folder: Path, server: str) -> Iterator[str]:
    """The resident composite of stage 4, over the guide's step and two of this project."""
    with ExitStack() as stack:
        urls = {"RAG_RETRIEVE_URL": server}
        for step in ("augment", "generate"):
            command = ("-m", f"rag_{step}", "serve", "--port")
            urls[f"RAG_{step.upper()}_URL"] = stack.enter_context(serving(*command, cwd=folder))
        yield stack.enter_context(
            serving("-m", "rag_pipeline", "serve", "--port", cwd=folder, **urls)
        )


def post(url: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = httpx.post(url, json=request, trust_env=False, timeout=60)
    return response.status_code, response.json()


def run_function(request: dict[str, Any]) -> dict[str, Any]:
    """Run the step as a function, in a process without this project's packages."""
    code = "import sys; from keyword_retriever import search; print(search.run(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(request)],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    response: dict[str, Any] = json.loads(done.stdout)
    return response


def test_the_module_of_the_guide_is_the_one_of_the_example() -> None:
    """Stage 2 shows the file that runs on an engine, except for its first line."""
    module = (EXAMPLE / "keyword_retriever/module.py").read_text(encoding="utf-8")

    assert module.partition("\n\n")[2] == block("from __future__ import annotations")


def test_the_step_answers_alike_in_every_shape(
    folder: Path, chained: dict[str, dict[str, Any]], server: str
) -> None:
    """Function, command and server give the same JSON."""
    expected = run_function(REQUEST)

    assert expected["results"][0]["document_id"] == "terms"
    assert chained["retrieved"] == expected
    assert post(f"{server}/run", REQUEST) == (200, expected)


def test_the_step_fails_alike_in_every_shape(folder: Path, server: str) -> None:
    """An error is the same envelope, with exit code 1 and HTTP 422."""
    bad = {"query": " ", "request_id": "mine"}
    (folder / "bad.json").write_text(json.dumps(bad))
    expected = run_function(bad)

    done = subprocess.run(
        [sys.executable, "main.py", "--input", "bad.json", "--output", "failed.json"],
        cwd=folder,
        env=environment(),
        check=False,
    )

    assert expected["error"]["code"] == "invalid_request"
    assert done.returncode == 1
    assert json.loads((folder / "failed.json").read_text()) == expected
    assert post(f"{server}/run", bad) == (422, expected)


def test_the_answer_is_the_same_from_the_chain_to_the_resident_composite(
    chained: dict[str, dict[str, Any]], composite: str
) -> None:
    """Answer, citations and passages do not change on the way."""
    status, resident = post(f"{composite}/run", REQUEST)

    assert status == 200
    assert "48 hours" in resident["answer"]
    assert resident["citations"]
    for field in ("answer", "citations", "contexts", "answerable", "finish_reason"):
        assert resident[field] == chained["answer"][field], field


def test_the_application_hands_answer_and_error_through(
    folder: Path, composite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's FastAPI application gives what the composite gives, with its status."""
    testclient = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    monkeypatch.setenv("COMPOSITE_URL", composite)
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    made: dict[str, Any] = {}
    exec(compile((folder / "application.py").read_text(), "application.py", "exec"), made)

    with testclient.TestClient(made["app"]) as client:
        answered = client.post("/rag", json=REQUEST)
        refused = client.post("/rag", json={"query": "x", "qdrant_host": "10.0.0.1"})

    direct = post(f"{composite}/run", REQUEST)[1]
    given = answered.json()
    assert answered.status_code == 200
    assert (given["answer"], given["citations"]) == (direct["answer"], direct["citations"])
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "qdrant_host"


def test_the_server_of_the_guide_conforms(server: str) -> None:
    """The command that the guide names passes on the step it shows."""
    command = next(line for line in GUIDE.splitlines() if line.startswith("rag conformance"))
    done = subprocess.run(
        ["sh", "-ec", command.replace("http://127.0.0.1:8080", server)],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_figures_are_those_of_the_benchmarks() -> None:
    """A form's median stands in docs/benchmarks.md, and wherever the guide repeats it."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    part = text.split("<!-- engine:begin -->")[1].split("<!-- engine:end -->")[0]
    measured = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+ m?s) \|", part, re.MULTILINE))
    shown = dict(
        re.findall(
            r"^\| ([^|]+) \| ([\d.]+ m?s) \|",
            GUIDE.split("## What a question costs")[1].split("##")[0],
            re.MULTILINE,
        )
    )
    served = text.split("<!-- service:begin -->")[1]

    assert len(shown) == 6
    assert shown == {form: measured[form] for form in shown}
    for seconds in re.findall(r"\d+\.\d\d s\b", GUIDE):
        assert seconds in shown.values(), f"{seconds} is not in the table"
    rates = re.findall(r"`(\w+)`(?: answered)? ([\d.]+)(?: requests|,| and)", GUIDE)
    assert len(rates) == 4
    for runner, rate in rates:
        assert re.search(rf"^\| {runner} \| 8 \| {rate} \|", served, re.MULTILINE), (runner, rate)
    medians = re.findall(r"([\d.]+) ms(?: at the median)? for(?: the runner)?\s+`(\w+)`", GUIDE)
    assert len(medians) == 3
    for median, runner in medians:
        row = re.search(rf"^\| {runner} \| 1 \| [\d.]+ \| ([\d.]+) \|", served, re.MULTILINE)
        decimals = len(median.partition(".")[2])
        assert row and f"{float(row[1]):.{decimals}f}" == median, (runner, median)
