"""Whether the first row of a table names its columns."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAME_CHARACTERS = 60
COLUMNS = 3  # with two, labels and values look like names and values


def names_columns(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first row reads as names: short, distinct, no digits, above a column of figures.

    Args:
        first: The cells of the first row; the first one may be empty.
        others: The cells of the rows below, by the same columns.
    """
    names = [name for name in first if name]
    if len(first) < COLUMNS or len(names) < len(first) - (not first[0]):
        return False
    if len(set(names)) < len(names) or any(
        len(name) > MAX_NAME_CHARACTERS or _has_digit(name) or name.endswith((".", ":"))
        for name in names
    ):
        return False
    columns = list(zip(*others, strict=True))[not first[0] :]
    return any(all(map(_has_digit, filter(None, c))) and any(c) for c in columns)


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)
