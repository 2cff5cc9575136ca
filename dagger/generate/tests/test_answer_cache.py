"""Answers of the model that are kept: given again only when everything they follow from is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from parrot import NONE, Parrot

from rag_generate import generate, stream
from rag_generate.answer_cache import MAX_CHARACTERS, AnswerCache
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest, GenerateResponse

Build = Callable[..., GenerateRequest]
ANSWER = "Only the board may sign contracts [1]."
WHOLE: dict[str, Any] = {
    "collection": "default",
    "filters": {"year": 2024, "topic": {"$in": ["law"]}},
    "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
    "cache_scope": "alice",
    "top_k": 5,
    "min_score": None,
    "search_queries": [],
    "retrieve": {},
    "standalone_query": "Who may sign contracts?",
    "provenance": {
        "retrieve": {"version": "1", "corpus_digest": "sha256:1", "embedding_model": "mini"},
        "augment": {"template_digest": "sha256:2"},
        "rerank": {"model": "r"},
    },
    "generate": {"target": "parrot", "temperature": 0.0, "seed": 1, "max_answer_tokens": 100},
}  # fmt: skip


def ask(request: GenerateRequest, parrot: Parrot, answers: AnswerCache) -> GenerateResponse:
    return generate(
        request,
        generators={"parrot": parrot},
        default="parrot",
        no_context_text=NONE,
        answers=answers,
    )


def changes(make_request: Build) -> dict[str, dict[str, Any]]:
    """Return one changed request for each part that an answer follows from."""
    contexts = make_request().model_dump()["contexts"]
    prompt = make_request().model_dump()["prompt"]

    def without(name: str, **values: Any) -> dict[str, Any]:
        step = {**WHOLE["provenance"][name], **values}
        return {"provenance": {**WHOLE["provenance"], name: step}}

    return {
        "question": {"query": "Who may not sign contracts?"},
        "completed question": {"standalone_query": "Who may sign leases?"},
        "conversation": {"messages": WHOLE["messages"][:1]},
        "order of the conversation": {"messages": WHOLE["messages"][::-1]},
        "filters": {"filters": {"year": 2023, "topic": {"$in": ["law"]}}},
        "no filters": {"filters": None},
        "groups": {"filters": {"$and": [WHOLE["filters"], {"$or": [{"g": {"$in": ["board"]}}]}]}},
        "tenant": {"cache_scope": "bob"},
        "nobody": {"cache_scope": ""},
        "collection": {"collection": "hr"},
        "corpus": without("retrieve", corpus_digest="sha256:9"),
        "embedding model": without("retrieve", embedding_model="other"),
        "version": without("retrieve", version="2"),
        "template": without("augment", template_digest="sha256:9"),
        "reranker": without("rerank", model="s"),
        "prompt": {"prompt": [{**prompt[0], "content": "Answer briefly."}, prompt[1]]},
        "role": {"prompt": [{**prompt[0], "role": "user"}, prompt[1]]},
        "a passage": {"contexts": [{**contexts[0], "text": "The chair may sign."}, *contexts[1:]]},
        "its span": {"contexts": [{**contexts[0], "span": [0, 34]}, *contexts[1:]]},
        "its metadata": {"contexts": [{**contexts[0], "metadata": {"x": 1}}, *contexts[1:]]},
        "order of passages": {"contexts": [contexts[1], contexts[0], contexts[2]]},
        "fewer passages": {"contexts": contexts[:2]},
        "top_k": {"top_k": 6},
        "min_score": {"min_score": 0.1},
        "search options": {"retrieve": {"mode": "dense"}},
        "search queries": {"search_queries": ["contracts"]},
        "without support": {"no_context": "answer"},
        **{
            f"option {name}": {"generate": {**WHOLE["generate"], name: value}}
            for name, value in {
                "seed": 2,
                "temperature": 0.5,
                "max_answer_tokens": 99,
                "min_support": 0.0,
                "on_no_citations": "warn",
                "max_sentences": 3,
            }.items()
        },
    }


def test_the_same_question_is_answered_once(make_request: Build) -> None:
    """Whatever does not matter is another: id, deadline, the prompt's random mark, warnings."""
    parrot, answers = Parrot(ANSWER), AnswerCache(10)
    first = ask(make_request(**WHOLE, request_id="a"), parrot, answers)
    other = {**WHOLE, "generate": {**WHOLE["generate"], "deadline_s": 3.5}}
    other["filters"] = dict(reversed(WHOLE["filters"].items()))
    again = ask(make_request(**other, request_id="b", warnings=["w"]), parrot, answers)

    assert parrot.calls == 1
    assert first.provenance["generate"]["cache"] == "miss"
    assert again.provenance["generate"]["cache"] == "hit"
    assert (again.answer, again.citations) == (first.answer, first.citations)
    assert (first.usage.llm_calls, again.usage.llm_calls) == (1, 0)
    assert again.warnings == ["w"]


