"""Bulk ingest by one process and by several on Ray: passages a second, and what they cost.

    RAG_QDRANT_URL=http://127.0.0.1:6333 python bench/bulk.py [--workers 1,2] [--passages 1500]

Generated notes go into a collection of its own on the Qdrant server, which is deleted afterwards. One
worker is this process with one thread, without Ray; Ray starts before the clock and loads the model in
its workers after it. Processor seconds are those of this process and of all of Ray's; Qdrant's are not
counted. The load is that of the machine when a run ends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil
from ingest import text
from report import machine

from rag_retrieve import Retriever, RetrieveSettings

COLLECTION = "bench-bulk"
NOTE_BYTES = 900  # one or two passages


def processor_seconds() -> float:
    """Return the processor time of this process and of all below it that live."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def run(folder: Path, workers: int) -> tuple[int, float, float]:
    """Return passages, seconds and processor seconds of one ingest."""
    settings = RetrieveSettings(store="qdrant", threads=1, qdrant_timeout_s=60)
    with Retriever(settings) as retriever:
        before, started = processor_seconds(), time.perf_counter()
        report = retriever.ingest([folder], collection=COLLECTION, workers=workers)
        seconds, used = time.perf_counter() - started, processor_seconds() - before
        retriever.delete_collection(COLLECTION)
    return report.chunks, seconds, used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--passages", type=int, default=1500, help="about so many")
    options = parser.parse_args()
    counts = [int(one) for one in options.workers.split(",")]
    if max(counts) > 1:
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(num_cpus=max(counts), include_dashboard=False, log_to_driver=False)
    print(f"{machine()}\n")
    print(
        "| workers | passages | s | passages/s | processor s | ms of a processor a passage | load |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "notes")
        folder.mkdir()
        for number in range(options.passages // 2):
            (folder / f"{number}.md").write_text(text(NOTE_BYTES, number))
        for workers in counts:
            passages, seconds, used = run(folder, workers)
            print(
                f"| {workers} | {passages} | {seconds:.0f} | {passages / seconds:.1f} | {used:.0f} "
                f"| {1000 * used / passages:.1f} | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
