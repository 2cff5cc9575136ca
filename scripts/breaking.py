"""List the changes between two versions of a JSON Schema that break a user of the contract.

A request breaks its senders when something accepted before is refused or ignored now. A response
breaks its readers when something promised before is missing or looks different now. New optional
request fields and new response fields break nobody.

Looks at properties, required, type, enum and const, bounds, pattern, items, and
additionalProperties, through $ref and anyOf. Not at descriptions, defaults, or rules that the
models hold in code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

Schema = dict[str, Any]
Side = Literal["request", "response"]

ANY = frozenset({"null", "boolean", "object", "array", "string", "integer", "number"})
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def breaking_changes(old: Schema, new: Schema, side: Side) -> list[str]:
    """Return one sentence per breaking change from `old` to `new`, empty when there is none."""
    return list(_compare(_Node(old, old), _Node(new, new), side, "", frozenset()))


class _Node:
    """A position in a schema, with $ref resolved and anyOf split."""

    def __init__(self, schema: Schema | bool, root: Schema) -> None:
        self.root = root
        self.ref = schema.get("$ref") if isinstance(schema, dict) else None
        self.branches = list(self._branches({} if isinstance(schema, bool) else schema))

    def _branches(self, schema: Schema) -> Iterator[Schema]:
        if "$ref" in schema:
            yield from self._branches(self.root["$defs"][schema["$ref"].rsplit("/", 1)[1]])
        elif "anyOf" in schema:
            for branch in schema["anyOf"]:
                yield from self._branches(branch)
        else:
            yield schema

    def types(self) -> frozenset[str]:
        found: set[str] = set()
        for branch in self.branches:
            kind = branch.get("type")
            found |= {kind} if isinstance(kind, str) else set(kind or ANY)
        return frozenset(found | ({"integer"} if "number" in found else set()))

    def values(self) -> frozenset[str] | None:
        """The values allowed, as text, or None when they are not listed."""
        found: set[str] = set()
        for branch in self.branches:
            if "const" in branch:
                found.add(repr(branch["const"]))
            elif "enum" in branch:
                found |= {repr(value) for value in branch["enum"]}
            elif branch.get("type") == "null":
                found.add("None")
            else:
                return None
        return frozenset(found)

    def get(self, keyword: str, default: Any = None) -> Any:
        found = [branch[keyword] for branch in self.branches if keyword in branch]
        return found[0] if found else default

    def child(self, schema: Schema | bool) -> _Node:
        return _Node(schema, self.root)


def _compare(
    old: _Node, new: _Node, side: Side, at: str, seen: frozenset[tuple[Any, Any]]
) -> Iterator[str]:
    if (old.ref, new.ref) in seen:
        return
    if old.ref:
        seen |= {(old.ref, new.ref)}
    # a request may only get wider, a response only narrower
    wide, narrow = (new, old) if side == "request" else (old, new)
    place = at or "the document"
    verdict = "refused now" if side == "request" else "new"
    if extra := narrow.types() - wide.types():
        yield f"{place}: type {verdict}: {', '.join(sorted(extra))}"
    allowed = wide.values()
    if allowed is not None and (extra := (narrow.values() or frozenset({"any"})) - allowed):
        yield f"{place}: value {verdict}: {', '.join(sorted(extra))}"
    yield from _compare_bounds(wide, narrow, place)
    yield from _compare_objects(old, new, side, at, seen)
    if old.get("items") is not None and new.get("items") is not None:
        yield from _compare(
            old.child(old.get("items")), new.child(new.get("items")), side, f"{at}[]", seen
        )


def _compare_bounds(wide: _Node, narrow: _Node, place: str) -> Iterator[str]:
    for keyword in LOWER:
        if (limit := wide.get(keyword)) is not None and narrow.get(keyword, float("-inf")) < limit:
            yield f"{place}: {keyword} changed: {narrow.get(keyword)} against {limit}"
    for keyword in UPPER:
        if (limit := wide.get(keyword)) is not None and narrow.get(keyword, float("inf")) > limit:
            yield f"{place}: {keyword} changed: {narrow.get(keyword)} against {limit}"
    if wide.get("pattern") is not None and wide.get("pattern") != narrow.get("pattern"):
        yield f"{place}: pattern changed: {narrow.get('pattern')} against {wide.get('pattern')}"


def _compare_objects(
    old: _Node, new: _Node, side: Side, at: str, seen: frozenset[tuple[Any, Any]]
) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", [])), set(new.get("required", []))
    for name in before:
        if name not in after:
            yield f"{_join(at, name)}: field removed"
        else:
            yield from _compare(
                old.child(before[name]), new.child(after[name]), side, _join(at, name), seen
            )
    if side == "request":
        for name in sorted(needed_after - needed_before):
            yield f"{_join(at, name)}: field required now"
        if old.get("additionalProperties", True) is not False and (
            new.get("additionalProperties", True) is False
        ):
            yield f"{at or 'the document'}: unknown fields refused now"
    else:
        for name in sorted((needed_before - needed_after) & set(after)):
            yield f"{_join(at, name)}: field no longer always there"
    values_before, values_after = old.get("additionalProperties"), new.get("additionalProperties")
    if isinstance(values_before, dict) and isinstance(values_after, dict):
        yield from _compare(
            old.child(values_before), new.child(values_after), side, _join(at, "*"), seen
        )


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
