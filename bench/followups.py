"""How well follow-up questions find what the same questions find in full.

    python bench/followups.py              three sets; some minutes of embedding the first time
    python bench/followups.py --write      also writes its section of docs/benchmarks.md

Each conversation has a first question with its answer, a follow-up, and the follow-up asked in full:

- medquad: pages of MedQuAD about one disease; the follow-up names it by a pronoun ("What causes it?"), or
  not at all ("And the treatment?", "Symptoms?"). Its answer is the right document.
- clapnq: questions of CLAP NQ dev that name the title of their passage, which the follow-up calls "it".
- own: bench/followups.jsonl, 40 follow-ups on docs/, worded by hand; a right passage holds the fact.

No language model completes them: the terms of the conversation do. Each question is also asked in full after
a conversation about something else, where it should find what it finds alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from data import ROOT, DataMissing, clapnq, data_root
from metrics import Estimate, estimate
from quality import HOME, ingest
from report import machine, write_section

from rag_pipeline.steps.local import LocalPipeline, open_local
from rag_retrieve import LoadedDocument

TOP_K = 5
PAGES = 60  # of MedQuAD
ANSWER_CHARS = 1500  # of its answers, the longest of which are whole articles
WITHOUT_ANSWERS = ("10_", "11_", "12_")  # folders of MedQuAD
SUBJECTS = {
    "symptoms": "the symptoms",
    "treatment": "the treatment",
    "causes": "the causes",
    "inheritance": "inheritance",
    "genetic changes": "genetic changes",
    "outlook": "the outlook",
    "susceptibility": "who is at risk",
    "prevention": "prevention",
    "exams and tests": "diagnosis",
    "frequency": "how common",
    "complications": "complications",
    "stages": "the stages",
    "research": "current research",
}  # kinds of questions of MedQuAD, as a follow-up names them
Right = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Conversation:
    """A first question with its answer, a follow-up, and what finds it.

    Attributes:
        first: The first question.
        reply: Its answer; "" asks the pipeline for it.
        follow_up: The follow-up as asked.
        full: The same question in full.
        is_right: Whether a result answers it.
    """

    first: str
    reply: str
    follow_up: str
    full: str
    is_right: Right


@dataclass(frozen=True)
class Measured:
    """Recall@5 of one set: of the full questions, of the follow-ups, and of their words alone."""

    full: Estimate
    follow_up: Estimate
    alone: Estimate
    changed: (
        int  # full questions that find other passages after a conversation about something else
    )


def medquad() -> tuple[list[LoadedDocument], list[Conversation]]:
    """Return `PAGES` pages of MedQuAD (Ben Abacha and Demner-Fushman, 2019) as conversations."""
    path = data_root() / "reader_train" / "medquad" / "medquad.tar.xz"
    if not path.is_file():
        raise DataMissing(f"the data set medquad is not at {path}; set RAG_DATA")
    documents: list[LoadedDocument] = []
    conversations: list[Conversation] = []
    for focus, pairs in itertools.islice(_pages(path), PAGES):
        first = len(documents)
        for at, (_, _, answer) in enumerate(pairs):
            name = f"{focus}-{at}"
            documents.append(LoadedDocument(name, focus, name, answer[:ANSWER_CHARS], "text/plain"))
        reply = re.split(r"(?<=[.!?])\s", pairs[0][2])[0][:400]
        for at, (kind, question, _) in enumerate(pairs[1:], start=1):
            if follow_up := _medical_follow_up(focus, kind, question):
                right = _is_document(documents[first + at].document_id)
                conversations.append(Conversation(pairs[0][1], reply, follow_up, question, right))
    return documents, conversations


def _pages(path: Path) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield pages in a fixed random order: what they are about, and kind, question and answer."""
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".xml"))
        random.Random(1).shuffle(names)
        for name in names:
            file = archive.extractfile(name)
            if file is None or name.rsplit("/", 2)[-2].startswith(WITHOUT_ANSWERS):
                continue
            root = ElementTree.parse(file).getroot()
            focus = (root.findtext("Focus") or "").strip()
            pairs = [_pair(pair) for pair in root.iter("QAPair")]
            pairs = [pair for pair in pairs if len(pair[2]) > 80]
            if focus and len(pairs) >= 3:
                yield focus, pairs


def _pair(pair: ElementTree.Element) -> tuple[str, str, str]:
    asked = pair.find("Question")
    kind = (asked.get("qtype") or "") if asked is not None else ""
    question = " ".join((pair.findtext("Question") or "").replace("is (are)", "is").split())
    return kind, question.replace(" ?", "?"), " ".join((pair.findtext("Answer") or "").split())


