"""Fuzz what is sent to an engine with atheris, ten minutes: `make fuzz`, `make fuzz SECONDS=60`.

atheris is for Linux and CPython 3.11 to 3.13, and is not part of the environment: `make` adds it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = ("tests/doubles", "dagger/generate/tests", "dagger/rag/tests", "tests/faults")
sys.path[:0] = [str(ROOT / each) for each in DOUBLES]
SECONDS = "-max_total_time=600"


def main() -> None:
    """Fuzz until the time is over; a crash is written to a file and said."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; run this by: make fuzz")
    with atheris.instrument_imports(include=["rag_service", "rag_pipeline"]):
        from graphql_wire import QUERIES, Wire

    wires = [Wire(name).__enter__() for name in QUERIES]  # atheris ends the process itself

    def check(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        wire = wires[given.ConsumeIntInRange(0, len(wires) - 1)]
        wire.check(given.ConsumeUnicode(9000))

    given = ["-max_len=4096", "-len_control=0", *sys.argv[1:]]
    timed = any(each.startswith(("-max_total_time", "-runs")) for each in given)
    atheris.Setup([sys.argv[0], *given, *([] if timed else [SECONDS])], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
