"""Files of settings, YAML, TOML and INI: as they are, with their sections as headings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .document import Heading, LoadedDocument, lines_of, stem, tidy
from .encoding import decode

YAML = "application/yaml"
TOML = "application/toml"
INI = "text/x-ini"
SECTION = re.compile(r"[ \t]*\[{1,2}[ \t]*([^\[\]\r\n]{1,200}?)[ \t]*\]{1,2}[ \t]*(?:[#;].*)?$")
KEY = re.compile(
    r"( *)(?:- )?(?:\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'"
    r"|([^\s#:\"'\[\]{},&*!|>%@`-][^:\n#]{0,199}?)):[ \t]*(?:#.*|&\S+|!\S+)?$"
)
BLOCK = re.compile(r"[^#\n]*:[ \t]*[|>][+-]?\d?[ \t]*(?:#.*)?$")
MAX_LEVEL = 4


def read_yaml(name: str, data: bytes) -> list[LoadedDocument]:
    """Read YAML as text; the keys that hold others are its headings."""
    return [_read(name, data, YAML)]


def read_toml(name: str, data: bytes) -> list[LoadedDocument]:
    """Read TOML as text; its tables are its headings."""
    return [_read(name, data, TOML)]


def read_ini(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an INI file as text; its sections are its headings."""
    return [_read(name, data, INI)]


def _read(name: str, data: bytes, content_type: str) -> LoadedDocument:
    text, warnings = decode(name, data)
    headings = tuple(_keys(text) if content_type == YAML else _sections(text))
    return LoadedDocument(
        name, stem(name), name, text, content_type, headings=headings, warnings=warnings
    )


def _sections(text: str) -> Iterator[Heading]:
    """Yield the sections; `[server.tls]` stands under `[server]`."""
    for begin, end in lines_of(text):
        if section := SECTION.match(text[begin:end].rstrip("\r\n")):
            words = tidy(section[1])
            yield Heading(begin, min(1 + words.count("."), MAX_LEVEL), words)


def _keys(text: str) -> Iterator[Heading]:
    """Yield the keys that stand alone on their line, by their indent; none inside a block of text."""
    indents: list[int] = []
    block = -1  # the indent of the key whose block of text is open
    for begin, end in lines_of(text):
        line = text[begin:end].rstrip()
        indent = len(line) - len(line.lstrip(" "))
        if not line.strip() or (block >= 0 and indent > block):
            continue
        block = indent if BLOCK.match(line) else -1
        if key := KEY.match(line):
            indents = [one for one in indents if one < indent]
            indents.append(indent)
            if len(indents) <= MAX_LEVEL:
                yield Heading(begin, len(indents), tidy(key[2] or key[3] or key[4]))
