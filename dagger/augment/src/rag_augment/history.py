"""Select the latest messages of the conversation for the prompt, within two limits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_kit.passages import Message
from rag_kit.request import clean

from .tokenizer import Tokenizer

_CITATIONS = re.compile(r"(?<=[\w.,;:!?\"')\]])[ \t]+(?:\[\d+\])+")


def fold_history(
    messages: Sequence[Message], *, max_messages: int, max_tokens: int, tokenizer: Tokenizer
) -> tuple[list[Message], list[str]]:
    """Return the messages for the prompt, oldest first, and warnings about the others.

    The oldest are dropped first; the first one kept is the user's. System messages are dropped,
    because a caller must not change the rules of the prompt. Citation numbers are removed from
    the assistant's earlier answers, because they point to other passages.

    Args:
        messages: The conversation as sent, oldest first.
        max_messages: Latest messages kept.
        max_tokens: Token budget of the kept messages together.
        tokenizer: Counts their tokens.
    """
    dialogue = [message for message in messages if message.role != "system"]
    kept: list[Message] = []
    remaining = max_tokens
    for message in reversed(dialogue[max(0, len(dialogue) - max_messages) :]):
        cleaned = _cleaned(message)
        tokens = tokenizer.count_within(cleaned.content, remaining)
        if tokens is None:
            break
        remaining -= tokens
        kept.insert(0, cleaned)
    while kept and (kept[0].role != "user" or not kept[0].content):
        del kept[0]
    return [message for message in kept if message.content], _warnings(
        systems=len(messages) - len(dialogue),
        dropped=len(dialogue) - len(kept),
        total=len(dialogue),
    )


def _cleaned(message: Message) -> Message:
    content = clean(message.content).strip()
    if message.role == "assistant":
        content = _CITATIONS.sub("", content)
    return Message(role=message.role, content=content)


def _warnings(*, systems: int, dropped: int, total: int) -> list[str]:
    warnings = []
    if systems:
        warnings.append(
            f"system_messages_ignored: {systems} message(s) with the role system are not in the "
            "prompt; its rules are the operator's (RAG_TEMPLATE)"
        )
    if dropped:
        warnings.append(
            f"history_shortened: the {dropped} oldest of {total} messages are not in the prompt "
            "(augment.max_history_messages, augment.max_history_tokens)"
        )
    return warnings
