"""Installed packages are the locked ones: by hash, not known to be vulnerable, no code at start."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def ours(name: str) -> list[Path]:
    """Every file of that name in the project, outside of environments and caches."""
    return sorted(
        path
        for path in ROOT.rglob(name)
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    )


LOCKS = ours("uv.lock")
ADVISORIES = tomllib.loads((ROOT / "scripts/advisories.toml").read_text(encoding="utf-8"))
# `.pth` lines that run code at every start of Python, by the package that brings them
RUNS_CODE = {"setuptools": "distutils-precedence.pth", "coverage": "a1_coverage.pth"}


def packages(lock: Path) -> Iterator[dict[str, Any]]:
    """The packages that a lock takes from an index."""
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        if "registry" in package["source"]:
            yield package


def name(lock: Path) -> str:
    return lock.relative_to(ROOT).as_posix()


def test_every_project_is_looked_at() -> None:
    """A project without a lock would escape every test here."""
    projects = {path.parent for path in ours("pyproject.toml")}
    missing = [p for p in projects if not (p / "uv.lock").exists()]
    assert [p.relative_to(ROOT).as_posix() for p in missing] == []
    assert {lock.parent for lock in LOCKS} == projects


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_threat_poisoned_module_a_file_is_known_by_its_hash(lock: Path) -> None:
    """Every file a lock may install has a SHA-256, so that a changed one is refused."""
    for package in packages(lock):
        # one without any file is left out by the project and cannot be installed
        for file in [
            *package.get("wheels", ()),
            *([package["sdist"]] if "sdist" in package else ()),
        ]:
            assert file["hash"].startswith("sha256:"), file["url"]
            assert len(file["hash"]) == len("sha256:") + 64


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_threat_poisoned_module_no_version_with_a_known_vulnerability(lock: Path) -> None:
    """No lock is below the dated floor, except for exceptions with a reason."""
    floors = {floor["package"]: floor for floor in ADVISORIES["floor"]}
    never = {item["package"]: item["versions"] for item in ADVISORIES["never"]}
    excused = {
        (item["package"], item["lock"], item["version"]) for item in ADVISORIES.get("exception", ())
    }
    below, used = [], set()
    for package in packages(lock):
        found = package["name"], package["version"]
        assert found[1] not in never.get(found[0], ()), f"{found} was malicious"
        floor = floors.get(found[0])
        if floor is None or Version(found[1]) >= Version(floor["version"]):
            continue
        if (found[0], name(lock), found[1]) in excused:
            used.add((found[0], name(lock), found[1]))
        else:
            below.append(f"{found[0]} {found[1]} < {floor['version']}: {floor['advisories']}")
    assert below == []
    assert {item for item in excused if item[1] == name(lock)} == used, "no longer needed"


def test_threat_poisoned_module_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    """A wheel with one changed byte is refused by the installation of `scripts/setup`."""
    wheel = tmp_path / "tampered-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: tampered\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

    def build(value: int) -> None:
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tampered.py", f"VALUE = {value}\n")
            file.writestr("tampered-1.0.dist-info/METADATA", about)
            file.writestr("tampered-1.0.dist-info/WHEEL", kind)
            file.writestr("tampered-1.0.dist-info/RECORD", "")

    build(1)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"tampered==1.0 --hash=sha256:{digest}\n")

    def install(target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                ROOT / "scripts/uv", "pip", "install", "--python", sys.executable, "--no-index",
                "--find-links", tmp_path, "--target", tmp_path / target,
                "--cache-dir", tmp_path / f"cache-{target}", "--requirements", requirements,
            ],
            check=False, capture_output=True, text=True,
        )  # fmt: skip

    assert install("good").returncode == 0
    build(2)

    refused = install("bad")

    assert refused.returncode != 0
    assert "Hash mismatch" in refused.stderr
    assert not (tmp_path / "bad/tampered.py").exists()


def test_threat_poisoned_module_nothing_starts_with_python_by_itself() -> None:
    """Every `.pth` file belongs to an installed package, and only known ones hold code."""
    owners = {
        file.name: distribution.name
        for distribution in distributions()
        for file in distribution.files or ()
        if file.suffix == ".pth"
    }
    for path in Path(sys.prefix).rglob("*.pth"):
        if path.name == "_virtualenv.pth":  # made with the environment
            continue
        assert path.name in owners, f"{path} belongs to no package"
        if any(line.startswith("import") for line in path.read_text().splitlines()):
            assert RUNS_CODE.get(owners[path.name]) == path.name, f"{path} runs code"
