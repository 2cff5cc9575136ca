"""The images of this project: their sizes, SBOMs and digests.

    python scripts/images.py sbom                     what each image holds, as CycloneDX JSON
    python scripts/images.py sizes                    what each image weighs; needs a Dagger engine
    python scripts/images.py publish --registry R     push all, and write their digests
    python scripts/images.py resolve --registry R     write the digests of what was pushed before

Each image is made by a function of a Dagger module, from the lock of its project: there is no
Dockerfile. `publish` and `resolve` write deploy/images.env for Compose and deploy/images.values.yaml
for Helm, each image by its digest; they need a Dagger engine, too.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from packaging.markers import Marker
from projects import ROOT, STEPS

ENV_FILE = ROOT / "deploy/images.env"
VALUES_FILE = ROOT / "deploy/images.values.yaml"
PINNED = re.compile(r"(?P<name>[^@\s]+?)(?::[\w][\w.-]*)?@(?P<digest>sha256:[0-9a-f]{64})")
# What an image runs on: packages of a lock for other systems are not in it.
PLATFORM = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
QUIET = {"DO_NOT_TRACK": "1", "DAGGER_NO_NAG": "1", "DAGGER_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}


class ImagesError(Exception):
    """What was wrong, and what to do next."""


@dataclass(frozen=True)
class Image:
    """An image of this project.

    Args:
        name: Its repository in the registry.
        project: The project whose lock it installs.
        module: The Dagger module that builds it.
        container: The function that returns it.
        publish: The function that pushes it.
        extras: Optional dependencies to install.
        chart: Its key in the values of the Helm chart.
    """

    name: str
    project: str
    module: str
    container: str = "container"
    publish: str = "publish"
    extras: tuple[str, ...] = ()
    chart: str = ""

    @property
    def variable(self) -> str:
        """The variable of deploy/compose.yaml."""
        return f"{self.name}-image".replace("-", "_").upper()


IMAGES = (
    *(Image(f"rag-{step}", f"dagger/{step}", f"dagger/{step}", chart=step) for step in STEPS),
    Image("rag-pipeline", "dagger/rag", "dagger/rag", chart="composite"),
    Image(
        "rag-service",
        "service",
        "dagger/rag",
        "service-container",
        "publish-service",
        ("local", "trace"),
        "service",
    ),
    Image(
        "rag-superlinked",
        "dagger/retrieve/superlinked",
        "dagger/retrieve",
        "superlinked-container",
        "publish-superlinked",
    ),
)
# What Compose runs beside them: by variable, the version that is looked up.
OTHERS = {
    "QDRANT_IMAGE": "docker.io/qdrant/qdrant:v1.19.0-unprivileged",
    "DAGGER_ENGINE_IMAGE": "registry.dagger.io/engine:v0.21.8",
    "LLM_IMAGE": "ghcr.io/ggml-org/llama.cpp:server-b10438",
}


# -- what is in an image ------------------------------------------------------------------------


def sbom(image: Image) -> dict[str, Any]:
    """Return the packages of an image as a CycloneDX document, from its lock.

    Packages for other systems are left out. What the base image brings is not in a lock.
    """
    command = [
        *(str(ROOT / "scripts/uv"), "export", "--frozen", "--no-default-groups", "--quiet"),
        *("--preview-features", "sbom-export", "--format", "cyclonedx1.5"),
        *("--project", str(ROOT / image.project)),
        *(f"--extra={extra}" for extra in image.extras),
    ]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise ImagesError(f"the lock of {image.project} cannot be read: {ran.stderr.strip()}")
    document: dict[str, Any] = json.loads(ran.stdout)
    kept = [one for one in document["components"] if _installed(one)]
    known = {one["bom-ref"] for one in (*kept, document["metadata"]["component"])}
    document["components"] = kept
    document["dependencies"] = [
        {**one, "dependsOn": [ref for ref in one.get("dependsOn", ()) if ref in known]}
        for one in document["dependencies"]
        if one["ref"] in known
    ]
    document["metadata"]["component"] |= {"type": "container", "name": image.name}
    return document


def _installed(component: dict[str, Any]) -> bool:
    """Tell whether a package is installed on the platform of the images."""
    markers = [
        each["value"]
        for each in component.get("properties", ())
        if each["name"] == "uv:package:marker"
    ]
    return all(Marker(marker).evaluate(PLATFORM) for marker in markers)


def write_sboms(images: Sequence[Image], folder: Path) -> None:
    """Write one document an image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        path = folder / f"{image.name}.cdx.json"
        document = sbom(image)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"{path}: {len(document['components'])} packages")


