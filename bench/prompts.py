"""What a language model makes of the prompt: answers, refusals, citations; and what the checks hold back.

    python bench/prompts.py                    asks the model of RAG_LLM_BASE_URL and RAG_LLM_MODEL
                                               without one: SmolLM2 135M, one thread, in this process
    python bench/prompts.py --write            also writes its section of docs/benchmarks.md

Questions of CLAP NQ dev, drawn with a seed, two thirds with an answer in the corpus, go through the whole
pipeline, each with every prompt: the packaged one, and the packaged one with a text after the question. The
model is always asked and its answer always kept (`on_no_citations: warn`, `min_support: 0`). What `abstain`
and a `min_support` hold back of these answers follows from their citations and their support.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from data import ROOT, DataMissing, Question, clapnq
from metrics import Estimate, estimate, token_f1, tokens, without_markers
from quality import HOME, Reply, ingest
from report import machine, tell, write_section

from rag_augment.settings import AugmentSettings
from rag_augment.wire import open_step as open_augment
from rag_generate.citations import is_only_citations
from rag_generate.settings import Settings
from rag_kit.handler import Event
from rag_pipeline.quality.metrics import compare
from rag_pipeline.steps.local import LocalPipeline, open_local

sys.path.append(str(ROOT / "dagger/generate/tests"))
from local_model import MODEL, ModelMissing, served

PACKAGED = "packaged"
AFTER_QUESTION = {
    PACKAGED: "",
    "reminder": "Answer in one or two sentences, and cite the passage each rests on by its number, like [1]. "
    "If the passages do not hold the answer, reply exactly: {{ no_context_text }}",
    "form": "Give the answer in this form: one sentence taken from a passage, then the number of that "
    "passage in brackets.",
}
QUESTION = "Question: {{ query }}"
ANSWERABLE = 2 / 3  # of the questions
SEED = 7
MIN_SUPPORT = Settings.model_fields["min_support"].default
NONE = "–"


@dataclass(frozen=True)
class Timed(Reply):
    """A reply, and when it came.

    Attributes:
        first_s: Seconds until its first words; None when a reader sees none of it.
        seconds: Until it was complete.
    """

    first_s: float | None
    seconds: float

    @property
    def outcome(self) -> str:
        """What became of the question; see `OUTCOMES`."""
        finish = self.response["finish_reason"]
        if finish == "filtered":
            return "filtered"
        if finish == "no_context":
            return "declined" if self.response["usage"]["llm_calls"] else "not asked"
        says = self.response["citations"] and not is_only_citations(self.response["answer"])
        return "cited" if says else "uncited"

    def passes(self, *, warn: bool = False, least: float = 0.0) -> bool:
        """Whether a reader is given an answer, by what is done about one without citations."""
        kept = ("cited", "uncited") if warn else ("cited",)
        return self.outcome in kept and self.support >= least

    @property
    def support(self) -> float:
        """The pipeline's support for an answer, 0 to 1."""
        return float(self.response["support"] or 0.0)


OUTCOMES = {
    "cited": "an answer with a valid citation",
    "uncited": "an answer without a valid citation",
    "declined": "the model says that there is no answer",
    "not asked": "the passages are judged not to be enough",
    "filtered": "withheld by the output filter",
}
POLICIES: dict[str, dict[str, Any]] = {
    "`warn`": {"warn": True},
    "`abstain`": {},
    f"`warn`, `min_support` {MIN_SUPPORT:g}": {"warn": True, "least": MIN_SUPPORT},
    f"`abstain`, `min_support` {MIN_SUPPORT:g}": {"least": MIN_SUPPORT},
}


# -- asking -------------------------------------------------------------------------------------


def draw(questions: Sequence[Question], number: int, seed: int = SEED) -> list[Question]:
    """Return `number` questions in a fixed random order, two thirds of them answerable."""
    rng = random.Random(seed)
    right = [one for one in questions if one.references]
    wrong = [one for one in questions if not one.references]
    answerable = round(number * ANSWERABLE)
    drawn = rng.sample(right, answerable) + rng.sample(wrong, number - answerable)
    rng.shuffle(drawn)
    return drawn


def template(after_question: str) -> str:
    """Return the packaged template with a text after the question."""
    source = files("rag_augment").joinpath("template.jinja").read_text("utf-8")
    assert source.count(QUESTION) == 1
    return source.replace(QUESTION, f"{QUESTION}\n\n{after_question}") if after_question else source


