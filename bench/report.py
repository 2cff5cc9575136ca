"""What the benchmarks share: the machine they ran on, and their section of a document."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def machine() -> str:
    """Return processor, cores and memory in a few words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}"


def tell(text: str) -> None:
    """Tell on standard error how far a long measurement is."""
    print(text, file=sys.stderr, flush=True)


def write_section(name: str, text: str, path: Path = DOCUMENT) -> None:
    """Replace what stands between `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    document = path.read_text(encoding="utf-8")
    head, _, rest = document.partition(begin)
    if not rest:
        raise SystemExit(f"{path} has no line {begin}")
    tail = rest.partition(end)[2]
    path.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")
