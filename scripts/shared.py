"""Keep what steps share the same in every one of them: steps never import each other.

`python scripts/shared.py` copies the files from rag_retrieve, `--check` only reports copies that differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORIGINAL = ROOT / "dagger/retrieve/src/rag_retrieve"
COPIES = [
    ROOT / "dagger/augment/src/rag_augment",
    ROOT / "dagger/generate/src/rag_generate",
    ROOT / "dagger/rag/src/rag_pipeline",
]
FILES = ["errors.py", "image.py", "serving.py", "shapes.py"]
# What only the steps with dependencies of their own have.
CALLING = ["background.py", "breaker.py"]
CALLER = ROOT / "dagger/generate/src/rag_generate"
# A server in an environment of its own, which is no module.
SUPERLINKED = ROOT / "dagger/retrieve/superlinked/src/rag_superlinked"


def differing() -> list[tuple[Path, Path]]:
    """Return (original, copy) for each copy that is missing or not equal to the original."""
    pairs = [(ORIGINAL / name, package / name) for package in COPIES for name in FILES]
    pairs += [(ORIGINAL / name, CALLER / name) for name in CALLING]
    pairs += [(ORIGINAL / name, SUPERLINKED / name) for name in ("errors.py", "shapes.py")]
    return [
        (original, copy)
        for original, copy in pairs
        if not copy.exists() or copy.read_bytes() != original.read_bytes()
    ]


def main(arguments: list[str]) -> int:
    """Copy, or with `--check` report; returns the exit code."""
    check = arguments == ["--check"]
    if arguments and not check:
        print("usage: python scripts/shared.py [--check]", file=sys.stderr)
        return 2
    pairs = differing()
    for original, copy in pairs:
        name = copy.relative_to(ROOT)
        if check:
            print(
                f"{name} differs from {original.relative_to(ROOT)}; run: make sync", file=sys.stderr
            )
        else:
            copy.write_bytes(original.read_bytes())
            print(f"{name} written")
    if check and not pairs:
        print("shared files: the same in every step")
    return 1 if check and pairs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
