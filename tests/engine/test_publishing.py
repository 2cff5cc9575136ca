"""docs/publishing.md on a real engine: images go to a registry that wants a login, and come back."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_kit import (
    GIT_TOKEN,
    HOST,
    Dagger,
    GitServer,
    Ran,
    Session,
    commit,
    copy_of,
    registry_in,
)

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/publishing.md").read_text(encoding="utf-8")
USER, TOKEN = "robot", "a-token-of-the-test"
HTPASSWD = "robot:$2b$05$abcdefghijklmnopqrstuu/9iUEJ5GxvBRrRcXCP7gkPtuj2x/bDe\n"
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
PACKAGES = {
    "retrieve": "rag_retrieve",
    "rerank": "rag_rerank",
    "augment": "rag_augment",
    "generate": "rag_generate",
    "rag": "rag_pipeline",
}


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that answers USER with TOKEN only."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
    with registry_in(folder, auth) as address:
        refused = httpx.get(f"http://{address}/v2/", auth=(USER, "wrong"), trust_env=False)
        assert refused.status_code == 401
        yield address


def publish(dagger: Dagger, module: str, *arguments: str, **env: str) -> Ran:
    return dagger("-m", f"dagger/{module}", "call", "publish", *arguments, env=env)


def pulled(address: str, repository: str, digest: str) -> dict[str, Any]:
    """Return the configuration of the image with that digest, each piece checked by its own."""

    def get(path: str, wanted: str) -> bytes:
        url = f"http://{address}/v2/{repository}/{path}/{wanted}"
        got = httpx.get(url, auth=(USER, TOKEN), headers={"accept": MANIFESTS}, trust_env=False)
        assert got.status_code == 200, got.text
        assert f"sha256:{hashlib.sha256(got.content).hexdigest()}" == wanted
        return got.content

    manifest = json.loads(get("manifests", digest))
    config: dict[str, Any] = json.loads(get("blobs", manifest["config"]["digest"]))
    return config


@pytest.mark.parametrize("module", PACKAGES)
def test_an_image_is_pushed_with_a_token_and_read_back_by_its_digest(
    dagger_cli: Dagger, private_registry: str, module: str
) -> None:
    """What the registry has under the printed digest is the step: its command, user and version."""
    package = PACKAGES[module]
    repository = f"team/{package.replace('_', '-')}"

    ran = publish(
        *(dagger_cli, module, "--address", f"{private_registry}/{repository}", "--tag", "v9"),
        *("--username", USER, "--password", "env:REGISTRY_TOKEN"),
        REGISTRY_TOKEN=TOKEN,
    )

    assert ran.code == 0, ran.log[-3000:]
    assert TOKEN not in ran.out + ran.log
    found = re.fullmatch(
        rf"{private_registry}/{repository}:v9@(sha256:[0-9a-f]{{64}})", ran.out.strip()
    )
    assert found, ran.out
    config = pulled(private_registry, repository, found[1])["config"]
    assert (config["Entrypoint"], config["User"]) == (["python", "-m", package], "10001:10001")
    version = importlib.metadata.version(package.replace("_", "-"))
    assert config["Labels"]["org.opencontainers.image.version"] == version


def test_a_token_that_a_command_prints_is_taken_without_its_line_end(
    dagger_cli: Dagger, private_registry: str
) -> None:
    """`aws ecr get-login-password` and most other commands end their output with one."""
    ran = publish(
        *(dagger_cli, "augment", "--address", f"{private_registry}/team/by-command"),
        *("--tag", "v9", "--username", USER, "--password", f"cmd:echo {TOKEN}"),
    )

    assert ran.code == 0, ran.log[-3000:]
    assert ran.out.startswith(f"{private_registry}/team/by-command:v9@sha256:")


@pytest.mark.parametrize("login", [("--username", USER, "--password", "env:REGISTRY_TOKEN"), ()])
def test_a_registry_that_refuses_is_named_with_what_to_check(
    dagger_cli: Dagger, private_registry: str, login: tuple[str, ...]
) -> None:
    """A wrong token, or none, fails; nothing is pushed, and the token is in no output."""
    ran = publish(
        *(dagger_cli, "augment", "--address", f"{private_registry}/team/refused", "--tag", "v9"),
        *login,
        REGISTRY_TOKEN="a-wrong-token-of-the-test",
    )

    assert ran.code != 0
    assert f"{private_registry}/team/refused:v9 was not pushed" in ran.log
    assert "check --username and --password, what they may push" in ran.log
    assert "a-wrong-token-of-the-test" not in ran.out + ran.log
    listed = httpx.get(
        f"http://{private_registry}/v2/team/refused/tags/list", auth=(USER, TOKEN), trust_env=False
    )
    assert listed.status_code == 404


def test_publish_gives_a_reference_by_digest_that_can_be_pulled(
    dagger_cli: Dagger, session: Session, registry: str
) -> None:
    """`publish` pushes the image; what comes back names exactly that image."""
    ran = publish(
        *(dagger_cli, "augment", "--address", f"{registry}/team/rag-augment", "--tag", "v9")
    )

    assert ran.code == 0, ran.log[-3000:]
    reference = ran.out.strip()
    assert re.fullmatch(rf"{registry}/team/rag-augment:v9@sha256:[0-9a-f]{{64}}", reference)
    query = "query($ref: String!) { container { from(address: $ref) { entrypoint user } } }"
    again = session.ask(query, ref=reference)["container"]["from"]
    assert again == {"entrypoint": ["python", "-m", "rag_augment"], "user": "10001:10001"}


def test_a_private_module_is_read_with_gits_own_credentials(
    dagger_cli: Dagger, git_server: GitServer, tmp_path: Path
) -> None:
    """The guide's credential helper lets Dagger in; without it the module is not found."""
    (tmp_path / "repository").mkdir()
    repository = copy_of(ROOT, tmp_path / "repository")
    commit(repository, "dagger/augment/v9.9.9")
    module = f"{git_server.serve('private', repository)}/dagger/augment@v9.9.9"
    example = ROOT / "contract/examples/augment"
    request = (example / "ok-numbered.request.json").read_text()
    call = ("-m", module, "call", "run", "--input-json", request)
    helper = re.search(r"'(!f\(\) .*; f)'", GUIDE)
    assert helper
    config = tmp_path / "gitconfig"
    setting = f"credential.http://{HOST}.helper"
    subprocess.run(["git", "config", "--file", config, setting, helper[1]], check=True)
    without = {"HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull}

    refused = dagger_cli(*call, env=without)
    ran = dagger_cli(
        *call, env={**without, "GIT_CONFIG_GLOBAL": str(config), "GIT_TOKEN": GIT_TOKEN}
    )

    assert refused.code != 0
    assert ran.json == json.loads((example / "ok-numbered.response.json").read_text())
    assert GIT_TOKEN not in ran.log
