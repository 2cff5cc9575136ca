"""Reasoning of a model is kept out of its answer, in one piece or in many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_generate.reasoning import ReasoningFilter

TAGGED = [
    "<think>why</think>So it is [1].",
    "<THINK>\nwhy < because\n</Think>So it is [1].",
    "<thinking>why</thinking>So it is [1].",
    "<reasoning effort='high'>why</reasoning>So it is [1].",
    "<seed:think>why</seed:think>So it is [1].",
    "[THINK]why[/THINK]So it is [1].",
    "◁think▷why◁/think▷So it is [1].",
    "<|START_THINKING|>why<|END_THINKING|><|START_RESPONSE|>So it is [1].<|END_RESPONSE|>",
    "<|begin_of_thought|>why<|end_of_thought|><|begin_of_solution|>So it is [1].<|end_of_solution|>",
    "<unused94>why<unused95>So it is [1].",
    "<|channel|>analysis<|message|>why<|end|>"
    "<|start|>assistant<|channel|>final<|message|>So it is [1].<|return|>",
    "<think></think>So it <think>again</think>is [1].",
    "<think>why <think>deep</think> so</think>So it is [1].",
    "why</think>So it is [1].",
    "So it is [1].<think>not closed",
    "So it is [1].<analysis>\nnot closed",
]


def passed(pieces: list[str], **options: bool) -> str:
    """Return the answer as it stands at the end."""
    reasoning, answer = ReasoningFilter(**options), ""
    for piece in pieces:
        before = reasoning.unopened
        text = reasoning.feed(piece)
        answer = text if reasoning.unopened > before else answer + text
    return answer + reasoning.finish(complete=True)


@pytest.mark.parametrize("text", TAGGED)
def test_reasoning_between_tags_is_left_out_however_the_text_is_cut(text: str) -> None:
    """Whole, in two pieces at every place, or one character at a time."""
    assert passed([text]).strip() == "So it is [1]."
    assert passed(list(text)).strip() == "So it is [1]."
    for cut in range(len(text)):
        assert passed([text[:cut], text[cut:]]).strip() == "So it is [1]."


@pytest.mark.parametrize(
    "text",
    [
        "Write `<think>` before it, `</think>` behind it [1].",
        "It is a < b, and b > c [1] <thinker> <b>so</b> [T] [THIS] <| end",
        "An analysis, and thinking [2].",
        "a <",
        "a [/",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    """Tags in backticks, other tags and the words themselves are of the answer."""
    assert passed([text]) == passed(list(text)) == text


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<thi", "nk>", "a", " [1]", "`", "<", "[THINK]"])
    )
)
def test_the_answer_does_not_depend_on_the_pieces(pieces: list[str]) -> None:
    """Any text gives the same answer whole, in these pieces and in single characters."""
    text = "".join(pieces)
    assert passed([text]) == passed(pieces) == passed(list(text))


def test_text_that_starts_inside_reasoning_waits_for_its_end() -> None:
    """Nothing of it is shown before; without an end it is the answer only when it is complete."""
    reasoning = ReasoningFilter(starts_inside=True)
    assert reasoning.feed("why [1]") == ""
    assert reasoning.feed("</think>So.") == "So."

    cut_off = ReasoningFilter(starts_inside=True)
    cut_off.feed("why")
    assert cut_off.finish(complete=False) == ""
