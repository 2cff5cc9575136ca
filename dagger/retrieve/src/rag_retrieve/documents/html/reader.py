"""HTML: the text a reader sees, one line per block, with its headings. Runs no script."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from rag_kit.tables import PIPES

from ..document import Heading, LoadedDocument, Table, check_text, stem, tidy, unreadable
from ..encoding import decode
from .code import fence_of
from .tables import Grid, grid_of
from .visibility import Visibility

INVISIBLE = frozenset({"script", "style", "noscript", "template", "head", "svg", "math"}) | {
    *("iframe", "object", "embed", "canvas", "audio", "video", "datalist")
}
BOILERPLATE = frozenset({"nav"})
ASIDE = ("nav", "aside", "footer")  # an article in one of these is a teaser
PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "hr"}) | {
    *("table", "pre", "blockquote", "section", "article", "aside", "header", "footer", "main"),
    *("figure", "form", "fieldset", "details", "address", "select"),
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
XHTML = re.compile(r"\s*<\?xml|[^<]*<(?:!doctype[^>]*xhtml|html[^>]*xmlns)", re.IGNORECASE)
# An element closed where it begins, as XHTML has it; HTML would take what follows as its content.
CLOSED = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)"
    r"([a-z][\w:-]*)((?:\s[^<>]*)?)/>",
    re.IGNORECASE,
)
SURROGATE = re.compile("[\ud800-\udfff]")


def read_html(name: str, data: bytes) -> list[LoadedDocument]:
    """Read HTML; offsets refer to the extracted text.

    Left out are navigation, what is hidden or struck through, and with a `<main>` all that is
    outside of it and of every `<article>`, unless nothing would remain.

    Raises:
        StepError: `document_unreadable`: not text, or nothing visible in it.
    """
    page, warnings = decode(name, data, _declared(data))
    return [read_page(name, page, warnings)]


def read_page(
    name: str, page: str, warnings: tuple[str, ...] = (), *, quoting: bool = False
) -> LoadedDocument:
    """Read the text of an HTML page.

    Args:
        name: The file.
        page: The page.
        warnings: What was noticed when it was decoded.
        quoting: Whether a line of a `<blockquote>` begins with `> `, as what a mail quotes does.
    """
    tree = LexborHTMLParser(CLOSED.sub(r"<\1\2></\1>", page) if XHTML.match(page) else page)
    extracted = _Text(Visibility(tree), quoting=quoting)
    body = [tree.body] if tree.body is not None else []
    for roots, dropped in ((_main(tree), BOILERPLATE), (body, BOILERPLATE), (body, frozenset())):
        for root in roots if not extracted.pieces else ():
            extracted.walk(root, INVISIBLE | dropped)
            extracted.owe("main")
    text = "".join(extracted.pieces)
    if not text.strip():
        unreadable(name, "the page holds no visible text; give the page as a browser saves it")
    return LoadedDocument(
        name,
        _title(tree) or stem(name),
        name,
        check_text(name, text),
        "text/html",
        headings=tuple(extracted.headings),
        tables=tuple(extracted.tables),
        warnings=warnings,
    )


def _title(tree: LexborHTMLParser) -> str:
    nodes = (tree.css_first("head > title"), tree.css_first("h1"))
    return next((words for node in nodes if node and (words := tidy(node.text()))), "")


def _main(tree: LexborHTMLParser) -> list[LexborNode]:
    """Return the content of a page that has a `<main>`: that, and the articles beside it."""
    if tree.css_first("main") is None:
        return []
    roots: list[LexborNode] = []
    for node in tree.css("main,article"):
        above = node.parent
        while above is not None and above.tag not in ("main", "article", *ASIDE):
            above = above.parent
        if above is None:
            roots.append(node)
    return roots


def _declared(data: bytes) -> str:
    """Return the legacy encoding that a page declares, wherever in its head, or ""."""
    declared = CHARSET.search(data[:CHARSET_BYTES])
    encoding = declared[1].decode("ascii").lower() if declared else ""
    return encoding if LEGACY.fullmatch(encoding) else ""


class _Text:
    """The visible text of a tree, built in one walk without recursion."""

    def __init__(
        self, visibility: Visibility, *, in_cell: bool = False, quoting: bool = False
    ) -> None:
        self.in_cell = in_cell
        self.quoting = quoting
        self.quotes = 0  # how many quotations are open
        self.fence = ""  # of the block of code that is open
        self.visibility = visibility
        self.pieces: list[str] = []
        self.headings: list[Heading] = []
        self.tables: list[Table] = []
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
                self.close(node, tag)
            elif node.is_element_node and tag not in skipped and self.sees(node, tag):
                self.enter(tag)
                self.open(node, tag)
                if tag == "table" and self.tabulate(node, skipped):
                    self.leave(node, tag)
                    continue
                inside = preformatted or tag in ("pre", "textarea")
                stack.append((node, True, preformatted))
                children = list(node.iter(include_text=True))
                stack.extend((child, False, inside) for child in reversed(children))

    def sees(self, node: LexborNode, tag: str) -> bool:
        """Tell whether an element is shown; of the buttons only those that name what they open."""
        if tag == "button" and not self.visibility.is_title(node):
            return False
        return not self.visibility.is_hidden(node)

    def tabulate(self, table: LexborNode, skipped: frozenset[str]) -> bool:
        """Append a table row by row; False, and nothing is done, for one that only lays out."""
        if self.in_cell or self.quotes:
            return False

        def words(cell: LexborNode) -> str:
            inner = _Text(self.visibility, in_cell=True)
            row = cell.parent
            if self.sees(cell, "td") and (row is None or self.sees(row, "tr")):
                for child in cell.iter(include_text=True):
                    inner.walk(child, skipped)
            lines = "".join(inner.pieces).split("\n")
            if cell.css_first("table") is not None:
                lines = ["; ".join(line.replace(PIPES, ": ") for line in lines if line)]
            return " ".join(" ".join(lines).split()).replace("|", "\\|")

        grid = grid_of(table, words)
        if grid is None:
            return False
        for caption in table.css("caption")[:1]:
            self.walk(caption, skipped)
            self.owe("table")
        self.write_grid(grid)
        return True

    def write_grid(self, grid: Grid) -> None:
        """Append the names of the columns and the rows, one line each, and note the table."""
        start = self.length + (self.newlines if self.pieces else 0)
        for cells in [grid.columns, *grid.rows] if any(grid.columns) else grid.rows:
            line = PIPES.join(cells)
            self.write(line if cells[0] and cells[-1] else f"| {line} |")
            self.newlines = 1
        self.tables.append(Table(start, self.length, grid.columns, PIPES))

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
        if self.quotes:
            text = text.replace("\n", "\n> ")
        mark = "> " if self.quotes and (self.newlines or not self.pieces) else ""
        if self.pieces:
            text = ("\n" * self.newlines or " " * self.space) + mark + text
        self.newlines, self.space = 0, False
        self.pieces.append(text)
        self.length += len(text)

    def open(self, node: LexborNode, tag: str) -> None:
        """Begin a quotation, or a block of code by its fence."""
        if tag == "blockquote" and self.quoting:
            self.quotes += 1
        elif tag == "pre" and not self.in_cell and not self.fence and (fence := fence_of(node)):
            self.write(fence)
            self.fence, self.newlines = fence, 1

    def close(self, node: LexborNode, tag: str) -> None:
        """End a quotation, or a block of code by its fence."""
        if tag == "blockquote" and self.quotes:
            self.quotes -= 1
        elif tag == "pre" and self.fence and fence_of(node):
            self.newlines = 0 if self.pieces[-1].endswith("\n") else 1
            self.write(self.fence)
            self.fence, self.newlines = "", 2

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
