"""The images on a real engine: what is in them, that the service's answers, and scripts/images.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_kit import CALL_S, QUIET, Session
from images import IMAGES, PINNED, Image, sbom

# Names and versions of all that is installed, the user, and tools that should not be there.
LOOK = """
import importlib.metadata as m, json, os, shutil, sysconfig
tools = [tool for tool in ("gcc", "cc", "make", "uv", "git", "docker") if shutil.which(tool)]
found = m.distributions(path=[sysconfig.get_path("purelib")])
installed = {each.metadata["Name"]: each.version for each in found}
print(json.dumps({"uid": os.getuid(), "tools": tools, "installed": installed}))
"""
KEY = "a-key-of-16-chars"
# Asks the service from another container: until it is ready, then a document, then a question.
ASK = f"""
import httpx, time
with httpx.Client(base_url="http://service:8000", timeout=60) as client:
    refused = client.post("/rag_modules", json={{"query": "x"}}).status_code
    client.headers["authorization"] = "Bearer {KEY}"
    while client.get("/readyz").status_code != 200:
        time.sleep(0.1)
    files = [("files", ("bylaws.md", b"# By-laws\\n\\nOnly the board may sign contracts.\\n"))]
    client.post("/v1/documents", files=files).raise_for_status()
    answer = client.post("/rag_modules", json={{"query": "Who may sign contracts?"}}).json()
    print(refused, answer["answer"], answer["citations"][0]["document_id"])
"""
START = """query($keys: String!) { rag { serviceContainer {
  withEnvVariable(name: "RAG_API_KEYS", value: $keys) { asService(useEntrypoint: true) { id } }
} } }"""
TALK = """query($service: ID!, $ask: [String!]!) { rag { serviceContainer {
  withServiceBinding(alias: "service", service: $service) { withExec(args: $ask) { stdout } }
} } }"""
TITLE = """query($ref: String!) { container { from(address: $ref) {
  label(name: "org.opencontainers.image.title")
} } }"""


@pytest.fixture(scope="module")
def session(repository: Path) -> Iterator[Session]:
    """A session with every module that makes an image loaded."""
    opened = Session(repository)
    try:
        for module in sorted({image.module for image in IMAGES}):
            opened.load(module)
        yield opened
    finally:
        opened.close()


def asked_of(image: Image, inner: str) -> str:
    """Return a query of an image."""
    first, *rest = image.container.split("-")
    function = first + "".join(word.capitalize() for word in rest)
    module = image.module.rpartition("/")[2]
    return f"query($look: [String!]!) {{ {module} {{ {function} {{ {inner} }} }} }}"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_holds_what_its_sbom_says_and_little_else(session: Session, image: Image) -> None:
    """Installed is the project and each package of the SBOM; not root, no tools of a build."""
    query = asked_of(image, "user withExec(args: $look) { stdout }")

    data: dict[str, Any] = session.ask(query, look=["python", "-c", LOOK])

    for _ in range(2):
        (data,) = data.values()
    seen = json.loads(data["withExec"]["stdout"])
    installed = {(normalized(name), version) for name, version in seen["installed"].items()}
    document = sbom(image)
    listed = {(each["name"], each["version"]) for each in document["components"]}
    own = (image.name, document["metadata"]["component"]["version"])
    assert installed == listed | {own}
    assert (seen["uid"], seen["tools"], data["user"]) == (10001, [], "10001:10001")


def test_the_services_image_takes_a_document_and_answers(session: Session) -> None:
    """Started as its image says, with one key; another container uploads and asks."""
    keys = json.dumps([{"name": "test", "key": KEY, "write": True}])
    started = session.ask(START, keys=keys)["rag"]["serviceContainer"]
    service = started["withEnvVariable"]["asService"]["id"]

    asked = session.ask(TALK, service=service, ask=["python", "-c", ASK])

    said = asked["rag"]["serviceContainer"]["withServiceBinding"]["withExec"]["stdout"]
    assert said == "401 Only the board may sign contracts [1]. bylaws.md\n"


def images_py(repository: Path, *arguments: str) -> str:
    """Run scripts/images.py of the copy; return what it prints."""
    ran = subprocess.run(
        [sys.executable, repository / "scripts/images.py", *arguments],
        cwd=repository,
        env={**os.environ, **QUIET},
        check=False,
        capture_output=True,
        text=True,
        timeout=6 * CALL_S,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def base_of(repository: Path) -> str:
    """Return the base image as the copy names it: with its digest, where the engine can get that."""
    text = (repository / "dagger/kit/src/rag_kit/container.py").read_text(encoding="utf-8")
    found = re.search(r'^BASE = "(.+)"$', text, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.timeout(7 * CALL_S)
def test_all_are_pushed_and_written_down_by_their_digests(
    repository: Path, session: Session, registry: str, tmp_path: Path
) -> None:
    """`publish` names each image as the registry has it; `resolve` gives the same digests."""
    env, values = tmp_path / "images.env", tmp_path / "images.values.yaml"
    others = [f"--{name}={base_of(repository)}" for name in ("qdrant", "dagger-engine", "llm")]
    to = ["--registry", f"{registry}/team", "--tag", "v9", *others]

    images_py(repository, "publish", *to, "--env", str(env), "--values", str(values))

    written = dict(line.split("=", 1) for line in env.read_text().splitlines()[1:])
    assert all(PINNED.fullmatch(reference) for reference in written.values())
    for image in IMAGES:
        found = session.ask(TITLE, ref=written[image.variable])
        assert found["container"]["from"]["label"] == image.name
    again = tmp_path / "again.env"
    images_py(repository, "resolve", *to, "--env", str(again), "--values", str(values))
    digests = [line.rpartition("@")[2] for line in env.read_text().splitlines()]
    assert [line.rpartition("@")[2] for line in again.read_text().splitlines()] == digests


def test_their_sizes_are_printed(repository: Path) -> None:
    """A row an image: what is on the base is less than all, compressed is less than unpacked."""
    table = images_py(repository, "sizes", "rag-augment", "rag-generate")

    row = r"^\| `(rag-\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(row, table, re.MULTILINE)
    assert [name for name, *_ in rows] == ["rag-augment", "rag-generate"]
    for _, *figures in rows:
        own, own_unpacked, whole, whole_unpacked = map(float, figures)
        assert 1 < own < own_unpacked < whole_unpacked
        assert own < whole < whole_unpacked
    assert "The base image" in table
