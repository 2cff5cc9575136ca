"""The words in the names of a file and its folders, which are searched with its passages."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

MAX_NAME_WORDS = 24
WORD = re.compile(r"[^\W\d_]+|\d+")  # letters or digits; `_`, `-` and `.` stand between
HUMP = re.compile(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Þ])")  # between the words of camelCase


def name_words(source: str) -> list[str]:
    """Return the words of a path without its extension: `2024/mill-lane.txt` is 2024, mill, lane."""
    path = PurePosixPath(source)
    text = HUMP.sub(" ", "/".join(path.with_suffix("").parts) if path.name else source)
    return WORD.findall(text)[-MAX_NAME_WORDS:]


def with_name(source: str, text: str) -> str:
    """Return a passage's text for word search: the words of its path that it lacks come first."""
    known = {word.casefold() for word in WORD.findall(text)}
    lacking = [word for word in name_words(source) if word.casefold() not in known]
    return " ".join([*dict.fromkeys(lacking), text])
