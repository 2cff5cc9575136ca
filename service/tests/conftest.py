"""What the tests of the service share: one filled store, and one service over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_kit import LLMStub, copy_home, fill, serving


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled store, to be copied."""
    return fill(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled store, for a server of one test."""
    return copy_home(filled, tmp_path / "home")


@pytest.fixture(scope="session")
def service(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service with default settings; for tests that change nothing."""
    home = copy_home(filled, tmp_path_factory.mktemp("service") / "home")
    with serving(home=home) as url:
        yield url


@pytest.fixture(scope="module")
def model() -> Iterator[LLMStub]:
    """A language model that each test scripts."""
    stub = LLMStub()
    yield stub
    stub.close()


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    """A client of that service."""
    with httpx.Client(base_url=service, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    """A language model that answers as scripted; see `RAG_LLM_BASE_URL`."""
    stub = LLMStub()
    yield stub
    stub.close()
