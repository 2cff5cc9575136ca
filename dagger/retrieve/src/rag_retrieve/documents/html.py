"""HTML: the text a reader sees, one line per block, with its headings. Runs no script."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from .document import Heading, LoadedDocument, check_text, stem, tidy, unreadable
from .encoding import decode

INVISIBLE = frozenset({"script", "style", "noscript", "template", "head", "svg", "math"}) | {
    *("iframe", "object", "embed", "canvas", "audio", "video", "select", "button", "datalist")
}
BOILERPLATE = frozenset({"nav"})
PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "hr"}) | {
    *("table", "pre", "blockquote", "section", "article", "aside", "header", "footer", "main"),
    *("figure", "form", "fieldset", "details", "address"),
}
LINES = frozenset({"li", "dt", "dd", "tr", "div", "br", "caption", "figcaption", "legend"}) | {
    *("summary", "option")
}
CELLS = frozenset({"td", "th"})
LEVELS = {f"h{level}": level for level in range(1, 7)}
SPACE = re.compile(r"\s+")
CHARSET = re.compile(
    rb"<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_-]{2,20})",
    re.IGNORECASE,
)
CHARSET_BYTES = 262_144  # from the start, in which a page declares its encoding
LEGACY = re.compile(
    r"windows-?125\d|cp125\d|iso-?8859-?\d+|latin-?1|gb\w+|big5|shift[_-]jis|euc-\w+|koi8-[ru]"
)
SURROGATE = re.compile("[\ud800-\udfff]")


def read_html(name: str, data: bytes) -> list[LoadedDocument]:
    """Read HTML; offsets refer to the extracted text. Navigation is left out, and with a
    `<main>` all that is outside it, unless nothing would remain.

    Raises:
        StepError: `document_unreadable`: not text, or nothing visible in it.
    """
    page, warnings = decode(name, data, _declared(data))
    tree = LexborHTMLParser(page)
    main = tree.css_first("main")
    extracted = _Text()
    for root, dropped in ((main, BOILERPLATE), (tree.body, BOILERPLATE), (tree.body, frozenset())):
        if root is not None and not extracted.pieces:
            extracted.walk(root, INVISIBLE | dropped)
    text = "".join(extracted.pieces)
    if not text.strip():
        unreadable(name, "the page holds no visible text; give the page as a browser saves it")
    return [
        LoadedDocument(
            name,
            _title(tree) or stem(name),
            name,
            check_text(name, text),
            "text/html",
            headings=tuple(extracted.headings),
            warnings=warnings,
        )
    ]


def _title(tree: LexborHTMLParser) -> str:
    nodes = (tree.css_first("head > title"), tree.css_first("h1"))
    return next((words for node in nodes if node and (words := tidy(node.text()))), "")


def _declared(data: bytes) -> str:
    """Return the legacy encoding that a page declares, wherever in its head, or ""."""
    declared = CHARSET.search(data[:CHARSET_BYTES])
    encoding = declared[1].decode("ascii").lower() if declared else ""
    return encoding if LEGACY.fullmatch(encoding) else ""


class _Text:
    """The visible text of a tree, built in one walk without recursion."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.headings: list[Heading] = []
        self.length = 0
        self.newlines = 0  # owed before the next word
        self.space = False  # owed before the next word on the same line

    def walk(self, root: LexborNode, skipped: frozenset[str]) -> None:
        """Append what is visible under `root`, leaving out the elements named in `skipped`."""
        stack: list[tuple[LexborNode, bool, bool]] = [(root, False, False)]
        while stack:
            node, leaving, preformatted = stack.pop()
            if node.is_text_node:
                self.add(node.text_content or "", preformatted=preformatted)
                continue
            tag = node.tag or ""
            if leaving:
                self.leave(node, tag)
            elif node.is_element_node and tag not in skipped and not _hidden(node):
                self.enter(tag)
                inside = preformatted or tag in ("pre", "textarea")
                stack.append((node, True, preformatted))
                children = list(node.iter(include_text=True))
                stack.extend((child, False, inside) for child in reversed(children))

    def add(self, text: str, *, preformatted: bool) -> None:
        """Append words of a text node; white space collapses unless preformatted."""
        text = SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        if preformatted:
            self.write(text.strip("\r\n") if self.newlines else text)
            return
        if words := SPACE.sub(" ", text).strip():
            self.space |= text[0].isspace()
            self.write(words)
            self.space = text[-1].isspace()
        elif text:
            self.space = True

    def write(self, text: str) -> None:
        """Append `text` after the line ends or the space that are owed."""
        if not text:
            return
        if self.pieces:
            text = ("\n" * self.newlines or " " * self.space) + text
        self.newlines, self.space = 0, False
        self.pieces.append(text)
        self.length += len(text)

    def owe(self, tag: str) -> None:
        """Note that the next word starts a new line, or a new paragraph."""
        lines = 2 if tag in PARAGRAPHS else 1 if tag in LINES else 0
        self.newlines = max(self.newlines, lines)

    def enter(self, tag: str) -> None:
        """Start an element."""
        self.owe(tag)
        if tag in CELLS and not self.newlines:
            self.write(" |")
            self.space = True
        if tag in LEVELS:
            offset = self.length + (self.newlines if self.pieces else 0)
            self.headings.append(Heading(offset, LEVELS[tag], ""))

    def leave(self, node: LexborNode, tag: str) -> None:
        """End an element; a heading gets its words, an empty one is forgotten."""
        self.owe(tag)
        if tag in LEVELS and self.headings:
            words = tidy(SURROGATE.sub("", node.text()))
            offset, level, _ = self.headings.pop()
            if words and offset < self.length:
                self.headings.append(Heading(offset, level, words))


def _hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    return "hidden" in attributes or attributes.get("aria-hidden") == "true"
