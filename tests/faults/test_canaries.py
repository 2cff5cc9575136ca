"""No secret gets out: one of its own kind for each, sought in everything a running service gives off."""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from llm_stub import LLMStub
from qdrant_double import Faults, QdrantDouble
from rag_doubles import wait
from service_kit import QUESTION
from test_serve import Collector, Served, environment

# Names of the secrets, and a text for each that is nowhere else; halves are sought, too.
CANARIES = {
    name: f"{word}Zq7{at}Kw9Xv3Jp5Tn8Rd{at}Lm2Hs6Gc4"
    for at, (name, word) in enumerate(
        {
            "key of the file": "canaryfile",
            "second key": "canarysecond",
            "RAG_LLM_API_KEY": "canaryllm",
            "RAG_QDRANT_API_KEY": "canaryqdrant",
            "DAGGER_SESSION_TOKEN": "canarydagger",
            "a key that is wrong": "canarywrong",
        }.items()
    )
}
# Everything a process does at DEBUG, its own loggers too, whatever the command sets.
LAUNCH = """
import logging, sys
import rag_service.command as command
right = command.configure_logs
def everything(settings):
    right(settings)
    for name in ("", "rag_service", "httpx", "httpcore", "uvicorn", "openai"):
        logging.getLogger(name).setLevel(logging.DEBUG)
command.configure_logs = everything
from rag_pipeline.cli.main import main
sys.argv = ["rag", "serve", "--port", "0"]
main()
"""


def forms(secret: str) -> dict[str, str]:
    """What a secret may look like; lower case, as `hits` compares."""
    raw = secret.encode()
    half = len(secret) // 2
    spelled = {
        "plain": secret,
        "reversed": secret[::-1],
        "hex": raw.hex(),
        "url": quote(secret, safe=""),
        "every byte quoted": "".join(f"%{byte:02x}" for byte in raw),
        "first half": secret[:half],
        "second half": secret[half:],
        # what stands before it moves base64 by one or two characters
        **{
            f"base64 {shift}": base64.b64encode(b"x" * shift + raw)
            .decode()[4 * (shift > 0) : -4]
            .strip("=")
            for shift in range(3)
        },
    }
    assert all(len(text) >= 12 for text in spelled.values())
    return {name: text.lower() for name, text in spelled.items()}


def hits(places: dict[str, bytes]) -> list[str]:
    """Return where a canary is in what form."""
    found = []
    for place, data in places.items():
        text = data.decode("utf-8", "replace").lower()
        for name, secret in CANARIES.items():
            found += [
                f"{place}: {name}, {form}" for form, told in forms(secret).items() if told in text
            ]
    return found


