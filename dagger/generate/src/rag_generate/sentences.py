"""Split text into sentences with exact character offsets.

Handles abbreviations, initials, decimals, closing quotes, Markdown headings, list items, tables,
front matter and code fences, rows of CSV, hard-wrapped and unwrapped lines. It is a set of rules for
English; paragraphs of other languages are cut by `sentencex`, and Thai, which has no full stops, at
its spaces. It does not parse Markdown and learns nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from rag_kit.languages import ENGLISH, LANGUAGES

# a row of a table, its column names; a list and a value of JSON are found by `structure`
Kind = Literal["prose", "heading", "code", "table", "header", "list", "value"]

CODES = {name: code for code, name in LANGUAGES.items()}
DELIMITERS = "\t;,"  # of the cells of a row, the likelier first
CELL_BAR = " | "  # between the cells of a row, as the loaders of Word, PDF and HTML write them
MAX_SENTENCE_CHARS = 600  # characters; longer runs without a full stop are cut at a space
COLUMN_CHARS = 20  # characters; no column is so narrow: shorter lines are the lines of a list
SHORTEST = 4  # characters; a shorter piece with a full stop, as `M.`, belongs to the next
WRAP_CHARS = 40  # characters; a shorter line without a full stop ends its sentence

_ABBREVIATIONS = """
adj al approx apr art assn aug ave bros ca capt cf ch cmdr co col corp dec dept dr ed eds eg e.g eq
est etc feb fig figs ft gen gov hon i.e ie inc jan jr jul jun lt ltd maj mar messrs mr mrs ms mt no
nos nov oct op p pp par prof pt pvt ref refs rep rev rt sec sen sep sept sgt sr st supt univ v viz
vol vols vs
"""
_STARTERS = """
A After Although An And As At Because But By During For From He However If In It Its No On She Since
So That The Their Then There These They This Those To We What When While You
"""
# Lower-case, without the final dot; a dot after one of these ends no sentence ...
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
# ... unless it is one of these and a word that starts sentences follows.
ENDING_ABBREVIATIONS = frozenset({"etc", "inc", "co", "jr", "sr", "no"})
STARTERS = frozenset(_STARTERS.split())

# a full stop, closing quotes and marks of notes like [3] and *; a question in bold type
_END = re.compile(
    r"[.!?…]+[\"'”’)\]]*(?:\[\^?[0-9a-z]{1,3}\]|\*(?!\*)|[†‡¹²³⁴-⁹])*(?=\s)|\?(?:\*\*|__)(?=\s)|[。！？]+[」』”’]*"
)
# a space between phrases of which the first is long; numbers and other scripts stand between spaces, too
_SPACE_OF_THAI = re.compile(r"(?<=[\u0e01-\u0ecd]{20})[ \t\n]+(?=[\u0e01-\u0ecd]{8})")
_INITIALS = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"\s*#{1,6}\s+")
_ITEM = re.compile(r"\s*(?:[-*+•]|[0-9]{1,3}[.)])\s+")
_RULE = re.compile(r"\s*(?:[-=*_|:]\s*){3,}$")
_FIELD = re.compile(r"\s*[^\W\d_][\w /()&-]{0,30}:[ \t]+\S")  # `Phone: 4472`
_KEY = re.compile(r"\s*[\w.-]{1,40}:[ \t]*(?:#.*)?$")  # `server:`, above its settings
_STAMP = re.compile(  # the time a line of a log begins with
    r"\s*[\[<(]?(?:[0-9]{4}[-/.][0-9]{2}[-/.][0-9]{2}[T ,]|[0-9]{2}[-/.][0-9]{2}[-/.][0-9]{4}[T ,]"
    r"|[0-9]{1,2}/[A-Z][a-z]{2}/[0-9]{4}:|[A-Z][a-z]{2} {1,2}[0-9]{1,2} )?[0-9]{2}:[0-9]{2}:[0-9]{2}\b"
)
_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?:(?:[\w.-]+:|[ \t]|- |#).*\n)+(?:---|\.\.\.)[ \t]*(?:\n|$)"
)
_QUOTED_CELL = re.compile(r'"[^"\n]*"')
_THOUSANDS = re.compile(r"(?<=[ $€£])[0-9]{1,3}(?:,[0-9]{3})+")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]*$")
_WORD_AFTER = re.compile(r"\s*[\"'“‘(\[]*(\w+)?")


class Sentence(NamedTuple):
    """Where a sentence stands: `text[start:end]`, without surrounding white space."""

    start: int
    end: int
    kind: Kind


def split_sentences(
    text: str, *, in_code: bool = False, language: str | None = None
) -> list[Sentence]:
    """Return the sentences of `text` in order; they never overlap and none is blank.

    Args:
        text: The text.
        in_code: It begins inside a block of code.
        language: Its language by name; None: English.
    """
    rows = [] if in_code else _delimited_rows(text)
    if rows:
        return rows
    found: list[Sentence] = []
    for start, end, kind in _blocks(text, _length(_FRONT_MATTER, text), fenced=in_code):
        if kind == "prose":
            found += [
                Sentence(first, last, kind)
                for first, last in _cut(text, start, end, CODES.get(language or ENGLISH, "en"))
                if first < last
            ]
        else:
            first, last = _trim(text, start, end)
            if first < last:
                found.append(Sentence(first, last, kind))
    return found


def row_cells(row: str) -> list[str]:
    """Return the cells of a row of a table, Markdown or CSV, that are not empty."""
    stripped = row.strip()
    if stripped.startswith("|") or stripped.endswith("|"):
        cells = re.split(r"(?<!\\)\|", stripped)
    else:
        delimiter = next((one for one in DELIMITERS if len(_split_row(row, one)) > 1), ",")
        cells = _split_row(stripped, delimiter)
    return [cell for cell in (cell.strip().strip('"').strip() for cell in cells) if cell]


def _split_row(row: str, delimiter: str) -> list[str]:
    """Cut a row at the delimiters outside of quotes and of numbers such as 2,000."""
    masked = _THOUSANDS.sub(_mask, _QUOTED_CELL.sub(_mask, row))
    cells, start = [], 0
    for part in masked.split(delimiter):
        cells.append(row[start : start + len(part)])
        start += len(part) + 1
    return cells


def _mask(match: re.Match[str]) -> str:
    return "x" * len(match.group())


def _delimited_rows(text: str) -> list[Sentence]:
    """Return each line as a row when the whole text is CSV or TSV, else nothing."""
    lines: list[tuple[int, str]] = []
    offset = 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            lines.append((offset, line))
        offset += len(line)
    tables = (
        [_split_row(line.strip("\r\n"), one) for _, line in lines]
        for one in DELIMITERS
        if all(one in line for _, line in lines)
    )
    table = next((table for table in tables if _is_table(table)), None)
    if table is None:
        return []
    headed = _has_header(table)
    return [
        Sentence(*_trim(text, start, start + len(line)), "header" if headed and not n else "table")
        for n, (start, line) in enumerate(lines)
    ]


def _is_table(rows: list[list[str]]) -> bool:
    """Whether rows cut at a delimiter are cells of a table and not prose with commas."""
    widths = {len(row) for row in rows}
    if len(widths) != 1 or max(widths) < (2 if len(rows) > 1 else 3):
        return False
    spaced = any(cell[:1] == " " for row in rows for cell in row[1:])
    return not spaced and sum(row[-1].rstrip()[-1:] in tuple(".!?:") for row in rows) * 2 < len(
        rows
    )


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names columns: it alone holds no digit, as in most exported tables."""
    digits = [any(character.isdigit() for cell in row for character in cell) for row in rows]
    return len(rows) > 1 and not digits[0] and all(digits[1:])


