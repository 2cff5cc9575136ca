"""What the tests of faults share: the kits of the service's and the steps' tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

ROOT = Path(__file__).resolve().parents[2]
KITS = ("service/tests", "dagger/generate/tests", "dagger/retrieve/tests", "tests/faults")
sys.path[:0] = [str(ROOT / kit) for kit in KITS]
from service_kit import fill, settings  # noqa: E402

if TYPE_CHECKING:
    from inside import Inside


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """A service in this process with keys: `all`, and one for each of 50 tenants."""
    from inside import KEYS, Inside

    home = fill(tmp_path_factory.mktemp("inside"))
    with Inside(settings(api_keys=SecretStr(json.dumps(KEYS))), home) as service:
        yield service
