"""contract/reference/ is what the product is: commands, HTTP operations, module functions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dagger.mod", reason="dagger-io is not installed")

import reference
from test_modules import FUNCTIONS

from rag_kit.errors import CODES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "contract/reference"
RAG = Path(sys.executable).with_name("rag")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading!r}"
    return found[1]


def test_the_pages_are_those_of_the_product(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that `make check` runs finds nothing."""
    assert reference.main(["--check"]) == 0, capsys.readouterr()


def test_drift_is_told_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was just written passes; a changed line and a missing page fail, and are not mended."""
    assert reference.main(["--folder", str(tmp_path)]) == 0
    assert reference.main(["--check", "--folder", str(tmp_path)]) == 0
    old = (tmp_path / "cli.md").read_text(encoding="utf-8")
    (tmp_path / "cli.md").write_text(old.replace("--prune", "--purge"), encoding="utf-8")
    (tmp_path / "http.md").unlink()

    assert reference.main(["--check", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "+| `--prune`" in said.out
    assert "cli.md" in said.err and "http.md" in said.err and "modules.md" not in said.err
    assert "make contract" in said.err
    assert not (tmp_path / "http.md").exists()


@pytest.mark.parametrize("name", ["cli.md", "http.md", "modules.md"])
def test_a_page_can_be_read(name: str) -> None:
    """It is not huge, its links lead somewhere, and its tables are whole."""
    page = text(name)
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("#")
    }

    assert len(page.encode()) < 80_000
    for anchor in re.findall(r"\]\(#([^)]+)\)", page):
        assert anchor in headings, anchor
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|"), line
    for heading, body in zip(
        re.findall(r"^## .*$", page, re.MULTILINE),
        re.split(r"^## .*$", page, flags=re.MULTILINE)[1:],
        strict=True,
    ):
        assert body.strip(), f"{heading} is empty"


@pytest.mark.parametrize("words", ["index", "eval", "documents delete"])
def test_a_command_has_the_options_its_help_tells(words: str) -> None:
    """Compared with what the installed command prints, which the pages are not made from."""
    done = subprocess.run(
        [RAG, *words.split(), "--help"],
        env={"COLUMNS": "200", "NO_COLOR": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    told = set(OPTION.findall(done.stdout)) - {"--help"}

    assert set(OPTION.findall(section(text("cli.md"), f"rag {words}"))) >= told
    assert told


def test_every_command_of_rag_has_a_section() -> None:
    """Read from the table in the guide, which is written by hand."""
    guide = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `rag ([a-z-]+)", guide, re.MULTILINE))

    assert len(named) > 10
    for name in named:
        section(text("cli.md"), f"rag {name}")


def test_every_error_code_stands_at_its_status() -> None:
    """The last section of the HTTP page is the contract's table by status."""
    rows = section(text("http.md"), "Statuses and error codes")
    for name, code in CODES.items():
        assert re.search(rf"^\| {code.status} \|.*`{name}`", rows, re.MULTILINE), name


def test_the_endpoints_of_the_service_have_a_section() -> None:
    """Those that the guide lists, but for the page and MCP, which OpenAPI does not describe."""
    guide = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    table = section(guide, "Endpoints")
    paths = set(re.findall(r"`(?:GET|POST) (/[\w/{}]+)`", table))
    page = text("http.md")

    assert "/rag_modules" in paths
    for path in paths - {"/"}:
        known = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        known = re.sub(r"{\w+}", r"{\\w+}", known)
        assert re.search(rf"^### (GET|POST|DELETE) {known}$", page, re.MULTILINE), path


@pytest.mark.parametrize("module", FUNCTIONS)
def test_every_function_of_a_module_has_a_section(module: str) -> None:
    """Named as the command line names them."""
    page = text("modules.md")
    for function in FUNCTIONS[module]:
        section(page, f"{module} {function.replace('_', '-')}")
    assert "| `--" in section(page, module) or module == "augment"
