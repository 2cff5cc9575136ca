"""Parse and check a request: limits on the JSON, a searchable query, errors that name the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any, ClassVar, get_args

import pydantic_core
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from .errors import StepError

MAX_BODY_BYTES = 4 * 1024 * 1024  # a step's request contains passages
MAX_QUERY_BYTES = 8 * 1024
MAX_DEPTH = 32  # nesting of JSON containers
_JOINERS = "\u200c\u200d"
_INVISIBLE = re.compile(
    # joiners shape Persian, Arabic and Indic words; elsewhere they hide text
    rf"(?<![^\W\d_a-zA-Z])[{_JOINERS}]|[{_JOINERS}](?![^\W\d_a-zA-Z])"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 and C1 controls, without tab and newline
    r"|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f]"
    r"|[\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]"
    r"|[\U000e0000-\U000e0fff]"  # tags and variation selectors, which can hide sentences
)
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def parse(raw: str | bytes, *, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse a JSON object; refuse NaN, Infinity, invalid UTF-8 and input too deep or too large.

    Args:
        raw: The text.
        depth: How deep objects and arrays may nest.

    Raises:
        StepError: `invalid_request` or `body_too_large`, with what to change.
    """
    size = len(raw) if isinstance(raw, bytes) else len(raw.encode("utf-8", "surrogatepass"))
    if size > MAX_BODY_BYTES:
        raise StepError(
            "body_too_large", f"the request has {size} bytes; at most {MAX_BODY_BYTES} are accepted"
        )
    try:
        data = pydantic_core.from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise StepError(
            "invalid_request",
            f"the request is not valid JSON: {error}, but got {_short(_text(raw))}; send an object, "
            'e.g. {"query": "Who may sign?"}',
        ) from None
    if not isinstance(data, dict):
        raise StepError(
            "invalid_request", f"the request must be a JSON object, but is {_json_type(data)}"
        )
    _check_values(data, depth)
    return data


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _check_values(data: dict[str, Any], depth: int) -> None:
    layer: list[Any] = [data]
    for _ in range(depth):
        values = [
            child for item in layer for child in (item.values() if isinstance(item, dict) else item)
        ]
        if any(isinstance(value, float) and not isfinite(value) for value in values):
            raise StepError("invalid_request", "a number is too large for a 64-bit float")
        layer = [value for value in values if isinstance(value, (dict, list))]
        if not layer:
            return
    raise StepError("invalid_request", f"the request nests deeper than {depth} levels")


def check_query(value: str) -> str:
    """Return the query, or raise ValueError when it is blank, too long or not valid Unicode."""
    if not value.strip():
        raise ValueError('the query is empty; ask something, e.g. "Who may sign?"')
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("the query holds a lone surrogate; send valid Unicode") from None
    if size > MAX_QUERY_BYTES:
        raise ValueError(f"the query has {size} bytes; at most {MAX_QUERY_BYTES} are accepted")
    return value


def clean(text: str) -> str:
    """Return `text` without invisible characters: controls, bidi, zero-width, tags.

    Line ends become newlines. Joiners stay between letters that are not ASCII.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))


def refuse_misplaced(data: Any, step: str, options: type[BaseModel]) -> Any:
    """Raise ValueError for an option of the step at the top level, where it would be ignored."""
    if isinstance(data, dict):
        for name in options.model_fields:
            if name in data:
                raise ValueError(
                    f'\'{name}\' is an option of {step}: send it as {{"{step}": {{"{name}": …}}}}'
                )
    return data


class StepRequest(BaseModel):
    """What the request of every step has; a subclass names its step and has its options in that field.

    Fields that a step does not know are carried on as they were sent.
    """

    model_config = ConfigDict(extra="allow")

    step: ClassVar[str]

    query: str = Field(description="The question, 1 character to 8 KiB of UTF-8.")
    warnings: list[str] = Field(default_factory=list, description="Warnings of earlier steps.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Who made what so far, by step."
    )

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return check_query(value)

    @model_validator(mode="before")
    @classmethod
    def _misplaced(cls, data: Any) -> Any:
        options: Any = cls.model_fields[cls.step].annotation
        return refuse_misplaced(data, cls.step, options)


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> StepError:
    """Turn a validation error into `invalid_request` with the field, its value and the rule.

    An unknown field comes first: it may be a misspelt one, which is then missing, too.

    Args:
        error: What pydantic found.
        model: What was validated, to name the field that a misspelt one may stand for.
    """
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    param = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        way_out = "the request schema lists the known ones"
        near = _near(first["loc"][-1], _fields(model, first["loc"][:-1]))
        text = f"unknown option; {f'did you mean {near!r}?' if near else way_out}"
    elif first["type"] == "missing":
        near = _near(first["loc"][-1], first["input"] or ())  # None: a parameter of the URL
        text = f"required, but missing{f'; did you misspell it as {near!r}?' if near else ''}"
    else:
        text = f"{first['msg']}, but got {_short(first['input'])}"
    return StepError("invalid_request", f"{param}: {text}" if param else text, param=param)


def _fields(model: Any, path: Sequence[int | str]) -> Iterable[str]:
    """Return the fields of a model, or of the model that one of its fields is or has items of."""
    for part in path:
        if isinstance(part, str):
            fields = getattr(model, "model_fields", {})
            model = _innermost(fields[part].annotation) if part in fields else None
    return getattr(model, "model_fields", ())


def _innermost(annotation: Any) -> Any:
    """Return the type in lists and unions: that of `list[Message] | None` is `Message`."""
    while arguments := get_args(annotation):
        annotation = arguments[0]
    return annotation


def _near(name: int | str, names: Any) -> str | None:
    """Return the name that one may have been meant as, if there is one."""
    spellings = {each.lower(): each for each in names if isinstance(each, str)}
    found = get_close_matches(str(name).lower(), spellings, n=1, cutoff=0.7)
    return spellings[found[0]] if found else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
