"""The step: when a generator is asked, and what its draft becomes."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from typing import Any

import pytest
from parrot import NONE, Parrot

import rag_generate
from rag_generate import StepError, generate, stream
from rag_generate.extractive import Extractive
from rag_generate.generator import RESTART, Draft, Restart
from rag_generate.models import GenerateRequest, GenerateResponse
from rag_kit.errors import CODES

Build = Callable[..., GenerateRequest]


def answer(request: GenerateRequest, parrot: Parrot, **more: Any) -> GenerateResponse:
    return generate(
        request, generators={"parrot": parrot}, default="parrot", no_context_text=NONE, **more
    )


def test_the_public_names_are_these() -> None:
    """Everything else is private."""
    assert set(rag_generate.__all__) == {"StepError", "__version__", "generate", "stream"}


def test_a_draft_becomes_a_response_with_verified_citations(make_request: Build) -> None:
    """Text, citations, usage, contexts and provenance."""
    request = make_request(provenance={"retrieve": {"version": "1"}}, warnings=["w"])

    response = answer(request, Parrot("Only the board may sign [1][8]."))

    assert response.answer == "Only the board may sign [1]."
    assert response.citation_check.removed_markers == [8]
    assert response.contexts == request.contexts
    assert (response.llm_generated, response.support, response.warnings) == (True, None, ["w"])
    assert response.provenance == {
        "retrieve": {"version": "1"},
        "generate": {"version": "0.1.0", "generator": "parrot", "model": "toy"},
    }


@pytest.mark.parametrize(
    "fields", [{"decision": {"answerable": False, "reason": "No passage."}}, {"contexts": []}]
)
def test_without_context_no_model_is_called(make_request: Build, fields: dict[str, Any]) -> None:
    """Nothing to rest on: the configured text, no call, no cost."""
    parrot = Parrot("invented")

    response = answer(make_request(**fields), parrot)

    assert (response.answer, response.finish_reason) == (NONE, "no_context")
    assert (response.answerable, response.llm_generated) == (False, False)
    assert (parrot.calls, response.usage.llm_calls) == (0, 0)


def test_without_context_the_caller_may_want_an_error(make_request: Build) -> None:
    """no_context=error fails with the reason and the way out."""
    with pytest.raises(StepError, match="No passage was found") as caught:
        answer(make_request(contexts=[], no_context="error"), Parrot("x"))

    assert caught.value.code == "no_context"


def test_without_context_the_caller_may_want_an_answer_of_the_model(make_request: Build) -> None:
    """no_context=answer asks the model and says that nothing found supports it."""
    response = answer(make_request(contexts=[], no_context="answer"), Parrot("Paris."))

    assert (response.answer, response.finish_reason) == ("Paris.", "stop")
    assert (response.answerable, response.llm_generated) == (False, True)
    assert response.warnings == ["no_citations"]


def test_a_generator_without_model_never_answers_without_context(make_request: Build) -> None:
    """There is nothing to quote."""
    parrot = Parrot("x", model=None)

    response = answer(make_request(contexts=[], no_context="answer"), parrot)

    assert (response.finish_reason, parrot.calls) == ("no_context", 0)


@pytest.mark.parametrize(
    "text",
    [
        NONE,
        NONE.lower() + " Sorry.",
        "The passages do not contain an answer to this question.",
        "I'm sorry, but I can’t find that in the documents.",
        "There is not enough information to answer.",
        "This is not mentioned in the passages.",
        NONE + " [9]",
    ],
)
def test_a_model_that_declines_counts_as_no_context(make_request: Build, text: str) -> None:
    """Said as told or in other words, a refusal is no answer; its cost is still counted."""
    response = answer(make_request(), Parrot(text))

    assert (response.answer, response.finish_reason) == (NONE, "no_context")
    assert not response.answerable
    assert response.usage.llm_calls == 1


@pytest.mark.parametrize(
    "text",
    [
        "Interns do not have the right to sign [2].",
        "The board cannot find a chair [1].",
        "The board signs.",
        "Interns do not have the right to sign.",
        "The chair could not find a successor.",
    ],
)
def test_an_answer_is_not_taken_for_a_refusal(make_request: Build, text: str) -> None:
    """With a citation, or without words of refusal, it is an answer."""
    request = make_request(generate={"on_no_citations": "warn"})
    assert answer(request, Parrot(text)).finish_reason == "stop"


@pytest.mark.parametrize(
    "text",
    ["The board signs. Always.", "The board signs [9].", "`[1]` is the board.", "See [7]."],
)
def test_an_answer_without_a_valid_citation_is_an_abstention(
    make_request: Build, text: str
) -> None:
    """Nothing holds it up, so it is withheld; the warning tells why, the usage what it cost."""
    response = answer(make_request(), Parrot(text))

    assert (response.answer, response.finish_reason) == (NONE, "no_context")
    assert (response.answerable, response.llm_generated) == (False, False)
    assert "no_citations" in response.warnings
    assert response.usage.llm_calls == 1


@pytest.mark.parametrize(
    "text",
    [
        "[1]", "[1][2].", "(see [1])", "See [2].", "Passage [1].", "Sources: [1], [2]", "- [1]\n- [2]",
        "**Answer:** [1]", "The answer to the question is: [1].", "The passage is: [2]\n\nIt says: [1]",
        "答案是：[1]", "According to passage [3].",
    ],
)  # fmt: skip
def test_numbers_of_passages_alone_are_no_answer(make_request: Build, text: str) -> None:
    """They name passages and say nothing; a stream shows none of it."""
    shown, response = pieces_and_answer(make_request(), Parrot(text))

    assert shown == ""
    assert (response.answer, response.finish_reason) == (NONE, "no_context")
    assert "no_citations" in response.warnings


@pytest.mark.parametrize(
    "text",
    ["The answer is: [1] the board.", "Yes [1].", "42 [1]", "Who signs: the board. Source: [1]",
     "是 [1]。", "[1] says that the board signs.", "According to [1], the board.", "See the board [1]."],
)  # fmt: skip
def test_a_short_answer_with_a_number_is_an_answer(make_request: Build, text: str) -> None:
    """One word is enough; the stream shows what the response holds."""
    shown, response = pieces_and_answer(make_request(), Parrot(text))

    assert response.answerable
    assert shown == response.answer


def test_an_uncited_answer_may_be_wanted_with_a_warning(make_request: Build) -> None:
    """By the request or the setting; the request counts."""
    parrot = Parrot("The board signs. Always.")
    request = make_request(generate={"on_no_citations": "warn"})

    for response in (
        answer(request, parrot),
        answer(make_request(), parrot, on_no_citations="warn"),
    ):
        assert (response.answer, response.answerable) == ("The board signs. Always.", True)
        assert response.warnings == ["no_citations"]
        assert response.citation_check.uncited_sentences == 2
    strict = make_request(generate={"on_no_citations": "abstain"})
    assert answer(strict, parrot, on_no_citations="warn").answer == NONE


def test_an_uncited_answer_may_be_an_error(make_request: Build) -> None:
    """As any other question that nothing found supports."""
    with pytest.raises(StepError, match="The model's answer cites no passage") as caught:
        answer(make_request(no_context="error"), Parrot("The board signs."))
    assert caught.value.code == "no_context"


def test_a_stream_shows_nothing_of_an_answer_that_is_withheld(make_request: Build) -> None:
    """Text waits for the first number that points to a passage; an invalid one is none."""
    assert pieces_and_answer(make_request(), Parrot("It is [9] so. Truly."))[0] == ""
    text, response = pieces_and_answer(make_request(), Parrot("It is [9] so. Truly [1]. Yes."))
    assert text == "It is [9] so. Truly [1]. Yes."
    assert response.answer == "It is so. Truly [1]. Yes."


class Thinking(Parrot):
    """A toy model that withdraws what it said at first."""

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Restart | Draft, None, None]:
        yield from ["The key is ", "abc [9]"]
        yield RESTART
        yield from super().stream(request)


def test_what_a_model_withdraws_is_not_shown(make_request: Build) -> None:
    """Held text of its reasoning is dropped, and is not what the filter checks."""
    text, response = pieces_and_answer(make_request(), Thinking("The board [1]."))
    assert text == response.answer == "The board [1]."


def test_a_threshold_in_the_request_saves_the_model_call(make_request: Build) -> None:
    """With min_support the passages are scored before a model is paid for."""
    parrot = Parrot("x [1]")

    low = answer(make_request(generate={"min_support": 1.0}), parrot)
    assert (low.finish_reason, parrot.calls) == ("no_context", 0)

    high = answer(make_request(generate={"min_support": 0.0}), parrot)
    assert (high.finish_reason, parrot.calls) == ("stop", 1)
    assert high.support == low.support


def test_an_unknown_target_names_the_configured_ones(make_request: Build) -> None:
    """The way out is in the message."""
    with pytest.raises(StepError, match="no generator 'gpt' is configured; there is parrot"):
        answer(make_request(generate={"target": "gpt"}), Parrot("x"))


def test_a_filtered_answer_may_be_empty(make_request: Build) -> None:
    """The model's own filter is said, not hidden."""
    response = answer(make_request(), Parrot("", finish_reason="filtered"))

    assert (response.answer, response.finish_reason) == ("", "filtered")
    assert not response.answerable


