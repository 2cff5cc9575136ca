"""The highest and the lowest value among units, times and versions."""

from __future__ import annotations

import pytest

from rag_generate.extremes import extreme_rows, measure


def best(query: str, name: str, *cells: str) -> set[int]:
    """Return the rows with the value asked for."""
    found = [one for at, cell in enumerate(cells) if (one := measure(at, name, cell))]
    return extreme_rows(query, found)[0]


@pytest.mark.parametrize(
    ("query", "name", "cells", "expected"),
    [
        ("Which plan has the most storage?", "Storage", ["50 GB", "1 TB", "200 GB"], {1}),
        ("Which reagent has the largest amount?", "Amount", ["4 ml", "8 µl*", "2.5 ml"], {0}),
        ("Which bag has the lowest weight?", "Weight", ["1.2 kg", "900 g", "1 kg"], {1}),
        ("Which route has the longest length?", "Length", ["900 m", "2 km", "1500 m"], set()),
        ("Which cable has the longest length?", "Length", ["90 cm", "2 km", "800 mm"], {1}),
        ("Which process has the shortest duration?", "Duration", ["2 h", "45 min", "1 day"], {1}),
        (
            "Which shop has the earliest closing time?",
            "Closing time",
            ["20:00", "9:30", "18:00†"],
            {1},
        ),
        ("Which item has the highest price?", "Price", ["9 EUR", "12 EUR", "1 EUR"], {1}),
    ],
)
def test_values_compare_in_their_units(
    query: str, name: str, cells: list[str], expected: set[int]
) -> None:
    """Millilitres with microlitres; what has no common unit is not compared."""
    assert best(query, name, *cells) == expected
