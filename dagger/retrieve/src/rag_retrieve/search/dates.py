"""Dates and times as people write them, and how they compare."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january januar janvier enero", "february februar février febrero",
            "march märz mars marzo", "april avril abril", "may mai mayo", "june juni juin junio",
            "july juli juillet julio", "august août agosto",
            "september septembre septiembre", "october oktober octobre octubre",
            "november novembre noviembre", "december dezember décembre diciembre",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
SHORT = {name[:3]: month for name, month in reversed(MONTHS.items()) if name.isascii()} | {
    "sept": 9
}
YEAR = r"(?P<y>(?:1[89]|20|21)\d\d)"
TIME = r"(?:[T ](?P<H>\d\d):(?P<M>\d\d)(?::(?P<S>\d\d)(?:[.,]\d+)?)?\s?(?P<z>Z|UTC|GMT|[+-]\d\d:?\d\d)?)?"
WEEKDAY = r"(?:[A-Za-z]{2,9},?\s+)?"
FORMS = [
    re.compile(rf"{YEAR}(?:-(?P<m>\d\d)(?:-(?P<d>\d\d){TIME})?)?"),
    re.compile(rf"{YEAR}[/._](?P<m>\d\d)[/._](?P<d>\d\d){TIME}"),
    re.compile(rf"(?P<d>\d\d?)\.\s?(?P<m>\d\d?)\.\s?{YEAR}{TIME}"),
    re.compile(rf"{WEEKDAY}(?P<d>\d\d?)(?:\.|st|nd|rd|th)?\s+(?:of\s+)?(?P<n>[^\W\d_]{{3,10}})\.?,?\s+{YEAR}{TIME}"),
    re.compile(rf"(?P<n>[^\W\d_]{{3,10}})\.?\s+(?P<d>\d\d?)(?:st|nd|rd|th)?,?\s+{YEAR}{TIME}"),
    re.compile(rf"(?P<n>[^\W\d_]{{3,10}})\.?\s+{YEAR}"),
]  # fmt: skip
FIRST = (1, 1, 1, 0, 0, 0)  # what a date that says less means


class Moment(NamedTuple):
    """A date, as precise as it was written: year, month, day, hour, minute, second; local time.

    `offset` is that of local time to UTC in minutes, None where none was written.
    """

    parts: tuple[int, ...]
    offset: int | None = None

    @property
    def text(self) -> str:
        """The date without its time, as precise as it was written: `2024-03`."""
        year, *rest = self.parts[:3]
        return "-".join([f"{year:04}", *(f"{part:02}" for part in rest)])

    def order_of(self, other: Moment) -> int:
        """Return -1, 0 or 1: before, within or after what `other` says, by its precision."""
        mine, theirs = self, other
        if len(other.parts) > 3 and None not in (self.offset, other.offset):
            mine, theirs = self._utc(), other._utc()
        size = len(theirs.parts)
        left = (*mine.parts, *FIRST[len(mine.parts) :])[:size]
        return (left > theirs.parts) - (left < theirs.parts)

    def _utc(self) -> Moment:
        parts = (*self.parts, *FIRST[len(self.parts) :])
        zone = timezone(timedelta(minutes=self.offset or 0))
        try:
            moved = datetime(*parts, tzinfo=zone).astimezone(UTC)  # type: ignore[misc, arg-type]
        except (OverflowError, ValueError):
            return self
        size = max(len(self.parts), 5)
        return Moment(moved.timetuple()[:size], 0)


@lru_cache(4096)
def parse_date(text: str) -> Moment | None:
    """Return the date that a text is, or None.

    ISO 8601 from `2024` to `2024-03-15T10:30:00+02:00`, `15.03.2024`, `2024/03/15`,
    `15 March 2024`, `March 15, 2024`, `March 2024`, and the dates of mails.
    """
    text = text.strip()
    if not 4 <= len(text) <= 48:
        return None
    for form in FORMS:
        if found := form.fullmatch(text):
            return _moment(found.groupdict())
    return None


def _moment(found: dict[str, str | None]) -> Moment | None:
    month = found.get("m")
    if name := found.get("n"):
        low = name.casefold()
        number = MONTHS.get(low) or SHORT.get(low)
        if number is None:
            return None
        month = str(number)
    written = [found["y"], month, *(found.get(key) for key in "dHMS")]
    parts = [int(part) for part in written if part is not None]
    try:
        datetime(*(*parts, *FIRST[len(parts) :]))  # type: ignore[arg-type]
    except ValueError:
        return None
    return Moment(tuple(parts), _offset(found.get("z")))


def _offset(zone: str | None) -> int | None:
    if zone is None:
        return None
    if zone[0] not in "+-":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    return -minutes if zone[0] == "-" else minutes
