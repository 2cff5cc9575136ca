"""Which row holds the highest or the lowest value that a question asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rag_kit.text import comparable

from .questions import EXTREME, extreme
from .terms import stem, words

VALUE = re.compile(
    r"\W{0,4}(?:[A-Za-z]{1,3}\s?)?(-?[0-9]+(?:[., ][0-9]+)*)\s?([%\w€$£/°²³]{0,12})\W*$"
)
DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})\b")
# what a superlative measures, when it does not name it: stems of column names
MEASURED = (
    (
        re.compile(r"\b(?:cheap|expensive|costly|dear|pric)\w*", re.I),
        "price cost fee rate fare charge tariff rent eur usd gbp chf amount",
    ),
    (re.compile(r"\b(?:heav|light)(?:iest|est)\b", re.I), "weight mass kg"),
    (re.compile(r"\b(?:tall|high|low)est\b", re.I), "height elevation altitude"),
    (re.compile(r"\b(?:long|short)est\b", re.I), "length duration distance km"),
    (re.compile(r"\b(?:old|young)est\b", re.I), "age born birth founded built year"),
    (
        re.compile(r"\b(?:new|late|earli)(?:e?st)\b", re.I),
        "version date year day time created updated released",
    ),
    (re.compile(r"\b(?:fast|slow)est\b", re.I), "speed time duration"),
    (re.compile(r"\b(?:larg|bigg|small)(?:est)\b", re.I), "size area population volume"),
)

TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})\W*$")
# how many of a base unit one is, by what is measured: litres, grams, metres, seconds, bytes
UNITS = {
    comparable(unit): (dimension, factor)
    for dimension, row in {
        "volume": "µl 1e-6 ul 1e-6 ml 1e-3 cl 1e-2 dl 0.1 l 1 litre 1 litres 1",
        "mass": "µg 1e-6 mg 1e-3 g 1 kg 1e3 t 1e6",
        "length": "µm 1e-6 mm 1e-3 cm 1e-2 km 1e3 metres 1",
        "time": "ms 1e-3 s 1 sec 1 min 60 minutes 60 h 3600 hours 3600 hour 3600 days 86400 day 86400 "
        "weeks 604800 week 604800 months 2.63e6 month 2.63e6 years 3.156e7 year 3.156e7",
        "data": "kb 1e3 mb 1e6 gb 1e9 tb 1e12 pb 1e15",
    }.items()
    for unit, factor in zip(row.split()[::2], map(float, row.split()[1::2]), strict=True)
}

BY = re.compile(r"\bby (?:the |its |their )?", re.IGNORECASE)
AGES = re.compile(r"\b(?:oldest|youngest)\b", re.I)
SPEEDS = re.compile(r"\b(?:fastest|slowest)\b", re.I)
TIMES = frozenset({"time", "durat", "second", "minut", "ms", "s"})


class Measure(NamedTuple):
    """A number in a passage: in which row, of what, and how much."""

    row: int
    name: tuple[str, ...]  # stems of the column's or the key's name
    value: float  # in the base unit, where the cell names a unit
    dimension: str = ""  # of the unit


def measure(row: int, name: str, cell: str) -> Measure | None:
    """Return the measure in a cell; None when it holds no single number or day."""
    day = DAY.match(cell.strip())
    time = TIME.match(cell.strip())
    number = VALUE.match(comparable(cell.strip()))
    dimension, factor = UNITS.get(number[2].lower(), ("", 1.0)) if number else ("", 1.0)
    if day:
        value = float("".join(day.groups()))
    elif time:
        value = int(time[1]) * 60.0 + int(time[2])
    elif number:
        value = _number(number[1]) * factor
    else:
        return None
    spaced = re.sub(r"_+|(?<=[a-z])(?=[A-Z])", " ", name)
    return Measure(row, tuple(stem(word) for word in words(spaced)), value, dimension)


def _number(text: str) -> float:
    """Return a number with a decimal comma or point; `comparable` has joined its groups, but for spaces."""
    head, _, rest = text.replace(" ", "").replace(",", ".").partition(".")
    return float(f"{head}.{rest.replace('.', '') or 0}")


def extreme_rows(query: str, measures: Iterable[Measure]) -> tuple[set[int], set[int]]:
    """Return the rows with the highest or lowest value asked for, and all rows compared.

    The measure is the one named after `by`, else what the superlative measures by itself, such as the
    price for the cheapest, else the one named after it, as in `the highest rate`, else one whose name
    shares a word with the question, else the only one.
    """
    sign = extreme(query)
    found = list(measures) if sign else []
    asked = {stem(word) for word in words(query)}
    usual = {stem(w) for pattern, names in MEASURED if pattern.search(query) for w in names.split()}
    names = dict.fromkeys(one.name for one in found)
    orders = (_after(BY, query), usual, _after(EXTREME, query), asked)
    by_order = ([name for name in names if order.intersection(name)] for order in orders)
    chosen = next(filter(None, by_order), list(names) if len(names) == 1 else [])
    if not chosen:
        return set(), set()
    best = max(chosen, key=lambda name: len(asked.intersection(name)))
    compared = [one for one in found if one.name == best]
    if len(compared) < 2 or len({one.dimension for one in compared}) > 1:
        return set(), set()
    sign = -sign if _is_turned(query, best) else sign
    top = max(one.value * sign for one in compared)
    return {one.row for one in compared if one.value * sign == top}, {one.row for one in compared}


def _after(pattern: re.Pattern[str], query: str) -> set[str]:
    """Return the stems of the two words after what matches."""
    match = pattern.search(query)
    return {stem(word) for word in words(query[match.end() :])[:2]} if match else set()


def _is_turned(query: str, name: tuple[str, ...]) -> bool:
    """Whether the highest is the lowest number: the oldest by year, the fastest by time."""
    by_year = bool(AGES.search(query)) and "age" not in name
    by_time = bool(SPEEDS.search(query)) and not TIMES.isdisjoint(name)
    return by_year or by_time
