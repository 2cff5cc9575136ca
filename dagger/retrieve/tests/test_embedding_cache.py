"""A store built anew embeds only what was never embedded before, and the command that builds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rag_retrieve import Retriever, RetrieveRequest, RetrieveSettings
from rag_retrieve.index.cache import EmbeddingCache, Vectors


class LengthEmbedder:
    """A double with visible arithmetic: a text's vector is its length and its count of e."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Any) -> Vectors:
        self.asked += texts
        return np.array([[len(text), text.count("e")] for text in texts], np.float32)


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    return folder


def test_only_new_texts_are_embedded(tmp_path: Path) -> None:
    """Known texts come from the folder, new ones from the model, in the order asked."""
    embed = LengthEmbedder()
    cache = EmbeddingCache(tmp_path, identity="length", dim=2)

    first, computed = cache.fill(["one", "three"], embed)
    second, again = cache.fill(["three", "seven", "one"], embed)

    assert first.tolist() == [[3, 1], [5, 2]]
    assert second.tolist() == [[5, 2], [5, 2], [3, 1]]
    assert (computed, again) == (2, 1)
    assert embed.asked == ["one", "three", "seven"]


def test_another_model_does_not_meet_the_vectors(tmp_path: Path) -> None:
    """The identity of the embedder is part of the key."""
    EmbeddingCache(tmp_path, identity="length", dim=2).fill(["one"], LengthEmbedder())

    _, computed = EmbeddingCache(tmp_path, identity="other", dim=2).fill(["one"], LengthEmbedder())

    assert computed == 1


def test_a_torn_file_is_computed_again(tmp_path: Path) -> None:
    """A file that does not hold one vector counts as none, and is written anew."""
    cache = EmbeddingCache(tmp_path, identity="length", dim=2)
    cache.fill(["one"], LengthEmbedder())
    (torn,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    torn.write_bytes(torn.read_bytes()[:5])

    vectors, computed = cache.fill(["one"], LengthEmbedder())

    assert (vectors.tolist(), computed) == ([[3, 1]], 1)
    assert cache.fill(["one"], LengthEmbedder())[1] == 0


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    """Nothing to embed is an empty matrix of the right width."""
    vectors, computed = EmbeddingCache(tmp_path, identity="x", dim=2).fill([], LengthEmbedder())

    assert (vectors.shape, computed) == ((0, 2), 0)


def test_a_store_built_anew_with_one_changed_file_embeds_that_file(tmp_path: Path) -> None:
    """With the cache, a new home costs one embedding per new text and answers the same."""
    docs = write(tmp_path / "docs", mars="Mars has two moons.", venus="Venus has no moon.")
    settings = {"embedding_cache": tmp_path / "cache"}
    with Retriever.open(RetrieveSettings(home=tmp_path / "one", **settings)) as retriever:
        assert retriever.ingest([docs]).embeddings == 2
        before = retriever.retrieve(RetrieveRequest(query="How many moons has Mars?"))
    write(docs, venus="Venus has no moon at all.")

    with Retriever.open(RetrieveSettings(home=tmp_path / "two", **settings)) as retriever:
        report = retriever.ingest([docs])
        after = retriever.retrieve(RetrieveRequest(query="How many moons has Mars?"))

    assert (report.embeddings, len(report.added)) == (1, 2)
    assert before.results[0].chunk_id == after.results[0].chunk_id
    assert before.results[0].scores["dense"] == after.results[0].scores["dense"]


def index(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    return subprocess.run(
        [sys.executable, "-m", "rag_retrieve", "index", *arguments],
        cwd=tmp_path,
        env={**env, "RAG_HOME": str(tmp_path / "home")},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_index_command_prints_and_writes_its_report(tmp_path: Path) -> None:
    """`python -m rag_retrieve index` reports what it did, on standard output and in a file."""
    write(tmp_path / "docs", mars="Mars has two moons.")

    ran = index(tmp_path, "docs", "--collection", "sky", "--report", "report.json")

    report = json.loads(ran.stdout)
    assert (ran.returncode, report["added"]) == (0, ["docs/mars.md"])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "1/1 docs/mars.md" in ran.stderr


def test_the_index_command_names_what_it_cannot_read(tmp_path: Path) -> None:
    """A broken document is named with its reason, the others are indexed, the exit code is 1."""
    write(tmp_path / "docs", mars="Mars has two moons.")
    (tmp_path / "docs/broken.pdf").write_bytes(b"not a pdf")

    ran = index(tmp_path, "docs")

    assert ran.returncode == 1
    assert "docs/broken.pdf: document_unreadable" in ran.stderr
    assert json.loads(ran.stdout)["added"] == ["docs/mars.md"]


def test_the_index_command_says_what_is_missing(tmp_path: Path) -> None:
    """A folder that is not there is an error of one line with its name, not a traceback."""
    ran = index(tmp_path, "nowhere")

    assert ran.returncode == 1
    assert json.loads(ran.stdout)["error"]["param"] == "paths"
    assert ran.stderr.strip().endswith("there is no file or folder 'nowhere'")
    assert "Traceback" not in ran.stderr
