"""The generator `openai` with a real model on this machine (SmolLM2 135M, llama.cpp server)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from local_model import MODEL, ModelMissing, served

from rag_generate import generate
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest
from rag_generate.openai_chat import OpenAIChat
from rag_generate.settings import Settings

pytestmark = pytest.mark.llm
Build = Callable[..., GenerateRequest]
LIMITS = Settings(llm_connect_s=5, llm_first_token_s=60, llm_idle_s=30, llm_total_s=90)


@pytest.fixture(scope="module")
def chat() -> Iterator[OpenAIChat]:
    """A generator that talks to a llama.cpp server in this process."""
    try:
        with served(threads=2) as url, closing(OpenAIChat(url, MODEL, LIMITS)) as made:
            yield made
    except ModelMissing as missing:
        pytest.skip(str(missing))


def test_a_real_model_streams_with_usage(chat: OpenAIChat, make_request: Build) -> None:
    """More than one piece, their sum is the draft, the server counts the tokens."""
    *pieces, draft = list(chat.stream(make_request(generate={"max_answer_tokens": 24})))

    assert isinstance(draft, Draft)
    assert len(pieces) > 1
    assert "".join(map(str, pieces)) == draft.text
    assert draft.usage.completion_tokens > 1
    assert draft.usage.prompt_tokens > 10


def test_a_real_models_citations_hold(chat: OpenAIChat, make_request: Build) -> None:
    """Whatever it writes, every number in the answer points to a passage and its exact words."""
    passages = "\n".join(f"[{c.marker}] {c.text}" for c in make_request().contexts)
    prompt = [
        {"role": "system", "content": "Answer in one sentence and cite the passage like [1]."},
        {"role": "user", "content": f"{passages}\n\nWho may sign contracts?"},
    ]
    request = make_request(prompt=prompt, generate={"max_answer_tokens": 48, "seed": 1})

    response = generate(
        request, generators={"openai": chat}, default="openai", no_context_text="None."
    )

    assert response.answer
    assert response.usage.llm_calls == 1
    by_marker = {context.marker: context for context in request.contexts}
    for citation in response.citations:
        context = by_marker[citation.marker]
        start, end = (offset - context.span[0] for offset in citation.spans[0])
        assert citation.quote == context.text[start:end]
