from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from rag_augment import augment
from rag_augment.models import AugmentRequest, AugmentResponse
from rag_augment.settings import AugmentSettings
from rag_augment.template import Template, load_template
from rag_augment.tokenizer import Tokenizer, load_tokenizer
from rag_augment.wire import open_step
from rag_kit.handler import Handler

BYLAWS = [
    "Only the board may sign contracts above 5,000 euros.",
    "The treasurer keeps the books and reports to the board every quarter.",
    "Members pay their fee in January; the board may grant a delay.",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


@pytest.fixture(scope="session")
def template() -> Template:
    return load_template()


@pytest.fixture(scope="session")
def build(tokenizer: Tokenizer, template: Template) -> Callable[..., AugmentResponse]:
    """Return a function from a request's fields to the response."""
    run = partial(augment, tokenizer=tokenizer, template=template)
    return lambda **fields: run(AugmentRequest.model_validate(request(**fields)))


@pytest.fixture(scope="session")
def handler() -> Iterator[Handler]:
    """The step as JSON in, JSON out, opened once."""
    with open_step(AugmentSettings()) as opened:
        yield opened


def result(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """Return a result with every field a passage can have."""
    start = number * 1000
    return {
        "chunk_id": f"c{number}",
        "document_id": "bylaws.pdf",
        "title": "By-laws",
        "source": "docs/bylaws.pdf",
        "text": text,
        "span": [start, start + len(text)],
        "page": number,
        "score": 1 / number,
        "scores": {"dense": 0.9 - number / 10, "sparse": 3.5},
        "metadata": {"dept": "legal"},
    } | fields


def request(**fields: Any) -> dict[str, Any]:
    """Return a request over the by-laws, with a seed."""
    results = [result(number, text) for number, text in enumerate(BYLAWS, start=1)]
    base = {"query": "Who may sign?", "results": results, "augment": {"seed": 7}}
    return base | fields


@pytest.fixture(scope="session")
def make_result() -> Callable[..., dict[str, Any]]:
    return result


@pytest.fixture(scope="session")
def make_request() -> Callable[..., dict[str, Any]]:
    return request
