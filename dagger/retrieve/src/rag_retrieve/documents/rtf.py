"""RTF: paragraphs, headings, tables and notes; what is struck through, hidden or deleted is left out."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from .builder import TextBuilder
from .document import LoadedDocument, tidy, unreadable
from .headers import names_columns

RTF = "application/rtf"
TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?[0-9]{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|([^\\{}\r\n]+)|[\r\n]+",
    re.DOTALL,
)
CHARSETS = {
    0: "cp1252", 2: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030",
    136: "big5", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257",
    204: "cp1251", 222: "cp874", 238: "cp1250", 255: "cp437",
}  # fmt: skip
PAGES = {b"mac": "mac_roman", b"pc": "cp437", b"pca": "cp850", b"ansi": "cp1252"}
SIGNS = {
    b"tab": " ", b"line": "\n", b"emdash": "\u2014", b"endash": "\u2013", b"lquote": "\u2018",
    b"rquote": "\u2019", b"ldblquote": "\u201c", b"rdblquote": "\u201d", b"bullet": "\u2022",
    b"emspace": " ", b"enspace": " ", b"qmspace": " ", b"softline": "\n", b"lbr": "\n",
    b"~": "\u00a0", b"_": "-", b"-": "\u00ad", b"\\": "\\", b"{": "{", b"}": "}",
}  # fmt: skip
PARAGRAPH_ENDS = (b"par", b"sect", b"page", b"column", b"\n", b"\r")
CELL_ENDS, ROW_ENDS = (b"cell", b"nestcell"), (b"row", b"nestrow")
UNREAD = frozenset(
    b"colortbl datastore themedata colorschememapping latentstyles rsidtbl generator listtable "
    b"listoverridetable revtbl xmlnstbl pict objdata objclass objname fldinst bkmkstart bkmkend filetbl "
    b"pgdsctbl nonshppict picprop atnid atnauthor atntime atndate atnicn atnparent atnref atrfstart atrfend "
    b"passwordhash userprops docvar wgrffmtfilter mmathPr xe tc pnseclvl ftnsep ftnsepc ftncn aftnsep "
    b"aftnsepc aftncn levelnumbers leveltext falt panose doccomm operator category keywords company "
    b"manager hlinkbase creatim revtim printim buptim blipuid nesttableprops template pn sp".split()
)
SHOWN_STARRED = frozenset((b"shptxt", b"shpinst", b"footnote", b"annotation", b"fldrslt"))
FURNITURE = frozenset(b"header headerl headerr headerf footer footerl footerr footerf".split())
ASIDES = {b"footnote": "Note: ", b"annotation": "Comment: ", b"shptxt": ""}
HIDING = (b"strike", b"striked", b"v", b"deleted")
SKIP = "skip"
HEADING = re.compile(r"(?:heading|überschrift|titre|título|titolo)\s*([1-9])", re.IGNORECASE)
SYMBOL = re.compile("^[\ue000-\uf8ff\ufffd\xb7]")  # a bullet of a font for symbols
MAX_DEPTH = 2000  # groups inside each other


@dataclass(frozen=True)
class _State:
    """What holds in a group: where its text goes ("" is the document), and what is not shown."""

    target: str = ""
    codec: str = ""
    unicode_skip: int = 1
    hiding: frozenset[bytes] = frozenset()


@dataclass
class _Paragraph:
    """The paragraph at work: its text, the level of a heading, and where it stands."""

    text: list[str] = field(default_factory=list)
    level: int = 0
    in_table: bool = False
    is_item: bool = False


@dataclass
class _Row:
    """The row of a table at work: its cells, and for each column how it is merged."""

    cells: list[str] = field(default_factory=list)
    merged: list[set[bytes]] = field(default_factory=list)
    flags: set[bytes] = field(default_factory=set)
    is_header: bool = False


def read_rtf(name: str, data: bytes) -> list[LoadedDocument]:
    """Read an RTF document.

    Raises:
        StepError: `document_unreadable`: not RTF, nested too deep, or without text.
    """
    if not data.lstrip()[:5].startswith(b"{\\rtf"):
        unreadable(name, "it does not start as RTF does ({\\rtf); check the file or its extension")
    reader = _Rtf(name)
    reader.read(data)
    metadata: dict[str, JsonValue] = {}
    if author := tidy(reader.info.get("author")):
        metadata["author"] = author
    return [reader.builder.build(RTF, title=reader.info.get("title", ""), metadata=metadata)]


class _Rtf:
    """Reads the tokens of one file."""

    def __init__(self, name: str) -> None:
        self.builder = TextBuilder(name)
        self.info: dict[str, str] = {}
        self._state = _State()
        self._stack: list[_State] = []
        self._sinks: dict[str, list[str]] = {}
        self._bytes = bytearray()
        self._codec = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font = self._style = -1
        self._levels: dict[int, int] = {}  # by style: the level of its headings
        self._to_skip = 0
        self._starred = self._opened = False
        self._paragraph = _Paragraph()
        self._row = _Row()
        self._rows: list[_Row] = []
        self._asides: list[str] = []
        self._furniture: set[str] = set()

    def read(self, data: bytes) -> None:
        """Read all tokens."""
        at = 0
        while token := TOKEN.match(data, at):
            at = token.end()
            word, number, code, sign, brace, text = token.groups()
            if word == b"bin":
                at += max(0, int(number or 0))
            elif word:
                self._word(word, int(number) if number else None)
            elif brace == b"{":
                self._open()
            elif brace:
                self._close()
            elif sign == b"*":
                self._starred = True
            elif sign:
                self._word(sign, None)
            elif code or text:
                self._raw(bytes.fromhex(code.decode()) if code else text)
        self._end_paragraph()
        self._end_table()

    def _open(self) -> None:
        self._flush()
        if len(self._stack) >= MAX_DEPTH:
            unreadable(self.builder.name, f"its groups are nested more than {MAX_DEPTH} deep")
        self._stack.append(self._state)
        self._opened, self._starred = True, False

    def _close(self) -> None:
        self._flush()
        before, self._state = self._state, self._stack.pop() if self._stack else self._state
        self._opened = self._starred = False
        if before.target != self._state.target and before.target in self._sinks:
            self._finish(before.target, "".join(self._sinks.pop(before.target)))

    def _finish(self, target: str, text: str) -> None:
        """Take what a destination held, at its end."""
        words = " ".join(text.split())
        if target in ("title", "author"):
            self.info[target] = words if any(map(str.isalnum, words)) else ""
        elif target == "furniture":
            if any(map(str.isalpha, words)) and words not in self._furniture:
                self._furniture.add(words)
                self.builder.paragraph(text.strip())
        elif words and target != SKIP and target.encode() in ASIDES:
            self._asides.append(ASIDES[target.encode()] + words)

    def _raw(self, data: bytes) -> None:
        self._opened = False
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        self._bytes += data

    def _flush(self) -> None:
        """Decode the bytes gathered so far and put them where they belong."""
        if self._bytes:
            codec = self._state.codec or self._codec
            text = bytes(self._bytes).decode(codec, "replace")
            self._bytes.clear()
            self._put(text)

    def _put(self, text: str) -> None:
        target = self._state.target
        if target == SKIP or self._state.hiding:
            return
        if target == "stylesheet":
            level = HEADING.search(text)
            if level and self._style >= 0:
                self._levels[self._style] = int(level[1])
        elif target:
            self._sinks.setdefault(target, []).append(text)
        else:
            self._paragraph.text.append(text)

    def _word(self, word: bytes, number: int | None) -> None:
        self._flush()
        if word == b"u":
            if number is not None:
                self._put(chr(number % 65536))
                self._to_skip = self._state.unicode_skip
            return
        self._to_skip = 0
        if self._opened and self._destination(word):
            return
        self._opened = False
        if word in SIGNS:
            self._put(SIGNS[word])
        elif word in PARAGRAPH_ENDS + CELL_ENDS + ROW_ENDS:
            self._end(word)
        elif not self._layout(word, number):
            self._character(word, number)

    def _destination(self, word: bytes) -> bool:
        """Take the first word of a group as the name of where its text goes, if it is one."""
        target = self._state.target
        if word in UNREAD or (self._starred and word not in SHOWN_STARRED):
            target = SKIP
        elif target != SKIP:
            if word in FURNITURE:
                target = "furniture"
            elif word in ASIDES or word in (b"fonttbl", b"stylesheet", b"title", b"author"):
                target = word.decode()
            elif word in (b"info", b"subject", b"comment", b"creatim"):
                target = "info"
            elif word in (b"listtext", b"pntext"):
                self._paragraph.is_item = True
        self._starred = False
        if target == self._state.target:
            return False
        self._state = replace(self._state, target=target)
        self._opened = False
        return True

    def _end(self, word: bytes) -> None:
        if self._state.target == SKIP:
            return
        if self._state.target:
            self._put("\n")
        elif word in CELL_ENDS:
            self._row.cells.append(self._take())
        elif word in ROW_ENDS:
            self._end_row()
        elif self._paragraph.in_table:
            self._paragraph.text.append(" ")
        else:
            self._end_paragraph()

    def _take(self) -> str:
        """Return the text of the paragraph at work and begin a new one of its kind."""
        text = "".join(self._paragraph.text)
        self._paragraph = replace(self._paragraph, text=[], is_item=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _end_paragraph(self) -> None:
        level, is_item = self._paragraph.level, self._paragraph.is_item
        text = self._take().strip()
        if text and self._rows:
            self._end_table()
        if level and text:
            self.builder.heading(level, text)
        elif is_item:
            self.builder.line(SYMBOL.sub("\u2022", text, count=1))
        else:
            self.builder.paragraph(text)
        if not self._rows:
            self._write_asides()

    def _write_asides(self) -> None:
        for text in self._asides:
            self.builder.paragraph(text)
        self._asides.clear()

    def _end_row(self) -> None:
        row, self._row = self._row, _Row(merged=self._row.merged, is_header=self._row.is_header)
        above = self._rows[-1].cells if self._rows else []
        for column, flags in enumerate(row.merged[: len(row.cells)]):
            if b"clvmrg" in flags and not row.cells[column].strip() and column < len(above):
                row.cells[column] = above[column]
        if any(cell.strip() for cell in row.cells):
            self._rows.append(row)

    def _end_table(self) -> None:
        rows, self._rows = self._rows, []
        width = max((len(row.cells) for row in rows), default=0)
        cells = [row.cells + [""] * (width - len(row.cells)) for row in rows]
        if width == 1:
            self.builder.paragraph("\n".join(cell for (cell,) in cells))
        elif len(rows) > 1 and (rows[0].is_header or names_columns(cells[0], cells[1:])):
            self.builder.table(cells[0], cells[1:])
        elif rows:
            self.builder.table([""] * width, cells)
        self._write_asides()

    def _layout(self, word: bytes, number: int | None) -> bool:
        """Take a word on paragraphs, rows and cells."""
        if word == b"pard":
            self._paragraph.level, self._paragraph.in_table = 0, False
        elif word == b"intbl":
            self._paragraph.in_table = True
        elif word == b"outlinelevel" and number is not None and 0 <= number < 9:
            if self._state.target == "stylesheet":
                self._levels[self._style] = number + 1
            else:
                self._paragraph.level = number + 1
        elif word == b"s" and number is not None:
            self._style = number
            if not self._state.target:
                self._paragraph.level = self._levels.get(number, 0)
        elif word == b"trowd":
            self._row.merged, self._row.flags, self._row.is_header = [], set(), False
        elif word == b"trhdr":
            self._row.is_header = True
        elif word in (b"clvmrg", b"clvmgf"):
            self._row.flags.add(word)
        elif word == b"cellx":
            self._row.merged.append(self._row.flags)
            self._row.flags = set()
        else:
            return False
        return True

    def _character(self, word: bytes, number: int | None) -> None:
        """Take a word on characters: fonts with their encodings, and what is not shown."""
        state = self._state
        if word in HIDING:
            on = number != 0
            hiding = state.hiding | {word} if on else state.hiding - {word}
            self._state = replace(state, hiding=hiding)
        elif word == b"plain":
            self._state = replace(state, hiding=frozenset(), codec="")
        elif word == b"uc" and number is not None:
            self._state = replace(state, unicode_skip=max(0, min(number, 100)))
        elif word == b"ansicpg" and number is not None:
            self._codec = _known(f"cp{number}")
        elif word in PAGES:
            self._codec = PAGES[word]
        elif word == b"f" and number is not None:
            self._font = number
            self._state = replace(state, codec=self._fonts.get(number, ""))
        elif word == b"fcharset" and number is not None and number > 1:
            self._fonts[self._font] = CHARSETS.get(number, "")


def _known(codec: str) -> str:
    try:
        codecs.lookup(codec)
    except LookupError:
        return {"cp65001": "utf-8", "cp10000": "mac_roman"}.get(codec, "cp1252")
    return codec
