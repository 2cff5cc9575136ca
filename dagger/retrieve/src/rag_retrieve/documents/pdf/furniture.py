"""Page furniture of a PDF: running headers and footers, and page numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from .layout import Line

EDGE_LINES = 5  # of a page, from the top and from the bottom
SHARE = 0.4  # of the pages; left and right pages may have different headers
TOLERANCE = 12.0  # points between the places of a header on two pages
DIGITS = re.compile(r"\d{1,6}")
PAGE_NUMBER = re.compile(
    r"\W*(?:page|seite|p\.)?\W*(?:\d{1,5}|[ivxlc]{1,7})(?:\W*(?:of|von|/)?\W*\d{1,5})?\W*",
    re.IGNORECASE,
)

Key = tuple[str, bool, int]  # a line without its digits, whether it stands above, its place


def without_furniture(pages: list[list[Line]]) -> list[list[Line]]:
    """Leave out what stands on most pages at the same place, and page numbers at their edges.

    A header stays on the first page that has it and a footer on the last, so that what only they
    say is found.
    """
    if len(pages) < 2:
        return pages
    edges = _edges_of(pages)
    counts = Counter(key for page in edges for key in set(page.values()))
    numbers = sum(
        any(_is_number(page[at]) for at in found) for page, found in zip(pages, edges, strict=True)
    )
    running = {key for key, count in counts.items() if count >= max(2, SHARE * len(pages))}
    shown = _shown(edges, running)
    return [
        list(_kept(number, page, found, running, shown, numbered=numbers * 2 >= len(pages)))
        for number, (page, found) in enumerate(zip(pages, edges, strict=True))
    ]


def _kept(
    number: int,
    page: list[Line],
    edges: dict[int, Key],
    running: set[Key],
    shown: dict[Key, int],
    *,
    numbered: bool,
) -> Iterator[Line]:
    """Yield the lines of a page that stay; a header or footer is a paragraph of its own."""
    apart = False
    for at, line in enumerate(page):
        key = edges.get(at)
        if key and numbered and _is_number(line):
            continue
        furniture = key in running
        if key and furniture and shown[key] != number:
            continue
        yield line._replace(starts=line.starts or apart or furniture)
        apart = furniture


def _edges_of(pages: list[list[Line]]) -> list[dict[int, Key]]:
    """Return for each page the keys of the lines at its top and bottom, by their index."""
    offsets: Counter[int] = Counter()
    ends = [_ends(page) for page in pages]
    for number, (page, found) in enumerate(zip(pages, ends, strict=True)):
        texts = (page[at].text for at in found)
        offsets.update({int(n) - number for text in texts for n in DIGITS.findall(text)})
    offset = max(offsets, key=lambda each: (offsets[each], -abs(each)), default=0)
    return [
        {at: _key(page[at], top, str(number + offset)) for at, top in found.items()}
        for number, (page, found) in enumerate(zip(pages, ends, strict=True))
    ]


def _key(line: Line, top: bool, page_number: str) -> Key:
    text = line.text
    if page_number in DIGITS.findall(text):
        text = DIGITS.sub("#", text)
    return text, top, round(line.baseline / TOLERANCE)


def _ends(page: list[Line]) -> dict[int, bool]:
    """Return the indices of the highest and lowest lines of a page, and whether each is a high one."""
    order = sorted(range(len(page)), key=lambda at: -page[at].baseline)
    half = (len(order) + 1) // 2
    top, bottom = order[: min(EDGE_LINES, half)], order[max(half, len(order) - EDGE_LINES) :]
    return dict.fromkeys(top, True) | dict.fromkeys(bottom, False)


def _is_number(line: Line) -> bool:
    return bool(PAGE_NUMBER.fullmatch(line.text))


def _shown(edges: list[dict[int, Key]], running: set[Key]) -> dict[Key, int]:
    """Return on which page each running text stays: a header on the first, a footer on the last."""
    shown: dict[Key, int] = {}
    for number, page in enumerate(edges):
        for key in page.values():
            if key in running and not (key[1] and key in shown):
                shown[key] = number
    return shown
