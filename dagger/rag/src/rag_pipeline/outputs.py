"""What the pipeline needs of each step's response, and the check of a response.

A step may be someone else's, so its response is checked before the next step reads it: a fault is
reported for the step that made it. Fields that are not named here pass through unchanged.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rag_kit.errors import CODES, StepError, error_of
from rag_kit.passages import Citation, Context, Message, Result
from rag_kit.request import explain


class Output(BaseModel):
    """What every step gives: its warnings, whether it is degraded, and who made what so far."""

    model_config = ConfigDict(extra="allow")

    degraded: bool = False

    warnings: list[str] = Field(default_factory=list)
    provenance: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)


class RetrieveOutput(Output):
    """Passages, best first."""

    results: list[Result]


class ContextUsage(BaseModel):
    """Tokens of the packed passages."""

    context_tokens: int = Field(ge=0)


class AugmentOutput(Output):
    """A prompt over numbered passages."""

    prompt: list[Message]
    contexts: list[Context]
    left_out: list[dict[str, JsonValue]]
    context_usage: ContextUsage


class GenerateOutput(Output):
    """An answer with verified citations."""

    answer: str
    answerable: bool
    finish_reason: Literal["stop", "length", "no_context", "filtered"]
    llm_generated: bool
    support: float | None
    citations: list[Citation]
    citation_check: dict[str, JsonValue]
    usage: dict[str, int]


OutputType = TypeVar("OutputType", bound=Output)


def read_reply(step: str, reply: str) -> dict[str, Any]:
    """Return a step's response as an object, or raise the error in its envelope.

    Raises:
        StepError: The step's own; `module_bad_output` when the reply is no JSON object, or an
            envelope with an unknown code.
    """
    try:
        data = pydantic_core.from_json(reply, allow_inf_nan=False)
    except (TypeError, ValueError) as error:
        raise bad_output(step, f"is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise bad_output(step, "is not a JSON object")
    error_body = error_of(data)
    if error_body is None:
        return data
    raise _step_error(step, error_body)


def _step_error(step: str, body: dict[str, Any]) -> StepError:
    """Return the error an envelope holds; optional fields of the wrong type are dropped."""
    code, message, param, origin = (body.get(key) for key in ("code", "message", "param", "step"))
    if code not in CODES or not isinstance(message, str):
        return bad_output(step, f"is an error with the unknown code {code!r}", "error.code")
    retry_after = body.get("retry_after")
    return StepError(
        code,
        message,
        param=param if isinstance(param, str) else None,
        step=origin if isinstance(origin, str) else step,
        retry_after=retry_after if isinstance(retry_after, (int, float)) else None,
    )


def check_reply(step: str, model: type[OutputType], data: dict[str, Any]) -> OutputType:
    """Return the fields of a step's response that the pipeline needs.

    Raises:
        StepError: `module_bad_output`; `param` is the first field off contract.
    """
    try:
        return model.model_validate(data, strict=True)
    except ValidationError as error:
        fault = explain(error)
        raise bad_output(step, f"is off contract: {fault.message}", fault.param) from None


def bad_output(step: str, fault: str, param: str | None = None) -> StepError:
    """Return the error for a response that breaks the contract; `fault` completes the sentence."""
    text = f"the response of the step {step} {fault}; see its response schema"
    return StepError("module_bad_output", text, param=param, step=step)


def with_fields(items: Any, *names: str) -> Any:
    """Return the objects of a list that have all these fields; any other value unchanged."""
    if not isinstance(items, list):
        return items
    return [item for item in items if isinstance(item, dict) and item.keys() >= set(names)]
