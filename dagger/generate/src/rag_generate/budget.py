"""Make a prompt and its answer fit the model's context window.

The count is an estimate, without the model's tokenizer: too high for English, too low for scripts with
many tokens per character.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rag_kit.errors import StepError
from rag_kit.passages import Context, Message

CHARS_PER_TOKEN = 4  # characters; the usual estimate for English text
TOKENS_PER_MESSAGE = 8  # tokens; role and separators of a chat template, rounded up
ANSWER_SHARE = 4  # the answer may be shortened to 1/4 of the window, not further
OMITTED = "[left out]"


class Fitted(NamedTuple):
    """A prompt that fits, and how long its answer may be."""

    prompt: list[Message]
    max_answer_tokens: int
    warnings: tuple[str, ...]


def estimate_tokens(prompt: Sequence[Message]) -> int:
    """Estimate the tokens of a prompt from its characters."""
    characters = sum(math.ceil(len(message.content) / CHARS_PER_TOKEN) for message in prompt)
    return characters + TOKENS_PER_MESSAGE * len(prompt)


def fit_window(
    prompt: Sequence[Message], contexts: Sequence[Context], max_answer: int, window: int | None
) -> Fitted:
    """Shorten the answer first, then leave out the last passages, until both fit the window.

    Args:
        prompt: The messages, passages rendered into them.
        contexts: The passages in order of rank; one found word for word in the prompt can be cut.
        max_answer: Tokens the answer may have.
        window: Tokens of prompt and answer together, or None when unknown.

    Raises:
        StepError: `invalid_request`: even so the prompt does not fit.
    """
    messages = list(prompt)
    if window is None or estimate_tokens(messages) + max_answer <= window:
        return Fitted(messages, max_answer, ())
    least = min(max_answer, window // ANSWER_SHARE)
    warnings = []
    for context in reversed(contexts[1:]):
        if estimate_tokens(messages) + least <= window:
            break
        shorter = _without(messages, context.text)
        if shorter != messages:
            messages, warnings = shorter, ["context_truncated"]
    room = window - estimate_tokens(messages)
    if room < least:
        raise StepError(
            "invalid_request",
            f"the prompt has about {window - room} tokens and leaves no room for an answer in the "
            f"model's window of {window}; set augment.max_context_tokens to "
            f"{max(16, window // 2)} or less",
            param="augment.max_context_tokens",
        )
    if room < max_answer:
        warnings.append("answer_shortened")
    return Fitted(messages, min(max_answer, room), tuple(warnings))


def _without(messages: list[Message], passage: str) -> list[Message]:
    """Return the messages with the last occurrence of a passage left out."""
    for index in range(len(messages) - 1, -1, -1):
        before, found, after = messages[index].content.rpartition(passage)
        if found and passage.strip():
            shorter = messages[index].model_copy(update={"content": before + OMITTED + after})
            return [*messages[:index], shorter, *messages[index + 1 :]]
    return messages
