"""Write contract/ from the steps' own models, or check that it fits them.

    python scripts/contract.py                 write the schemas and the table of codes
    python scripts/contract.py --check         fail on drift, and on a breaking change of what is
                                               released without a new contract/VERSION
    python scripts/contract.py --examples      write the responses of contract/examples/

A breaking change is judged against the schemas of `--base REF`; default: the newest tag v*, else
the last commit. Where there is no git history, only drift is checked.
"""

from __future__ import annotations

import argparse
import difflib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from breaking import breaking_changes
from projects import ROOT, STEPS
from pydantic import BaseModel

from rag_kit.errors import CODES, ErrorEnvelope
from rag_pipeline.models import RagRequest, RagResponse, SearchResponse

CONTRACT = ROOT / "contract"
MODELS: dict[str, type[BaseModel]] = {
    **{
        f"{step}.{kind}": pkgutil.resolve_name(f"rag_{step}.models:{step.title()}{kind.title()}")
        for step in STEPS
        for kind in ("request", "response")
    },
    "rag.request": RagRequest,
    "rag.response": RagResponse,
    "search.response": SearchResponse,
    "error": ErrorEnvelope,
}
BEGIN, END = "<!-- codes: written by `make contract` -->", "<!-- codes: end -->"


def schema_of(name: str, version: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one document of the contract."""
    schema = MODELS[name].model_json_schema(
        mode="validation" if name.endswith("request") else "serialization"
    )
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dagger-rag:contract:{version}:{name}",
        "title": MODELS[name].__name__,
    }
    return head | {key: schema[key] for key in sorted(schema) if key not in head}


def codes_table() -> str:
    """Return the table of error codes for contract/README.md."""
    rows = [
        f"| `{name}` | {code.type} | {code.status} | {'yes' if code.retryable else 'no'} |"
        for name, code in CODES.items()
    ]
    return "\n".join(["| code | type | HTTP | retryable |", "|---|---|---|---|", *rows])


def readme_with_codes(text: str) -> str:
    """Return the text of contract/README.md with the table of codes between its markers."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{codes_table()}\n{END}{after}"


def generated() -> dict[Path, str]:
    """Return the text each generated file of contract/ should have."""
    version = (CONTRACT / "VERSION").read_text().strip()
    files = {
        CONTRACT / f"{name}.schema.json": json.dumps(schema_of(name, version), indent=2) + "\n"
        for name in MODELS
    }
    readme = CONTRACT / "README.md"
    return files | {readme: readme_with_codes(readme.read_text())}


def write() -> int:
    """Write what differs; returns the exit code."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} written")
    return 0


def check(base: str | None) -> int:
    """Print drift and breaking changes; returns the exit code."""
    drift = [line for path, text in generated().items() for line in _diff(path, text)]
    sys.stdout.writelines(drift)
    if drift:
        print("contract/ does not fit the models; run: make contract", file=sys.stderr)
    base = base or _newest_release() or "HEAD"
    broken = _broken_since(base)
    for line in broken:
        print(f"breaks the contract of {base}: {line}", file=sys.stderr)
    if broken:
        print("a breaking change needs a new number in contract/VERSION", file=sys.stderr)
    if not drift and not broken:
        print(f"contract: fits the models, breaks nothing of {base}")
    return 1 if drift or broken else 0


def _diff(path: Path, text: str) -> list[str]:
    old = path.read_text() if path.exists() else ""
    name = str(path.relative_to(ROOT))
    return list(
        difflib.unified_diff(old.splitlines(True), text.splitlines(True), name, f"{name} (models)")
    )


def _broken_since(base: str) -> list[str]:
    version = (CONTRACT / "VERSION").read_text().strip()
    if (_git("show", f"{base}:contract/VERSION") or "").strip() != version:
        return []
    return [
        f"{name}: {change}"
        for name in MODELS
        if (old := _git("show", f"{base}:contract/{name}.schema.json"))
        for change in breaking_changes(
            json.loads(old),
            schema_of(name, version),
            "request" if name.endswith("request") else "response",
        )
    ]


def _newest_release() -> str | None:
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*")
    return tag.strip() if tag else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="edit nothing, fail on differences")
    parser.add_argument("--base", help="git revision a breaking change is judged against")
    parser.add_argument("--examples", action="store_true", help="write the example responses")
    options = parser.parse_args()
    if options.examples:
        from examples import write_responses

        return write_responses()
    return check(options.base) if options.check else write()


if __name__ == "__main__":
    sys.exit(main())
