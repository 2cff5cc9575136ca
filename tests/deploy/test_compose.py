"""deploy/compose.yaml: its guarantees, and its processes started as Compose would.

Compose's own loader reads the file where it was built (scripts/go-tools). `docker compose up`
itself runs where a Docker daemon and deploy/images.env are; elsewhere the same commands run as
processes of this machine, with the same variables and secrets, over a double of Qdrant.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from configuration import GROUPS
from images import IMAGES, OTHERS
from projects import STEPS
from qdrant_double import QdrantDouble

from rag_pipeline.stages import NEEDED

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "compose.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?+])(?P<rest>[^}]*))?\}")
IMAGE_VARIABLES = {image.variable for image in IMAGES} | set(OTHERS)
DIGEST = "registry.example.com/team/x@sha256:" + "a" * 64
LOCAL = "127.0.0.1"
# What each container runs, as its image says; tests/deploy/test_images.py compares them.
STEP_COMMAND = "python -m {package} serve --host 0.0.0.0 --port 8080"
PACKAGES = {**{step: f"rag_{step}" for step in STEPS}, "composite": "rag_pipeline"}
SERVICE_COMMAND = "rag serve --host 0.0.0.0 --port 8000"
SETTINGS = {
    **{step: [step] for step in STEPS},
    "composite": ["rag, the composite"],
    "service": ["the service", "retrieve", "rag, the composite"],
    "service-engine": ["the service", "retrieve", "rag, the composite"],
}


def filled_in(value: Any, given: dict[str, str]) -> Any:
    """Return a part of the file with its variables filled in, as Compose does."""
    if isinstance(value, dict):
        return {name: filled_in(each, given) for name, each in value.items()}
    if isinstance(value, list):
        return [filled_in(each, given) for each in value]
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        text = given.get(found["name"], "")
        if found["kind"] == "+":  # another text where the variable is set
            return found["rest"] if text else ""
        if text or found["kind"] != "-":
            return text
        return found["rest"]

    return VARIABLE.sub(replaced, value).replace("$$", "$")


RAW = yaml.safe_load(FILE.read_text(encoding="utf-8"))
PROJECT = filled_in(RAW, dict.fromkeys(IMAGE_VARIABLES, DIGEST))
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


# -- Compose's own loader -----------------------------------------------------------------------


def loaded(*env_files: Path) -> subprocess.CompletedProcess[str]:
    """Read the file with the loader `docker compose` is made of, every profile on."""
    [*found] = ROOT.glob(".tools/compose-*/compose")
    if not found:
        pytest.skip("Compose's loader is not built here; scripts/go-tools makes it, with Go")
    return subprocess.run(
        [found[-1], FILE, *env_files],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")},
    )


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """Every image by a digest, as scripts/images.py writes it."""
    path = tmp_path / "images.env"
    path.write_text("".join(f"{name}={DIGEST}\n" for name in sorted(IMAGE_VARIABLES)))
    return path


def test_compose_reads_the_file_as_it_is_meant(env_file: Path) -> None:
    """Schema, references and variables are right: the loader gives what these tests look at."""
    ran = loaded(env_file)

    assert ran.returncode == 0, ran.stderr
    project = json.loads(ran.stdout)
    assert project["services"].keys() == SERVICES.keys()
    for name, service in SERVICES.items():
        read = project["services"][name]
        assert read.get("environment", {}) == service.get("environment", {}), name
        assert read["image"] == service["image"] == DIGEST
        assert [f"{port['host_ip']}:{port['published']}" for port in read.get("ports", ())] == [
            port.rpartition(":")[0] for port in service.get("ports", ())
        ]


@pytest.mark.parametrize("variable", ["RAG_SERVICE_IMAGE", "QDRANT_IMAGE"])
def test_an_image_that_is_not_set_is_an_error_that_says_how(env_file: Path, variable: str) -> None:
    """Nothing is pulled by a tag: without its digest the file does not load."""
    text = env_file.read_text()
    env_file.write_text(re.sub(rf"^{variable}=.*\n", "", text, flags=re.MULTILINE))

    ran = loaded(env_file)

    assert ran.returncode == 1
    assert f"{variable} is missing a value: is not set" in ran.stderr
    assert "docs/compose.md" in ran.stderr


# -- what is promised ---------------------------------------------------------------------------


@each_service
def test_an_image_is_a_variable_that_must_be_set(name: str) -> None:
    """No image has a default, so each is what deploy/images.env says: by digest."""
    found = VARIABLE.fullmatch(RAW["services"][name]["image"])

    assert found
    assert found["kind"] == "?"
    assert found["name"] in IMAGE_VARIABLES


@each_service
def test_nothing_listens_beyond_this_machine(name: str) -> None:
    """Only the two services have a port, and each is on 127.0.0.1."""
    ports = SERVICES[name].get("ports", [])

    assert bool(ports) == (name in ("service", "service-engine"))
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:8000", port) for port in ports)
    assert SERVICES[name].get("network_mode", "none") == "none"


@each_service
def test_every_container_has_no_more_than_it_needs(name: str) -> None:
    """A read-only root, no capabilities, no new privileges; only the engine is privileged."""
    service = SERVICES[name]
    assert "docker.sock" not in json.dumps(service)
    if name == "engine":  # it runs containers itself
        assert service["profiles"] == ["engine"]
        return
    assert "privileged" not in service
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"pid", "ipc", "userns_mode", "devices"} & set(service)


@each_service
def test_every_container_is_limited_watched_and_started_again(name: str) -> None:
    """Memory has a limit, logs rotate; what runs on is restarted and has a health check."""
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert service["logging"] == {"driver": "local"}
    if service["restart"] == "no":  # it ends
        assert name == "engine-cli"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


@each_service
def test_nothing_starts_before_what_it_needs_is_healthy(name: str) -> None:
    """Every dependency is waited for; a service it names in a URL is one."""
    needed = SERVICES[name].get("depends_on", {})
    conditions = {"service_healthy", "service_completed_successfully"}
    assert {each["condition"] for each in needed.values()} <= conditions
    named = set(
        re.findall(
            r"http://([a-z-]+)(?:\.internal)?:\d+", json.dumps(SERVICES[name].get("environment"))
        )
    )
    assert named <= needed.keys() & SERVICES.keys()


def test_only_its_service_reaches_the_engine() -> None:
    """No plain TCP: a socket in a volume that two containers have, and no published port."""
    assert "tcp://" not in FILE.read_text(encoding="utf-8")
    having = {
        name: volume
        for name, service in SERVICES.items()
        for volume in service.get("volumes", ())
        if isinstance(volume, str) and volume.startswith("engine-socket:")
    }
    assert having.keys() == {"engine", "service-engine"}
    assert having["service-engine"].endswith(":ro")
    variables = SERVICES["service-engine"]["environment"]
    address = variables["_EXPERIMENTAL_DAGGER_RUNNER_HOST"]
    assert address == "unix:///run/dagger/engine.sock"
    config = json.loads(PROJECT["configs"]["engine"]["content"])
    assert config == {"security": {"insecureRootCapabilities": False}}


def test_what_the_steps_in_an_engine_reach_has_a_name_with_a_dot() -> None:
    """An engine's resolver hands on no name without one: `qdrant` is found by containers of Compose only."""
    named = {
        *re.findall(r"http://([\w.-]+):", json.dumps(SERVICES["service-engine"]["environment"])),
        *re.findall(r"http://([\w.-]+):", (DEPLOY / ".env.example").read_text(encoding="utf-8")),
    }
    aliases = {
        alias
        for name in ("qdrant", "llm", "reranker")
        for alias in SERVICES[name]["networks"]["inside"]["aliases"]
    }

    assert named == aliases == {f"{name}.internal" for name in ("qdrant", "llm", "reranker")}


