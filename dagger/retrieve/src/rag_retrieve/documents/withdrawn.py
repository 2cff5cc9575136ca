"""What stands in a Markdown or reStructuredText file but is not valid: comments and struck text.

It is blanked: each character but line ends becomes a space. So every offset stays that of the file,
and no passage, answer or quote can hold it.
"""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"(?P<fence>^ {0,3}(?P<mark>`{3,}|~{3,})[^\r\n]*$)|(?P<code>`+)|(?P<comment><!--)|(?P<mdx>\{/\*)"
    r"|(?<!~)(?P<struck>~~)(?![~\s])"
    r"|<(?P<tag>del|s|strike)(?:\s[^<>]*)?>"
    r"|<(?P<hidden>[a-z][a-z0-9]*)\s(?:[^<>]*\s)?(?:hidden(?=[\s>=])|style\s*=\s*[\"'][^\"'<>]*"
    r"(?:display\s*:\s*none|visibility\s*:\s*hidden))[^<>]*>"
    r"|(?P<link>^ {0,3}\[(?://|comment)\]:[^\r\n]*)",
    re.MULTILINE | re.IGNORECASE,
)
PARAGRAPH_END = re.compile(r"\n[ \t]*\r?\n|\r[ \t]*\r(?!\n)|\Z")
STRUCK_END = r"(?<![\s\\~])~~(?!~)"
NOT_LINE_END = re.compile(r"[^\r\n]")
RST_COMMENT = re.compile(
    r"^(?P<indent>[ \t]*)\.\.(?:[ \t]+(?!\[|_|\||[\w:.+-]+::)[^\r\n]*|[ \t]*(?=\r?\n[ \t]+\S))"
    r"(?:\r?\n(?:[ \t]*(?=\r?\n)|(?P=indent)[ \t]+[^\r\n]*))*",
    re.MULTILINE,
)


def blank_markdown(text: str, start: int = 0) -> str:
    """Return a Markdown text with comments, struck and hidden text blanked; code stays as it is.

    Comments are those of HTML and MDX, and link definitions named `//` or `comment`. What is never
    closed is no comment and not struck.

    Args:
        text: The text.
        start: Where its body starts, behind the front matter.
    """
    pieces, done, at = [], 0, start
    scanner = _Scanner(text)
    while token := TOKEN.search(text, at):
        end, is_valid = scanner.end(token)
        if not is_valid:
            pieces += [text[done : token.start()], blanked(text[token.start() : end])]
            done = end
        at = max(end, token.end())
    return "".join([*pieces, text[done:]])


def blank_rst(text: str) -> str:
    """Return a reStructuredText with its comments blanked."""
    return RST_COMMENT.sub(lambda match: blanked(match[0]), text)


def blanked(text: str) -> str:
    """Return a text with each character but line ends as a space."""
    return NOT_LINE_END.sub(" ", text)


class _Scanner:
    """Finds where what a token opens is closed; an end that is not there is looked for once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.paragraph = 0  # where the current paragraph ends
        self.missing: set[tuple[str, int]] = set()

    def end(self, token: re.Match[str]) -> tuple[int, bool]:
        """Return where the part that a token opens ends, and whether it is valid text."""
        if token["fence"]:
            return self.fence_end(token), True
        if self.text[token.start() - 1 : token.start()] == "\\":
            return token.end(), True
        if token["code"]:
            mark = rf"(?<!`){token['code']}(?!`)"
            return self.found(mark, token.end(), self.paragraph_end(token.end())), True
        if token["link"]:
            return token.end(), False
        end = self.closed(token)
        return end or token.end(), end == 0

    def closed(self, token: re.Match[str]) -> int:
        """Return where a comment, struck or hidden text ends, or 0."""
        if token["struck"]:
            return self.found(STRUCK_END, token.end(), self.paragraph_end(token.end()))
        name = token["tag"] or token["hidden"]
        closing = rf"</{name}\s*>" if name else "-->" if token["comment"] else r"\*/\}"
        return self.found(closing, token.end(), len(self.text))

    def found(self, pattern: str, start: int, limit: int) -> int:
        """Return where the first match before `limit` ends, or 0; searched in vain only once."""
        if (pattern, limit) in self.missing:
            return 0
        match = re.compile(pattern, re.IGNORECASE).search(self.text, start, limit)
        if match is None:
            self.missing.add((pattern, limit))
        return match.end() if match else 0

    def fence_end(self, token: re.Match[str]) -> int:
        """Return where a block of code ends; at the end of the text when it is not closed."""
        closing = rf"(?m)^ {{0,3}}{token['mark']}{token['mark'][0]}*[ \t]*$"
        return self.found(closing, token.end(), len(self.text)) or len(self.text)

    def paragraph_end(self, at: int) -> int:
        """Return where the paragraph around an offset ends."""
        if at > self.paragraph:
            match = PARAGRAPH_END.search(self.text, at)
            self.paragraph = match.start() if match else len(self.text)
        return self.paragraph