def _medical_follow_up(focus: str, kind: str, question: str) -> str | None:
    """Return the question without its subject, in one of four forms, or None."""
    named = re.sub(re.escape(focus), "it", question, flags=re.IGNORECASE).replace("it's", "its")
    forms = [named] if named != question else []
    if subject := SUBJECTS.get(kind):
        bare = subject.removeprefix("the ").capitalize()
        forms += [f"And {subject}?", f"What about {subject}?", f"{bare}?"]
    return forms[zlib.crc32(question.encode()) % len(forms)] if forms else None


def clap_nq() -> tuple[list[LoadedDocument], list[Conversation]]:
    """Return the questions of CLAP NQ dev that name their passage's title as conversations."""
    loaded = clapnq()
    documents = {document.document_id: document for document in loaded.retrieval.documents}
    conversations = []
    for question in loaded.questions:
        document = documents[question.document_id]
        title = re.sub(r"\s*\(.*?\)", "", document.title).strip()
        named = re.search(rf"\b(?:the )?{re.escape(title)}\b", question.text, re.IGNORECASE)
        if not question.references or named is None:
            continue
        start, end = named.span()
        follow_up = f"{question.text[:start]}it{question.text[end:]}".replace("it 's", "its")
        reply = document.text.partition(" . ")[0][:400]
        right = _is_document(question.document_id)
        conversations.append(
            Conversation(f"What is {title}?", reply, follow_up, question.text, right)
        )
    return loaded.retrieval.documents, conversations


def own() -> tuple[list[LoadedDocument], list[Conversation]]:
    """Return bench/followups.jsonl as conversations on the guides of this project."""
    documents = [
        LoadedDocument(
            str(path), path.stem, str(path), path.read_text(encoding="utf-8"), "text/plain"
        )
        for path in sorted((ROOT / "docs").rglob("*.md"))
    ]
    lines = (ROOT / "bench" / "followups.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return documents, [
        Conversation(row["first"], "", row["follow_up"], row["full"], _holds(row["fact"]))
        for row in rows
    ]


def _is_document(document_id: str) -> Right:
    return lambda result: bool(result["document_id"] == document_id)


def _holds(fact: str) -> Right:
    words = " ".join(fact.split())
    return lambda result: words in " ".join(result["text"].split())


SETS = {"medquad": medquad, "clapnq": clap_nq, "own": own}


def measure(pipeline: LocalPipeline, name: str, conversations: Sequence[Conversation]) -> Measured:
    """Ask every conversation of a set in each way."""
    options: dict[str, Any] = {} if name == "own" else {"retrieve": {"max_per_document": 1}}

    def find(query: str, messages: Sequence[dict[str, str]] = ()) -> list[dict[str, Any]]:
        request = {"query": query, "collection": f"followups-{name}", "top_k": TOP_K, **options}
        found: list[dict[str, Any]] = pipeline.search({**request, "messages": list(messages)})[
            "results"
        ]
        return found

    said = [_said(pipeline, name, one) for one in conversations]
    values: dict[str, list[float]] = {"full": [], "follow_up": [], "alone": []}
    changed = 0
    for at, one in enumerate(conversations):
        full = find(one.full)
        values["full"].append(float(any(map(one.is_right, full))))
        values["alone"].append(float(any(map(one.is_right, find(one.follow_up)))))
        values["follow_up"].append(float(any(map(one.is_right, find(one.follow_up, said[at])))))
        changed += find(one.full, said[(at + len(said) // 2) % len(said)]) != full
    return Measured(*(estimate(values[name]) for name in values), changed=changed)


def _said(pipeline: LocalPipeline, name: str, one: Conversation) -> list[dict[str, str]]:
    reply = one.reply
    if not reply:
        request = {"query": one.first, "collection": f"followups-{name}"}
        reply = str(pipeline.answer({**request, "generate": {"target": "extractive"}})["answer"])
    return [{"role": "user", "content": one.first}, {"role": "assistant", "content": reply}]


def table(measured: dict[str, Measured]) -> str:
    """Return the figures as Markdown; `Changed`: full questions that another topic before them changes."""
    lines = [
        "| Set | Questions | In full | As a follow-up | Its words alone | Follow-up / full | Changed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in measured.items():
        share = one.follow_up.mean / one.full.mean
        cells = [str(value) for value in (one.full, one.follow_up, one.alone)]
        lines.append(
            f"| {name} | {one.full.n} | {' | '.join(cells)} | {share:.3f} | {one.changed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the sets and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=SETS, action="append", help="this set; repeat for others")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, too")
    chosen = parser.parse_args()
    measured = {}
    with open_local(home=HOME, rewriting="terms") as pipeline:
        for name in chosen.only or SETS:
            documents, conversations = SETS[name]()
            ingest(pipeline.retriever, f"followups-{name}", documents)
            measured[name] = measure(pipeline, name, conversations)
            print(table({name: measured[name]}), flush=True)
    text = f"{table(measured)}\n\n{date.today():%Y-%m-%d}, {machine()}."
    print(f"\n{text}")
    if chosen.write:
        write_section("followups", text)


if __name__ == "__main__":
    main()
