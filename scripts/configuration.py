"""Write docs/configuration.md from the settings classes; `--check` fails when it is out of date."""

from __future__ import annotations

import argparse
import importlib
import sys

from projects import ROOT, STEPS
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from rag_pipeline.settings import RagSettings
from rag_service.settings import ServiceSettings

DOCUMENT = ROOT / "docs/configuration.md"
HEAD = """# Configuration

Everything is configured by environment variables that are read once, when a process starts. A
request can choose among configured things by name; it can never carry a host, a URL or a key.
`rag doctor` tells what is configured, tries it, and says how to mend what does not work.

Keys can be given in a variable or in a file. They never appear in logs, errors or answers.
"""


def settings_of(step: str) -> type[BaseSettings]:
    """Return the settings class of a step: the one its settings.py defines."""
    module = importlib.import_module(f"rag_{step}.settings")
    [settings] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == module.__name__
    ]
    return settings


GROUPS: tuple[tuple[str, type[BaseSettings]], ...] = (
    *((step, settings_of(step)) for step in STEPS),
    ("rag, the composite", RagSettings),
    ("the service", ServiceSettings),
)
SHOWN = {"home": "the platform's user data folder"}  # a default that differs by machine


def table(settings: type[BaseSettings]) -> list[str]:
    """Return the variables of one step as lines of a Markdown table."""
    prefix = settings.model_config.get("env_prefix", "")
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    own = settings.__annotations__
    for name in sorted(
        settings.model_fields, key=lambda name: name not in own
    ):  # inherited ones last
        field = settings.model_fields[name]
        variable = field.validation_alias or f"{prefix}{name}".upper()
        default = SHOWN.get(name) or _default(field.get_default(call_default_factory=True))
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{variable}` | {default} | {meaning} |")
    return lines


def _default(value: object) -> str:
    return "" if value is None or value is PydanticUndefined else f"`{value}`"


def document() -> str:
    """Return the page."""
    lines = [HEAD]
    for title, settings in GROUPS:
        lines += [f"## {title}", "", *table(settings), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if not parser.parse_args().check:
        DOCUMENT.write_text(document(), encoding="utf-8")
        return 0
    if DOCUMENT.read_text(encoding="utf-8") == document():
        return 0
    print(f"{DOCUMENT} is out of date: run `make contract`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
