"""The rules that keep the steps apart, read from the source."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "rag_kit": ROOT / "dagger/kit/src/rag_kit",
    "rag_retrieve": ROOT / "dagger/retrieve/src/rag_retrieve",
    "rag_augment": ROOT / "dagger/augment/src/rag_augment",
    "rag_generate": ROOT / "dagger/generate/src/rag_generate",
    "rag_pipeline": ROOT / "dagger/rag/src/rag_pipeline",
}
FILES = [
    pytest.param(package, path, id=f"{package}/{path.relative_to(folder)}")
    for package, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
]
SERVICE = ROOT / "service/src/rag_service"
SERVICE_FILES = [
    pytest.param("rag_service", path, id=f"rag_service/{path.relative_to(SERVICE)}")
    for path in sorted(SERVICE.rglob("*.py"))
]
WITH_SDK = ("module.py", "container.py", "dagger.py")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level name of every absolute import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize(("package", "path"), FILES)
def test_step_imports_no_other_step(package: str, path: Path) -> None:
    """No package imports another one, but rag_pipeline/steps/local.py, the embedded composite."""
    others = set(imported(path)) & (PACKAGES.keys() - {package})

    assert others == set() or path == PACKAGES["rag_pipeline"] / "local.py"


@pytest.mark.parametrize(("package", "path"), SERVICE_FILES)
def test_the_service_knows_the_composite_only(package: str, path: Path) -> None:
    """It imports no step, but `retrieve` where it looks after documents."""
    keepers = [SERVICE / name for name in ("library.py", "replays.py", "uploads.py")]
    known = {"rag_pipeline", "rag_retrieve"} if path in keepers else {"rag_pipeline"}

    assert not set(imported(path)) & (PACKAGES.keys() - known)


@pytest.mark.parametrize(("package", "path"), [*FILES, *SERVICE_FILES])
def test_only_module_py_imports_dagger(package: str, path: Path) -> None:
    """A step runs without the Dagger SDK: only the module and what it is made of import it."""
    assert "dagger" not in set(imported(path)) or path.name in WITH_SDK


@pytest.mark.parametrize(("package", "path"), [*FILES, *SERVICE_FILES])
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


@pytest.mark.parametrize(("package", "path"), [*FILES, *SERVICE_FILES])
def test_only_settings_py_defines_settings(package: str, path: Path) -> None:
    """No file but settings.py uses pydantic-settings, which reads the environment."""
    assert "pydantic_settings" not in set(imported(path)) or path.name == "settings.py"


def test_step_reads_no_clock_but_for_timings() -> None:
    """The pure functions of retrieve, augment and generate import neither clock nor network."""
    for package in ("rag_retrieve", "rag_augment", "rag_generate"):
        names = set(imported(PACKAGES[package] / "step.py"))

        assert not names & {"time", "datetime", "os", "socket", "httpx", "openai", "uuid"}


@pytest.mark.parametrize("package", PACKAGES)
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


@pytest.mark.parametrize("package", PACKAGES)
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


@pytest.mark.parametrize(
    "folder", [*PACKAGES.values(), SERVICE], ids=lambda folder: str(folder.name)
)
def test_no_package_has_an_import_cycle(folder: Path) -> None:
    """A module never leads back to itself, by whatever import."""
    files = {module_of(path, folder): path for path in folder.rglob("*.py")}
    graph = {module: set(modules_used(path, module, set(files))) for module, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