@contextmanager
def collecting(collector: Collector) -> Iterator[str]:
    """Run a collector of traces and give its address."""
    thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{collector.server_address[1]}"
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@contextmanager
def launched(home: Path, **variables: str) -> Iterator[Served]:
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH],
        env=environment(home, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        served = Served(process)
        try:
            yield served
        finally:
            if process.poll() is None:
                process.kill()
            served.ended()


def test_the_search_finds_each_form() -> None:
    """The test below can fail."""
    for name, secret in CANARIES.items():
        for form, told in forms(secret).items():
            assert f"log: {name}, {form}" in hits({"log": f"x {told} y".encode()})
        coded = [base64.b64encode(b"z" * shift + secret.encode()) for shift in range(3)]
        assert all("base64" in " ".join(hits({"log": one})) for one in coded)


@pytest.mark.timeout(300)
def test_threat_secrets_in_sinks(tmp_path: Path, lane: Any) -> None:
    """Answers, errors, logs at DEBUG, traces, metrics, files, the doctor: no canary in any form."""
    file = tmp_path / "keys.json"
    keys = [
        {"name": "all", "key": CANARIES["key of the file"], "write": True},
        {"name": "hr", "key": CANARIES["second key"], "collections": ["hr"]},
    ]
    file.write_text(json.dumps(keys))
    collector, llm = Collector(), LLMStub()
    places: dict[str, bytes] = {}
    with (
        QdrantDouble(api_key=CANARIES["RAG_QDRANT_API_KEY"]) as double,
        collecting(collector) as endpoint,
    ):
        variables = {
            "RAG_API_KEYS_FILE": str(file),
            "RAG_LLM_BASE_URL": llm.url,
            "RAG_LLM_MODEL": "stub",
            "RAG_LLM_API_KEY": CANARIES["RAG_LLM_API_KEY"],
            "RAG_STORE": "qdrant",
            "RAG_QDRANT_URL": double.url,
            "RAG_QDRANT_API_KEY": CANARIES["RAG_QDRANT_API_KEY"],
            "DAGGER_SESSION_TOKEN": CANARIES["DAGGER_SESSION_TOKEN"],
            "RAG_OTLP_ENDPOINT": endpoint,
            "RAG_LOG_FORMAT": "json",
            "RAG_LOG_QUERIES": "true",
        }
        with launched(tmp_path, **variables) as served:
            wait(f"{served.url}/readyz")
            asked = everything(served.url, llm, double)
            places |= {f"answer {at} to {what}": told for at, (what, told) in enumerate(asked)}
            served.process.send_signal(signal.SIGTERM)
            served.ended()
            assert served.process.stdout is not None
            places["standard output"] = served.process.stdout.read().encode()
            places["log"] = "\n".join(served.lines).encode()
        commands = [["doctor"], ["doctor", "--json"], ["collections", "list"], ["serve", "--help"]]
        for command in commands[: lane(1, 4)]:
            told = subprocess.run(
                [str(Path(sys.executable).with_name("rag")), *command],
                env=environment(tmp_path, **variables),
                capture_output=True,
                timeout=120,
            )
            places[f"rag {' '.join(command)}"] = told.stdout + told.stderr
    llm.close()
    places["traces"] = b"".join(map(unpacked, collector.bodies))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != file:
            places[f"file {path.relative_to(tmp_path)}"] = path.read_bytes()

    assert hits(places) == []
    # and it was all there to be found
    assert len(asked) >= 60
    assert b"DEBUG" in places["log"] and b'"level"' in places["log"]
    assert b"rag.request_id" in places["traces"]
    assert any(name.startswith("rag doctor") and told for name, told in places.items())
    assert b"rag_auth_fail_total" in b"".join(places.values())
    assert {error.encode() for error in EXPECTED} <= set(CODE.findall(b"".join(places.values())))


CODE = re.compile(rb'"code":"([a-z_]+)"')
EXPECTED = (
    *("unauthenticated", "invalid_request", "target_not_allowed", "collection_not_found"),
    *("retriever_misconfigured", "llm_misconfigured", "llm_upstream_error", "not_found"),
    *("document_unreadable", "unsupported_media_type", "body_too_large", "method_not_allowed"),
)


def unpacked(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def everything(url: str, llm: LLMStub, double: QdrantDouble) -> list[tuple[str, bytes]]:
    """Send requests of all kinds, good ones and ones that fail, and return what was answered."""
    told: list[tuple[str, bytes]] = []
    key, other = CANARIES["key of the file"], CANARIES["second key"]
    good = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:

        def ask(method: str, path: str, headers: dict[str, str] = good, **more: Any) -> None:
            answer = client.request(method, path, headers=headers, **more)
            heads = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
            told.append((f"{method} {path}", heads.encode() + b"\n\n" + answer.content))

        def questions() -> None:
            body = {"query": QUESTION, "collection": "default", "debug": True}
            for path in ("/rag_modules", "/rag_modules?stream=true", "/v1/search", "/rag"):
                ask("POST", path, json=body)
            chat = {"messages": [{"role": "user", "content": QUESTION}]}
            ask("POST", "/v1/chat/completions", json=chat)
            ask("POST", "/v1/chat/completions", json={**chat, "stream": True})
            ask("POST", "/retrieval", json={"knowledge_id": "default", "query": QUESTION})

        files = [
            (
                "files",
                ("travel.md", b"The finance director signs travel requests above 2,000 euros."),
            )
        ]
        ask("POST", "/v1/documents", files=files)
        llm.script = [llm.text("The finance director signs [1].")]
        questions()
        for wrong in (CANARIES["a key that is wrong"], key[:-1], f"{key} {key}", "x"):
            for scheme in ("Bearer", "Basic", "bearer  "):
                ask(
                    "POST",
                    "/rag_modules",
                    {"authorization": f"{scheme} {wrong}"},
                    json={"query": "x"},
                )
        ask(
            "POST",
            "/rag_modules",
            {**good, "authorization": f"Bearer {other}"},
            json={"query": "x"},
        )
        bad: list[dict[str, Any]] = [
            {"json": {"query": ""}},
            {"json": {"query": "x", "top_k": 0}},
            {"json": {"query": "x", "nothing": 1}},
            {"json": {"query": "x", "generate": {"base_url": "http://x"}}},
            {"json": {"query": "x", "collection": "nothere"}},
            {"json": {"query": "x", "generate": {"target": "env://RAG_LLM_API_KEY"}}},
            {"content": b"{", "headers": {**good, "content-type": "application/json"}},
            {"content": b"x", "headers": {**good, "content-type": "text/plain"}},
            {"content": b" " * 300_000, "headers": {**good, "content-type": "application/json"}},
        ]
        for more in bad:
            ask("POST", "/rag_modules", **more)
        ask("POST", "/v1/documents", files=[("files", ("a.pdf", b"no pdf"))])
        for path in ("/metrics", "/v1/info", "/openapi.json", "/docs", "/", "/readyz", "/healthz"):
            ask("GET", path)
            ask("GET", path, {})
        for path in (
            "/v1/collections",
            "/v1/documents",
            "/v1/documents/travel.md",
            "/v1/models",
            "/nope",
        ):
            ask("GET", path)
            ask("DELETE", path, {})
        ask("PATCH", "/v1/documents")
        for status in (401, 500, 429):
            llm.script = [llm.status(status)] * 4
            ask("POST", "/rag_modules", json={"query": QUESTION})
            ask("POST", "/rag_modules?stream=true", json={"query": QUESTION})
        for faults in (Faults(status=401), Faults(status=500), Faults(html=True), Faults(nan=True)):
            double.faults = faults
            ask("POST", "/v1/search", json={"query": QUESTION})
            ask("GET", "/v1/documents")
            ask("GET", "/readyz")
        double.faults = Faults()
        ask("GET", "/metrics")
    return told