def _blocks(text: str, offset: int, *, fenced: bool) -> Iterator[tuple[int, int, Kind]]:
    """Yield runs of prose (one paragraph or list item), headings, rows and lines of code."""
    start: int | None = None
    previous = ""
    lines = text[offset:].splitlines(keepends=True)
    for line, following in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        end = offset + len(line)
        special = _special(line, following, fenced)
        if start is not None and (special or not line.strip() or _breaks(previous, line)):
            yield start, offset, "prose"
            start = None
        if special == "fence":
            fenced = not fenced
        elif special in ("code", "table", "header"):
            yield offset, end, special
        elif special == "heading":
            yield offset + _length(_HEADING, line), end, "heading"
        elif special == "item":
            start = offset + _length(_ITEM, line)
        elif special is None and start is None and line.strip():
            start = offset
        offset, previous = end, line
    if start is not None:
        yield start, offset, "prose"


def _special(
    line: str, following: str, fenced: bool
) -> Literal["fence", "code", "heading", "rule", "table", "header", "item"] | None:
    if _FENCE.match(line):
        return "fence"
    if fenced:
        return "code"
    if _HEADING.match(line):
        return "heading"
    if _RULE.match(line):
        return "rule"
    if _is_row(line):
        return "header" if "|" in following and _RULE.match(following) else "table"
    return "item" if _ITEM.match(line) else None


