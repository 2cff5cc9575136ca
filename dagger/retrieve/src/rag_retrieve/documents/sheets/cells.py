"""Values of cells as a person reads them: 1200.5, 19%, 2024-03-15, 14:30, TRUE."""

from __future__ import annotations

import datetime
import re
from typing import Any

from ..values import number_text
from .grid import Cell

QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')


def shows_percent(number_format: str) -> bool:
    """Tell whether a format of numbers shows percent."""
    return "%" in QUOTED.sub("", number_format)


def cell_of(value: Any, *, percent: bool = False) -> Cell:
    """Return the cell of a value.

    Args:
        value: Text, a number, a date, a time or a truth value.
        percent: Whether a number is shown as percent.
    """
    if isinstance(value, str):
        return Cell(value.strip())
    if isinstance(value, bool):
        return Cell(str(value).upper(), is_value=True)
    if isinstance(value, int | float):
        text = f"{number_text(round(value * 100, 10))}%" if percent else number_text(value)
        return Cell(text, is_value=True)
    if isinstance(value, datetime.datetime):
        clock = value.time().replace(microsecond=0)
        day = value.date().isoformat()
        return Cell(f"{day} {_short(clock)}" if clock != datetime.time() else day, is_value=True)
    if isinstance(value, datetime.time):
        return Cell(_short(value), is_value=True)
    return Cell(str(value), is_value=True)


def _short(clock: datetime.time) -> str:
    """Return a time without the seconds where these are 0: 14:30."""
    return clock.isoformat("seconds" if clock.second else "minutes")