# -- sizes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One layer: its digest before compression, and bytes compressed and unpacked."""

    diff_id: str
    compressed: int
    unpacked: int


def layers(tarball: Path) -> list[Layer]:
    """Return the layers of an image that was exported, lowest first."""
    with tarfile.open(tarball) as archive:

        def blob(descriptor: dict[str, Any]) -> IO[bytes]:
            name = "blobs/" + descriptor["digest"].replace(":", "/")
            file = archive.extractfile(name)
            assert file is not None
            return file

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.load(blob(json.load(index)["manifests"][0]))
        found = []
        for descriptor in manifest["layers"]:
            gzipped = descriptor["mediaType"].endswith("gzip")
            digest, unpacked = hashlib.sha256(), 0
            with blob(descriptor) as file, gzip.open(file) if gzipped else file as raw:
                while piece := raw.read(1 << 20):
                    digest.update(piece)
                    unpacked += len(piece)
            found.append(Layer(digest.hexdigest(), descriptor["size"], unpacked))
        return found


def sizes(images: Sequence[Image]) -> None:
    """Print the size of each image in MiB, on top of the base image and in all."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "image.tar"
        dagger("core", "container", "from", "--address", base(), *export_to(target))
        below = {layer.diff_id: layer for layer in layers(target)}
        for image in images:
            dagger("-m", image.module, "call", image.container, *export_to(target))
            found = layers(target)
            own = [layer for layer in found if layer.diff_id not in below]
            rows.append((image.name, *weight(own), *weight(found)))
    print("| Image | On the base, compressed | unpacked | In all, compressed | unpacked |")
    print("|---|---|---|---|---|")
    for name, *figures in rows:
        print(f"| `{name}` | {' | '.join(f'{mib:.1f}' for mib in figures)} |")
    mine = " / ".join(f"{mib:.1f}" for mib in weight(list(below.values())))
    print(f"\nMiB. The base image, {base().partition('@')[0]}: {mine}, compressed / unpacked.")


def export_to(path: Path) -> tuple[str, ...]:
    """Return the call that exports a container as a tarball, with layers as a registry gets them."""
    return ("as-tarball", "--forced-compression", "Gzip", "export", "--path", str(path))


def weight(found: Sequence[Layer]) -> tuple[float, float]:
    """Return MiB compressed and unpacked."""
    return (
        sum(layer.compressed for layer in found) / 2**20,
        sum(layer.unpacked for layer in found) / 2**20,
    )


def base() -> str:
    """Return the base image of all images."""
    text = (ROOT / "dagger/kit/src/rag_kit/container.py").read_text(encoding="utf-8")
    found = re.search(r'^BASE = "(.+)"$', text, re.MULTILINE)
    assert found
    return found[1]


# -- digests ------------------------------------------------------------------------------------


def push(image: Image, registry: str, tag: str, login: Sequence[str]) -> str:
    """Push an image; return its reference by digest."""
    address = f"{registry}/{image.name}"
    return dagger(
        *("-m", image.module, "call", image.publish, "--address", address, "--tag", tag), *login
    )


def resolve(address: str) -> str:
    """Return a reference with the current digest in its registry."""
    return dagger("core", "container", "from", "--address", address, "image-ref")


def write_digests(references: dict[str, str], env: Path, values: Path) -> None:
    """Write the digests for Compose and for Helm.

    Args:
        references: By variable of deploy/compose.yaml: the image by its digest.
        env: File of variables.
        values: File of values for the chart.
    """
    for variable, reference in references.items():
        if not PINNED.fullmatch(reference):
            raise ImagesError(f"{variable}: {reference!r} is no reference by digest")
    written = "# Written by scripts/images.py: what each image was when it was published.\n"
    env.write_text(
        written + "".join(f"{name}={reference}\n" for name, reference in references.items()),
        encoding="utf-8",
    )
    chart: dict[str, Any] = {}
    for image in IMAGES:
        if image.chart and image.variable in references:
            found = PINNED.fullmatch(references[image.variable])
            assert found
            chart[image.chart] = {
                "image": {"repository": found["name"], "digest": found["digest"], "tag": ""}
            }
    # JSON is YAML
    values.write_text(written + json.dumps(chart, indent=2) + "\n", encoding="utf-8")
    print(f"{env} and {values} written: {len(references)} images by digest")


def dagger(*arguments: str) -> str:
    """Run the Dagger command line at the repository's root; return what it prints."""
    if shutil.which("dagger") is None:
        raise ImagesError(
            "there is no `dagger` on PATH, so no image can be made here; install the Dagger CLI "
            "(https://docs.dagger.io/install) and a container runtime, or point "
            "_EXPERIMENTAL_DAGGER_RUNNER_HOST to a running engine"
        )
    command = ["dagger", "--progress=plain", *arguments]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **QUIET},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        log = "\n".join(ran.stderr.strip().splitlines()[-15:])
        raise ImagesError(f"`{' '.join(arguments)}` failed:\n{log}")
    return ran.stdout.strip()


