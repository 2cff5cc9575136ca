"""The OpenAPI document is the truth: Schemathesis calls every operation with what it allows and not.

All of its checks are on: no server error, documented statuses, content types, headers and bodies
only, valid data accepted, invalid data refused, a key wanted, nothing found after it was deleted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from service_kit import fill, serving, settings

HERE = Path(__file__).parent
KEY = "key-of-schemathesis-0123"
KEYS = [{"name": "all", "key": KEY, "write": True}]


def run(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(HERE / "schemathesis.toml"),
        ),
        *("--no-color", "run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {KEY}"),
        *(
            "--request-timeout",
            "60",
            "--continue-on-failure",
            "--generation-database",
            "none",
            *options,
        ),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
    return subprocess.run(
        command, cwd=folder, env=os.environ | hooks, capture_output=True, text=True, timeout=1500
    )


def test_fault_malformed_request_of_any_form(tmp_path: Path, lane: Any) -> None:
    """Whatever fits the document is answered, whatever does not is refused, as the document says."""
    home = fill(tmp_path / "home")
    phases = "fuzzing" if lane.name == "fast" else "examples,coverage,fuzzing,stateful"
    with serving(settings(api_keys=SecretStr(json.dumps(KEYS))), home=home) as url:
        done = run(
            url,
            tmp_path,
            *("--phases", phases, "--max-examples", str(lane(2, 60)), "--seed", str(lane.seed)),
        )
    said = f"{done.stdout}\n{done.stderr}"
    tested = re.search(r"Tested: (\d+)", said)

    assert done.returncode == 0, said
    assert tested is not None and int(tested[1]) >= 22, said
