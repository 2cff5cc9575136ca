"""What every step checks of a request before it does anything: words and limits."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from rag_kit.errors import StepError
from rag_kit.request import (
    MAX_BODY_BYTES,
    MAX_QUERY_BYTES,
    check_query,
    clean,
    explain,
    parse,
    refuse_misplaced,
)


def refused(raw: str | bytes, **more: Any) -> tuple[str, str]:
    with pytest.raises(StepError) as caught:
        parse(raw, **more)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    ("raw", "what"),
    [("[]", "an array"), ('"x"', "a string"), ("1", "a number"), ("true", "a boolean"),
     ("null", "null"), ("1.5", "a number")],
)  # fmt: skip
def test_a_request_is_an_object(raw: str, what: str) -> None:
    """The error says what came instead."""
    assert refused(raw) == (
        "invalid_request",
        f"the request must be a JSON object, but is {what}",
    )


def test_a_request_is_small() -> None:
    """Bytes count, whatever the text is given as; the exact size is let through."""
    fits = '{"a": "' + "x" * (MAX_BODY_BYTES - 9) + '"}'
    wide = '{"a": "' + "ä" * ((MAX_BODY_BYTES - 9) // 2 + 1) + '"}'

    assert parse(fits) == parse(fits.encode())
    size = len(wide.encode())
    message = f"the request has {size} bytes; at most {MAX_BODY_BYTES} are accepted"
    assert refused(wide) == refused(wide.encode()) == ("body_too_large", message)


@pytest.mark.parametrize("raw", ["", "{", '{"a": NaN}', '{"a": Infinity}', b'{"a": "\xff"}'])
def test_a_request_is_json(raw: str | bytes) -> None:
    """NaN and invalid UTF-8 are none."""
    code, message = refused(raw)

    assert code == "invalid_request"
    assert message.startswith("the request is not valid JSON: ")
    assert message.endswith('send an object, e.g. {"query": "Who may sign?"}')


def test_a_long_text_that_is_no_json_is_told_by_its_beginning() -> None:
    """An error stays readable."""
    _, message = refused("Who may sign? " * 1000)

    assert "but got 'Who may sign? " in message
    assert len(message) < 300


def test_a_number_is_a_64_bit_float() -> None:
    """At any depth; no infinity comes of a long one."""
    assert parse('{"a": [1e308]}') == {"a": [1e308]}
    assert refused('{"a": [{"b": 1e999}]}') == (
        "invalid_request",
        "a number is too large for a 64-bit float",
    )


def test_a_request_is_flat() -> None:
    """Arrays and objects count; the exact depth is let through."""
    assert parse('{"a": [[1]]}', depth=3) == {"a": [[1]]}
    assert refused('{"a": [[[]]]}', depth=3) == (
        "invalid_request",
        "the request nests deeper than 3 levels",
    )
    assert parse('{"a": {"b": []}}', depth=3)
    assert refused('{"a": {"b": {"c": {}}}}', depth=3)[0] == "invalid_request"


@pytest.mark.parametrize("query", ["x" * MAX_QUERY_BYTES, " who? ", "ä" * (MAX_QUERY_BYTES // 2)])
def test_a_query_is_left_as_it_is(query: str) -> None:
    """Blanks around it, and every byte it may have."""
    assert check_query(query) is query


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", 'the query is empty; ask something, e.g. "Who may sign?"'),
        (" \n\t", 'the query is empty; ask something, e.g. "Who may sign?"'),
        ("a\ud800b", "the query holds a lone surrogate; send valid Unicode"),
        ("x" * (MAX_QUERY_BYTES + 1),
         f"the query has {MAX_QUERY_BYTES + 1} bytes; at most {MAX_QUERY_BYTES} are accepted"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_asked(query: str, message: str) -> None:
    """Empty, no Unicode, too long."""
    with pytest.raises(ValueError) as caught:
        check_query(query)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ntext", "plain\ntext"),
        ("red\x1b[31m\x00", "red[31m"),
        ("a\r\nb\rc\u2028d\u2029e\x85f", "a\nb\nc\nd\ne\nf"),
        ("pay\u200b me\u202e now\x00\x1b", "pay me now"),
        ("tag\U000e0041\ufeff", "tag"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\u200db", "ab"),
        ("Zürich", "Zürich"),
    ],
)
def test_what_nobody_sees_is_taken_out(text: str, shown: str) -> None:
    """Controls, bidi, zero-width and tags; joiners stay between letters that are not ASCII."""
    assert clean(text) == shown


def test_plain_ascii_is_the_same_object() -> None:
    """Callers tell by it that nothing was taken out."""
    text = "plain\ntext"

    assert clean(text) is text


class Options(BaseModel):
    """Options of a step in these tests."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = 5
    mode: Literal["dense", "sparse"] = "dense"


