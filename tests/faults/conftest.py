"""Fixtures of the fault tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from service_kit import fill, settings

if TYPE_CHECKING:
    from inside import Inside


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """A service in this process with keys: `all`, and one for each of 50 tenants."""
    from inside import KEYS, Inside

    home = fill(tmp_path_factory.mktemp("inside"))
    with Inside(settings(api_keys=SecretStr(json.dumps(KEYS))), home) as service:
        yield service
