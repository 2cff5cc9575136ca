"""Filters on metadata: the language, its tree, and what it means.

A filter is a JSON object in the style of MongoDB. Its meaning, exactly:

* `{"dept": "hr"}` is `{"dept": {"$eq": "hr"}}`; several keys, or several operators, mean *and*.
* `$and` and `$or` take a list of filters; `$not` takes a filter, or, under a field, operators.
* A field is a dotted path through objects (`"author.name"`), never through lists. A key that
  itself holds a dot cannot be addressed.
* A list in the metadata matches when *any* of its elements does (elements of inner lists do not
  count); an empty list is like a missing field.
* A missing field fails `$eq $in $gt $gte $lt $lte` and so passes `$ne $nin $not`.
* `$ne` is exactly "not `$eq`", `$nin` exactly "not `$in`".
* Types never mix: "1" is not 1, true is not 1. `null` equals only null (not a missing field).
* Numbers compare as 64-bit floats (1 equals 1.0), except that an integer operand of magnitude
  2^53 or more under `$eq $ne $in $nin` equals only the very same integer.
* `$gt $gte $lt $lte` with a number compare numbers; with text they compare text. Text that is a date,
  on both sides, compares as one, by the precision of the operand: 2024-03-15T10:00 is `$lte`
  "2024-03-15" (see `dates`). Other text compares by code points, case matters.
* `$contains`, `$startsWith` and `$endsWith` take text that is a part, the beginning or the end of a text.
  `$contains` with a number is `$eq`; with a list it means each of the list.
* `$exists` takes true or false; a field that is null exists, one that is an empty list does not.

`matches` is that meaning in Python; each store translates the tree to its native filter, and a
property test holds the two equal. No store compares parts or order of text: `without_text`
puts in the values there are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rag_kit.errors import StepError

from .dates import parse_date

MAX_CONDITIONS = 64  # comparisons in one filter
MAX_DEPTH = 8  # levels of $and, $or and $not
MAX_VALUES = 256  # values in one $in or $nin
MAX_FIELD = 256  # characters in a field's path
EXACT_INTEGER = 2**53  # from here a 64-bit float no longer tells neighbouring integers apart

Scalar: TypeAlias = str | int | float | bool | None
Op: TypeAlias = Literal[
    "eq", "gt", "gte", "lt", "lte", "in", "contains", "starts", "ends", "exists"
]

OPERATORS = "$eq $ne $gt $gte $lt $lte $in $nin $contains $startsWith $endsWith $exists $not"
PARTS: dict[str, Op] = {"$startsWith": "starts", "$endsWith": "ends"}
NOTHING = "\0"  # a text that no metadata holds


@dataclass(frozen=True)
class Compare:
    """One comparison of a metadata field (dotted path) with a value, or for `in` with a tuple."""

    field: str
    op: Op
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class And:
    """All of the conditions, at least one."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    """Any of the conditions, at least one."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    condition: Condition


Condition: TypeAlias = Compare | And | Or | Not


def parse_filters(raw: Mapping[str, Any] | None) -> Condition | None:
    """Turn a filter as sent into a tree.

    Args:
        raw: The filter, see the module's text; None or `{}` means no filter.

    Returns:
        The condition, or None when everything passes.

    Raises:
        StepError: `invalid_request` naming the place (`filters.year.$gte`), the value, the way out.
    """
    if raw is None or raw == {}:
        return None
    condition = _filter(raw, "filters", 1)
    _few(_size(condition), "filters")
    return condition


