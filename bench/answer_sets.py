"""Questions whose answers are known: those the answer scorer is fitted on, and those it is tested on.

Read from $RAG_DATA; docs/benchmarks.md says where the sets come from. Fitted on: reader_train, and the even
lines of CLAP NQ dev and of the chunking set. Tested on: the odd lines, WikiQA test, XQuAD, RGB, HotpotQA. Of
the training sets a question equal to one of CLAP NQ, and a document that shares 13 words in a row with a
passage of CLAP NQ, are left out.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import DataMissing, chunking, clapnq, data_root, document

from rag_retrieve import LoadedDocument

SHINGLE = 13  # words in a row that two texts may not share
DRAWN = 350  # questions of each training set
SEED = 11


Spans = tuple[tuple[int, int], ...]
HALF = 0.5  # a quoted text is right when so much of it was picked


@dataclass(frozen=True)
class Labelled:
    """A question and what answers it.

    Attributes:
        text: The question.
        group: The `set_id` of the documents that answer it, or are on its topic.
        spans: What answers it by document id, in characters; empty for a question without an answer.
        answers: Right answers as texts, where the set has them.
        held_out: Not fitted on.
    """

    text: str
    group: str
    spans: dict[str, Spans]
    answers: tuple[str, ...] = ()
    held_out: bool = False


def is_gold(question: Labelled, document_id: str, start: int, end: int) -> bool:
    """Whether at least half of a text was picked as an answer, or all of a span within it."""
    return any(
        min(end, right) - max(start, left) >= min(HALF * (end - start), right - left)
        for left, right in question.spans.get(document_id, ())
    )


@dataclass(frozen=True)
class LabelledSet:
    """Documents and labelled questions of one source."""

    name: str
    documents: list[LoadedDocument]
    questions: list[Labelled]


def training_sets(seed: int = SEED) -> list[LabelledSet]:
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


_Row = tuple[str, Sequence[tuple[int, int]], str, str]  # question, spans, title, text


def _labelled(name: str, rows: list[_Row]) -> LabelledSet:
    documents: dict[str, LoadedDocument] = {}
    questions = []
    for question, spans, title, text in rows:
        found = documents.setdefault(text, document(f"{name}{len(documents)}", title, text))
        answer = {found.document_id: tuple(spans)}
        questions.append(Labelled(question, found.document_id, answer))
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
            sentences = enumerate(row["candidates"])
            text, spans = _joined((sentence, at in row["answers"]) for at, sentence in sentences)
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


# -- sets to test on ----------------------------------------------------------------------------


def clapnq_answers() -> LabelledSet:
    """Return CLAP NQ dev: even lines are fitted on, odd ones are held out."""
    found = clapnq()
    questions = [
        Labelled(
            one.text,
            one.document_id,
            {one.document_id: spans} if spans else {},
            tuple(reference.answer for reference in one.references),
            one.held_out,
        )
        for one in found.questions
        for spans in [tuple(span for reference in one.references for span in reference.spans)]
    ]
    return LabelledSet("clapnq", found.retrieval.documents, questions)


def chunking_answers() -> LabelledSet:
    """Return Chroma's chunking set: even lines are fitted on, odd ones are held out."""
    found = chunking()
    questions = [
        Labelled(one.text, one.document_id, {one.document_id: one.spans}, (), at % 2 == 1)
        for at, one in enumerate(found.questions)
    ]
    return LabelledSet("chunking", found.documents, questions)


