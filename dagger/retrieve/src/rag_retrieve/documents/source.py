"""Source code: the file as it is, cut at functions and classes; comments and docstrings are text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

from .document import Heading, LoadedDocument, lines_of, stem
from .encoding import decode

SOURCE = "text/x-source"
STRING = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
C_COMMENT = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
DOCSTRING = r"^[ \t]*[rRuU]?(?:\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))"
TRIPLE = r'"""(?:.*?)(?:"""|\Z)|\'\'\'(?:.*?)(?:\'\'\'|\Z)'
# By family of languages: what a comment or docstring is, and what is none though it looks like one.
FAMILIES = {
    "c": (C_COMMENT, rf"{STRING}|`(?:\\.|[^`\\])*`"),
    "hash": (r"(?:(?<=\s)|^)\#[^\n]*", STRING),
    "python": (rf"{DOCSTRING}|\#[^\n]*", rf"{TRIPLE}|{STRING}"),
    "php": (rf"{C_COMMENT}|(?:(?<=\s)|^)\#(?!\[)[^\n]*", STRING),
    "powershell": (r"<\#.*?(?:\#>|\Z)|\#[^\n]*", STRING),
    "sql": (r"--[^\n]*|/\*.*?(?:\*/|\Z)", r"'(?:''|[^'])*'|\"[^\"\n]*\""),
    "lua": (r"--\[\[.*?(?:\]\]|\Z)|--[^\n]*", STRING),
    "haskell": (r"\{-.*?(?:-\}|\Z)|--[^\n]*", r'"(?:\\.|[^"\\\n])*"'),
    "lisp": (r";[^\n]*", r'"(?:\\.|[^"\\])*"'),
    "percent": (r"%[^\n]*", STRING),
    "basic": (r"'[^\n]*", r'"[^"\n]*"'),
    "pascal": (r"//[^\n]*|\{.*?(?:\}|\Z)|\(\*.*?(?:\*\)|\Z)", r"'[^'\n]*'"),
    "fortran": (r"![^\n]*", STRING),
    "ml": (r"\(\*.*?(?:\*\)|\Z)|//[^\n]*", r'"(?:\\.|[^"\\])*"'),
    "batch": (r"^[ \t]*(?:@?rem\b|::)[^\n]*", r"(?!)"),
}
LANGUAGES = {
    "hash": ".rb .sh .bash .pl .pm .r .jl .ex .exs .tf .nim .graphql",
    "python": ".py .pyi",
    "php": ".php",
    "powershell": ".ps1",
    "sql": ".sql",
    "lua": ".lua",
    "haskell": ".hs",
    "lisp": ".clj .el",
    "percent": ".erl",
    "basic": ".vb",
    "pascal": ".pas",
    "fortran": ".f90",
    "ml": ".ml .fs",
    "batch": ".bat",
}  # every other one is of the family of C
FAMILY = {suffix: name for name, suffixes in LANGUAGES.items() for suffix in suffixes.split()}
MODIFIERS = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|override|"
    r"sealed|open|data|inline|virtual|partial|readonly|unsafe|pub(?:\([^()]*\))?|local|suspend|case|const|"
    r"extern|mutating|declare)[ \t]+){0,6}"
)
KINDS = (
    r"(?:class|interface|struct|enum|trait|impl(?:<[^<>]*>)?|module|namespace|record|protocol|extension|object|"
    r"func(?:[ \t]*\([^()]*\))?|function\*?|fn|def|defp|defmodule|defn|sub|fun|procedure|type|message|"
    r"service|contract|union|macro_rules!|resource|data|module[ \t]+type|package[ \t]+body)"
)
NAMED = re.compile(rf"({MODIFIERS}{KINDS}[ \t]+)([\w.:$?!\"'<>, \[\]]{{1,120}})")
ASSIGNED = re.compile(
    r"(?:export[ \t]+)?(?:const|let|var)[ \t]+([\w$]{1,80})[ \t]*(?::[^=\n]{0,120})?=[ \t]*(?:async[ \t]*)?"
    r"(?:function\b|\([^()\n]{0,200}\)[ \t]*(?::[^=\n]{0,80})?=>|[\w$]+[ \t]*=>)"
)
CALLED = re.compile(  # int main(…), public void run(…): a type, a name, what it takes
    r"(?!(?:if|for|while|switch|return|else|catch|throw|new|case|do|using|assert|elif|not|in|and|or)\b)"
    r"[A-Za-z_][\w<>\[\],*&:.? \t]{0,160}?[ \t*&]([A-Za-z_~][\w:~]{0,80})[ \t]*\([^;=]{0,200}[{,(]?[ \t]*$"
)
CREATED = re.compile(
    r"create[ \t]+(?:or[ \t]+replace[ \t]+)?(?:temp(?:orary)?[ \t]+)?"
    r"(?:table|view|function|procedure|trigger|index|type|schema)[ \t]+(?:if[ \t]+not[ \t]+exists[ \t]+)?"
    r"([\w.\"`\[\]]{1,120})",
    re.IGNORECASE,
)
SHELL = re.compile(r"([\w-]{1,80})[ \t]*\(\)[ \t]*\{?[ \t]*$")
WITH_CALLS = frozenset({"c", "php"})
DECORATOR = re.compile(r"[@\[#]")
INDENT = 4  # columns of one level
MAX_LEVEL = 4
MAX_LINE = 400  # characters; a longer one is generated
HALF = 0.5


def read_source(name: str, data: bytes) -> list[LoadedDocument]:
    """Read a file of source code; its headings are the functions and classes that stand in it."""
    text, warnings = decode(name, data)
    headings = tuple(_definitions(text, _family(name)))
    return [
        LoadedDocument(name, stem(name), name, text, SOURCE, headings=headings, warnings=warnings)
    ]


def _family(name: str) -> str:
    return FAMILY.get(PurePosixPath(name).suffix.lower(), "c")


def comments(text: str, name: str) -> list[tuple[int, int]]:
    """Return the spans of the comments and docstrings of a source file, in their order."""
    return comments_of(text, _family(name))


@cache
def _pattern(family: str) -> re.Pattern[str]:
    comment, other = FAMILIES[family]
    return re.compile(rf"(?P<text>{comment})|{other}", re.DOTALL | re.MULTILINE)


def is_code(text: str, span: tuple[int, int], found: list[tuple[int, int]]) -> bool:
    """Tell whether most of a span is code and no comment.

    Args:
        text: The source file.
        span: Part of it.
        found: Its comments.
    """
    written = sum(
        len(text[max(a, span[0]) : min(b, span[1])].strip())
        for a, b in found
        if a < span[1] and b > span[0]
    )
    return written < HALF * len(text[slice(*span)].strip())


def _definitions(text: str, family: str) -> Iterator[Heading]:
    """Yield functions and classes; each begins with the comments and decorators right above it."""
    found = comments_of(text, family)
    above: int | None = None  # where the lines begin that belong to what follows
    at = 0
    for begin, end in lines_of(text):
        while at < len(found) and found[at][1] <= begin:
            at += 1
        line = text[begin:end].rstrip()
        words = line.lstrip()
        inside = at < len(found) and found[at][0] <= begin + len(line) - len(words) < found[at][1]
        if not words:
            above = None
        elif inside or DECORATOR.match(words):
            above = begin if above is None else above
        else:
            if len(line) <= MAX_LINE and (title := _title(words, family)):
                level = 1 + min(_width(line) // INDENT, MAX_LEVEL - 1)
                yield Heading(begin if above is None else above, level, title)
            above = None


def comments_of(text: str, family: str) -> list[tuple[int, int]]:
    """Return the spans of the comments and docstrings in a text of a family of languages."""
    return [match.span("text") for match in _pattern(family).finditer(text) if match["text"]]


def _title(line: str, family: str) -> str:
    """Return the name of the function, class or table that a line begins, "" for any other line."""
    if family == "sql":
        created = CREATED.match(line)
        return created[1].strip('"`[]') if created else ""
    if family == "hash" and (shell := SHELL.match(line)):
        return shell[1]
    if (named := NAMED.match(line)) and (
        name := re.split(r"[<(:{ ,=\[]", named[2].strip(" \"'"))[0]
    ):
        return name
    if assigned := ASSIGNED.match(line):
        return assigned[1]
    called = CALLED.match(line) if family in WITH_CALLS else None
    return called[1] if called else ""


def _width(line: str) -> int:
    """Return the columns of a line's indent; a tab is one level."""
    indent = line[: len(line) - len(line.lstrip())]
    return len(indent.expandtabs(INDENT))
