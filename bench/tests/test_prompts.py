"""`bench/prompts.py`: what is drawn, what counts as an answer, and the table; without a model."""

from __future__ import annotations

from typing import Any

import prompts
import pytest
from data import Question, Reference
from parrot import NONE, Parrot

from rag_augment.template import Template
from rag_generate import generate
from rag_generate.models import GenerateRequest
from rag_kit.passages import Context

TEXT = "Only the board may sign. Interns may not."
RIGHT = Question("q", "Who may sign?", "bylaws", (Reference("The board.", ((0, 24),)),), True)
WRONG = Question("u", "Who may dance?", "bylaws", (), True)
ANSWERS = {
    "Only the board may sign [1].": "cited",
    "The board [9].": "uncited",
    "The board.": "uncited",
    "The answer is: [1]": "uncited",
    NONE: "declined",
    "<script>alert(1)</script> [1]": "filtered",
}


def response(text: str, policy: str) -> dict[str, Any]:
    """What the step makes of a model's text."""
    context = Context(
        marker=1, chunk_id="c", document_id="bylaws", text=TEXT, span=[0, len(TEXT)], score=1.0
    )
    request = GenerateRequest.model_validate(
        {
            "query": RIGHT.text,
            "contexts": [context.model_dump()],
            "prompt": [{"role": "user", "content": "x"}],
            "generate": {"on_no_citations": policy, "min_support": 0.0},
        }
    )
    made = generate(request, generators={"toy": Parrot(text)}, default="toy", no_context_text=NONE)
    return made.model_dump()


def timed(question: Question, text: str) -> prompts.Timed:
    return prompts.Timed(question, response(text, "warn"), 0.5, 1.0)


@pytest.mark.parametrize("text", ANSWERS)
def test_what_abstain_holds_back_is_what_the_step_holds_back(text: str) -> None:
    """It is computed from the answer under `warn`, and must be what the step does under `abstain`."""
    reply = timed(RIGHT, text)

    assert reply.outcome == ANSWERS[text]
    assert reply.passes() == response(text, "abstain")["answerable"]
    assert reply.passes(warn=True) == reply.response["answerable"]
    assert not reply.passes(least=1.01)


def test_citations_are_measured_on_what_passes() -> None:
    """One good citation of two numbers; an answer held back counts as nothing."""
    good, bad = timed(RIGHT, "Only the board may sign [1][9]."), timed(RIGHT, "The board.")

    assert (prompts.valid_citations(good), prompts.valid_citations(bad)) == (0.5, None)
    assert (prompts.passage_recall(good), prompts.passage_recall(bad)) == (1.0, 0.0)
    assert prompts.score_or_nothing(bad, lambda one, other: 1.0) == 0.0


def test_the_table_has_shares_with_intervals_and_differences() -> None:
    """A prompt whose answers cite is better than one whose answers do not, on the same questions."""
    uncited = [timed(RIGHT, "The board.")] * 8 + [timed(WRONG, "Interns.")]
    cited = [timed(RIGHT, "Only the board may sign [1].")] * 8 + [timed(WRONG, NONE)]

    text = prompts.report({prompts.PACKAGED: uncited, "other": cited})

    zero, one = "0.000 [0.000, 0.000]", "1.000 [1.000, 1.000]"
    assert f"| answered, `abstain`: answerable | {zero} | {one} |" in text
    assert f"| answered, `warn`: unanswerable | {one} | {zero} |" in text
    assert "| passage citation precision | – | 1.000 [1.000, 1.000] |" in text
    assert "| answered, `abstain`: answerable | +1.000 [+1.000, +1.000], p 0.0" in text
    assert "0.5 s to the first words, 1.0 s for the whole answer" in text


def test_two_thirds_of_the_questions_are_answerable_and_always_the_same() -> None:
    """However many there are to draw from."""
    many = [RIGHT] * 30 + [WRONG] * 30

    drawn = prompts.draw(many, 12)

    assert sum(bool(one.references) for one in drawn) == 8
    assert len(drawn) == 12
    assert prompts.draw(many, 12) == drawn


@pytest.mark.parametrize("name", prompts.AFTER_QUESTION)
def test_every_prompt_is_a_template(name: str) -> None:
    """The packaged one, and the same with a text after the question."""
    source = prompts.template(prompts.AFTER_QUESTION[name])

    assert Template(source).digest.startswith("sha256:")
    assert prompts.AFTER_QUESTION[name] in source
