"""Speed of the embedded pipeline beside its alternatives.

    python bench/speed.py [--quick] [--sizes 5000,20000] [--systems ours,script]

Every system runs in a process of its own, on the same documents (SciFact), the same questions,
the same embedding model file and the same number of threads, each question asked once (no cache
hit). Systems: `ours` (this project), `haystack` (Haystack's in-memory BM25 and embedding
retrievers, joined), `script` (bm25s, numpy and reciprocal rank fusion in thirty lines). Beyond
the 5,183 abstracts the growth table uses variations of them: the sentences of two abstracts
mixed, and the vector of the first with noise added. Ours keeps the vectors of sentences with each
passage, as in a user's store, and opens a store on disk, as a service does that starts; the others
hold their documents in memory. Own memory is without the pages of mapped files, which the system
takes back when it needs them. With `--sizes` or `--systems` only the search is measured and only
printed; everything else goes into `docs/benchmarks.md`, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import psutil
from data import DataMissing, scifact
from report import machine, write_section
from rich.console import Console
from rich.table import Table

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
SYSTEMS = ("ours", "haystack", "script")
CLIENTS = (1, 2, 4, 8, 16)
SIZES = (1_000, 5_000, 20_000, 100_000)
SEED = 7
RUNS = 3  # of the whole pipeline; shared machines are noisy
CACHE = Path(__file__).parent / ".cache" / "speed"
Find = Callable[[str], object]
Rows = tuple[str, list[str], list[list[object]]]  # a table: title, header, rows


# -- the corpus ---------------------------------------------------------------------------------


def corpus(size: int) -> tuple[list[tuple[str, str, str]], np.ndarray]:
    """Return `size` (id, title, text) and their vectors, size × 384, made once and kept."""
    documents = [(d.document_id, d.title, d.text) for d in scifact().documents]
    vectors = _vectors(documents)
    rng = random.Random(SEED)
    noise = np.random.default_rng(SEED)
    while len(documents) < size:
        at, other = rng.randrange(len(vectors)), rng.randrange(len(vectors))
        sentences = documents[at][2].split(". ")[::2] + documents[other][2].split(". ")[1::2]
        rng.shuffle(sentences)
        documents.append((f"mix-{len(documents)}", documents[at][1], ". ".join(sentences)))
    if size > len(vectors):
        picks = random.Random(SEED)
        rows = []
        for _ in range(size - len(vectors)):
            at, _other = picks.randrange(len(vectors)), picks.randrange(len(vectors))
            row = vectors[at] + noise.normal(0, 0.03, 384)
            rows.append(row / np.linalg.norm(row))
        vectors = np.vstack([vectors, np.asarray(rows, np.float32)])
    return documents[:size], vectors[:size]


def _vectors(documents: Sequence[tuple[str, str, str]]) -> np.ndarray:
    path = CACHE / "scifact.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"embedding {len(documents)} abstracts once, some minutes …", file=sys.stderr)
        np.save(path, _minilm().embed([f"{title} {text}" for _, title, text in documents]))
    return np.load(path)


def _minilm():
    from rag_retrieve import RetrieveSettings
    from rag_retrieve.index.embedders import open_embedder

    return open_embedder(RetrieveSettings())


class Known:
    """An embedder that has a vector for every passage at hand and computes those of questions.

    Which passage gets which vector does not matter for speed; it is the same in every run. A sentence
    gets the vector of its passage.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._real = _minilm()
        self._rows = vectors
        self.model, self.identity, self.dim = self._real.model, self._real.identity, 384
        self.embed_query = self._real.embed_query

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._rows[[zlib.crc32(text.encode()) % len(self._rows) for text in texts]]

    def embed_parts(
        self, texts: Sequence[str], parts: Sequence[Sequence[tuple[int, int]]]
    ) -> list[np.ndarray]:
        rows = self.embed(texts)
        return [np.tile(row, (1 + len(own), 1)) for row, own in zip(rows, parts, strict=True)]


# -- the systems: each builds a hybrid search over the corpus -------------------------------------


def store_settings(home: Path):
    from rag_retrieve import RetrieveSettings

    return RetrieveSettings(home=home, chunk_tokens=2048)  # one passage an abstract, as the others


