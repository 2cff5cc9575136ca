"""bench/engine.py without an engine: a guide repeats its medians."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from engine import Row, repeat

GUIDE = """| Form | Median | What starts |
| rag.run in a session | 3.25 s | one process |
| resident | 36.0 ms | nothing |
| something else | 3.25 ms | nothing |

Printed by `make bench-engine` on 2020-01-01. Resident takes 36.0 ms in place of 3.25 s, and not 13.25 s.
"""


def test_a_guide_has_the_medians_of_the_benchmarks(tmp_path: Path) -> None:
    """In its table and in its sentences, with the day; other figures stay."""
    guide = tmp_path / "guide.md"
    guide.write_text(GUIDE)
    rows = [Row("resident", 1.0, [0.03, 0.0312, 0.04]), Row("rag.run in a session", 9.0, [2.0])]

    repeat([*rows, Row("a form that it does not have", 1.0, [1.0])], guide)

    assert guide.read_text() == (
        GUIDE.replace("36.0 ms", "31.2 ms")
        .replace(" 3.25 s", " 2.00 s")
        .replace("2020-01-01", str(date.today()))
    )
