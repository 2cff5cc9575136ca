"""Which headings a passage stands under."""

from __future__ import annotations

from collections.abc import Sequence

from .document import Heading

MAX_HEADING_CHARACTERS = 200


class HeadingPaths:
    """Finds the path of headings above a span; spans must come in order of their start."""

    def __init__(self, headings: Sequence[Heading]) -> None:
        self.headings = headings
        self.next = 0
        self.path: list[Heading] = []

    def __getitem__(self, span: tuple[int, int]) -> str:
        while self.next < len(self.headings) and self.headings[self.next].offset <= span[0]:
            self.path = _under(self.path, self.headings[self.next])
            self.next += 1
        shared, path = self.path, self.path
        for heading in self.headings[self.next :]:
            if heading.offset >= span[1]:
                break
            path = _under(path, heading)
            shared = [one for one, other in zip(shared, path, strict=False) if one is other]
        return _join([heading.text for heading in shared])


def _under(path: list[Heading], heading: Heading) -> list[Heading]:
    return [*(above for above in path if above.level < heading.level), heading]


def _join(path: list[str]) -> str:
    while len(path) > 1 and len(" > ".join(path)) > MAX_HEADING_CHARACTERS:
        path = path[1:]
    return " > ".join(path)
