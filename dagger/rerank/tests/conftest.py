from __future__ import annotations

from collections.abc import Iterator

import pytest
from reranker_double import RerankerDouble, reranker_double


@pytest.fixture
def double() -> Iterator[RerankerDouble]:
    """A reranking server that scores by shared words."""
    with reranker_double() as running:
        yield running
