"""Which `<pre>` of a page is code: it says so, or it does not read as prose."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

MARKS = re.compile(r"`{3,}")
SAYING = re.compile(
    r"(?:^|[\s_-])(?:highlight|code|language|lang|source|prettyprint|brush|syntax)", re.I
)
ELEMENTS = "code,samp,kbd,var"
WORDS = re.compile(
    r"(?:^|\s)[^\W\d_]{2,}(?:,? [^\W\d_]+){3}"
)  # four words, nothing else between them
PROSE_SHARE = 1 / 3  # of the lines of a text; code has fewer with four words in a row


def fence_of(pre: LexborNode) -> str:
    """Return the fence that a block of code gets, longer than any in it; "" for what is no code."""
    text = pre.text()
    if not text.strip() or not (_says_so(pre) or not _is_prose(text)):
        return ""
    return "`" * max([3, *(len(mark) + 1 for mark in MARKS.findall(text))])


def _says_so(pre: LexborNode) -> bool:
    parent = pre.parent
    classes = [node.attributes.get("class") or "" for node in (pre, parent) if node is not None]
    return pre.css_first(ELEMENTS) is not None or any(map(SAYING.search, classes))


def _is_prose(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(bool(WORDS.search(line)) for line in lines) >= PROSE_SHARE * len(lines)
