"""The projects of this repository, read from its folders: nothing lists them by hand.

A folder of dagger/ with a dagger.json is published under a version tag. Those with a Python project are
the modules; the other one is the SDK they run with. The dagger.json of `rag` names the steps in the order
of the pipeline.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "rag"  # the module of the whole pipeline
PUBLISHED = sorted(path.parent.name for path in ROOT.glob("dagger/*/dagger.json"))
MODULES = [name for name in PUBLISHED if (ROOT / "dagger" / name / "pyproject.toml").exists()]
STEPS: list[str] = [
    each["name"]
    for each in json.loads((ROOT / f"dagger/{PIPELINE}/dagger.json").read_bytes())["dependencies"]
]
# Every folder with a version and a lock of the release's own; "." is the root.
PROJECTS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for pattern in ("", "service/", "dagger/*/", "dagger/*/*/")
    for path in ROOT.glob(f"{pattern}pyproject.toml")
)
# Package -> the folder it is in.
PACKAGES = {
    path.name: path.parent
    for pattern in ("service", "dagger/*")
    for path in sorted(ROOT.glob(f"{pattern}/src/rag_*"))
}