def _is_row(line: str) -> bool:
    """Whether a line is a row of a Markdown table, which a passage may cut at either end."""
    stripped = line.strip()
    return len(stripped) > 1 and (stripped.startswith("|") or stripped.endswith("|"))


def _length(pattern: re.Pattern[str], line: str) -> int:
    match = pattern.match(line)
    return match.end() if match else 0


def _breaks(previous: str, line: str) -> bool:
    """Whether a new line also starts a new sentence, though no full stop ended the one before."""
    if CELL_BAR in previous or CELL_BAR in line or _STAMP.match(line):
        return True
    if all(_FIELD.match(one) or _KEY.match(one.rstrip()) for one in (previous, line)):
        return True
    before, after = previous.rstrip(), line.strip()
    if before.startswith(">") and after.startswith(">"):  # a quotation goes on
        before, after = before.lstrip("> \t"), after.lstrip("> \t")
    if 0 < len(before) < COLUMN_CHARS and 0 < len(after) < COLUMN_CHARS:
        return True
    return len(before) < WRAP_CHARS and bool(after) and not after[0].islower()


def _cut(text: str, start: int, end: int, code: str) -> Iterator[tuple[int, int]]:
    if code != "en":
        yield from _cut_by_language(text, start, end, code)
        return
    begin = start
    for match in _END.finditer(text, start, end):
        if _ends(text, match, end):
            yield from _limit(text, *_trim(text, begin, match.end()))
            begin = match.end()
    yield from _limit(text, *_trim(text, begin, end))


def _cut_by_language(text: str, start: int, end: int, code: str) -> Iterator[tuple[int, int]]:
    begin = start
    for stop in [*_stops(text[start:end], code), end - start]:
        first, last = _trim(text, begin, start + stop)
        if text[last - 1] != "." or last - first >= SHORTEST or start + stop == end:
            yield from _limit(text, first, last)
            begin = start + stop


def _stops(text: str, code: str) -> list[int]:
    """Return where sentences of a paragraph end, in order."""
    if code in ("th", "lo"):
        return [match.end() for match in _SPACE_OF_THAI.finditer(text)]
    import sentencex  # type: ignore[import-untyped]

    return list(itertools.accumulate(map(len, sentencex.segment(code, text))))


def _ends(text: str, match: re.Match[str], end: int) -> bool:
    """Whether the punctuation found ends a sentence."""
    after = _WORD_AFTER.match(text, match.end(), end)
    word = after.group(1) if after else None
    goes_on = match.group()[0] in ".…" or match.group()[-1] in "\"'”’)"  # "Why?" he asked
    if word and word[0].islower() and goes_on:
        return False
    if match.group() != ".":
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - 40), match.start())
    word_before = before.group() if before else ""
    if word_before.lower() in ABBREVIATIONS:
        return word_before.lower() in ENDING_ABBREVIATIONS and word in STARTERS
    if _INITIALS.fullmatch(word_before):
        return word in STARTERS
    return True


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _limit(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > MAX_SENTENCE_CHARS:
        cut = text.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
        cut = cut if cut > start else start + MAX_SENTENCE_CHARS
        yield _trim(text, start, cut)
        start, end = _trim(text, cut, end)
    yield start, end
