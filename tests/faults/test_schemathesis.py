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

import httpx
import pytest
from pydantic import SecretStr
from service_kit import fill, serving, settings
from starlette.types import Receive, Scope, Send

from rag_service.http.middleware import Keys

HERE = Path(__file__).parent
HOOKS = {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
KEY = "key-of-schemathesis-0123"
KEYS = [{"name": "all", "key": KEY, "write": True}]
PEERS = [
    {"name": name, "key": f"{name}-0123456789abcdef", "write": True, "collections": [collection]}
    for name, collection in (("alice", "default"), ("bob", "hr"))
]


def run(folder: Path, config: Path, schema: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Schemathesis over a document; returns what it printed."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color"),
        *("run", schema, "--request-timeout", "60", "--continue-on-failure"),
        *("--generation-database", "none", *options),
    ]
    return subprocess.run(
        command, cwd=folder, env=os.environ | HOOKS, capture_output=True, text=True, timeout=1500
    )


def test_fault_malformed_request_of_any_form(tmp_path: Path, lane: Any) -> None:
    """Whatever fits the document is answered, whatever does not is refused, as the document says."""
    home = fill(tmp_path / "home")
    phases = "fuzzing" if lane.name == "fast" else "examples,coverage,fuzzing,stateful"
    with serving(settings(api_keys=SecretStr(json.dumps(KEYS))), home=home) as url:
        done = run(
            *(tmp_path, HERE / "schemathesis.toml", f"{url}/openapi.json"),
            *("-H", f"Authorization: Bearer {KEY}", "--phases", phases),
            *("--max-examples", str(lane(2, 60)), "--seed", str(lane.seed)),
        )
    said = f"{done.stdout}\n{done.stderr}"
    tested = re.search(r"Tested: (\d+)", said)

    assert done.returncode == 0, said
    assert tested is not None and int(tested[1]) >= 22, said


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("leaks", [False, True], ids=["ours", "one that leaks"])
def test_threat_cross_tenant_leak_of_an_object_one_key_made(
    leaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one key reads of its own is asked for with the other; a service that leaks is found out."""
    if leaks:
        checked = Keys.__call__

        async def as_alice(self: Keys, scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope.get("headers", ()))
            reads = scope.get("method") == "GET" and scope["path"].startswith("/v1/documents/")
            if reads and b"authorization" in headers:
                key = f"Bearer {PEERS[0]['key']}".encode()
                scope["headers"] = list({**headers, b"authorization": key}.items())
            await checked(self, scope, receive, send)

        monkeypatch.setattr(Keys, "__call__", as_alice)
    users = [
        {
            "name": peer["name"],
            "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {peer['key']}"}],
        }
        for peer in PEERS
    ]
    (tmp_path / "users.json").write_text(json.dumps({"auth": users}))
    config = tmp_path / "schemathesis.toml"
    config.write_text('[auth.wfc]\npath = "users.json"\npeers = ["alice", "bob"]\n')
    home = fill(tmp_path / "home")
    with serving(settings(api_keys=SecretStr(json.dumps(PEERS))), home=home) as url:
        key = {"authorization": f"Bearer {PEERS[0]['key']}"}
        document = httpx.get(f"{url}/openapi.json", headers=key, trust_env=False)
        (tmp_path / "openapi.json").write_text(document.text)
        done = run(
            *(tmp_path, config, str(tmp_path / "openapi.json"), "--url", url),
            *("--checks", "object_level_authorization", "--phases", "fuzzing,stateful"),
            *("--include-path-regex", "^/v1/(documents|collections|ingests)"),
            *("--max-examples", "40", "--seed", "1"),  # one that finds the leak
        )

    said = f"{done.stdout}\n{done.stderr}"
    assert (done.returncode, "authorization bypass" in said) == (int(leaks), leaks), said
    assert re.search(r"Tested: (\d+)", said), said
