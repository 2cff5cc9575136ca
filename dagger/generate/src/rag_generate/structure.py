"""What names what in a passage: headings, labels and lead-ins, the lists and records below them.

A *title* is a heading, a label, a lead-in that ends in a colon, a question or a comment in code: it
answers nothing itself and hands its words to what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rag_kit.passages import Context

from .json_values import is_json, json_parts
from .sentences import CELL_BAR, Sentence
from .table_rows import TableRow, passage_sentences

LABEL_WORDS = 8  # a longer line without a full stop is text
ENDS = ".!?…。！？"
ITEM = re.compile(r"[\s>]*(?:[-*+•–·]|\(?[0-9]{1,3}[.)]|\(?[a-zA-Z][.)]|\[[ xX]\])\s")
HASHES = re.compile(r"\s*(#{1,6})\s")
IN_BOLD = re.compile(r"(\*\*|__)(?!\s).*\1", re.DOTALL)
FIELD = re.compile(r"[^\W\d_][\w /()&-]{0,30}:(?:\*\*|__)? +\S")
COMMENT = re.compile(r"\s*(?:#(?!!)|//|--\s|;|/\*)\s*\S")
MARKUP = "*_\"'`“”„‚‘’ >"
BLANK_LINE = re.compile(r"\n[ \t>]*(?:\r?\n)")
PRONOUN = re.compile(
    r"(?:it|its|he|she|his|her|they|their|them|these|those|this|that|such|both|here|there|the latter"
    r"|the former)\b(?! (?:is|are|was|were) (?:a|an|no|two|three|many|several|some)\b)",
    re.IGNORECASE,
)
REFERENCES = re.compile(
    r"(?:references?|sources?|bibliography|further reading|external links?|literature|footnotes"
    r"|works cited|citations|see also|notes and references)",
    re.IGNORECASE,
)
REFERENCE = re.compile(
    r"\b(?:retrieved|archived|accessed)\b[^.]{0,40}?\b(?:from|on|[0-9]{1,2} \w+ [0-9]{4})\b|\bISBN\b|\bdoi:"
    r"|\(https?://[^)\s]*\)[.\"']*$",
    re.IGNORECASE,
)
# how far down a title reaches: until one of the same or a higher level; Markdown has 1 to 6
LABEL, QUESTION, NAME, LEAD = 7, 8, 9, 10

Echoes = Callable[[str], bool]


class Part(NamedTuple):
    """A sentence, a row, a value, or a whole list of a passage, and what names it."""

    sentence: Sentence
    titles: tuple[str, ...] = ()  # what it stands under in the passage, outermost first
    near: tuple[str, ...] = ()  # those directly above it
    is_title: bool = False
    mark: str = ""  # what stands before it in its line: the bullet or number of an item
    name: str = ""  # of the record whose field it is
    before: Sentence | None = None  # the sentence before it, when it begins with a pronoun
    items: tuple[Sentence, ...] = ()  # of a list
    is_note: bool = False  # a note below the text, with its mark


def passage_parts(
    context: Context, table: Sequence[TableRow], echoes: Echoes = lambda text: False
) -> list[Part]:
    """Return the sentences of a passage in order, and after the last item of a list the list.

    Args:
        context: The passage.
        table: What `table_rows` returns for it.
        echoes: Whether a line only repeats the question; such a line is a title when more follows.
    """
    if not table and is_json(context.text):
        return [Part(*one) for one in json_parts(context.text, echoes)]
    sentences = passage_sentences(context, table)
    lines = [_line(context.text, sentences, at) for at in range(len(sentences))]
    return _Outline(context, lines, echoes).parts()


class _Line(NamedTuple):
    """A sentence and how it stands in the text."""

    sentence: Sentence
    text: str  # without emphasis and quotes around it
    mark: str  # what stands before it in its line
    indent: int  # characters
    starts: bool  # it begins a line
    ends: bool  # it ends its line
    new: bool  # a blank line stands before it, or it is the first

    @property
    def is_item(self) -> bool:
        return bool(ITEM.match(self.mark))

    @property
    def is_field(self) -> bool:
        return self.starts and self.sentence.kind == "prose" and bool(FIELD.match(self.text))

    @property
    def is_open(self) -> bool:
        """Whether it is a line without a full stop."""
        return self.starts and self.ends and self.text[-1:] not in tuple(f"{ENDS}:;,")


def _line(text: str, sentences: Sequence[Sentence], at: int) -> _Line:
    sentence = sentences[at]
    before = text[sentences[at - 1].end if at else 0 : sentence.start]
    newline = before.rfind("\n")
    mark = before[newline + 1 :]
    stop = text.find("\n", sentence.end)
    rest = text[sentence.end : len(text) if stop < 0 else stop]
    own = text[sentence.start : sentence.end]
    return _Line(
        sentence,
        own.strip(MARKUP),
        mark,
        len(mark) - len(mark.lstrip(" \t")),
        newline >= 0 or not at,
        not rest.strip(MARKUP),
        not at or bool(BLANK_LINE.search(before)),
    )


class _Outline:
    """Walks the lines of a passage with the titles that are open."""

    def __init__(self, context: Context, lines: Sequence[_Line], echoes: Echoes) -> None:
        self._text = context.text
        self._lines = lines
        self._echoes = echoes
        self._open: list[tuple[int, int, str]] = []  # level, indent, text
        self._near: tuple[str, ...] = tuple(context.headings[-1:])
        self._found: list[Part] = []
        self._list: list[int] = []  # positions in `_found` of the items so far

    def parts(self) -> list[Part]:
        """Return the parts in order."""
        for at in range(len(self._lines)):
            self._close(at)
            level = self._level(at)
            if not self._continues_list(at):
                self._end_list()
            if level:
                self._title(at, level)
            else:
                self._add(at)
        self._end_list()
        return self._found

    def _title(self, at: int, level: int) -> None:
        line = self._lines[at]
        self._open = [one for one in self._open if one[0] < level]
        above = self._near if self._found and self._found[-1].is_title else ()
        if not self._found:
            above = self._near
        self._found.append(
            Part(line.sentence, self._titles(), above, is_title=True, mark=line.mark)
        )
        self._near = (*above, line.text)
        self._open.append((level, line.indent, line.text))

    def _add(self, at: int) -> None:
        line = self._lines[at]
        after_title = bool(self._found) and self._found[-1].is_title
        if line.new and self._found and not after_title and not self._list:
            self._near = ()
        name = next((text for level, _, text in reversed(self._open) if level == NAME), "")
        if self._in_list(at):
            self._list.append(len(self._found))
        self._found.append(
            Part(
                line.sentence, self._titles(), self._near, mark=line.mark, name=name,
                before=self._antecedent(at),
            )
        )  # fmt: skip

    def _titles(self) -> tuple[str, ...]:
        return tuple(text for _, _, text in self._open)

    def _close(self, at: int) -> None:
        """Close the titles that do not reach this line."""
        line = self._lines[at]
        before = self._found[-1].is_title if self._found else False
        if line.starts and not before:
            self._open = [one for one in self._open if one[0] < NAME or self._reaches(one, at)]

    def _reaches(self, title: tuple[int, int, str], at: int) -> bool:
        level, indent, _ = title
        line = self._lines[at]
        if line.indent > indent:
            return True
        return not line.new if level == NAME else not line.new or self._continues_list(at)

    def _level(self, at: int) -> int:
        """Return how far down the line is a title, or 0 when it is none."""
        line, following = self._lines[at], self._following(at)
        kind, text = line.sentence.kind, line.text
        if kind == "heading":
            hashes = HASHES.match(line.mark)
            return len(hashes[1]) if hashes else LABEL
        if kind == "header":
            return LEAD
        if kind == "prose" and text.endswith((":", "：")):
            return LEAD
        if kind == "prose" and text.endswith(("?", "？")):
            return QUESTION if line.ends or IN_BOLD.fullmatch(self._raw(line)) else 0
        if following is None:
            return 0
        if kind == "code":
            is_comment = COMMENT.match(self._raw(line)) and following.sentence.kind == "code"
            return LEAD if is_comment and not COMMENT.match(self._raw(following)) else 0
        if kind != "prose":
            return 0
        if line.is_open and following.starts and self._is_label(line, following, at):
            return NAME if following.is_field and not following.new else LABEL
        return 0

    def _is_label(self, line: _Line, following: _Line, at: int) -> bool:
        """Whether a line without a full stop names what follows."""
        if CELL_BAR in line.text or line.is_item:
            return False
        if self._echoes(line.text):
            return True
        short = len(line.text.split()) <= LABEL_WORDS and not line.text[:1].islower()
        if not (short and line.new) or line.is_field:
            return False
        return (
            following.text[-1:] in tuple(ENDS)
            or following.is_item
            or following.is_field
            or following.text.endswith(":")
            or following.sentence.kind in ("code", "header", "table")
            or len(following.text.split()) > LABEL_WORDS
            or self._are_lines(at + 1)
        )

    def _are_lines(self, at: int) -> bool:
        """Whether a paragraph of several lines without a full stop begins, as a list from Word does."""
        lines = self._lines[at : at + 2]
        return (
            len(lines) > 1
            and all(
                line.is_open and not line.is_field and CELL_BAR not in line.text for line in lines
            )
            and [line.new for line in lines] == [True, False]
        )

    def _following(self, at: int) -> _Line | None:
        return self._lines[at + 1] if at + 1 < len(self._lines) else None

    def _raw(self, line: _Line) -> str:
        return self._text[line.sentence.start : line.sentence.end]

    def _in_list(self, at: int) -> bool:
        """Whether the line is an item, or a line that a lead-in announces."""
        line = self._lines[at]
        if line.sentence.kind not in ("prose", "code"):
            return False
        if line.is_item or (self._list and self._continues_list(at)):
            return True
        announced = bool(self._found) and self._found[-1].is_title and bool(self._open)
        below_lead = announced and self._open[-1][0] in (LEAD, LABEL, QUESTION)
        return below_lead and (line.sentence.kind == "code" or line.is_open)

    def _continues_list(self, at: int) -> bool:
        line = self._lines[at]
        if not self._list or not self._found or self._found[-1].is_title:
            return False
        first = self._lines[at - (len(self._found) - self._list[0])] if at else line
        if first.is_item:
            return line.is_item or not line.new or line.indent > first.indent
        if first.sentence.kind == "code":
            return line.sentence.kind == "code"
        return line.starts and line.is_open and not line.new

    def _end_list(self) -> None:
        """Add the list as a whole after its last item."""
        if len(self._list) > 1:
            members = [self._found[at] for at in self._list]
            span = Sentence(members[0].sentence.start, members[-1].sentence.end, "list")
            spans = tuple(member.sentence for member in members)
            first = members[0]
            self._found.append(Part(span, first.titles, first.near, mark=first.mark, items=spans))
        self._list = []

    def _antecedent(self, at: int) -> Sentence | None:
        """Return the sentence before, in the same paragraph, when this one begins with a pronoun."""
        line = self._lines[at]
        if not at or line.new or line.is_item or line.sentence.kind != "prose":
            return None
        before = self._found[-1] if self._found else None
        if before is None or before.is_title or before.sentence.kind != "prose":
            return None
        return before.sentence if PRONOUN.match(line.text) else None
