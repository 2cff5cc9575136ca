"""Peak memory of an ingest of one large file, in a process of its own.

    python lab/ingest_memory.py [--mb 100] [--kinds jsonl,csv,txt,parquet] [--to read|passages|store]

The file is generated: records of about 1 kB, or lines. It is read; read and cut into passages; or also
embedded by counted words (a double of a model) and written into the configured store. Prints MB, documents,
passages, seconds of the processor and the peak of resident memory, beside that of a file of 1 MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "dagger/retrieve/tests")]
WORDS_PER_RECORD = 150


def texts(size: int) -> Iterator[str]:
    """Yield texts of words of docs/ until they have this many bytes."""
    from ingest import WORDS

    chance = random.Random(7)
    while size > 0:
        text = " ".join(chance.choices(WORDS, k=WORDS_PER_RECORD)).replace('"', "")
        size -= len(text.encode()) + 1
        yield text


def write_file(path: Path, size: int) -> None:
    """Write a file of about `size` bytes by the ending of its name."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows = list(texts(size))  # in one row group, as pyarrow writes up to a million rows
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), path)
        return
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("number,text\n")
        for number, text in enumerate(texts(size)):
            line = {
                ".jsonl": json.dumps({"id": number, "text": text}),
                ".csv": f'{number},"{text}"',
                ".txt": f"{text}\n",
            }[path.suffix]
            file.write(f"{line}\n")


def read(path: Path, to: str, found: Any) -> None:
    """Ingest a file and put what it took into the queue."""
    from crash_kit import HashedWords

    from rag_kit.reports import Counters
    from rag_retrieve import Retriever, RetrieveSettings
    from rag_retrieve.documents import load_file
    from rag_retrieve.index.analyzer import Analyzer
    from rag_retrieve.index.embedders import load_tokenizer, tokenizer_path
    from rag_retrieve.index.ingest import commits
    from rag_retrieve.index.manifest import Recipe

    settings = RetrieveSettings()
    if to == "store":
        with Retriever(settings, embedder=HashedWords()) as retriever:
            report = retriever.ingest([path], collection="ingest-memory")
            documents, passages = len(report.added), report.chunks
            retriever.delete_collection("ingest-memory")
    else:
        tokenizer = load_tokenizer(tokenizer_path())
        recipe = Recipe.of(settings, HashedWords())

        def count(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False).ids)

        analyzer = Analyzer(recipe, HashedWords(), count, Counters())
        documents = passages = 0
        for batch in commits(load_file(path.name, path).documents):
            documents += len(batch)
            if to == "passages":
                passages += sum(len(analyzer.cut(document)) for document in batch)
    found.put((documents, passages, time.process_time(), peak_mib()))


def peak_mib() -> float:
    """Return the peak of this process's resident memory; that of `getrusage` includes its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(path: Path, to: str) -> tuple[int, int, float, float]:
    """Return documents, passages, seconds of the processor and the peak in MiB, of a fresh process."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=read, args=(path, to, found))
    process.start()
    result: tuple[int, int, float, float] = found.get()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=100, help="size of the file")
    parser.add_argument("--kinds", default="jsonl,csv,txt", help="endings")
    parser.add_argument("--to", choices=("read", "passages", "store"), default="passages")
    options = parser.parse_args()
    print(
        "| file | MB | documents | passages | processor s | peak MiB |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds.split(","):
            for mb in (1, options.mb):
                path = Path(folder, f"file{mb}.{kind}")
                write_file(path, mb * 10**6)
                documents, passages, seconds, peak = measured(path, options.to)
                cells = (f".{kind}", mb, documents, passages, f"{seconds:.0f}", f"{peak:.0f}")
                print("|", " | ".join(map(str, cells)), "|", flush=True)
                path.unlink()


if __name__ == "__main__":
    main()
