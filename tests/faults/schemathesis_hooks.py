"""Hooks of the run in `test_schemathesis.py`: what a JSON Schema of ours does not say.

A request that fits the schema must be accepted. The schemas leave open what belongs to a step
(its options, filters), since steps are replaced on their own, and cannot say that the last message
asks. Such parts of *valid* requests are made valid here; invalid requests are sent as they are.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import GenerationMode

OPEN = ("filters", "retrieve", "augment", "generate", "metadata_condition")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Make a valid request valid in what the schema leaves open."""
    body = case.body
    if case.meta.generation.mode is not GenerationMode.POSITIVE or not isinstance(body, dict):
        return
    for name, value in body.items():
        if name in OPEN and isinstance(value, dict):
            body[name] = {}
        else:
            body[name] = _whole(value)
    if isinstance(wordings := body.get("search_queries"), list):  # none is blank, as `query`
        body["search_queries"] = [one for one in wordings if one.strip()]
    if body.get("no_context") == "error":
        body["no_context"] = "abstain"  # 422 is what was asked for
    if "/chat/" in case.operation.path:
        body["messages"] = [{"role": "user", "content": "Who signs?"}]
        body["collection"] = None  # not another one than the model's
        body["response_format"] = None  # needs a model
    elif case.operation.path.endswith("/responses"):
        body["input"] = "Who signs?"
        for name in ("collection", "previous_response_id", "text", "tools"):
            body[name] = None
    elif case.operation.path.endswith("/file_batches"):
        body["file_ids"] = ["file-0"]  # at least one
    elif case.operation.path.endswith("/embeddings"):
        body["dimensions"] = None  # not another number than the embedder's
    elif not body.get("query") and not {"documents", "files", "file"} & set(body):
        body["query"] = "Who signs?"


def _whole(value: Any) -> Any:
    """Return the value with 5.0 as 5, at any depth: an integer to JSON Schema, not to us."""
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value
