"""The public data sets the benchmarks run on, read from $RAG_DATA or ../shared/data.

They are not part of the project. Each set's SOURCE.txt says where it comes from; `data_root` says
what is missing. Everything is read as it is: no text is changed.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from rag_retrieve import LoadedDocument

ROOT = Path(__file__).resolve().parent.parent
SETS = {
    "scifact": "corpus.jsonl.gz",
    "clapnq_dev": "answerable.jsonl",
    "chunking_eval": "questions_df.csv",
}


class DataMissing(Exception):  # noqa: N818 - reads better where it is caught
    """A data set is not on this machine."""


@dataclass(frozen=True)
class RetrievalSet:
    """Documents, questions, and which documents answer which question.

    Attributes:
        name: Name of the set; also its collection's.
        documents: By id.
        queries: Question by query id.
        relevant: Ids of the right documents by query id, each at least one.
    """

    name: str
    documents: list[LoadedDocument]
    queries: dict[str, str]
    relevant: dict[str, frozenset[str]]


@dataclass(frozen=True)
class Reference:
    """One annotator's answer and the sentences it rests on, as spans in the gold document."""

    answer: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Question:
    """A question of CLAP NQ; without references it cannot be answered from its document.

    Attributes:
        query_id: Its id in the set.
        text: The question.
        document_id: The document the annotators read.
        references: Their answers.
        held_out: Not among the questions the extractive scorer was fitted on (even lines, from 0).
    """

    query_id: str
    text: str
    document_id: str
    references: tuple[Reference, ...]
    held_out: bool


@dataclass(frozen=True)
class AnswerSet:
    """CLAP NQ: the closed corpus and its questions, with the retrieval task they imply."""

    retrieval: RetrievalSet
    questions: list[Question]


@dataclass(frozen=True)
class Excerpts:
    """A question of the chunking set and the character spans that answer it."""

    text: str
    document_id: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChunkingSet:
    """Chroma's chunking benchmark: five long documents and questions with exact spans."""

    documents: list[LoadedDocument]
    questions: list[Excerpts] = field(default_factory=list)


def data_root(*needed: str) -> Path:
    """Return the folder of the data sets.

    Raises:
        DataMissing: One of the `needed` sets is not there; the message says what to do.
    """
    root = Path(os.environ.get("RAG_DATA") or ROOT.parent / "shared" / "data")
    for name in needed:
        if not (root / name / SETS[name]).is_file():
            raise DataMissing(
                f"the data set {name} is not at {root / name} (no {SETS[name]}); set RAG_DATA to "
                "the folder that holds it, docs/benchmarks.md says where the sets come from"
            )
    return root


def scifact() -> RetrievalSet:
    """Load BEIR SciFact test: 5183 abstracts, 300 claims, 339 judgements (Wadden et al., 2020)."""
    root = data_root("scifact") / "scifact"
    with gzip.open(root / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    documents = [document(row["_id"], row["title"], row["text"]) for row in rows]
    relevant: dict[str, set[str]] = {}
    for line in (root / "qrels.beir-v1.0.0-scifact.test.txt").read_text().splitlines():
        query_id, _, document_id, grade = line.split()
        if int(grade) > 0:
            relevant.setdefault(query_id, set()).add(document_id)
    with gzip.open(
        root / "topics.beir-v1.0.0-scifact.test.tsv.gz", "rt", encoding="utf-8"
    ) as lines:
        queries = dict(line.rstrip("\n").split("\t", 1) for line in lines)
    judged = {query_id: frozenset(ids) for query_id, ids in relevant.items()}
    return RetrievalSet("scifact", documents, queries, judged)


def subset(whole: RetrievalSet, *, queries: int, documents: int, seed: int = 7) -> RetrievalSet:
    """Draw questions, all their right documents, and wrong ones up to a number of documents."""
    draw = random.Random(seed)
    drawn = sorted(draw.sample(sorted(whole.relevant), queries))
    right = {document_id for query_id in drawn for document_id in whole.relevant[query_id]}
    others = [one.document_id for one in whole.documents if one.document_id not in right]
    kept = right | set(draw.sample(others, max(0, documents - len(right))))
    return replace(
        whole,
        name=f"{whole.name}-{documents}",
        documents=[one for one in whole.documents if one.document_id in kept],
        queries={query_id: whole.queries[query_id] for query_id in drawn},
        relevant={query_id: whole.relevant[query_id] for query_id in drawn},
    )


def clapnq() -> AnswerSet:
    """Load the first part of CLAP NQ dev: 150 answerable and 150 unanswerable questions.

    The passages of both files are the corpus, equal texts stored once (Rosenthal et al., 2024).
    """
    root = data_root("clapnq_dev") / "clapnq_dev"
    documents: dict[str, LoadedDocument] = {}
    questions = []
    for name in ("answerable", "unanswerable"):
        text = (root / f"{name}.jsonl").read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines()):
            row = json.loads(line)
            (passage,) = row["passages"]
            found = documents.setdefault(
                passage["text"],
                document(f"p{len(documents)}", passage["title"], passage["text"]),
            )
            questions.append(_question(name, number, row, found))
    corpus = list(documents.values())
    retrieval = RetrievalSet(
        "clapnq",
        corpus,
        {question.query_id: question.text for question in questions},
        {question.query_id: frozenset([question.document_id]) for question in questions},
    )
    return AnswerSet(retrieval, questions)


def _question(name: str, number: int, row: dict, found: LoadedDocument) -> Question:
    references = tuple(
        Reference(output["answer"], _spans(found.text, output["selected_sentences"]))
        for output in row["output"]
        if output["answer"]
    )
    return Question(
        query_id=f"{name}-{row['id']}",
        text=row["input"],
        document_id=found.document_id,
        references=references,
        held_out=number % 2 == 1,
    )


def _spans(text: str, sentences: list[str]) -> tuple[tuple[int, int], ...]:
    starts = [(text.index(sentence), sentence) for sentence in sentences]
    return tuple((start, start + len(sentence)) for start, sentence in starts)


def chunking() -> ChunkingSet:
    """Load Chroma's chunking set: 5 corpora, 472 questions, 790 spans (Smith and Troynikov, 2024)."""
    root = data_root("chunking_eval") / "chunking_eval"
    documents = []
    for path in sorted((root / "corpora").glob("*.md")):
        with path.open(encoding="utf-8", newline="") as file:  # spans count every character
            documents.append(document(path.stem, path.stem, file.read()))
    with (root / "questions_df.csv").open(encoding="utf-8", newline="") as file:
        questions = [
            Excerpts(
                row["question"],
                row["corpus_id"],
                tuple(
                    (span["start_index"], span["end_index"])
                    for span in json.loads(row["references"])
                ),
            )
            for row in csv.DictReader(file)
        ]
    return ChunkingSet(documents, questions)


def document(document_id: str, title: str, text: str, set_id: str = "") -> LoadedDocument:
    """Return a plain text; documents of one `set_id` are left out of a search together."""
    return LoadedDocument(
        document_id=document_id,
        title=title,
        source=document_id,
        text=text,
        content_type="text/plain",
        metadata={"set_id": set_id or document_id},
    )
