"""Values of a JSON text, also of one that a passage cuts, with their path and what names them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from .sentences import Sentence

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[\[\]{}:,]')
KEY = re.compile(r'"(?:[^"\\]|\\.)*"\s*:')
NAME_KEYS = (
    "name",
    "title",
    "id",
    "key",
    "label",
    "customer",
    "product",
    "host",
    "service",
    "user",
)
NAME_WORDS = 8  # a longer value does not name its record
MAX_NAMES = 4  # values of one object that name it


@dataclass
class _Object:
    """An object or an array: the key it stands under, and its scalars by key."""

    key: str = ""
    is_array: bool = False
    parent: _Object | None = None
    scalars: dict[str, str] = field(default_factory=dict)


@dataclass
class _Leaf:
    start: int
    end: int
    key: str
    value: str
    inside: _Object


def is_json(text: str) -> bool:
    """Whether a passage is JSON, or a piece of it."""
    if not KEY.search(text) or text.lstrip()[:1] not in tuple('{[}],"'):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(not TOKEN.sub("", line).strip() for line in lines) >= 0.8 * len(lines)


PartFields = tuple[
    Sentence, tuple[str, ...], tuple[str, ...], bool, str, str, None, tuple[Sentence, ...]
]


def json_parts(text: str, echoes: Callable[[str], bool]) -> list[PartFields]:
    """Return the values of a JSON text, in order, as the fields of a `Part`.

    A value is named by the keys above it and by the short texts beside it and beside those keys.
    A value that asks something, or only repeats the question, is a title of the values beside it. The
    values of an array are also a list.
    """
    leaves = _leaves(text)
    found: list[PartFields] = []
    for at, leaf in enumerate(leaves):
        names = _names(leaf)
        titles = (*_path(leaf.inside), *names)
        question = next((t for t in leaf.inside.scalars.values() if t.endswith("?")), "")
        is_title = leaf.value == question or (len(leaves) > 1 and echoes(leaf.value))
        near = (question,) if question and not is_title else ()
        sentence = Sentence(leaf.start, leaf.end, "value")
        name = ", ".join(_written_names(leaf))
        found.append((sentence, titles, near, is_title, "", name, None, ()))
        last = at + 1 == len(leaves) or leaves[at + 1].inside is not leaf.inside
        if leaf.inside.is_array and last:
            members = [one for one in leaves if one.inside is leaf.inside]
            if len(members) > 1:
                span = Sentence(members[0].start, members[-1].end, "list")
                spans = tuple(Sentence(one.start, one.end, "value") for one in members)
                found.append((span, titles, (leaf.inside.key,), False, "", name, None, spans))
    return found


def json_written(text: str) -> str:
    """Return a key with its value as it stands in an answer; a value of several words alone."""
    key, value = json_key_value(text)
    if not key or len(value.split()) >= NAME_WORDS / 2:
        return value
    return f"{key}: {value}"


def json_key_value(text: str) -> tuple[str, str]:
    """Return the key and the value of a pair as they are read; the key is "" for a value alone."""
    match = KEY.match(text)
    value = text[match.end() :].strip() if match else text.strip()
    key = _plain(match.group().rstrip(" :\n\t")) if match else ""
    return key, _plain(value)


def _plain(token: str) -> str:
    if not token.startswith('"'):
        return token
    try:
        return " ".join(str(json.loads(token, strict=False)).split())
    except ValueError:
        return token.strip('"')


def _leaves(text: str) -> list[_Leaf]:
    """Return the scalars with the object they stand in; unclosed and unopened objects are fine."""
    inside = _Object()
    found: list[_Leaf] = []
    key, key_start = "", -1
    tokens = list(TOKEN.finditer(text))
    for at, token in enumerate(tokens):
        mark = token.group()
        following = tokens[at + 1].group() if at + 1 < len(tokens) else ""
        if mark in "[{":
            inside = _Object(key, mark == "[", inside)
            key, key_start = "", -1
        elif mark in "]}":
            inside = inside.parent or inside
        elif following == ":" and mark.startswith('"'):
            key, key_start = _plain(mark), token.start()
        elif mark not in ":,":
            start = key_start if key_start >= 0 else token.start()
            found.append(_Leaf(start, token.end(), key, _plain(mark), inside))
            if key:
                inside.scalars.setdefault(key, _plain(mark))
            key, key_start = "", -1
    return found


def _path(inside: _Object | None) -> list[str]:
    keys: list[str] = []
    while inside is not None:
        keys += [inside.key] if inside.key else []
        inside = inside.parent
    return keys[::-1]


def _names(leaf: _Leaf) -> list[str]:
    """Return the short texts beside a value and beside the keys above it, outermost first."""
    names: list[str] = []
    inside: _Object | None = leaf.inside
    while inside is not None:
        own = [value for key, value in inside.scalars.items() if _may_name(key, value, leaf)]
        names = own[:MAX_NAMES] + names
        inside = inside.parent
    return names


def _may_name(key: str, value: str, leaf: _Leaf) -> bool:
    is_text = any(character.isalpha() for character in value) and value not in (
        "true", "false", "null",
    )  # fmt: skip
    named = (is_text or key.lower() in NAME_KEYS) and not value.endswith("?")
    return named and key != leaf.key and len(value.split()) <= NAME_WORDS


def _written_names(leaf: _Leaf) -> list[str]:
    """Return what stands before a value in an answer: the name of each record, keys between."""
    chain: list[_Object] = []
    inside: _Object | None = leaf.inside
    while inside is not None:
        chain.append(inside)
        inside = inside.parent
    written: list[str] = []
    for one in reversed(chain):
        named = [
            key
            for key in one.scalars
            if key.lower() in NAME_KEYS and _may_name(key, one.scalars[key], leaf)
        ]
        first = named or [k for k, v in one.scalars.items() if _may_name(k, v, leaf)]
        if one.key and not one.is_array:
            written.append(one.key)
        written += [one.scalars[key] for key in first[:1]]
    return written
