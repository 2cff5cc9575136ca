"""An answer for a person: the text, then each citation with its document, span and quote."""

from __future__ import annotations

import json


def readable(answer_json: str) -> str:
    """Return an answer of `rag` as text.

    Raises:
        ValueError: The answer is an error envelope; holds its code and message.
    """
    answer = json.loads(answer_json)
    if error := answer.get("error"):
        raise ValueError(f"{error['code']} in {error['step']}: {error['message']}")
    lines = [answer["answer"]]
    for citation in answer["citations"]:
        start, end = citation["spans"][0]
        lines += ["", f"[{citation['marker']}] {citation['document_id']}, characters {start}-{end}"]
        lines += [f"    “{citation['quote']}”"]
    return "\n".join(lines)
