"""Values written as text: which of them are numbers without losing a character."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"-?(?:0|[1-9]\d{0,14})\.\d{1,15}")
DECIMAL_COMMA = re.compile(r"-?(?:0|[1-9]\d{0,14}|[1-9]\d{0,2}(?:\.\d{3})+),\d{1,15}")
THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def typed(text: str) -> str | int | float | bool | None:
    """Return a plain value as what it is written as; text where a number would not be written so.

    `1.10` (a version), `01067` (a postal code), `1e5` and numbers beyond 64 bits stay text.
    """
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if text in ("null", "Null", "NULL", "~", ""):
        return None
    if INTEGER.fullmatch(text) and text != "-0":
        return int(text)
    if DECIMAL.fullmatch(text) and str(float(text)) == text:
        return float(text)
    return text


def numbers(cells: Sequence[str], *, comma: bool) -> dict[str, int | float]:
    """Return the numbers of a column by how they are written; none where a cell is something else.

    A column of versions (`1.9`, `1.10`) or codes (`01067`) is none of numbers.

    Args:
        cells: The cells of a column; empty ones do not count.
        comma: Whether a comma is the decimal mark, as where cells are parted by `;`.
    """
    found: dict[str, int | float] = {}
    for cell in filter(None, dict.fromkeys(cells)):
        number = _number(cell, comma=comma)
        if number is None:
            return {}
        found[cell] = number
    return {} if _are_versions(found, "," if comma else ".") else found


def _are_versions(cells: Iterable[str], mark: str) -> bool:
    """Whether the parts behind the mark differ in length and one ends in 0: 1.9 and 1.10."""
    decimals = [cell.rpartition(mark)[2] for cell in cells if mark in cell]
    return len(set(map(len, decimals))) > 1 and any(part.endswith("0") for part in decimals)


def _number(cell: str, *, comma: bool) -> int | float | None:
    if INTEGER.fullmatch(cell):
        return int(cell)
    if DECIMAL.fullmatch(cell):
        return float(cell)
    if comma and DECIMAL_COMMA.fullmatch(cell):
        return float(cell.replace(".", "").replace(",", "."))
    if not comma and THOUSANDS.fullmatch(cell):
        return float(cell.replace(",", "")) if "." in cell else int(cell.replace(",", ""))
    return None


def number_text(value: float) -> str:
    """Return a number without the noise of binary fractions: 0.3, 1200, 1e+30."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else f"{value:.15g}"