def filled(size: int, home: Path, metadata: Callable[[int], dict] = lambda at: {}):
    """Return a retriever over `size` passages; `metadata` is that of each document by its number."""
    from rag_retrieve import LoadedDocument, Retriever

    documents, vectors = corpus(size)
    retriever = Retriever(store_settings(home), embedder=Known(vectors))
    retriever.ingest_documents(
        LoadedDocument(name, title, name, text, "text/plain", metadata=metadata(at))
        for at, (name, title, text) in enumerate(documents)
    )
    return retriever


def ours(size: int) -> Find:
    """Open the store that `filled` has left, as a service does that starts."""
    from rag_retrieve import Retriever, RetrieveRequest

    retriever = Retriever(store_settings(CACHE / f"store-{size}"))
    retriever.preload()

    def find(query: str) -> object:
        return retriever.retrieve(RetrieveRequest(query=query, top_k=10)).results

    return find


def haystack_store(documents: Sequence[tuple[str, str, str]], vectors: np.ndarray):
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    store.write_documents(
        [
            Document(id=name, content=f"{title} {text}", embedding=vector.tolist())
            for (name, title, text), vector in zip(documents, vectors, strict=True)
        ]
    )
    return store


def script_index(documents: Sequence[tuple[str, str, str]]):
    import bm25s

    index = bm25s.BM25()
    texts = [f"{title} {text}" for _, title, text in documents]
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    return index


def haystack(size: int) -> Find:
    from haystack import Pipeline, component
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers.in_memory import (
        InMemoryBM25Retriever,
        InMemoryEmbeddingRetriever,
    )

    documents, vectors = corpus(size)
    model = _minilm()

    @component
    class Embedder:
        @component.output_types(embedding=list[float])
        def run(self, text: str) -> dict:
            return {"embedding": model._embed_one(text).tolist()}

    store = haystack_store(documents, vectors)
    pipeline = Pipeline()
    pipeline.add_component("embedder", Embedder())
    pipeline.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=100))
    pipeline.add_component("sparse", InMemoryBM25Retriever(store, top_k=100))
    pipeline.add_component("join", DocumentJoiner("reciprocal_rank_fusion", top_k=10))
    pipeline.connect("embedder.embedding", "dense.query_embedding")
    pipeline.connect("dense", "join")
    pipeline.connect("sparse", "join")

    def find(query: str) -> object:
        return pipeline.run({"embedder": {"text": query}, "sparse": {"query": query}})

    return find


def script(size: int) -> Find:
    import bm25s

    documents, vectors = corpus(size)
    model = _minilm()
    index = script_index(documents)

    def find(query: str) -> object:
        scores = vectors @ model._embed_one(query)
        dense = np.argpartition(-scores, 100)[:100]
        dense = dense[np.argsort(-scores[dense])]
        tokens = bm25s.tokenize(query, show_progress=False)
        sparse = index.retrieve(tokens, k=100, show_progress=False)[0][0]
        fused: dict[int, float] = {}
        for leg in (dense, sparse):
            for rank, at in enumerate(leg, start=1):
                fused[int(at)] = fused.get(int(at), 0.0) + 1 / (60 + rank)
        return [documents[at] for at in sorted(fused, key=lambda at: -fused[at])[:10]]

    return find


# -- measuring ------------------------------------------------------------------------------------


def queries() -> list[str]:
    texts = list(scifact().queries.values())
    random.Random(SEED).shuffle(texts)
    return texts


def percentiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        f"p{p}": round(ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] * 1000, 2)
        for p in (50, 95, 99)
    }


def timed(find: Find, texts: Sequence[str]) -> list[float]:
    """Time each question in turn; a slow system is stopped after 60 s and at least 20 questions."""
    times: list[float] = []
    for text in texts:
        if is_slow(times):
            break
        times.append(seconds(find, text))
    return times