def test_what_needs_no_network_outside_has_none() -> None:
    """Qdrant, retrieve, augment, the composite and the model reach nothing beyond."""
    assert PROJECT["networks"]["inside"] == {"internal": True}
    outside = {name for name, each in SERVICES.items() if "outside" in each.get("networks", ())}
    assert outside == {"rerank", "generate", "service", "engine", "service-engine"}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_is_a_setting_of_that_process(name: str) -> None:
    """A name that no settings class reads would be ignored silently."""
    groups = dict(GROUPS)
    known = {
        f"RAG_{field}".upper() for group in SETTINGS[name] for field in groups[group].model_fields
    }

    given = {each for each in SERVICES[name].get("environment", {}) if each.startswith("RAG_")}
    assert given <= known


@each_service
def test_every_key_is_a_file(name: str) -> None:
    """No key stands in a variable; every secret file a process reads is mounted, and no other."""
    service = SERVICES[name]
    for variable in service.get("environment", {}):
        assert "KEY" not in variable or variable.endswith("_FILE"), variable
    named = json.dumps([service.get("environment"), service.get("command")])
    read = set(re.findall(r"/run/secrets/(\w+)", named))
    mounted = set(service.get("secrets", ()))
    # the key of a model is read where RAG_LLM_API_KEY_FILE names it
    assert read | ({"llm_api_key", "reranker_api_key"} & mounted) == mounted
    assert mounted <= PROJECT["secrets"].keys()


