"""The images without an engine: what their locks put into them, their digests, scripts/images.py.

tests/engine/test_images.py asks the images themselves.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("dagger.mod", reason="dagger-io is not installed")

import images
from engine_double import ContainerDouble, EngineDouble, directory
from images import IMAGES, PLATFORM, Image, ImagesError, Layer
from jsonschema import Draft7Validator
from packaging.markers import Marker
from referencing import Registry, Resource
from test_compose import PACKAGES, SERVICE_COMMAND, STEP_COMMAND

import rag_kit.container
from rag_augment.module import Augment
from rag_generate.module import Generate
from rag_pipeline.module import Rag
from rag_rerank.module import Rerank
from rag_retrieve.module import Retrieve

ROOT = Path(__file__).resolve().parents[2]
# Packages that only make sense with a graphics card, or bring several GB of libraries for one.
FOR_GPUS = re.compile(r"nvidia|cuda|^cu1\d|^torch|^triton|-gpu$|^tensorflow|^jax")
each_image = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)


def closure(image: Image, *, linux_only: bool) -> set[tuple[str, str]]:
    """Return name and version of all a lock puts into an image, its own project left out.

    Args:
        image: The image.
        linux_only: Leave out what is for other systems.
    """
    lock = tomllib.loads((ROOT / image.project / "uv.lock").read_text(encoding="utf-8"))
    packages = lock["package"]
    (own,) = [each for each in packages if each["source"].get("editable") == "."]
    seen: set[tuple[str, str]] = set()
    waiting = [(own, image.extras)]
    while waiting:
        package, extras = waiting.pop()
        wanted = list(package.get("dependencies", ()))
        for extra in extras:
            wanted += package["optional-dependencies"][extra]
        for each in wanted:
            if linux_only and not Marker(each.get("marker", "sys_platform != ''")).evaluate(
                PLATFORM
            ):
                continue
            for found in packages:
                same = found["name"] == each["name"]
                if same and each.get("version", found["version"]) == found["version"]:
                    new = (found["name"], found["version"]) not in seen
                    seen.add((found["name"], found["version"]))
                    if new or each.get("extra"):
                        waiting.append((found, tuple(each.get("extra", ()))))
    return seen


@pytest.fixture(scope="module")
def sboms() -> dict[str, dict[str, Any]]:
    """The SBOM of each image."""
    return {image.name: images.sbom(image) for image in IMAGES}


# -- what is in them ----------------------------------------------------------------------------


@each_image
def test_no_image_holds_anything_for_a_graphics_card(image: Image) -> None:
    """Whatever the system: no CUDA, no PyTorch; embeddings run on ONNX Runtime for CPUs."""
    names = {name for name, _ in closure(image, linux_only=False)}

    assert len(names) > 15
    assert {name for name in names if FOR_GPUS.search(name)} <= {"torch", "torchvision"} & left_out(
        image
    )


def left_out(image: Image) -> set[str]:
    """Return the packages that a project's overrides never install."""
    project = tomllib.loads((ROOT / image.project / "pyproject.toml").read_text(encoding="utf-8"))
    overrides = project.get("tool", {}).get("uv", {}).get("override-dependencies", ())
    return {each.partition(" ;")[0] for each in overrides if each.endswith("== 'never'")}


@each_image
def test_the_images_hold_no_tool_of_development(image: Image) -> None:
    """No test runner, no linter, no Dagger SDK: they are in groups that images leave out."""
    names = {name for name, _ in closure(image, linux_only=False)}

    assert not names & {"pytest", "hypothesis", "ruff", "mypy", "dagger-io", "gql", "reportlab"}


@each_image
def test_the_sbom_is_what_the_lock_says(image: Image, sboms: dict[str, Any]) -> None:
    """Every package of the lock that is for Linux, with its version; nothing else."""
    listed = [(each["name"], each["version"]) for each in sboms[image.name]["components"]]

    assert len(set(listed)) == len(listed)
    assert set(listed) == closure(image, linux_only=True)