def test_a_stream_gives_the_text_first_and_the_verified_response_last(
    make_request: Build,
) -> None:
    """The pieces are the model's; only the response is verified."""
    events = list(
        stream(
            make_request(),
            generators={"parrot": Parrot("Signed [1][9].")},
            default="parrot",
            no_context_text=NONE,
        )
    )

    assert events[0] == "Signed [1][9]."
    assert isinstance(events[-1], GenerateResponse)
    assert events[-1].answer == "Signed [1]."


def test_closing_a_stream_closes_its_generator(make_request: Build) -> None:
    """A client that goes away stops the work at once."""
    parrot = Parrot("A long answer.")
    events = stream(
        make_request(), generators={"parrot": parrot}, default="parrot", no_context_text=NONE
    )

    next(events)
    events.close()

    assert parrot.closed


# -- when the model fails --------------------------------------------------------------------


class Failing:
    """A model that says this much and then fails."""

    name = "failing"
    model: str | None = "toy"

    def __init__(self, code: str, *, after: str = "") -> None:
        self.calls = 0
        self.deadlines: list[float | None] = []
        self._code, self._after = code, after

    def stream(self, request: GenerateRequest) -> abc.Generator[str | Draft, None, None]:
        self.calls += 1
        self.deadlines.append(request.generate.deadline_s)
        yield from [self._after] if self._after else []
        raise StepError(self._code, "the model failed")