def timed_beside(find: Find, other: Find, texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Time two functions by turns, so that what else the machine does concerns both alike."""
    times: list[float] = []
    others: list[float] = []
    for text in texts:
        if is_slow(times):
            break
        times.append(seconds(find, text))
        others.append(seconds(other, text))
    return times, others


def is_slow(times: Sequence[float]) -> bool:
    return len(times) >= 20 and sum(times) > 60


def seconds(find: Find, text: str) -> float:
    start = time.perf_counter()
    find(text)
    return time.perf_counter() - start


def throughput(find: Find, texts: Sequence[str], clients: int) -> float:
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(find, texts[:clients]))
        start = time.perf_counter()
        list(pool.map(find, texts[clients:]))
        return (len(texts) - clients) / (time.perf_counter() - start)


def rss_mb() -> float:
    return round(psutil.Process().memory_info().rss / 1e6, 0)


def own_mb() -> float:
    """Return the resident memory without the pages of mapped files, which the system takes back (Linux)."""
    memory = psutil.Process().memory_info()
    return round((memory.rss - memory.shared) / 1e6, 0)


def measure_search(system: str, size: int, *, clients: Sequence[int]) -> dict:
    """Open a system over `size` passages and time its search; runs in a process of its own."""
    start = time.perf_counter()
    find = {"ours": ours, "haystack": haystack, "script": script}[system](size)
    ready = time.perf_counter() - start
    texts = queries()
    timed(find, texts[:20])
    times, embedding = timed_beside(find, _minilm()._embed_one, texts[20:220])
    found = {"ready_s": round(ready, 1), **percentiles(times)}
    found["embedding_p50"] = percentiles(embedding)["p50"]
    fresh = texts[220:] + [f"{text} ?" for text in texts]
    for at, count in enumerate(clients):
        part = fresh[at * 70 : at * 70 + 70 + count]
        found[f"rps_{count}"] = round(throughput(find, part, count), 1)
    found |= {"rss_mb": rss_mb(), "own_mb": own_mb()}
    return found


def beside_embedding(found: dict) -> float:
    """Return the milliseconds of a question that are not its embedding's, from both medians."""
    return round(found["p50"] - found["embedding_p50"], 2)


FILTERS = {
    "none": None,
    "one of 50 departments": {"department": "d7"},
    "all but one": {"department": {"$ne": "d7"}},
    "years from 2020": {"year": {"$gte": 2020}},
    "access list": {
        "$or": [{"allowed_groups": {"$exists": False}}, {"allowed_groups": {"$in": ["g1"]}}]
    },
    "a field without an index": {"note": {"$exists": True}},
}


def measure_filters(size: int) -> dict:
    """Time the same questions with each of FILTERS."""
    from rag_retrieve import RetrieveRequest

    def metadata(at: int) -> dict:
        allowed = {} if at % 3 else {"allowed_groups": [f"g{at % 5}"]}
        return {"department": f"d{at % 50}", "year": 2000 + at % 25, "note": "x" * 300, **allowed}

    retriever = filled(size, CACHE / f"store-{size}-metadata", metadata)
    found = {}
    for text in queries()[:120]:
        retriever.retrieve(
            RetrieveRequest(query=text, top_k=10)
        )  # embeds them, once for all filters
    for name, filters in FILTERS.items():

        def find(query: str, filters: dict | None = filters) -> object:
            return retriever.retrieve(
                RetrieveRequest(query=query, top_k=10, filters=filters)
            ).results

        timed(find, queries()[:20])
        found[name] = percentiles(timed(find, queries()[20:120]))
    return found


def measure_answers() -> dict:
    """Time question to verified answer, the whole pipeline, over the 5,183 abstracts."""
    from rag_pipeline.steps.local import open_local
    from rag_retrieve import LoadedDocument, Retriever, RetrieveSettings

    documents, vectors = corpus(5_183)
    home = CACHE / "store-answers"
    with Retriever(RetrieveSettings(home=home), embedder=Known(vectors)) as retriever:
        retriever.ingest_documents(
            LoadedDocument(name, title, name, text, "text/plain") for name, title, text in documents
        )
    texts = queries()
    with open_local(home=home, preload=True) as pipeline:
        loads = pipeline.retriever.counters.model_loads

        def ask(text: str) -> dict:
            return pipeline.answer({"query": text})

        timed(ask, texts[:20])
        steps: dict[str, list[float]] = {}
        times = []
        for text in texts[20:220]:
            start = time.perf_counter()
            answer = ask(text)
            times.append(time.perf_counter() - start)
            for step, value in answer["timings_ms"].items():
                steps.setdefault(step, []).append(value)
        found = {**percentiles(times), "loads": pipeline.retriever.counters.model_loads - loads}
        found["steps"] = {
            step: round(statistics.median(values), 2) for step, values in steps.items()
        }
        fresh = texts[220:] + [f"{text} ?" for text in texts]
        for at, count in enumerate(CLIENTS):
            part = fresh[at * 70 : at * 70 + 70 + count]
            found[f"rps_{count}"] = round(throughput(ask, part, count), 1)
        found["rss_mb"] = rss_mb()
    return found


def measure_ingest(system: str, count: int = 200) -> dict:
    """Time ingest of real abstracts with the real model; ours also the same ones unchanged.

    Ours cuts an abstract into passages (about two) and is durable on disk; the others embed its
    first 256 tokens once and keep it in memory.
    """
    documents = [(d.document_id, d.title, d.text) for d in scifact().documents[:count]]
    if system == "ours":
        return _ingest_ours(count)
    model = _minilm()
    start = time.perf_counter()
    vectors = model.embed([f"{title} {text}" for _, title, text in documents])
    kept = haystack_store(documents, vectors) if system == "haystack" else script_index(documents)
    seconds = time.perf_counter() - start
    assert kept is not None
    return {
        "documents_per_s": round(count / seconds, 1),
        "passages_per_s": round(count / seconds, 1),
    }


def _ingest_ours(count: int) -> dict:
    from rag_retrieve import Retriever, RetrieveSettings

    documents = scifact().documents[:count]
    with tempfile.TemporaryDirectory() as home, Retriever(RetrieveSettings(home=Path(home))) as r:
        start = time.perf_counter()
        report = r.ingest_documents(documents)
        fresh = time.perf_counter() - start
        start = time.perf_counter()
        again = r.ingest_documents(documents)
        same = time.perf_counter() - start
    return {
        "documents_per_s": round(count / fresh, 1),
        "passages_per_s": round(report.chunks / fresh, 1),
        "unchanged_per_s": round(count / same, 0),
        "unchanged_embeddings": again.embeddings,
        "rss_mb": rss_mb(),
    }


def measure_sample() -> dict:
    """Memory of the local pipeline over this project's own documents."""
    from rag_pipeline.steps.local import open_local

    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as home, open_local(home=Path(home)) as pipeline:
        pipeline.retriever.ingest([root / "docs", root / "README.md"])
        start = time.perf_counter()
        answer = pipeline.answer({"query": "Where does data live?"})
        return {
            "rss_mb": rss_mb(),
            "first_answer_ms": round((time.perf_counter() - start) * 1000, 1),
            "answerable": answer["answerable"],
        }


# -- the report -----------------------------------------------------------------------------------


def child(*arguments: str) -> dict:
    """Run one measurement in a fresh process and return what it found."""
    start = time.perf_counter()
    print(" ".join(filter(None, arguments)), end=" … ", file=sys.stderr, flush=True)
    run = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], check=True, stdout=subprocess.PIPE
    )
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return json.loads(run.stdout)


