"""Front matter: what YAML (between `---`) or TOML (between `+++`) says at the top of a Markdown file."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from itertools import islice
from typing import Any

import yaml
from pydantic import JsonValue

from .document import lines_of
from .values import typed

MAX_LINES = 500
MAX_NODES = 2000  # values of one front matter, nested ones counted
MAX_LEVELS = 16
TOO_MUCH = f"it has more than {MAX_NODES} values or {MAX_LEVELS} levels"
ENDS = {"---": ("---", "..."), "+++": ("+++",)}
SCALAR = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*:[ \t]+(\S.*)$")


def front_matter(text: str) -> tuple[dict[str, JsonValue], int, tuple[str, ...]]:
    """Read the front matter of a Markdown text.

    Returns:
        The values, the offset at which the body starts, and warnings; nothing and 0 where there is no
        closed front matter. Numbers are numbers only where they are written as such (see
        `typed`); dates stay text; lists and objects are kept.
    """
    mark, start = "", 0
    for begin, end in islice(lines_of(text), MAX_LINES):
        line = text[begin:end].rstrip()
        if begin == 0:
            mark, start = line, end
            if mark not in ENDS:
                break
        elif line in ENDS[mark]:
            values, warnings = _read(text[start:begin], mark)
            return values, end, warnings
    return {}, 0, ()


def _read(source: str, mark: str) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    try:
        values = _yaml(source) if mark == "---" else _toml(source)
        json.dumps(values, ensure_ascii=False).encode()  # no half of a surrogate pair
        return values, ()
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 2}: " if where else ""
        why = getattr(error, "problem", None) or str(error).partition("\n")[0] or "nested too deep"
        kind = "YAML" if mark == "---" else "TOML"
        warning = (
            f"front matter is not valid {kind} ({line}{why}); only its lines `key: value` were read"
        )
        return _plain_lines(source), (warning,)


def _yaml(source: str) -> dict[str, JsonValue]:
    _check_events(source)
    node = yaml.compose(source, yaml.SafeLoader)
    budget = iter(range(MAX_NODES))
    return _values(node, budget, 1) if isinstance(node, yaml.MappingNode) else {}


def _check_events(source: str) -> None:
    """Refuse aliases and deep nesting; PyYAML's time grows with the square of the levels."""
    level = 0
    for event in yaml.parse(source, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it uses aliases (*name), which are not followed")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > MAX_LEVELS + 1:  # the mapping of the front matter is the first
            raise ValueError(TOO_MUCH)


def _values(node: yaml.MappingNode, budget: Any, level: int) -> dict[str, JsonValue]:
    return {
        key.value: _value(value, budget, level)
        for key, value in node.value
        if isinstance(key, yaml.ScalarNode)
    }


def _value(node: yaml.Node, budget: Any, level: int) -> JsonValue:
    if next(budget, None) is None or level > MAX_LEVELS:
        raise ValueError(TOO_MUCH)
    if isinstance(node, yaml.MappingNode):
        return _values(node, budget, level + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, budget, level + 1) for item in node.value]
    return typed(node.value) if node.style is None else str(node.value)


def _toml(source: str) -> dict[str, JsonValue]:
    return {key: _plain(value) for key, value in tomllib.loads(source, parse_float=typed).items()}


def _plain(value: Any) -> JsonValue:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return typed(str(value))
    return value  # type: ignore[no-any-return]


def _plain_lines(source: str) -> dict[str, JsonValue]:
    values: dict[str, JsonValue] = {}
    for begin, end in lines_of(source):
        if pair := SCALAR.match(source[begin:end].rstrip()):
            text = pair[2].strip()
            is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
            if is_quoted or text[0] not in "[{|>&*!#":
                values[pair[1]] = text[1:-1] if is_quoted else typed(text)
    return values