class Asked(BaseModel):
    """A request in these tests."""

    query: str
    retrieve: Options = Options()
    steps: list[Options] | None = None

    @field_validator("query")
    @classmethod
    def _check_query(cls, value: str) -> str:
        return check_query(value)


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"query": "x", "retrieve": {"depth": 1}}, "retrieve.depth",
         "retrieve.depth: unknown option; the request schema lists the known ones"),
        ({"query": "x", "retrieve": {"top-k": 1}}, "retrieve.top-k",
         "retrieve.top-k: unknown option; did you mean 'top_k'?"),
        ({"query": " ", "retrieve": {"Mode": "dense"}}, "retrieve.Mode",
         "retrieve.Mode: unknown option; did you mean 'mode'?"),
        ({"query": "x", "steps": [{}, {"topk": 1}]}, "steps.1.topk",
         "steps.1.topk: unknown option; did you mean 'top_k'?"),
        ({}, "query", "query: required, but missing"),
        ({"quer": "x"}, "query", "query: required, but missing; did you misspell it as 'quer'?"),
        ({"Query": "x"}, "query", "query: required, but missing; did you misspell it as 'Query'?"),
        ({"question": "x"}, "query", "query: required, but missing"),
        ({"query": " "}, "query",
         'query: the query is empty; ask something, e.g. "Who may sign?"'),
        ({"query": "x", "retrieve": {"top_k": "many"}}, "retrieve.top_k",
         "retrieve.top_k: Input should be a valid integer, unable to parse string as an integer, "
         "but got 'many'"),
        ({"query": ["x" * 100]}, "query",
         f"query: Input should be a valid string, but got ['{'x' * 58}… (104 characters)"),
        ([], None, "Input should be a valid dictionary or instance of Asked, but got []"),
    ],
)  # fmt: skip
def test_an_error_names_field_value_and_rule(given: Any, param: str | None, message: str) -> None:
    """A long value is cut."""
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate(given)
    told = explain(caught.value, Asked)

    assert (told.code, told.param, told.message) == ("invalid_request", param, message)


def test_a_value_of_eighty_characters_is_shown_whole() -> None:
    """One more is cut."""
    for length, whole in ((78, True), (79, False)):
        with pytest.raises(ValidationError) as caught:
            Options.model_validate({"top_k": "x" * length})
        assert (f"'{'x' * length}'" in explain(caught.value).message) is whole


def test_an_option_at_the_wrong_level_is_refused() -> None:
    """It would be ignored there; what is no object is somebody else's error."""
    assert refuse_misplaced({"query": "x"}, "retrieve", Options) == {"query": "x"}
    assert refuse_misplaced("top_k", "retrieve", Options) == "top_k"
    with pytest.raises(ValueError) as caught:
        refuse_misplaced({"top_k": 3}, "retrieve", Options)
    assert str(caught.value) == (
        '\'top_k\' is an option of retrieve: send it as {"retrieve": {"top_k": …}}'
    )
