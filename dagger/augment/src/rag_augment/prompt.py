"""Render packed passages, conversation and question as the messages for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rag_kit.passages import Message, Result
from rag_kit.request import clean
from rag_kit.tables import rows

from .models import AugmentRequest
from .packing import Packed
from .spotlight import draw_mark, spotlight
from .template import Template
from .tokenizer import Tokenizer

NO_CONTEXT_TEXT = "I could not find an answer to this in the documents."
MAX_TITLE = 200  # characters of a title or heading in the prompt
MAX_NAMES = 7  # title and headings there; the innermost headings are kept
MAX_DATE = 32  # characters
HEADING_MARKS = "#=* \t"  # what stands before a heading's words in Markdown and AsciiDoc
FENCE = "```"  # opens the block of code that a passage begins in
MAX_COLUMNS = 500  # characters of the names of columns there
TOKENS_PER_MARK_CHARACTER = 0.75  # of random letters and digits in MiniLM's word pieces, mean


class Prompt(NamedTuple):
    """The messages, their tokens, and the mark of spotlighting, "" without one."""

    messages: list[Message]
    tokens: int
    mark: str


def passage_body(result: Result) -> str:
    """Return what of a passage stands in the prompt: title and text, cleaned; empty without text.

    Title, headings and the document's date have a line of their own, without titles the text begins
    with; so have the names of the columns where the passage begins in the middle of a table.
    """
    text = clean(result.text).strip()
    if not text:
        return ""
    body = f"{FENCE}\n{text}" if result.in_code else text
    lines = [_head(result, text), _columns_above(result), body]
    return "\n".join(line for line in lines if line)


def _head(result: Result, text: str) -> str:
    """Return title, headings and date of a passage as one line, `Guide > Install (2024-03-15)`."""
    date = f"({clean(result.date)[:MAX_DATE]})" if result.date else ""
    return " ".join(part for part in (_path_above(result, text), date) if part)


def _path_above(result: Result, text: str) -> str:
    """Return title and headings as one line, `Guide > Install`, without those that `text` begins with."""
    names = [" ".join(clean(name[:MAX_TITLE]).split()) for name in (result.title, *result.headings)]
    start = text.lstrip(HEADING_MARKS)
    return " > ".join(
        name for name in dict.fromkeys(names[-MAX_NAMES:]) if name and not start.startswith(name)
    )


def _columns_above(result: Result) -> str:
    """Return the names of the columns of a table that the passage begins in, "" if it holds them."""
    if not result.tables or result.tables[0].span[0] != result.span[0]:
        return ""
    table = result.tables[0]
    first = next(rows(result.text, 0, len(result.text), table.delimiter), None)
    if first is None or first.cells == tuple(table.columns) or not any(table.columns):
        return ""
    return clean(table.delimiter.join(table.columns))[:MAX_COLUMNS]


def build_prompt(
    request: AugmentRequest,
    passages: Sequence[Packed],
    history: Sequence[Message],
    *,
    tokenizer: Tokenizer,
    template: Template,
    no_context_text: str,
) -> Prompt:
    """Return the messages: rules, conversation, passages with the question.

    Args:
        request: The question, and how to spotlight.
        passages: N bodies; they are numbered from 1 in this order.
        history: The conversation as it goes into the prompt.
        tokenizer: Counts tokens.
        template: Wording of the first and the last message.
        no_context_text: What to answer when the passages do not hold the answer.
    """
    query = clean(request.query).strip() or request.query
    mode = request.augment.spotlight
    texts = [
        *(passage.body for passage in passages),
        *(message.content for message in history),
        query,
    ]
    mark = draw_mark(texts, mode=mode, seed=request.augment.seed)
    blocks = [spotlight(passage.body, mark, mode=mode) for passage in passages]
    parts = template.render(
        {
            "query": query,
            "passages": [{"number": n, "text": text} for n, text in enumerate(blocks, start=1)],
            "spotlight": mode,
            "mark": mark,
            "no_context_text": no_context_text,
            "general_knowledge": request.no_context == "answer",
            "dated": len({result.date for result in request.results if result.date}) > 1,
        }
    )
    messages = [
        Message(role="system", content=parts["system"]),
        *history,
        Message(role="user", content=parts["user"]),
    ]
    known = {}
    if mode == "delimit":
        known = {block: packed.tokens for block, packed in zip(blocks, passages, strict=True)}
    tokens = sum(_count(message.content, known, mark, tokenizer) for message in messages)
    return Prompt(messages, tokens, mark)


def _count(text: str, known: Mapping[str, int], mark: str, tokenizer: Tokenizer) -> int:
    """Count the tokens of a message, without tokenizing again the texts counted already.

    Blocks between delimiters occur nowhere else and no token reaches over their line ends. A mark
    counts by its length: a count must not depend on what was drawn, and without their mark the
    rules are the same text in every request.
    """
    tokens = 0
    for block, its_tokens in known.items():
        if block in text:
            text = text.replace(block, spotlight("", mark, mode="delimit"), 1)
            tokens += its_tokens
    if mark:
        tokens += text.count(mark) * math.ceil(len(mark) * TOKENS_PER_MARK_CHARACTER)
        text = text.replace(mark, " ")
    return tokens + tokenizer.count(text)
