"""Org and LaTeX: the file as it is, what is commented out or struck blanked, with its headings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .document import Heading, LoadedDocument, lines_of, stem, tidy
from .encoding import decode
from .tables import markdown_tables
from .withdrawn import blanked

ORG = "text/x-org"
TEX = "text/x-tex"
ORG_HEADING = re.compile(
    r"(\*{1,8})[ \t]+(?:(?:TODO|DONE|NEXT|WAITING)[ \t]+)?(?:\[#[A-Z]\][ \t]*)?"
    r"(.*?)(?:[ \t]+:[\w@#%:]+:)?[ \t]*$"
)
ORG_TITLE = re.compile(r"^#\+title:[ \t]*(.+)$", re.IGNORECASE | re.MULTILINE)
ORG_WITHDRAWN = re.compile(
    r"^[ \t]*#[ \t][^\r\n]*|^[ \t]*#\r?$|^[ \t]*#\+begin_comment\b.*?(?:^[ \t]*#\+end_comment[^\r\n]*|\Z)"
    r"|(?<![^\s({\"'-])\+[^\s+](?:[^+\r\n]*[^\s+])?\+(?![^\s)}\"',;:.!?-])",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
ORG_CODE = re.compile(r"[ \t]*#\+(begin|end)_(?:src|example)\b", re.IGNORECASE)
TEX_LEVELS = {
    "part": 1, "chapter": 1, "section": 2, "subsection": 3, "frametitle": 3, "subsubsection": 4,
    "paragraph": 5,
}  # fmt: skip
ARGUMENT = r"(?:\[[^\[\]]*\])?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
TEX_HEADING = re.compile(rf"\\({'|'.join(TEX_LEVELS)})\*?{ARGUMENT}")
TEX_TITLE = re.compile(rf"\\title{ARGUMENT}")
TEX_WITHDRAWN = re.compile(
    r"(?P<code>\\begin\{(?P<kind>verbatim|lstlisting|minted)\*?\}.*?(?:\\end\{(?P=kind)\*?\}|\Z))"
    r"|(?<!\\)(?:\\\\)*(?P<comment>%[^\r\n]*)"
    r"|(?P<block>\\begin\{comment\}.*?(?:\\end\{comment\}|\Z)|\\iffalse\b.*?(?:\\fi\b|\Z)|\\(?:sout|st)\{[^{}]*\})",
    re.DOTALL,
)
TEX_BEGIN = r"\begin{document}"
TEX_SHOWN = re.compile(rf"\\(?:title|author|date|subtitle){ARGUMENT}")
TEX_COMMAND = re.compile(r"\\[a-zA-Z]+\*?|[{}~$]")


def read_org(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an Org file; its title is that of `#+title:`, else its first heading."""
    text, warnings = decode(name, data)
    text = ORG_WITHDRAWN.sub(lambda match: blanked(match[0]), text)
    headings = tuple(_org_headings(text))
    titled = ORG_TITLE.search(text)
    title = tidy(titled[1]) if titled else headings[0].text if headings else ""
    return [
        LoadedDocument(
            name, title or stem(name), name, text, ORG,
            headings=headings, tables=tuple(markdown_tables(text)), warnings=warnings,
        )
    ]  # fmt: skip


def _org_headings(text: str) -> Iterator[Heading]:
    in_code = False
    for begin, end in lines_of(text):
        line = text[begin:end].rstrip("\r\n")
        if code := ORG_CODE.match(line):
            in_code = code[1].lower() == "begin"
        elif not in_code and (heading := ORG_HEADING.match(line)) and heading[2]:
            yield Heading(begin, len(heading[1]), tidy(heading[2]))


def read_tex(name: str, data: bytes) -> list[LoadedDocument]:
    r"""Read a LaTeX file; of what stands before its `\begin{document}`, only the title counts."""
    text, warnings = decode(name, data)
    text = TEX_WITHDRAWN.sub(_without_comment, text)
    body = text.find(TEX_BEGIN)
    if body > 0:
        text = _without_preamble(text[:body]) + text[body:]
    titled = TEX_TITLE.search(text)
    headings = tuple(
        Heading(match.start(), TEX_LEVELS[match[1]], words)
        for match in TEX_HEADING.finditer(text)
        if (words := _plain(match[2]))
    )
    title = _plain(titled[1]) if titled else headings[0].text if headings else ""
    return [
        LoadedDocument(
            name, title or stem(name), name, text, TEX, headings=headings, warnings=warnings
        )
    ]


def _without_comment(match: re.Match[str]) -> str:
    if match["code"]:
        return match[0]
    if match["comment"]:
        return match[0].removesuffix(match["comment"]) + blanked(match["comment"])
    return blanked(match[0])


def _without_preamble(text: str) -> str:
    """Return the preamble blanked but for what is printed of it: title, authors, date."""
    pieces, done = [], 0
    for shown in TEX_SHOWN.finditer(text):
        pieces += [blanked(text[done : shown.start()]), shown[0]]
        done = shown.end()
    return "".join([*pieces, blanked(text[done:])])


def _plain(text: str) -> str:
    return tidy(TEX_COMMAND.sub(" ", text))
