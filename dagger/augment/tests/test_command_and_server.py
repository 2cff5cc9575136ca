from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "rag_augment"]


def ask(url: str, body: bytes | None = None) -> tuple[int, str]:
    """Send a request; returns status and text, also of errors."""
    try:
        with urllib.request.urlopen(url, data=body, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server process on a free loopback port, ready."""
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*COMMAND, "serve", "--port", "0"], stderr=file)
    try:
        found = None
        while not (found and is_ready(found[1])):
            assert process.poll() is None, f"the server ended: {log.read_text('utf-8')}"
            time.sleep(0.02)
            found = re.search(r"running on (http://\S+)", log.read_text("utf-8"))
        yield found[1]
    finally:
        process.terminate()
        assert process.wait(timeout=10) is not None


def is_ready(url: str) -> bool:
    """Tell whether /readyz says yes."""
    try:
        return ask(f"{url}/readyz")[0] == 200
    except urllib.error.URLError:
        return False


def test_all_shapes_give_the_same_json(handler, server, tmp_path: Path, make_request):
    """Function, command with files, command with pipes, server."""
    raw = json.dumps(make_request(collection="hr", request_id="ü"))
    expected = handler(raw)
    given, answer = tmp_path / "in.json", tmp_path / "out.json"
    given.write_text(raw)
    subprocess.run([*COMMAND, "--input", given, "--output", answer], check=True)
    piped = subprocess.run([*COMMAND, "--input", "-"], input=raw.encode(), capture_output=True)
    assert answer.read_text(encoding="utf-8") == expected
    assert piped.stdout.decode().rstrip("\n") == expected
    assert ask(f"{server}/run", raw.encode()) == (200, expected)


def test_a_bad_request_is_an_envelope_in_all_shapes(handler, server):
    """The command exits with 1 and says it on stderr; the server answers 422."""
    expected = handler("{}")
    piped = subprocess.run([*COMMAND, "--input", "-"], input=b"{}", capture_output=True)
    assert piped.returncode == 1
    assert piped.stdout.decode().rstrip("\n") == expected
    assert b"invalid_request: query" in piped.stderr
    assert ask(f"{server}/run", b"{}") == (422, expected)


def test_a_misconfigured_command_says_so_without_a_traceback():
    """An envelope on stdout, one line on stderr."""
    piped = subprocess.run(
        [*COMMAND, "--input", "-"],
        input=b"{}",
        capture_output=True,
        env=os.environ | {"RAG_TEMPLATE": "/nowhere/t.jinja"},
    )
    assert piped.returncode == 1
    assert json.loads(piped.stdout)["error"]["code"] == "misconfigured"
    assert b"Traceback" not in piped.stderr


def test_the_server_is_alive_and_ready(server):
    """Both probes answer 200 with the step's name."""
    assert ask(f"{server}/healthz") == (200, '{"status":"ok","step":"augment"}')
    assert ask(f"{server}/readyz") == (200, '{"status":"ready","step":"augment"}')