def test_secrets_and_what_is_of_one_installation_are_ignored_by_git() -> None:
    """A key in deploy/secrets/ cannot be committed by accident."""
    files = [each["file"] for each in PROJECT["secrets"].values()]
    assert all(file.startswith("./secrets/") for file in files)
    private = [*files, ".env", "images.env", "images.values.yaml", "models/model.gguf"]
    ran = subprocess.run(
        ["git", "check-ignore", *private], cwd=DEPLOY, check=False, capture_output=True, text=True
    )
    assert ran.stdout.split() == private


def test_the_example_of_variables_names_them_all() -> None:
    """What can be set is in deploy/.env.example, and all that is there can be set."""
    used = {found["name"] for found in VARIABLE.finditer(FILE.read_text(encoding="utf-8"))}
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    offered = set(re.findall(r"^#?([A-Z_]+)=", example, flags=re.MULTILINE))

    assert offered == used - IMAGE_VARIABLES


# -- its processes, started ---------------------------------------------------------------------


class Stack:
    """The containers of the default profile as processes, started in their order.

    Args:
        folder: For secrets, data and logs.
        qdrant: What stands in for the container `qdrant`.
        keys: Secrets by name.
    """

    def __init__(self, folder: Path, qdrant: QdrantDouble, keys: dict[str, str]) -> None:
        self.folder = folder
        self.urls = {"qdrant": qdrant.url}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "secrets").mkdir()
        for name, key in keys.items():
            (folder / "secrets" / name).write_text(key)

    def start(self, name: str) -> None:
        """Start a container's process, after those it depends on, and wait for its health check."""
        for needed in SERVICES[name].get("depends_on", {}):
            if needed not in self.urls and "profiles" not in SERVICES[needed]:
                self.start(needed)
        port = _free_port()
        command = SERVICE_COMMAND
        if name in PACKAGES:
            command = STEP_COMMAND.format(package=PACKAGES[name])
        command = re.sub(r"--port \d+", f"--port {port}", command.replace("0.0.0.0", LOCAL))
        home = self.folder / name
        home.mkdir()
        kept = {each: text for each, text in os.environ.items() if not each.startswith("RAG_")}
        environment = SERVICES[name].get("environment", {})
        given = {each: self._here(text) for each, text in environment.items()}
        program, *arguments = command.split()
        with (home / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                env={**kept, "RAG_HOME": str(home / "data"), **given},
                cwd=home,
                stdout=log,
                stderr=log,
            )
        self.urls[name] = f"http://{LOCAL}:{port}"
        self._wait_until_healthy(name, port)

    def _here(self, text: str) -> str:
        """Return a variable's text with this machine's addresses and folders."""
        for name, url in self.urls.items():
            text = re.sub(rf"http://{name}:\d+", url, text)
        return text.replace("/run/secrets", str(self.folder / "secrets"))

    def _wait_until_healthy(self, name: str, port: int) -> None:
        program, *rest = SERVICES[name]["healthcheck"]["test"][1:]
        assert program == "python"
        check = [
            sys.executable,
            *(re.sub(rf"{LOCAL}:\d+", f"{LOCAL}:{port}", each) for each in rest),
        ]
        pause, deadline = threading.Event(), time.monotonic() + 90
        while subprocess.run(check, check=False, capture_output=True).returncode:
            ended = self.processes[name].poll()
            assert ended is None and time.monotonic() < deadline, self.log(name)
            pause.wait(0.3)

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        return (self.folder / name / "log").read_text(encoding="utf-8")

    def stop(self) -> None:
        """End all, the last one first, as Compose does; each must end well."""
        for name, process in reversed(self.processes.items()):
            process.terminate()
            assert process.wait(60) in (0, -15), self.log(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Qdrant's double with a key, and nothing started yet."""
    keys = {
        "api_keys": json.dumps([{"name": "me", "key": "a-key-of-16-chars", "write": True}]),
        "qdrant_api_key": "the-key-of-qdrant\n",
        "llm_api_key": "",
    }
    with QdrantDouble(api_key="the-key-of-qdrant") as qdrant:
        started = Stack(tmp_path, qdrant, keys)
        try:
            yield started
        finally:
            started.stop()


@pytest.mark.full
def test_a_document_is_uploaded_and_asked_through_all_of_them(stack: Stack) -> None:
    """New and empty it becomes healthy, takes a document with a key, and answers with a citation."""
    stack.start("service")
    assert stack.processes.keys() == {*NEEDED, "composite", "service"}
    document = ("files", ("bylaws.md", b"# By-laws\n\nOnly the board may sign contracts.\n"))
    question = {"query": "Who may sign contracts?"}
    with httpx.Client(base_url=stack.urls["service"], trust_env=False, timeout=60) as client:
        refused = client.post("/rag_modules", json=question)
        client.headers["authorization"] = "Bearer a-key-of-16-chars"
        upload = client.post("/v1/documents", files=[document])
        answer = client.post("/rag_modules", json=question)

    assert refused.status_code == 401
    assert upload.json()["added"] == ["bylaws.md"], upload.text
    assert answer.json()["answer"] == "Only the board may sign contracts [1]."
    assert answer.json()["citations"][0]["document_id"] == "bylaws.md"


# -- Docker -------------------------------------------------------------------------------------


@pytest.fixture
def docker() -> None:
    """Skip where no Docker daemon, no Compose or no published images are."""
    if shutil.which("docker") is None:
        pytest.skip("no Docker: there is no `docker` on PATH")
    if subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=60).returncode:
        pytest.skip("no Docker: no daemon answers `docker info`")
    if subprocess.run(
        ["docker", "compose", "version"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no Docker Compose: `docker compose version` fails")
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    version = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
    if int(version.partition(".")[0]) < 25:
        pytest.skip(f"Docker Engine is {version}; `start_interval` of the health checks needs 25")
    if not (DEPLOY / "images.env").exists():
        pytest.skip("no images: scripts/images.py publish or resolve writes deploy/images.env")


@pytest.mark.timeout(1200)
def test_docker_compose_starts_it_and_it_answers(docker: None, tmp_path: Path) -> None:
    """`up --wait` with the published images: healthy, a document uploaded, a cited answer."""
    port = _free_port()
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("models", "helm"))
    secrets = tmp_path / "deploy/secrets"
    (secrets / "api_keys.json").write_text(
        '[{"name": "me", "key": "a-key-of-16-chars", "write": true}]'
    )
    (secrets / "qdrant_api_key").write_text("the-key-of-qdrant")
    (secrets / "llm_api_key").write_text("")
    compose = [
        *("docker", "compose", "--project-name", f"rag-test-{port}"),
        *("--env-file", str(DEPLOY / "images.env"), "-f", str(tmp_path / "deploy/compose.yaml")),
    ]
    env = {**os.environ, "RAG_PUBLISH": f"{LOCAL}:{port}"}
    document = ("files", ("bylaws.md", b"# By-laws\n\nOnly the board may sign contracts.\n"))
    try:
        up = subprocess.run(
            [*compose, "up", "--detach", "--wait", "--wait-timeout", "900"],
            env=env, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert up.returncode == 0, up.stderr
        headers = {"authorization": "Bearer a-key-of-16-chars"}
        with httpx.Client(
            base_url=f"http://{LOCAL}:{port}", headers=headers, trust_env=False, timeout=60
        ) as client:
            assert client.post("/v1/documents", files=[document]).status_code == 200
            answer = client.post("/rag_modules", json={"query": "Who may sign contracts?"}).json()
        assert answer["citations"][0]["document_id"] == "bylaws.md"
    finally:
        subprocess.run([*compose, "down", "--volumes"], env=env, check=False, capture_output=True)
