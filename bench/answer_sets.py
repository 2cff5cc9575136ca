"""Questions the answer scorer is fitted on, with the sentences that answer them.

Read from $RAG_DATA/reader_train (each set's SOURCE.txt says where it comes from). A question equal to one of
CLAP NQ, and a document that shares 13 words in a row with a passage of CLAP NQ, are left out: the scorer is
tested there.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import clapnq, data_root

from rag_retrieve import LoadedDocument

SHINGLE = 13  # words in a row that two texts may not share
DRAWN = 350  # questions of each set


@dataclass(frozen=True)
class Labelled:
    """A question, its document, and the spans that answer it there, in characters."""

    text: str
    document_id: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LabelledSet:
    """Documents and labelled questions of one source."""

    name: str
    documents: list[LoadedDocument]
    questions: list[Labelled]


def training_sets(seed: int = 11) -> list[LabelledSet]:
    """Return SelQA, NQ and FairytaleQA, `DRAWN` questions of each, without leaks."""
    root = data_root("clapnq_dev") / "reader_train"
    sets = {"selqa": _selqa(root), "nq": _nq(root), "fairytale": _fairytale(root)}
    tested = clapnq()
    asked = {question.text.lower().strip("? ") for question in tested.questions}
    seen = {part for one in tested.retrieval.documents for part in _shingles(one.text)}
    drawn = []
    for name, rows in sets.items():
        kept = [
            (question, spans, title, text)
            for question, spans, title, text in rows
            if spans and question.lower().strip("? ") not in asked and not _shingles(text) & seen
        ]
        rng = random.Random(seed)
        drawn.append(_labelled(name, rng.sample(kept, min(DRAWN, len(kept)))))
    return drawn


_Row = tuple[str, list[tuple[int, int]], str, str]  # question, spans, title, text


def _labelled(name: str, rows: list[_Row]) -> LabelledSet:
    documents: dict[str, LoadedDocument] = {}
    questions = []
    for question, spans, title, text in rows:
        key = f"{name}{len(documents)}"
        document = documents.setdefault(
            text,
            LoadedDocument(key, title, key, text, "text/plain", metadata={"set_id": key}),
        )
        questions.append(Labelled(question, document.document_id, tuple(spans)))
    return LabelledSet(name, list(documents.values()), questions)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}


def _selqa(root: Path) -> Iterator[_Row]:
    for part in ("dev", "test"):
        path = root / "selqa" / f"selqa-ass-{part}.json.xz"
        with lzma.open(path, "rt", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = json.load(file)
        for row in rows:
            text, spans = "", []
            for at, sentence in enumerate(row["candidates"]):
                text += " " if text else ""
                if at in row["answers"]:
                    spans.append((len(text), len(text) + len(sentence)))
                text += sentence
            yield row["question"], spans, f"{row['article']}: {row['section']}", text


def _nq(root: Path) -> Iterator[_Row]:
    path = root / "nq_oracle" / "nq-open-oracle.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            gold = row["nq_annotated_gold"]
            text = re.sub(r"\s+", " ", gold["long_answer"]).strip()
            places = (text.find(answer) for answer in gold["short_answers"])
            spans = [(at, at + 1) for at in places if at >= 0]
            yield row["question"], spans, gold["title"], text


def _fairytale(root: Path) -> Iterator[_Row]:
    with tarfile.open(root / "fairytaleqa" / "fairytaleqa.tar.xz") as archive:
        files = {name: archive.extractfile(name) for name in archive.getnames()}
        tables = {
            name: list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))
            for name, file in files.items()
            if file and name.endswith(".csv")
        }
    for name, rows in tables.items():
        if "questions" not in Path(name).parts or not name.endswith("-questions.csv"):
            continue
        story = name.replace("/questions/", "/section-stories/").replace(
            "-questions.csv", "-story.csv"
        )
        sections = {row["section"]: row["text"] for row in tables.get(story, [])}
        for row in rows:
            text = re.sub(r"\s+", " ", sections.get(row["cor_section"], "")).strip()
            if row["ex-or-im1"] == "explicit" and text:
                at = text.lower().find(row["answer1"].lower().strip(" ."))
                title = Path(name).name.removesuffix("-questions.csv").replace("-", " ")
                yield row["question"], [(at, at + 1)] if at >= 0 else [], title, text