def wikiqa() -> LabelledSet:
    """Return 120 questions of WikiQA test with an answer in their article's first section, 120 without.

    Yang et al., 2015.
    """
    with _file("wikiqa/WikiQA-test.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    by_question: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_question.setdefault(row["QuestionID"], []).append(row)
    documents, questions = [], []
    for key, sentences in by_question.items():
        text, spans = _joined((row["Sentence"], row["Label"] == "1") for row in sentences)
        documents.append(document(key, sentences[0]["DocumentTitle"], text))
        answer = {key: spans} if spans else {}
        questions.append(Labelled(sentences[0]["Question"], key, answer, (), True))
    halves = ([q for q in questions if q.spans], [q for q in questions if not q.spans])
    drawn = [question for half in halves for question in _drawn(half, 120)]
    kept = {question.group for question in drawn}
    return LabelledSet("wikiqa-test", [d for d in documents if d.document_id in kept], drawn)


def xquad() -> LabelledSet:
    """Return 200 questions of XQuAD in English over its 240 paragraphs (Artetxe et al., 2020)."""
    data = json.loads(_file("xquad/xquad.en.json").read_text(encoding="utf-8"))["data"]
    documents, questions = [], []
    for article in data:
        for paragraph in article["paragraphs"]:
            key = f"x{len(documents)}"
            title = article.get("title") or key
            documents.append(document(key, title.replace("_", " "), paragraph["context"]))
            for row in paragraph["qas"]:
                start, text = row["answers"][0]["answer_start"], row["answers"][0]["text"]
                spans = {key: ((start, start + len(text)),)}
                questions.append(Labelled(row["question"], key, spans, (text,), True))
    return LabelledSet("xquad", documents, _drawn(questions, 200))


def rgb() -> LabelledSet:
    """Return the 100 questions of RGB on facts, over their 989 snippets of web pages (Chen et al., 2024)."""
    lines = _file("rgb/en_fact.json").read_text(encoding="utf-8").splitlines()
    documents, questions = [], []
    for row in map(json.loads, lines):
        group = f"rgb{row['id']}"
        right = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        answers = [text for one in right for text in (one if isinstance(one, list) else [one])]
        spans: dict[str, Spans] = {}
        for at, text in enumerate(row["positive"]):
            key = f"{group}-{at}"
            documents.append(document(key, key, text, group))
            spans[key] = _places(text, answers)
        for at, text in enumerate(row["negative"]):
            key = f"{group}-not-{at}"
            documents.append(document(key, key, text))
        questions.append(Labelled(row["query"], group, spans, tuple(answers), True))
    return LabelledSet("rgb", documents, questions)


def hotpotqa() -> LabelledSet:
    """Return the questions of hotpot_dev_sample.json, rows of HotpotQA dev with their ten paragraphs."""
    path = _file("hotpotqa/hotpot_dev_sample.json")
    documents: dict[str, LoadedDocument] = {}
    questions = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        gold = {(title, at) for title, at in row["supporting_facts"]}
        group, spans = f"hotpot{row['_id']}", {}
        for title, sentences in row["context"]:
            text, found = _joined(
                (s.strip(), (title, at) in gold) for at, s in enumerate(sentences)
            )
            key = f"{group}-{title}"
            documents[key] = document(key, title, text, group if found else key)
            spans |= {key: found} if found else {}
        questions.append(Labelled(row["question"], group, spans, (row["answer"],), True))
    return LabelledSet("hotpotqa", list(documents.values()), questions)


TRAINED: tuple[Callable[[], list[LabelledSet]], ...] = (
    training_sets,
    lambda: [clapnq_answers(), chunking_answers()],
)
TESTED: dict[str, Callable[[], LabelledSet]] = {
    "clapnq": clapnq_answers,
    "wikiqa": wikiqa,
    "xquad": xquad,
    "rgb": rgb,
    "hotpotqa": hotpotqa,
    "chunking": chunking_answers,
}


def _file(name: str) -> Path:
    """Return a file of the data sets.

    Raises:
        DataMissing: It is not there.
    """
    path = data_root() / name
    if not path.is_file():
        raise DataMissing(f"there is no {path}; docs/benchmarks.md says where the sets come from")
    return path


def _joined(sentences: Iterable[tuple[str, bool]]) -> tuple[str, Spans]:
    """Return sentences as one text, and where those that answer stand."""
    text, spans = "", []
    for sentence, answers in sentences:
        text += " " if text else ""
        if answers:
            spans.append((len(text), len(text) + len(sentence)))
        text += sentence
    return text, tuple(spans)


def _places(text: str, answers: Iterable[str]) -> Spans:
    """Return where the answers stand in a text, whatever their case."""
    patterns = (re.compile(re.escape(answer), re.IGNORECASE) for answer in answers if answer)
    return tuple(match.span() for pattern in patterns for match in pattern.finditer(text))


def _drawn(questions: list[Labelled], most: int) -> list[Labelled]:
    return random.Random(SEED).sample(questions, min(most, len(questions)))