def middle(runs: Sequence[dict]) -> dict:
    """Return the median of each figure over some runs, down to nested ones."""
    return {
        name: middle([run[name] for run in runs])
        if isinstance(value, dict)
        else round(statistics.median(run[name] for run in runs), 2)
        for name, value in runs[0].items()
    }


def run_child(arguments: Sequence[str]) -> dict:
    match arguments:
        case ["fill", size]:
            filled(int(size), CACHE / f"store-{size}").close()
            return {}
        case ["search", system, size, clients]:
            counts = [int(count) for count in clients.split(",") if count]
            return measure_search(system, int(size), clients=counts)
        case ["filters", size]:
            return measure_filters(int(size))
        case ["answers"]:
            return measure_answers()
        case ["ingest", system]:
            return measure_ingest(system)
        case ["sample"]:
            return measure_sample()
    raise SystemExit(f"unknown measurement {arguments}")


def measured_search(
    sizes: Sequence[int], systems: Sequence[str], clients: str = ""
) -> dict[int, dict[str, dict]]:
    """Measure the search of each size by each system, one after the other."""
    if "ours" in systems:
        for size in sizes:
            child("fill", str(size))
    return {
        size: {one: child("search", one, str(size), clients) for one in systems} for size in sizes
    }


def throughput_table(base: dict[str, dict]) -> Rows:
    """Tell of one size what several clients get, beside ours."""
    ours = base["ours"]
    return (
        "Hybrid search over 5,000 passages, 10 results (ratio: ours = 1)",
        ["system", "p50 ms", "p95 ms", "p99 ms", *(f"{c} clients, 1/s" for c in CLIENTS),
         "RSS MB", "of it own MB", "p50 ratio", "16 clients ratio"],
        [[s, r["p50"], r["p95"], r["p99"], *(r[f"rps_{c}"] for c in CLIENTS), r["rss_mb"], r["own_mb"],
          f"{r['p50'] / ours['p50']:.2f}", f"{r['rps_16'] / ours['rps_16']:.2f}"]
         for s, r in base.items()],
    )  # fmt: skip


