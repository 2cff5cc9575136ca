"""Fold the conversation so far into the prompt: its latest messages, within two limits."""

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

    The oldest are dropped first, and what remains begins with the user. A system message never
    passes: whoever writes the conversation must not rewrite the rules of the prompt. The numbers
    of earlier citations are taken out of the assistant's answers, they point to other passages.

    Args:
        messages: The conversation as sent, oldest first.
        max_messages: Latest messages kept.
        max_tokens: Token budget of the kept messages together.
        tokenizer: Counts their tokens.
    """
    spoken = [message for message in messages if message.role != "system"]
    kept: list[Message] = []
    remaining = max_tokens
    for message in reversed(spoken[max(0, len(spoken) - max_messages) :]):
        said = _said(message)
        tokens = tokenizer.count_within(said.content, remaining)
        if tokens is None:
            break
        remaining -= tokens
        kept.insert(0, said)
    while kept and (kept[0].role != "user" or not kept[0].content):
        del kept[0]
    return [message for message in kept if message.content], _warnings(
        systems=len(messages) - len(spoken), dropped=len(spoken) - len(kept), spoken=len(spoken)
    )


def _said(message: Message) -> Message:
    content = clean(message.content).strip()
    if message.role == "assistant":
        content = _CITATIONS.sub("", content)
    return Message(role=message.role, content=content)


def _warnings(*, systems: int, dropped: int, spoken: int) -> list[str]:
    warnings = []
    if systems:
        warnings.append(
            f"system_messages_ignored: {systems} message(s) with the role system are not in the "
            "prompt; its rules are the operator's (RAG_TEMPLATE)"
        )
    if dropped:
        warnings.append(
            f"history_shortened: the {dropped} oldest of {spoken} messages are not in the prompt "
            "(augment.max_history_messages, augment.max_history_tokens)"
        )
    return warnings
