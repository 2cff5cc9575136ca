"""Prompts that must fit the model's window."""

from __future__ import annotations

import pytest

from rag_generate.budget import OMITTED, estimate_tokens, fit_window
from rag_kit.errors import StepError
from rag_kit.passages import Context, Message

TEXTS = ["a" * 400, "b" * 400, "c" * 400]
CONTEXTS = [
    Context(marker=n, chunk_id=str(n), document_id="d", text=text, span=[0, 400], score=1.0)
    for n, text in enumerate(TEXTS, start=1)
]
PROMPT = [Message(role="user", content="\n".join([*TEXTS, "Question?"]))]


def test_a_prompt_that_fits_is_left_alone() -> None:
    """So is one for a window nobody named."""
    for window in (None, 2000):
        assert fit_window(PROMPT, CONTEXTS, 100, window) == (PROMPT, 100, ())


def test_the_answer_is_shortened_first() -> None:
    """Down to a quarter of the window."""
    fitted = fit_window(PROMPT, CONTEXTS, 300, 500)

    assert fitted.prompt == PROMPT
    assert fitted.max_answer_tokens == 500 - estimate_tokens(PROMPT)
    assert fitted.warnings == ("answer_shortened",)


def test_fault_context_truncated_leaves_the_last_passages_out() -> None:
    """The best passage stays; the caller is told."""
    fitted = fit_window(PROMPT, CONTEXTS, 64, 300)

    assert fitted.prompt[0].content == "\n".join([*TEXTS[:2], OMITTED, "Question?"])
    assert fitted.warnings == ("context_truncated",)
    assert estimate_tokens(fitted.prompt) + fitted.max_answer_tokens <= 300


def test_a_prompt_that_cannot_fit_names_the_option_to_lower() -> None:
    """Nothing is cut blindly."""
    huge = [Message(role="user", content="x" * 4000)]

    with pytest.raises(StepError, match="max_context_tokens to 250 or less") as caught:
        fit_window(huge, CONTEXTS, 64, 500)

    assert (caught.value.code, caught.value.param) == (
        "invalid_request", "augment.max_context_tokens",
    )  # fmt: skip
