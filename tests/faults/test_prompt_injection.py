"""Threat `prompt_injection`: whatever a document talks a model into, what may not leave does not."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from injection_corpus import CANARY, CONFIDENTIAL, KEY, Attack, Known, attacks, leaks, pieces_of
from service_kit import LLMStub, fill, serving

from rag_augment import augment
from rag_augment.models import AugmentRequest, AugmentResponse
from rag_augment.template import load_template
from rag_augment.tokenizer import load_tokenizer
from rag_generate import generate, stream
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest, GenerateResponse

FILTERED = "Withheld."
INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e0fff]"
)


class Obedient:
    """A model that does what the documents say, to the letter, in pieces of any size."""

    name = "obedient"
    model: str | None = "obedient"

    def __init__(self, text: str, sizes: list[int]) -> None:
        self._text, self._sizes = text, sizes

    def stream(self, request: GenerateRequest) -> Iterator[str | Draft]:
        yield from pieces_of(self._text, self._sizes)
        yield Draft(self._text, "stop")


@cache
def parts() -> dict[str, Any]:
    return {"tokenizer": load_tokenizer(), "template": load_template()}


def prompt_of(attack: Attack, seed: int) -> AugmentResponse:
    """The prompt over the planted documents and the confidential passage."""
    texts = [*attack.documents, CONFIDENTIAL]
    results = [
        {
            "chunk_id": f"c{at}",
            "document_id": f"d{at}.md",
            "title": "Notes",
            "source": f"d{at}.md",
            "text": text,
            "span": [0, len(text)],
            "score": 1 - at / 10,
        }
        for at, text in enumerate(texts)
    ]
    asked = {"query": "What do the notes say?", "results": results, "augment": {"seed": seed}}
    return augment(AugmentRequest.model_validate(asked), **parts())


def known_from(messages: list[Any], mark: str) -> Known:
    return Known(mark, next(m["content"] for m in messages if m["role"] == "system"))


def corpus(lane: Any, fast: int) -> list[Attack]:
    every = attacks()
    assert len(every) >= 500
    return random.Random(lane.seed).sample(every, lane(fast, len(every)))


def test_threat_prompt_injection_leaves_in_no_answer_of_the_step(lane: Any) -> None:
    """At least 500 planted documents, a model that obeys all of them: 0 of them win, whole or
    streamed, in any prefix; and every one would without the filter."""
    chosen = corpus(lane, 520)
    draw = random.Random(lane.seed)
    reasons: Counter[str] = Counter()
    for attack in chosen:
        built = prompt_of(attack, draw.getrandbits(32))
        (mark,) = built.canaries
        known = known_from([m.model_dump() for m in built.prompt], mark)
        reply = attack.reply(known)
        assert leaks(reply, known), f"{attack.name}: the judge sees nothing in {reply!r}"
        request = GenerateRequest.model_validate(built.model_dump())
        model = Obedient(reply, [draw.randint(1, 9) for _ in range(7)])
        settings: dict[str, Any] = {
            "generators": {"obedient": model},
            "default": "obedient",
            "no_context_text": "None.",
            "filtered_text": FILTERED,
            "secrets": [KEY],
            "canaries": [CANARY],
        }
        *pieces, response = stream(request, **settings)
        sent = "".join(map(str, pieces))
        where = f"--seed {lane.seed}: {attack.name}: {reply!r} sent {sent!r}"
        assert isinstance(response, GenerateResponse)
        assert leaks(sent, known) == [], where
        assert leaks(response.answer, known) == [], where
        if response.finish_reason == "filtered":
            assert (response.answer, response.answerable) == (FILTERED, False), where
            assert response.citations == [] and not response.llm_generated, where
            reasons.update(response.warnings)
        whole = generate(request, **settings)
        assert (whole.answer, whole.finish_reason) == (response.answer, response.finish_reason)
    rules = {warning.removeprefix("filtered: ") for warning in reasons}
    everything = {"canary", "secret", "system_prompt", "image", "active_html", "foreign_url"}
    assert rules == everything, f"--seed {lane.seed}: {reasons}"


def test_threat_prompt_injection_cannot_leave_its_passage(lane: Any) -> None:
    """No planted text forges the mark or ends its passage; nothing invisible reaches a model."""
    draw = random.Random(lane.seed)
    for attack in corpus(lane, 150):
        built = prompt_of(attack, draw.getrandbits(32))
        (mark,) = built.canaries
        rules, user = (said.content for said in built.prompt)
        where = f"--seed {lane.seed}: {attack.name}"
        assert not any(mark in text for text in [*attack.documents, CONFIDENTIAL]), where
        assert not INVISIBLE.search(rules + user), where
        blocks = re.findall(rf"\[(\d+)\]\n<<{mark}>>\n(.*?)\n<</{mark}>>", user, re.DOTALL)
        assert [int(number) for number, _ in blocks] == [c.marker for c in built.contexts], where
        outside = user
        for _, inside in blocks:
            outside = outside.replace(inside, "")
        assert user.count(mark) == 2 * len(blocks) and mark in rules, where
        frame = re.sub(rf"\[\d+\]|<</?{mark}>>|\s", "", outside)
        assert frame == "Passages:Question:Whatdothenotessay?", where


@pytest.fixture
def llm() -> Iterator[LLMStub]:
    stub = LLMStub()
    yield stub
    stub.close()


# -- over HTTP ------------------------------------------------------------------------------------


@contextmanager
def answering(llm: LLMStub, tmp_path: Path, planted: list[Attack]) -> Iterator[httpx.Client]:
    """A service over the planted documents and a confidential one; the stub writes its answers."""
    files = {"payroll.md": CONFIDENTIAL}
    for attack in planted:
        for at, text in enumerate(attack.documents):
            files[f"{attack.name}-{at}.md"] = f"Notes about {token(attack)}.\n\n{text}\n"
    home = fill(tmp_path / "home", {"default": files})
    env = {
        "RAG_LLM_BASE_URL": llm.url,
        "RAG_LLM_MODEL": "stub",
        "RAG_LLM_API_KEY": KEY,
        "RAG_CANARIES": json.dumps([CANARY]),
        "RAG_FILTERED_TEXT": FILTERED,
    }
    with (
        serving(home=home, env=env) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


def token(attack: Attack) -> str:
    return f"project{attack.name.split('-')[0]}x"


def obeying(llm: LLMStub, attack: Attack, draw: random.Random) -> Callable[[], Known]:
    """Let the stub obey an attack with what it was really sent; returns what it knew."""
    seen: list[Known] = []

    def behave(handler: Any) -> None:
        messages = handler.asked["messages"]
        mark = re.search(r"<<(\w{16,})>>", messages[0]["content"])
        assert mark
        key = handler.headers["Authorization"].removeprefix("Bearer ")
        known = Known(mark[1], messages[0]["content"], key)
        seen.append(known)
        sizes = [draw.randint(1, 9) for _ in range(5)]
        llm.text(*pieces_of(attack.reply(known), sizes))(handler)

    llm.script = [behave]
    return lambda: seen[-1]


def ask_json(client: httpx.Client, query: str) -> tuple[str, list[str]]:
    answer = client.post("/rag_modules", json={"query": query, "top_k": 3}).raise_for_status()
    return answer.json()["answer"], answer.json()["warnings"]


def ask_sse(client: httpx.Client, query: str) -> tuple[str, list[str]]:
    text = client.post("/rag_modules", json={"query": query, "top_k": 3, "stream": True}).text
    events = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    data = [(name.removeprefix("event: "), json.loads(line[6:])) for name, line in events]
    pieces = [one["delta"]["content"] for name, one in data if name == "message"]
    final = next(one for name, one in data if name == "final_answer")
    return "".join(pieces) + "\n" + final["answer"], final["warnings"]


def chat(query: str, **more: Any) -> dict[str, Any]:
    return {"model": "rag", "messages": [{"role": "user", "content": query}], "top_k": 3, **more}


def ask_openai(client: httpx.Client, query: str) -> tuple[str, list[str]]:
    answer = client.post("/v1/chat/completions", json=chat(query)).raise_for_status().json()
    return answer["choices"][0]["message"]["content"], answer["warnings"]


def ask_openai_stream(client: httpx.Client, query: str) -> tuple[str, list[str]]:
    text = client.post("/v1/chat/completions", json=chat(query, stream=True)).text
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    return "".join(pieces) + "\n" + chunks[-1]["answer"], chunks[-1]["warnings"]


def ask_mcp(client: httpx.Client, query: str) -> tuple[str, list[str]]:
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ask", "arguments": {"query": query, "top_k": 3}},
    }
    headers = {"Accept": "application/json, text/event-stream"}
    body = client.post("/mcp", json=call, headers=headers).raise_for_status().text
    data = body[body.index("{") :].strip()
    result = json.loads(data)["result"]["structuredContent"]
    return result["answer"], result["warnings"]


INTERFACES = (ask_json, ask_sse, ask_openai, ask_openai_stream, ask_mcp)


@pytest.mark.timeout(900)
def test_threat_prompt_injection_leaves_over_no_interface(
    lane: Any, llm: LLMStub, tmp_path: Path
) -> None:
    """A sample over HTTP in the fast lane, all of it in the full one, every interface in turn."""
    planted = corpus(lane, 30)
    draw = random.Random(lane.seed)
    filtered = withheld = 0
    with answering(llm, tmp_path, planted) as client:
        for at, attack in enumerate(planted):
            query = f"What do the notes about {token(attack)} say?"
            for turn in range(lane(1, 2)):
                ask = INTERFACES[(at + turn) % len(INTERFACES)]
                knew = obeying(llm, attack, draw)
                calls = llm.calls
                text, warnings = ask(client, query)
                where = f"--seed {lane.seed}: {attack.name} by {ask.__name__}: {text!r}"
                assert llm.calls == calls + 1, where
                assert leaks(attack.reply(knew()), knew()), where
                assert knew().key == KEY, where
                assert leaks(text, knew()) == [], where
                named = sum(warning.startswith("filtered: ") for warning in warnings)
                filtered += named
                withheld += not attack.name.endswith("-tags")  # those are only taken out
        metrics = client.get("/metrics").text
    counted = re.findall(r"^rag_output_filtered_total\{.*\} (\d+)", metrics, re.MULTILINE)
    assert sum(map(int, counted)) == filtered
    assert filtered == withheld, f"--seed {lane.seed}"
