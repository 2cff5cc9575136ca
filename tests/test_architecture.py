"""The rules that keep the packages apart, read from their source."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import projects
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {name: source / name for name, source in projects.PACKAGES.items()}
STEPS = {f"rag_{step}" for step in projects.STEPS}
FILES = [
    pytest.param(package, path, id=f"{package}/{path.relative_to(folder)}")
    for package, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
]
EXPORTING = sorted(PACKAGES.keys() - {"rag_kit", "rag_service"})
# Package -> those of ours it may import.
MAY_IMPORT = {
    "rag_kit": set[str](),
    **{step: {"rag_kit"} for step in STEPS},
    "rag_pipeline": {"rag_kit"},
    "rag_service": {"rag_kit", "rag_pipeline"},
}
WITH_SDK = ("module.py", "container.py", "dagger.py")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level name of every absolute import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def exception(package: str, path: Path) -> set[str]:
    """Return the steps that this one file may import, too."""
    if path == PACKAGES["rag_pipeline"] / "steps/local.py":  # the pipeline in one process
        return STEPS
    return {"rag_retrieve"} if path.parent == PACKAGES["rag_service"] / "library" else set()


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_package_imports_only_what_it_stands_on(package: str, path: Path) -> None:
    """Steps import the kit and no other step; the pipeline runs them, the service knows the pipeline.

    Two places know steps: the pipeline in one process, and the service's library of documents.
    """
    ours = set(imported(path)) & (PACKAGES.keys() - {package})

    assert ours <= MAY_IMPORT[package] | exception(package, path)


@pytest.mark.parametrize(("package", "path"), FILES)
def test_only_module_py_imports_dagger(package: str, path: Path) -> None:
    """A step runs without the Dagger SDK: only the module and what it is made of import it."""
    assert "dagger" not in set(imported(path)) or path.name in WITH_SDK


@pytest.mark.parametrize(("package", "path"), FILES)
def test_only_settings_py_reads_the_environment(package: str, path: Path) -> None:
    """No file but settings.py touches environment variables."""
    tree = ast.parse(path.read_text())
    touched = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.attr]
            if isinstance(node, ast.Attribute)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module == "os"
            else []
        )
    }

    assert not touched & ENVIRONMENT or path.name == "settings.py"


@pytest.mark.parametrize(("package", "path"), FILES)
def test_only_settings_py_defines_settings(package: str, path: Path) -> None:
    """No file but settings.py uses pydantic-settings, which reads the environment."""
    assert "pydantic_settings" not in set(imported(path)) or path.name == "settings.py"


def test_step_reads_no_clock_but_for_timings() -> None:
    """The pure functions of the steps import neither clock nor network."""
    for package in STEPS:
        names = set(imported(PACKAGES[package] / "step.py"))

        assert not names & {"time", "datetime", "os", "socket", "httpx", "openai", "uuid"}


def test_the_kit_exports_nothing() -> None:
    """Its `__init__.py` is empty, so that an import loads the one file that is named."""
    assert (PACKAGES["rag_kit"] / "__init__.py").read_text() == ""


@pytest.mark.parametrize("package", EXPORTING)
def test_all_lists_the_public_names(package: str) -> None:
    """`__all__` is sorted, and every public name in it is loaded at first use."""
    module = importlib.import_module(package)

    assert module.__all__ == sorted(module._HOME)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_library(package: str) -> None:
    """A module call is a new process: the package itself imports nothing but the standard library."""
    code = f"import sys, {package}; print([n for n in ('pydantic', 'numpy', 'httpx') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert run.stdout == "[]\n"


@pytest.mark.parametrize("package", EXPORTING)
def test_public_names_have_docstrings(package: str) -> None:
    """Everything that a package exports says what it is."""
    module = importlib.import_module(package)

    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{package}.{name}"


def test_the_service_counts_every_rule_of_the_output_filter() -> None:
    """The service knows no step, so the names stand twice: in the filter's own list, and where it counts."""
    from rag_generate import output_filter
    from rag_service.service import RULES

    listed = re.findall(r"^- `(\w+)`", inspect.getdoc(output_filter) or "", re.MULTILINE)

    assert sorted(RULES) == sorted(listed)


def module_of(path: Path, folder: Path) -> str:
    """Return a file's name as a module, e.g. rag_pipeline.cli.main."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_used(path: Path, module: str, known: set[str]) -> Iterator[str]:
    """Yield the modules among `known` that a file imports, inside functions and for types, too."""
    parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            below = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in below]
        yield from (name for name in names if name in known and name != module)


@pytest.mark.parametrize("folder", PACKAGES.values(), ids=lambda folder: str(folder.name))
def test_no_package_has_an_import_cycle(folder: Path) -> None:
    """A module never leads back to itself, by whatever import."""
    files = {module_of(path, folder): path for path in folder.rglob("*.py")}
    graph = {module: set(modules_used(path, module, set(files))) for module, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def project_of(package: str) -> dict[str, Any]:
    """Return the table `project` of a package's pyproject.toml."""
    text = (projects.PACKAGES[package].parent / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def kit_modules_of(package: str) -> dict[str, Path]:
    """Return the kit's modules that a package imports, and those that they import."""
    kit = PACKAGES["rag_kit"]
    known = {module_of(path, kit): path for path in kit.rglob("*.py")}
    folder, found = PACKAGES[package], dict[str, Path]()
    waiting = [(path, module_of(path, folder)) for path in folder.rglob("*.py")]
    while waiting:
        for name in set(modules_used(*waiting.pop(), set(known))) - found.keys():
            found[name] = known[name]
            waiting.append((known[name], name))
    return found


@pytest.mark.parametrize("package", sorted(PACKAGES.keys() - {"rag_kit"}))
def test_a_package_requires_the_extras_of_the_kit_that_it_uses(package: str) -> None:
    """A step's image has the packages of its own lock only, so an extra that is missing stops it there."""
    wanted = map(Requirement, project_of(package)["dependencies"])
    own = {each.name: each.extras for each in wanted}
    libraries = packages_distributions()
    used = {
        library
        for path in kit_modules_of(package).values()
        for name in imported(path)
        for library in libraries.get(name, ())
    }

    extras = project_of("rag_kit")["optional-dependencies"]
    missing = {
        name: needed
        for name, listed in extras.items()
        if name not in own["rag-kit"]
        and (needed := used & {Requirement(each).name for each in listed} - own.keys())
    }

    assert not missing, f"rag-kit[…] in the pyproject.toml of {package} lacks an extra"