@contextmanager
def prompting(pipeline: LocalPipeline) -> Iterator[dict[str, LocalPipeline]]:
    """Yield the pipeline with each of the prompts, over the same store and model."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        made = {}
        for name, text in AFTER_QUESTION.items():
            path = folder / f"{name}.jinja"
            path.write_text(template(text), encoding="utf-8")
            augment = stack.enter_context(open_augment(AugmentSettings(template=path)))
            made[name] = replace(pipeline, steps={**pipeline.steps, "augment": augment.serve})
        yield made


def ask(pipeline: LocalPipeline, question: Question, options: Mapping[str, Any]) -> Timed:
    """Ask a question as a stream."""
    request = {"query": question.text, **options}
    return pipeline.portal.call(_timed, question, pipeline.handler.events(json.dumps(request)))


async def _timed(question: Question, events: AsyncIterator[Event]) -> Timed:
    began, first = time.perf_counter(), None
    async for event in events:
        if event.name == "message" and first is None:
            first = time.perf_counter() - began
        if event.name == "error":
            raise SystemExit(f"prompts: {question.text!r}: {json.loads(event.data)['error']}")
        if event.name == "final_answer":
            return Timed(question, json.loads(event.data), first, time.perf_counter() - began)
    raise AssertionError("a stream ends with its answer or an error")


def ask_all(
    pipeline: LocalPipeline, questions: Sequence[Question], options: Mapping[str, Any]
) -> dict[str, list[Timed]]:
    """Ask every question with each prompt in turn: the model reads the passages once for all."""
    found: dict[str, list[Timed]] = {name: [] for name in AFTER_QUESTION}
    with prompting(pipeline) as prompts:
        for number, question in enumerate(questions, start=1):
            for name, prompted in prompts.items():
                found[name].append(ask(prompted, question, options))
            tell(f"question {number} of {len(questions)}")
    return found


# -- figures ------------------------------------------------------------------------------------


def valid_citations(reply: Timed) -> float | None:
    """Return the share of the cited numbers that name a passage; None where none is cited."""
    good = len(reply.response["citations"])
    bad = len(reply.response["citation_check"]["removed_markers"])
    return good / (good + bad) if good + bad else None


def passage_recall(reply: Timed) -> float:
    """Return 1.0 where the document that the annotators read is cited."""
    return float(any(reply.passage_precision()))


def measure(replies: Sequence[Timed]) -> dict[str, str]:
    """Return the figures of one prompt by name; shares have 95 % bootstrap intervals."""
    right = [one for one in replies if one.question.references]
    wrong = [one for one in replies if not one.question.references]
    cited = [one for one in right if one.passes()]
    rows = {
        f"answered, {policy}: {kind}": _mean([one.passes(**options) for one in group])
        for policy, options in POLICIES.items()
        for kind, group in (("answerable", right), ("unanswerable", wrong))
    }
    rows |= {
        f"{OUTCOMES[outcome]}: {kind}": _mean([one.outcome == outcome for one in group])
        for outcome in ("uncited", "declined", "not asked", "filtered")
        for kind, group in (("answerable", right), ("unanswerable", wrong))
    }
    shares = [share for share in map(valid_citations, replies) if share is not None]
    return rows | {
        "cited numbers that name a passage": _mean(shares),
        "passage citation precision": _mean([v for one in cited for v in one.passage_precision()]),
        "passage citation recall": _mean([passage_recall(one) for one in cited]),
        "sentence citation precision": _mean([one.sentence_precision() for one in cited]),
        "sentence citation recall": _mean([one.sentence_recall() for one in cited]),
        "token F1 of cited answers": _mean([one.best(token_f1) for one in cited]),
        "token F1, held back = 0": _mean([score_or_nothing(one, token_f1) for one in right]),
        "words of an answer": _mean(
            [len(tokens(without_markers(o.response["answer"]))) for o in replies if o.passes(warn=True)], 1
        ),
    }  # fmt: skip


def score_or_nothing(reply: Timed, score: Callable[[str, str], float]) -> float:
    """Score an answer that `abstain` lets pass; 0 for one that it holds back."""
    return reply.best(score) if reply.passes() else 0.0


def _mean(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return NONE
    found: Estimate = estimate(values)
    low, high = f"{found.low:.{digits}f}", f"{found.high:.{digits}f}"
    return f"{found.mean:.{digits}f} [{low}, {high}]"


COMPARED: dict[str, tuple[bool | None, Callable[[Timed], float]]] = {  # None: all questions
    "answered, `abstain`: answerable": (True, lambda one: float(one.passes())),
    "answered, `abstain`: unanswerable": (False, lambda one: float(one.passes())),
    "the model says that there is no answer: unanswerable": (
        False, lambda one: float(one.outcome == "declined")),
    "withheld by the output filter": (None, lambda one: float(one.outcome == "filtered")),
    "token F1, held back = 0": (True, lambda one: score_or_nothing(one, token_f1)),
    "sentence citation recall, held back = 0": (
        True, lambda one: one.sentence_recall() if one.passes() else 0.0),
}  # fmt: skip


def differences(found: Mapping[str, Sequence[Timed]]) -> list[list[str]]:
    """Return how the other prompts differ from the packaged one on the same questions."""
    rows = []
    for measured, (answerable, value) in COMPARED.items():
        values = {
            name: [
                value(one) for one in replies if answerable in (None, bool(one.question.references))
            ]
            for name, replies in found.items()
        }
        cells = [_difference(values[name], values[PACKAGED]) for name in values if name != PACKAGED]
        rows.append([measured, *cells])
    return rows


def _difference(one: Sequence[float], other: Sequence[float]) -> str:
    found = compare(one, other)
    if found.value is None:
        return NONE
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {found.p:.3f}"


def report(found: Mapping[str, Sequence[Timed]]) -> str:
    """Return the tables and the times as Markdown."""
    measured = {name: measure(replies) for name, replies in found.items()}
    figures = [[row, *(rows[row] for rows in measured.values())] for row in measured[PACKAGED]]
    others = [name for name in found if name != PACKAGED]
    return "\n\n".join(
        [
            _table(["measure", *found], figures),
            "Differences from the packaged prompt, on the same questions:",
            _table(["measure", *others], differences(found)),
            _times(found[PACKAGED]),
        ]
    )


def _times(replies: Sequence[Timed]) -> str:
    firsts = [one.first_s for one in replies if one.first_s is not None]
    first = f"{median(firsts):.1f} s to the first words" if firsts else "no words shown"
    whole = median(one.seconds for one in replies)
    prompt = median(one.response["usage"]["prompt_tokens"] for one in replies)
    return (
        f"The packaged prompt, which is asked first: {first}, {whole:.1f} s for the whole answer, "
        f"{prompt:.0f} tokens of prompt (medians)."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- the command --------------------------------------------------------------------------------


@contextmanager
def model_server() -> Iterator[str]:
    """Yield the name of the configured model; without one, of a small one that is started here."""
    if os.environ.get("RAG_LLM_BASE_URL"):
        yield os.environ.get("RAG_LLM_MODEL", "")
        return
    with served(threads=1) as url:
        os.environ |= {"RAG_LLM_BASE_URL": url, "RAG_LLM_MODEL": MODEL, "RAG_LLM_PACE": "local"}
        yield "SmolLM2 135M Instruct (Q4_1, llama.cpp, one thread)"


def main() -> int:
    """Measure the prompts and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=60, help="how many; two thirds answerable")
    parser.add_argument("--passages", type=int, default=5, help="in a prompt at most")
    parser.add_argument("--answer-tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, too")
    chosen = parser.parse_args()
    if not 3 <= chosen.questions <= 225:
        parser.error(f"--questions {chosen.questions}: 3 to 225, which is what the set has")
    options = {
        "collection": "clapnq",
        "top_k": chosen.passages,
        "augment": {"seed": SEED},
        "generate": {
            "on_no_citations": "warn",
            "min_support": 0.0,
            "max_answer_tokens": chosen.answer_tokens,
        },
    }
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        task = clapnq()
        with model_server() as model, open_local(home=HOME, rewriting="terms") as pipeline:
            ingest(pipeline.retriever, task.retrieval.name, task.retrieval.documents)
            questions = draw(task.questions, chosen.questions)
            found = ask_all(pipeline, questions, options)
    except (DataMissing, ModelMissing) as missing:
        print(f"bench-prompts: {missing}")
        return 2
    answerable = sum(bool(one.references) for one in questions)
    text = (
        f"{model}: {answerable} answerable and {len(questions) - answerable} unanswerable questions, "
        f"{chosen.passages} passages, answers of at most {chosen.answer_tokens} tokens.\n\n"
        f"{report(found)}\n\n{date.today():%Y-%m-%d}, {machine()}."
    )
    print(f"\n{text}")
    if chosen.write:
        write_section("prompts", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