def test_each_part_of_the_key_matters(make_request: Build) -> None:
    """Another question, conversation, filter, tenant, corpus, model or option asks the model again."""
    answers = AnswerCache(1000)
    ask(make_request(**WHOLE), Parrot(ANSWER), answers)
    hits = []
    for name, change in changes(make_request).items():
        parrot = Parrot(ANSWER)
        response = ask(make_request(**{**WHOLE, **change}), parrot, answers)
        if parrot.calls != 1 or response.provenance["generate"]["cache"] != "miss":
            hits.append(name)
    renamed = Parrot(ANSWER, model="another")
    ask(make_request(**WHOLE), renamed, answers)

    assert hits == []
    assert renamed.calls == 1


@pytest.mark.parametrize("mark", ["k3n8x2m7q9w4e5r6", "^ab^"])
def test_the_mark_of_a_prompt_is_no_part_of_the_key(make_request: Build, mark: str) -> None:
    """It is drawn for each request; an answer that repeats one is withheld and not kept."""

    def marked(drawn: str) -> GenerateRequest:
        content = f"<<{drawn}>>\nOnly the board may sign contracts.\n<</{drawn}>>"
        prompt = [{"role": "user", "content": content}]
        return make_request(**{**WHOLE, "prompt": prompt, "canaries": [drawn]})

    parrot, answers = Parrot(ANSWER), AnswerCache(10)
    ask(marked(mark), parrot, answers)
    ask(marked(mark[::-1].replace("a", "z")), parrot, answers)
    assert parrot.calls == 1

    leaking, answers = Parrot(f"{ANSWER} {mark}"), AnswerCache(10)
    for drawn in (mark, "another mark drawn"):
        leaked = ask(marked(drawn), leaking, answers)
        assert leaked.provenance["generate"]["cache"] == "miss"
    assert leaking.calls == 2


def test_a_short_text_that_may_not_leave_does_not_make_questions_equal(make_request: Build) -> None:
    parrot, answers = Parrot(ANSWER), AnswerCache(10)
    for word, canary in (("cat", "a"), ("cot", "o")):
        prompt = [{"role": "user", "content": word}]
        ask(make_request(prompt=prompt, canaries=[canary]), parrot, answers)

    assert parrot.calls == 2


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (NONE, {}),  # the model declines
        ("No source given.", {}),
        (ANSWER, {"generate": {"temperature": 0.7}}),  # drawn at random
        (ANSWER, {"contexts": [], "no_context": "answer"}),  # no answer over passages
    ],
    ids=["declined", "uncited", "random", "side task"],
)
def test_what_is_no_complete_cited_answer_is_not_kept(
    make_request: Build, text: str, fields: dict[str, Any]
) -> None:
    parrot, answers = Parrot(text), AnswerCache(10)

    for _ in range(2):
        ask(make_request(**fields), parrot, answers)

    assert parrot.calls == 2


def test_an_answer_can_be_asked_for_again(make_request: Build) -> None:
    """And is then the one that is kept; an answer that was cut off is not."""
    answers = AnswerCache(10)
    anew = {"generate": {"cache": False}}
    ask(make_request(), Parrot(ANSWER), answers)
    second = Parrot("The board signs contracts [1].")
    ask(make_request(**anew), second, answers)

    assert second.calls == 1
    assert ask(make_request(), Parrot("unused"), answers).answer == "The board signs contracts [1]."
    ask(make_request(**anew), Parrot(ANSWER, finish_reason="length"), answers)
    assert ask(make_request(), Parrot("unused"), answers).answer == "The board signs contracts [1]."


def test_a_stream_gives_a_kept_answer_whole(make_request: Build) -> None:
    """A stream that ended keeps its answer; one whose reader left does not."""
    answers = AnswerCache(10)

    def pieces(parrot: Parrot) -> Any:
        return stream(
            make_request(),
            generators={"parrot": parrot},
            default="parrot",
            no_context_text=NONE,
            answers=answers,
        )

    left = pieces(Parrot(ANSWER))
    next(left)
    left.close()
    first, second = Parrot(ANSWER), Parrot("unused")
    *written, _ = pieces(first)
    *given, response = pieces(second)

    assert (first.calls, second.calls) == (1, 0)
    assert "".join(written) == "".join(given) == response.answer == ANSWER
    assert response.provenance["generate"]["cache"] == "hit"


def test_those_used_longest_ago_make_room(make_request: Build) -> None:
    answers, parrot = AnswerCache(2), Parrot(ANSWER)
    for query in ("a", "b", "a", "c", "a", "b"):
        ask(make_request(query=query), parrot, answers)

    assert parrot.calls == 4  # a, b, c, and b once more


def test_a_very_long_answer_is_not_kept() -> None:
    """So that a number of answers bounds the memory."""
    answers = AnswerCache(1)
    answers.keep("long", Draft("x" * (MAX_CHARACTERS + 1), "stop"))
    assert answers.find("long") is None


def test_without_a_cache_nothing_is_said_of_one(make_request: Build) -> None:
    response = generate(
        make_request(),
        generators={"parrot": Parrot(ANSWER)},
        default="parrot",
        no_context_text=NONE,
    )

    assert "cache" not in response.provenance["generate"]