def matches(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    """Tell whether `metadata` passes; the reference every store's native filter must equal."""
    match condition:
        case And(conditions):
            return all(matches(one, metadata) for one in conditions)
        case Or(conditions):
            return any(matches(one, metadata) for one in conditions)
        case Not(inner):
            return not matches(inner, metadata)
        case Compare(field, op, value):
            found = values_at(metadata, field)
            if op == "exists":
                return bool(found) is value
            return any(_holds(one, op, value) for one in found)


def fields_of(condition: Condition) -> set[str]:
    """Return the fields that a filter names."""
    match condition:
        case And(conditions) | Or(conditions):
            return {field for one in conditions for field in fields_of(one)}
        case Not(inner):
            return fields_of(inner)
        case Compare(field):
            return {field}


def text_fields(condition: Condition) -> set[str]:
    """Return the fields whose order or parts a filter compares as text."""
    match condition:
        case And(conditions) | Or(conditions):
            return {field for one in conditions for field in text_fields(one)}
        case Not(inner):
            return text_fields(inner)
        case Compare(field):
            return {field} if _is_textual(condition) else set()


def without_text(condition: Condition, texts: Mapping[str, Collection[str]]) -> Condition:
    """Return the same filter with `in` in place of what no store compares.

    Args:
        condition: A filter.
        texts: All texts that the collection has in each of `text_fields(condition)`.
    """
    match condition:
        case And(conditions):
            return And(tuple(without_text(one, texts) for one in conditions))
        case Or(conditions):
            return Or(tuple(without_text(one, texts) for one in conditions))
        case Not(inner):
            return Not(without_text(inner, texts))
        case Compare(field, op, value) if _is_textual(condition):
            fitting = tuple(text for text in texts[field] if _holds(text, op, value))
            return Compare(field, "in", fitting or (NOTHING,))
        case Compare():
            return condition


def _is_textual(compare: Compare) -> bool:
    is_order = compare.op in ("gt", "gte", "lt", "lte") and isinstance(compare.value, str)
    return is_order or compare.op in ("contains", *PARTS.values())


def is_number(value: object) -> bool:
    """Tell whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_exact_integer(value: object) -> bool:
    """Tell whether a value is an integer that a 64-bit float cannot tell from its neighbours."""
    return isinstance(value, int) and abs(value) >= EXACT_INTEGER


def values_at(metadata: Mapping[str, Any], field: str) -> list[Any]:
    """Return the values of a field: the elements of a list, nothing where there is none."""
    found: Any = metadata
    for key in field.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return []
        found = found[key]
    return found if isinstance(found, list) else [found]


def _holds(found: Any, op: Op, value: Any) -> bool:
    if op == "in":
        return any(_equal(found, one) for one in value)
    if op == "eq":
        return _equal(found, value)
    if op in ("contains", *PARTS.values()):
        return (
            isinstance(found, str)
            and {
                "contains": value in found,
                "starts": found.startswith(value),
                "ends": found.endswith(value),
            }[op]
        )
    order = _order(found, value)
    return order is not None and {
        "gt": order > 0, "gte": order >= 0, "lt": order < 0, "lte": order <= 0,
    }[op]  # fmt: skip


def _order(found: Any, value: Any) -> int | None:
    """Return -1, 0 or 1: less, equal or greater; None for what does not compare."""
    if is_number(found) and is_number(value):
        left, right = _as_float(found), _as_float(value)
        return (left > right) - (left < right)
    if not (isinstance(found, str) and isinstance(value, str)):
        return None
    one, other = parse_date(found), parse_date(value)
    if one and other:
        return one.order_of(other)
    return (found > value) - (found < value)


def _equal(found: Any, value: Scalar) -> bool:
    if is_number(found) and is_number(value):
        if is_exact_integer(value):
            return isinstance(found, int) and found == value
        return _as_float(found) == _as_float(value)
    return type(found) is type(value) and found == value


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _few(found: int, where: str) -> None:
    if found > MAX_CONDITIONS:
        raise _bad(where, f"holds {found} comparisons; at most {MAX_CONDITIONS} are allowed")


def _bad(where: str, problem: str) -> StepError:
    return StepError("invalid_request", f"{where} {problem}.", param=where)


def _filter(raw: Any, where: str, depth: int) -> Condition:
    if not isinstance(raw, Mapping):
        raise _bad(where, f"must be an object of conditions, but got {_kind(raw)}")
    if not raw:
        raise _bad(where, "is an empty object; name at least one field, or leave it out")
    if depth > MAX_DEPTH:
        raise _bad(where, f"is nested deeper than {MAX_DEPTH} levels")
    _few(len(raw), where)
    return _all_of([_entry(key, value, f"{where}.{key}", depth) for key, value in raw.items()])


def _entry(key: Any, value: Any, where: str, depth: int) -> Condition:
    if key in ("$and", "$or"):
        return _logical(key, value, where, depth)
    if key == "$not":
        return Not(_filter(value, where, depth + 1))
    if not isinstance(key, str) or key.startswith("$"):
        raise _bad(where, _unknown(key, "$and, $or, $not, or the name of a field"))
    field = _field(key, where)
    if isinstance(value, Mapping):
        return _operators(field, value, where, depth)
    return Compare(field, "eq", _scalar(value, where))


def _logical(key: str, value: Any, where: str, depth: int) -> Condition:
    if not isinstance(value, list) or not value:
        raise _bad(where, f"must be a list with at least one filter, but got {_kind(value)}")
    _few(len(value), where)
    parts = tuple(_filter(one, f"{where}[{at}]", depth + 1) for at, one in enumerate(value))
    return And(parts) if key == "$and" else Or(parts)


def _operators(field: str, raw: Mapping[str, Any], where: str, depth: int) -> Condition:
    if not raw:
        raise _bad(where, "is an empty object; give an operator such as $eq, or a value")
    if depth > MAX_DEPTH:
        raise _bad(where, f"is nested deeper than {MAX_DEPTH} levels")
    return _all_of(
        [_operator(field, op, value, f"{where}.{op}", depth) for op, value in raw.items()]
    )


def _operator(field: str, op: str, value: Any, where: str, depth: int) -> Condition:
    if op == "$not":
        if not isinstance(value, Mapping):
            raise _bad(where, f"must be an object of operators, but got {_kind(value)}; see $ne")
        return Not(_operators(field, value, where, depth + 1))
    if op in ("$eq", "$ne"):
        equal = Compare(field, "eq", _scalar(value, where))
        return equal if op == "$eq" else Not(equal)
    if op in ("$in", "$nin"):
        among = Compare(field, "in", _scalars(value, where))
        return among if op == "$in" else Not(among)
    orders: dict[str, Op] = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}
    if op in orders:
        return Compare(field, orders[op], _ordered(value, where))
    if op == "$exists":
        if not isinstance(value, bool):
            raise _bad(where, f"must be true or false, but got {_kind(value)}")
        return Compare(field, "exists", value)
    if op in PARTS:
        return Compare(field, PARTS[op], _part(value, where))
    if op == "$contains":
        is_list = isinstance(value, list)
        parts = _scalars(value, where) if is_list else [_scalar(value, where)]
        return _all_of([_contains(field, one, where) for one in parts])
    raise _bad(where, _unknown(op, f"one of {OPERATORS}"))


def _contains(field: str, value: Scalar, where: str) -> Compare:
    if isinstance(value, str):
        return Compare(field, "contains", _part(value, where))
    return Compare(field, "eq", value)


def _part(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(where, f"must be text that is not empty, but got {_kind(value)}")
    return _text(value, where)


def _ordered(value: Any, where: str) -> int | float | str:
    if isinstance(value, str):
        return _text(value, where)
    if not is_number(value):
        raise _bad(where, f"compares numbers, texts and dates, but got {_kind(value)}")
    return _number(value, where)


def _scalar(value: Any, where: str) -> Scalar:
    if is_number(value):
        return _number(value, where)
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    raise _bad(
        where, f"must be text, a number, true, false or null, but got {_kind(value)}; see $in"
    )


def _scalars(value: Any, where: str) -> tuple[Scalar, ...]:
    if not isinstance(value, list) or not value:
        raise _bad(where, f"must be a list with at least one value, but got {_kind(value)}")
    if len(value) > MAX_VALUES:
        raise _bad(where, f"holds {len(value)} values; at most {MAX_VALUES} are allowed")
    return tuple(_scalar(one, f"{where}[{at}]") for at, one in enumerate(value))


def _number(value: Any, where: str) -> int | float:
    if not is_number(value):
        raise _bad(where, f"compares numbers only, but got {_kind(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(where, f"must be a finite number, but got {value}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _bad(where, "is an integer beyond 64 bits; store and compare such ids as text")
    return value  # type: ignore[no-any-return]


def _field(name: str, where: str) -> str:
    parts = name.split(".")
    if not all(parts):
        raise _bad(where, "has an empty part in the field's path; write it like 'author.name'")
    if len(name) > MAX_FIELD:
        raise _bad("filters", f"names a field of {len(name)} characters; at most {MAX_FIELD} fit")
    if any(part.startswith("$") for part in parts):
        raise _bad(where, "has a part of the field's path that starts with '$', as operators do")
    if not name.isprintable() or '"' in name or "\\" in name:
        raise _bad("filters", "names a field with a quote, backslash or unprintable character")
    return name


def _text(value: str, where: str) -> str:
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _bad(where, "is not valid Unicode (it holds half of a surrogate pair)")
    return value


def _unknown(key: object, known: str) -> str:
    return f"is not known: {str(key)[:80]!r}; use {known}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    if isinstance(value, list | dict) and not value:
        return f"{names[type(value)]} that is empty"
    return names.get(type(value), "a number" if is_number(value) else type(value).__name__)


def _all_of(conditions: list[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else And(tuple(conditions))


def _size(condition: Condition) -> int:
    match condition:
        case And(conditions) | Or(conditions):
            return sum(_size(one) for one in conditions)
        case Not(inner):
            return _size(inner)
        case Compare():
            return 1
