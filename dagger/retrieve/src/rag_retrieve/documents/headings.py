"""Which headings a passage stands under."""

from __future__ import annotations

from collections.abc import Sequence

from .document import Heading

MAX_HEADING_CHARACTERS = 200
SEPARATOR = " > "  # between the headings of a path


class HeadingPaths:
    """Finds the headings that all of a span of a text stands under; spans in order of their start."""

    def __init__(self, text: str, headings: Sequence[Heading]) -> None:
        self.text = text
        self.headings = [heading for heading in headings if heading.text]
        self.next = 0
        self.path: list[Heading] = []

    def __getitem__(self, span: tuple[int, int]) -> tuple[Heading, ...]:
        while self.next < len(self.headings) and self.headings[self.next].offset <= span[0]:
            self.path = _under(self.path, self.headings[self.next])
            self.next += 1
        shared = path = self.path
        begin = self._first(span[0])
        for heading in self.headings[self.next :]:
            if heading.offset >= span[1]:
                break
            path = _under(path, heading)
            if begin is not None and self._is_one_line(begin, heading.offset):
                shared, begin = path, heading.offset
            else:
                shared = [one for one, other in zip(shared, path, strict=False) if one is other]
                begin = None
        return _shortened(shared)

    def _first(self, start: int) -> int | None:
        """Return the offset of the heading with which a span begins, or None."""
        begin = self.path[-1].offset if self.path else start
        return begin if self.path and not self.text[begin:start].strip() else None

    def _is_one_line(self, start: int, end: int) -> bool:
        """Whether nothing but the heading at `start` stands before `end`."""
        lines = self.text[start:end].splitlines()
        return sum(any(map(str.isalnum, line)) for line in lines) <= 1


def _under(path: list[Heading], heading: Heading) -> list[Heading]:
    return [*(above for above in path if above.level < heading.level), heading]


def _shortened(path: list[Heading]) -> tuple[Heading, ...]:
    while len(path) > 1 and len(SEPARATOR.join(one.text for one in path)) > MAX_HEADING_CHARACTERS:
        path = path[1:]
    return tuple(path)