@each_image
def test_the_sbom_names_what_it_is_about_and_where_each_part_is_from(
    image: Image, sboms: dict[str, Any]
) -> None:
    """A package from an index has its address for tools (purl) and hashes; ours has none."""
    document = sboms[image.name]
    about = document["metadata"]["component"]
    assert (about["type"], about["name"]) == ("container", image.name)
    for part in document["components"]:
        if part["name"].startswith("rag-"):
            assert "purl" not in part
            continue
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"
        hashes = [each for file in part["externalReferences"] for each in file["hashes"]]
        assert {each["alg"] for each in hashes} == {"SHA-256"}
    refs = {part["bom-ref"] for part in document["components"]} | {about["bom-ref"]}
    for each in document["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= refs


@each_image
def test_the_sbom_is_valid_cyclonedx(image: Image, sboms: dict[str, Any]) -> None:
    """The schema of CycloneDX 1.5, which its own library brings, accepts it."""
    package = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is missing")
    folder = Path(package.__file__).parent / "_res"
    named = {
        url: json.loads((folder / f"{file}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))
        for url, file in (
            ("http://cyclonedx.org/schema/bom-1.5.schema.json", "bom-1.5"),
            ("http://cyclonedx.org/schema/spdx.schema.json", "spdx"),
            ("http://cyclonedx.org/schema/jsf-0.82.schema.json", "jsf-0.82"),
        )
    }
    registry = Registry().with_resources(
        (url, Resource.from_contents(schema)) for url, schema in named.items()
    )
    schema = named["http://cyclonedx.org/schema/bom-1.5.schema.json"]
    Draft7Validator(schema, registry=registry).validate(sboms[image.name])


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file an image that is named; an unknown name is refused with those there are."""
    assert images.main(["sbom", "rag-augment", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "rag-augment.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    assert "packages" in capsys.readouterr().out
    assert images.main(["sbom", "rag-nothing"]) == 1
    assert "'rag-nothing'; there are rag-retrieve" in capsys.readouterr().err


def test_there_is_no_second_definition_of_an_image() -> None:
    """Images are made by the modules' functions: no Dockerfile anywhere."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    named = [name for name in listed if re.search(r"(^|/)(Dockerfile|Containerfile)", name)]
    assert named == []


def test_compose_starts_what_the_images_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Entrypoint, arguments and user of each image, as the modules ask the engine for them."""
    monkeypatch.setattr(rag_kit.container, "dag", EngineDouble())
    monkeypatch.chdir(tmp_path)  # a module's function runs in a folder of its own
    rag = Rag(docs=directory(ROOT))
    made = {
        "retrieve": Retrieve().container(),
        "rerank": Rerank().container(),
        "augment": Augment().container(),
        "generate": Generate().container(),
        "composite": rag.container(),
        "service": rag.service_container(directory(ROOT)),
    }

    for name, container in made.items():
        assert isinstance(container, ContainerDouble)
        expected = STEP_COMMAND.format(package=PACKAGES.get(name))
        command = " ".join([*container.entrypoint, *container.default_args])
        assert command == (SERVICE_COMMAND if name == "service" else expected)
        assert container.user == "10001:10001"
        image = {"composite": "rag-pipeline"}.get(name, f"rag-{name}")
        assert container.labels["org.opencontainers.image.title"] == image


# -- what they weigh ----------------------------------------------------------------------------


def tarball(path: Path, contents: list[tuple[bytes, str]]) -> Path:
    """Write an OCI image of these layers, each with its media type."""
    blobs: dict[str, bytes] = {}

    def put(blob: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(blob).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = blob
        return {"digest": f"sha256:{digest}", "size": len(blob)}

    descriptors = [{**put(blob), "mediaType": kind} for blob, kind in contents]
    manifest = put(json.dumps({"layers": descriptors}).encode())
    blobs["index.json"] = json.dumps({"manifests": [manifest]}).encode()
    with tarfile.open(path, "w") as archive:
        for name, blob in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return path


def test_a_layer_is_weighed_as_it_travels_and_as_it_lies(tmp_path: Path) -> None:
    """Compressed and unpacked bytes, and the digest that a layer has in every image."""
    text, plain = b"a" * 100_000, b"b" * 500
    packed = gzip.compress(text)
    kind = "application/vnd.oci.image.layer.v1.tar"

    found = images.layers(
        tarball(tmp_path / "image.tar", [(packed, f"{kind}+gzip"), (plain, kind)])
    )

    assert found == [
        Layer(hashlib.sha256(text).hexdigest(), len(packed), 100_000),
        Layer(hashlib.sha256(plain).hexdigest(), 500, 500),
    ]
    assert images.weight(found) == ((len(packed) + 500) / 2**20, 100_500 / 2**20)


@pytest.mark.parametrize(
    "arguments", [["sizes"], ["publish", "--registry", "r.example.com/x"]], ids=["sizes", "publish"]
)
def test_without_an_engine_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No `dagger`: exit code 1 and what to install, no traceback."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert images.main(arguments) == 1
    assert "there is no `dagger` on PATH" in capsys.readouterr().err


# -- digests ------------------------------------------------------------------------------------


def test_digests_are_written_for_compose_and_for_the_chart(tmp_path: Path) -> None:
    """One file of variables, and values at the places the chart has for them."""
    references = {
        image.variable: f"registry.example.com:5000/team/{image.name}:v1@sha256:{n:064x}"
        for n, image in enumerate(IMAGES)
    }

    images.write_digests(references, tmp_path / "images.env", tmp_path / "values.yaml")

    lines = (tmp_path / "images.env").read_text().splitlines()
    assert lines[1:] == [f"{name}={reference}" for name, reference in references.items()]
    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    chart = yaml.safe_load((ROOT / "deploy/helm/dagger-rag/values.yaml").read_text())
    for image in (each for each in IMAGES if each.chart):
        given = values.pop(image.chart)["image"]
        assert given["repository"] == f"registry.example.com:5000/team/{image.name}"
        assert references[image.variable].endswith(f"@{given['digest']}")
        default = chart[image.chart]["image"]
        assert given.keys() == default.keys()
        assert default["repository"].endswith(f"/{image.name}")
    assert values == {}


@pytest.mark.parametrize(
    "reference", ["registry.example.com/x:v1", "x@sha256:abc", "", "a b@sha256:" + "0" * 64]
)
def test_a_reference_without_a_digest_is_not_written(tmp_path: Path, reference: str) -> None:
    """A tag can be moved: nothing is written, and the error names the variable."""
    with pytest.raises(ImagesError, match="QDRANT_IMAGE"):
        images.write_digests({"QDRANT_IMAGE": reference}, tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
