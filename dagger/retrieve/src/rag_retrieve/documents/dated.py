"""The date of a document: of two that contradict each other, the newer one counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pydantic import JsonValue

from ..search.dates import Moment, parse_date
from .document import LoadedDocument

# Fields of metadata that hold it, the best first; compared in lower case without `_`, `-` and blanks.
FIELDS = (
    "effective", "effectivedate", "effectivefrom", "validfrom", "validsince", "inforcesince", "asof",
    "date", "sent", "lastupdated", "updated", "updatedat", "lastmod", "lastmodified",
    "published", "publishdate", "pubdate", "issued", "year",
)  # fmt: skip
# Fields that hold the date of the file, not of its content.
WEAK_FIELDS = ("modified", "created", "createdat", "creationdate")
NAME_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)(?:([-_.]?)(\d\d)(?:\2(\d\d))?)?(?!\d)")
SAID = re.compile(
    r"(?:\bas of|\beffective(?: from| date| as of)?|\b(?:last )?(?:updated|modified|revised|amended)(?: on)?"
    r"|\bvalid (?:from|since)|\bin force since|\bdated?|\bissued(?: on)?|\bpublished(?: on)?|\bstand"
    r"|\bgültig ab|\bversion of)\s*:?\s+(?=\S{0,12}\s?\S{0,12}\s?\S*\d)([^\n]{4,48})",
    re.IGNORECASE,
)
HEAD = 1500  # characters in which a text says its date
MAX_WORDS = 6  # of a date


def date_of(document: LoadedDocument) -> str | None:
    """Return the date of a document as precise as it is known, `2024`, `2024-03` or `2024-03-15`.

    It is that of the metadata, else of the file's name, else said in the first lines of the text (`as
    of`, `effective`, `last updated`), else in the name of the nearest folder, else when the file was
    changed as PDF and Word files say it.
    """
    for moment in _dates(document):
        if moment is not None and 1900 <= moment.parts[0] <= 2100:
            return moment.text
    return None


def _dates(document: LoadedDocument) -> Iterator[Moment | None]:
    fields = {_plain(name): value for name, value in document.metadata.items()}
    yield from (_of_value(fields.get(name)) for name in FIELDS)
    *folders, name = PurePosixPath(document.source).parts or ("",)
    yield _of_name(name)
    yield _said(document.text[:HEAD])
    yield from (_of_name(folder) for folder in reversed(folders))
    yield from (_of_value(fields.get(name)) for name in WEAK_FIELDS)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _of_value(value: JsonValue) -> Moment | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_date(value) if isinstance(value, str) else None


def _of_name(name: str) -> Moment | None:
    found = [_of_match(match) for match in NAME_DATE.finditer(name)]
    return max((one for one in found if one), key=lambda one: len(one.parts), default=None)


def _of_match(match: re.Match[str]) -> Moment | None:
    parts = [part for part in (match[1], match[3], match[4]) if part]
    tries = ["-".join(parts[:size]) for size in range(len(parts), 0, -1)]
    return next((moment for one in tries if (moment := parse_date(one))), None)


def _said(text: str) -> Moment | None:
    for match in SAID.finditer(text):
        words = match[1].split()[:MAX_WORDS]
        for size in range(len(words), 0, -1):
            if moment := parse_date(" ".join(words[:size]).rstrip(".,;:)*_")):
                return moment
    return None