# -- the command line ---------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    about, _, rest = (__doc__ or "").partition("\n")
    top = argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [image.name for image in IMAGES]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, text in (
        ("sbom", "write the packages of each image as CycloneDX JSON; needs no engine"),
        ("sizes", "print the size of each image; needs a Dagger engine"),
        ("publish", "push the images and write their digests; needs a Dagger engine"),
        ("resolve", "write the digests of images pushed before; needs a Dagger engine"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name in ("sbom", "sizes"):
            command.add_argument(
                "images", nargs="*", metavar="IMAGE", help=f"of {', '.join(names)}; none: all"
            )
        if name == "sbom":
            command.add_argument(
                "--output", type=Path, default=ROOT / "dist/sbom", help="folder (%(default)s)"
            )
        if name in ("publish", "resolve"):
            command.add_argument("--registry", required=True, help="e.g. registry.example.com/team")
            command.add_argument(
                "--tag", default=f"v{version['version']}", help="of our images (%(default)s)"
            )
            for variable, address in OTHERS.items():
                option = "--" + variable.removesuffix("_IMAGE").replace("_", "-").lower()
                command.add_argument(option, default=address, help="(%(default)s)")
            command.add_argument("--env", type=Path, default=ENV_FILE, help="(%(default)s)")
            command.add_argument("--values", type=Path, default=VALUES_FILE, help="(%(default)s)")
        if name == "publish":
            command.add_argument("--username", default="", help="who pushes; none: no login")
            command.add_argument("--password", default="", help="e.g. env:REGISTRY_TOKEN")
    return top


def chosen(names: Sequence[str]) -> list[Image]:
    """Return the images of these names, or all."""
    known = {image.name: image for image in IMAGES}
    if unknown := [name for name in names if name not in known]:
        raise ImagesError(f"there is no image {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(IMAGES)


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "sbom":
            write_sboms(chosen(options.images), options.output)
        elif options.command == "sizes":
            sizes(chosen(options.images))
        else:
            write_digests(_references(options), options.env, options.values)
    except ImagesError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def _references(options: argparse.Namespace) -> dict[str, str]:
    registry = options.registry.rstrip("/")
    references = {}
    for image in IMAGES:
        if options.command == "publish":
            if bool(options.username) != bool(options.password):
                raise ImagesError("give --username and --password both, or none of them")
            login = ("--username", options.username, "--password", options.password)
            pushed = push(image, registry, options.tag, login if options.username else ())
        else:
            pushed = resolve(f"{registry}/{image.name}:{options.tag}")
        references[image.variable] = pushed
        print(pushed, file=sys.stderr)
    for variable in OTHERS:
        address = getattr(options, variable.removesuffix("_IMAGE").lower())
        references[variable] = resolve(address)
        print(references[variable], file=sys.stderr)
    return references


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
