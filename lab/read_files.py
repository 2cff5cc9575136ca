"""Read every file of a folder as an ingest would, each in a process of its own, and print what happened.

    python lab/read_files.py FOLDER [--seconds 60] [--mib 2048] [--names]

Two tables in Markdown: files by ending (read, read with a warning, refused), and the reasons of refusals.
A process that dies, or takes more time or memory than allowed, is a crash; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from rag_kit.errors import StepError
from rag_retrieve.documents import MAX_DOCUMENT_BYTES, SUPPORTED_SUFFIXES, load

SECONDS = 60.0  # of one file
MIB = 2048  # of memory of one file's process
FORK = multiprocessing.get_context("fork")
KINDS = ("read", "warned", "refused", "crashed")


class Outcome(NamedTuple):
    """What became of one file: one of `KINDS`, and why it was refused or crashed."""

    kind: str
    reason: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of a folder; returns 1 where a file crashed its reader."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default: %(default)s")
    parser.add_argument("--mib", type=int, default=MIB, help="of memory; default: %(default)s")
    parser.add_argument("--names", action="store_true", help="name what was refused, on stderr")
    options = parser.parse_args(arguments)
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for path in files_of(options.folder):
        outcome = read(path, seconds=options.seconds, mib=options.mib)
        counts[path.suffix.lower(), outcome.kind] += 1
        if outcome.reason:
            reasons[path.suffix.lower(), plain(outcome.reason)] += 1
        if outcome.reason and (options.names or outcome.kind == "crashed"):
            print(f"{path}: {outcome.kind}: {outcome.reason}", file=sys.stderr)
    print("\n".join(tables(counts, reasons)))
    return 1 if any(kind == "crashed" for _, kind in counts) else 0


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files whose ending is read, by name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in SUPPORTED_SUFFIXES:
            yield path


def read(path: Path, *, seconds: float = SECONDS, mib: int = MIB) -> Outcome:
    """Read one file in a process of its own."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_read, args=(path, mib, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Outcome("crashed", f"it took more than {seconds:g} s")
        return Outcome(*receiver.recv())
    except EOFError:
        process.join()
        return Outcome("crashed", f"its process died with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _read(path: Path, mib: int, sender: Connection) -> None:
    limit = _address_space() + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise StepError("document_unreadable", "too large")
        documents = load(path.name, path.read_bytes())
        warned = any(document.warnings for document in documents)
        sender.send(("warned" if warned else "read", ""))
    except StepError as error:
        sender.send(("refused", error.message))
    except BaseException as error:
        sender.send(("crashed", f"{type(error).__name__}: {error}"))


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def plain(reason: str) -> str:
    """Return a reason without the file's name and numbers, and without the way out."""
    reason = re.sub(r"^cannot read (?:'.*?'|\".*?\"): ", "", reason)
    return re.sub(r"\d+", "N", re.split(r"[;(]", reason)[0]).strip()


def tables(counts: Counter[tuple[str, str]], reasons: Counter[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of both tables."""
    yield "| Ending | Files | Read | Read with a warning | Refused | Crashed |"
    yield "|---|---|---|---|---|---|"
    for ending in sorted({ending for ending, _ in counts}):
        row = [counts[ending, kind] for kind in KINDS]
        yield f"| `{ending}` | {sum(row)} | {' | '.join(map(str, row))} |"
    total = [sum(n for (_, one), n in counts.items() if one == kind) for kind in KINDS]
    yield f"| all | {sum(total)} | {' | '.join(map(str, total))} |"
    yield ""
    yield "| Refused | Files | Why |"
    yield "|---|---|---|"
    for (ending, reason), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"| `{ending}` | {count} | {reason} |"


if __name__ == "__main__":
    sys.exit(main())