def growth_table(grown: dict[int, dict[str, dict]]) -> Rows:
    """Tell what a question costs by size and system, and how much of it is not its embedding."""
    return (
        "Hybrid search as the collection grows; a question is embedded and searched, and ours does "
        "both at once (ratio of p50: ours = 1)",
        ["passages", "system", "p50 ms", "p95 ms", "embedding ms", "rest ms",
         "ratio", "ready in s", "RSS MB", "of it own MB"],
        [[f"{size:,}", system, r["p50"], r["p95"], r["embedding_p50"], beside_embedding(r),
          f"{r['p50'] / found['ours']['p50']:.2f}" if "ours" in found else "", r["ready_s"],
          r["rss_mb"], r["own_mb"]]
         for size, found in grown.items() for system, r in found.items()],
    )  # fmt: skip


def tables(quick: bool) -> list[Rows]:
    """Measure everything."""
    sizes = SIZES[:2] if quick else SIZES
    counts = ",".join(map(str, CLIENTS))
    answers, sample = middle([child("answers") for _ in range(RUNS)]), child("sample")
    filters = child("filters", "20000")
    ingests = {system: child("ingest", system) for system in SYSTEMS}
    ingest = ingests["ours"]
    base = measured_search([5_000], SYSTEMS, counts)[5_000]
    rest = measured_search([size for size in sizes if size != 5_000], SYSTEMS)
    grown = {size: rest.get(size, base) for size in sizes}
    result: list[Rows] = [
        (
            f"Question to verified answer, local, extractive, warm, 5,183 abstracts, median of {RUNS} runs",
            ["p50 ms", "p95 ms", "p99 ms", *(f"{c} clients, 1/s" for c in CLIENTS), "RSS MB", "loads"],
            [[answers["p50"], answers["p95"], answers["p99"],
              *(answers[f"rps_{c}"] for c in CLIENTS), answers["rss_mb"], answers["loads"]]],
        ),
        ("Milliseconds by step, median", list(answers["steps"]), [list(answers["steps"].values())]),
        (
            "Ingest of 200 abstracts with the real model (ratio: ours = 1)",
            ["system", "documents/s", "passages/s", "passages ratio"],
            [[s, r["documents_per_s"], r["passages_per_s"],
              f"{r['passages_per_s'] / ingest['passages_per_s']:.2f}"] for s, r in ingests.items()],
        ),
        (
            "Ingest of unchanged documents, and memory",
            ["unchanged documents/s", "embeddings when unchanged", "RSS after ingest MB",
             "RSS sample corpus MB"],
            [[ingest["unchanged_per_s"], ingest["unchanged_embeddings"], ingest["rss_mb"],
              sample["rss_mb"]]],
        ),
        throughput_table(base),
        growth_table(grown),
        (
            "Hybrid search with a filter, 20,000 passages; the questions were embedded before",
            ["filter", "p50 ms", "p95 ms"],
            [[name, r["p50"], r["p95"]] for name, r in filters.items()],
        ),
    ]  # fmt: skip
    return result


def numbers(text: str) -> list[int]:
    found = text.split(",")
    if not all(part.isdecimal() and int(part) > 100 for part in found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers over 100, the passages that each leg finds"
        )
    return [int(part) for part in found]


def names(text: str) -> list[str]:
    found = text.split(",")
    if not set(found) <= set(SYSTEMS):
        raise argparse.ArgumentTypeError(f"{text!r} is not among {', '.join(SYSTEMS)}")
    return found


def show(measured: Sequence[Rows]) -> None:
    console = Console()
    for title, header, rows in measured:
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*map(str, row))
        console.print(table)


def markdown(measured: Sequence[Rows]) -> str:
    lines = [f"Measured {date.today()} on {machine()}, Python {platform.python_version()}."]
    for title, header, rows in measured:
        lines += ["", f"**{title}**", ""]
        lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="only the small collections")
    parser.add_argument(
        "--sizes", type=numbers, help="only search, of so many passages, such as 5000,20000"
    )
    parser.add_argument("--systems", type=names, help=f"only search, of these: {','.join(SYSTEMS)}")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_child(options.child)))
        return
    try:
        scifact()
    except DataMissing as error:
        raise SystemExit(f"bench-speed: {error}") from None
    if options.sizes or options.systems:
        sizes = options.sizes or (SIZES[:2] if options.quick else SIZES)
        show([growth_table(measured_search(sizes, options.systems or SYSTEMS))])
        return
    measured = tables(options.quick)
    show(measured)
    write_section("speed", markdown(measured))


if __name__ == "__main__":
    main()