def pieces_and_answer(request: GenerateRequest, model: Any) -> tuple[str, GenerateResponse]:
    generators = {"failing": model, "extractive": Extractive(min_support=0.3)}
    *pieces, response = stream(
        request, generators=generators, default="failing", no_context_text=NONE
    )
    assert isinstance(response, GenerateResponse)
    return "".join(map(str, pieces)), response


LLM_CODES = sorted(code for code in CODES if code.startswith("llm_"))


@pytest.mark.parametrize("code", LLM_CODES)
def test_fault_llm_down_degraded_answers_with_the_passages(make_request: Build, code: str) -> None:
    """Allowed, any failure of the model ends in sentences of the passages, and says so."""
    model = Failing(code)
    request = make_request(generate={"allow_degraded": True}, warnings=["w"])

    text, response = pieces_and_answer(request, model)

    assert text == response.answer == "Only the board may sign contracts [1]."
    assert (response.degraded, response.llm_generated, response.answerable) == (True, False, True)
    assert response.warnings == ["w", f"degraded: {code}"]
    assert response.citations[0].quote == "Only the board may sign contracts."
    assert response.provenance["generate"]["generator"] == "extractive"
    assert model.calls == 1


def test_fault_llm_down_degraded_only_when_it_is_allowed(make_request: Build) -> None:
    """Without leave the caller gets the model's failure."""
    with pytest.raises(StepError) as caught:
        pieces_and_answer(make_request(), Failing("llm_timeout"))

    assert caught.value.code == "llm_timeout"


def test_fault_llm_down_degraded_not_after_the_first_text(make_request: Build) -> None:
    """A stream that has begun is not begun anew; what was held back has not begun."""
    request = make_request(generate={"allow_degraded": True})
    with pytest.raises(StepError) as caught:
        pieces_and_answer(request, Failing("llm_stream_broken", after="Only the board [1] "))
    assert caught.value.code == "llm_stream_broken"

    _, response = pieces_and_answer(request, Failing("llm_stream_broken", after="Only the board "))
    assert response.degraded


def test_fault_llm_down_degraded_not_for_other_failures(make_request: Build) -> None:
    """What is not the model's failure stays a failure."""
    request = make_request(generate={"allow_degraded": True})
    with pytest.raises(StepError) as caught:
        pieces_and_answer(request, Failing("module_bad_output"))

    assert caught.value.code == "module_bad_output"


def test_fault_llm_down_degraded_leaves_time_for_it(make_request: Build) -> None:
    """The model gets the greater part of a deadline, all of it when nothing else may answer."""
    model = Failing("llm_timeout")
    pieces_and_answer(make_request(generate={"allow_degraded": True, "deadline_s": 10}), model)
    with pytest.raises(StepError):
        pieces_and_answer(make_request(generate={"deadline_s": 10}), model)

    assert model.deadlines == [8.0, 10.0]


def test_fault_llm_down_degraded_may_find_nothing(make_request: Build) -> None:
    """Passages that say nothing of it are no answer either."""
    request = make_request(generate={"allow_degraded": True}, query="Who founded Rome?")

    _, response = pieces_and_answer(request, Failing("llm_timeout"))

    assert (response.answer, response.finish_reason, response.degraded) == (
        NONE,
        "no_context",
        True,
    )
