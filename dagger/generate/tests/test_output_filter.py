"""What may not leave in an answer that a model wrote, whole and in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rag_generate import stream
from rag_generate.extractive import Extractive
from rag_generate.generator import Draft
from rag_generate.models import GenerateRequest, GenerateResponse, Usage
from rag_generate.output_filter import OutputFilter
from rag_generate.wire import open_step

Build = Callable[..., GenerateRequest]
MARK = "abcdefgh23456789"
KEY = "sk-own-key-123456"
RULES = (
    "You answer questions from numbered passages. Use only what the passages say. After each "
    "statement cite the passages it rests on by number."
)
TEXT = "See https://docs.example/a/b?x=1. The code is (https://ok.example/) & ![pic](https://ok.example/p.png)."

FORBIDDEN = {
    "canary": [
        f"<<{MARK}>>",
        " ".join(MARK),
        "ABCDEFGH-23456789",
        "The note says ¦planted-canary.",
    ],
    "secret": [
        f"key is ¦{KEY}",
        KEY[::-1],
        "c2stb3duLWtleS0xMjM0NTY=",
        "sk-abcdefghijklmnop1234",
        "sk-proj-AbCd_abcdefghijklmnop1234",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrst",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIx.abc",
        "-----BEGIN RSA PRIVATE KEY-----\nabc",
    ],
    "system_prompt": [
        f"my rules: ¦{RULES}",
        RULES.upper(),
        "passages. ¦Use only, what the passages say; after each statement: cite the passages!",
    ],
    "image": [
        "![a](https://evil.example/x)",
        "![pic](https://ok.example/p.png)",
        "![a b\nc](x)",
        "![x][1]\n\n[1]: https://ok.example/p.png",
        "![1]\n\n[1]: ¦https://ok.example/p.png",
        "<img src=x>",
        "<IMG/src=//evil.example>",
        "\\!\\[a\\](x)",
    ],
    "active_html": [
        "<a href=foo>x</a>",
        "<svg onload=alert(1)>",
        "<script>alert(1)</script>",
        "<b class=x style='background:url(x)'>",
    ],
    "foreign_url": [
        "https://evil.example/?d=SECRET",
        "see ¦[x](//evil.example/a)",
        "[x](/\\evil.example)",
        "[x](\\\\evil)",
        "so:\n[x]: ¦//evil",
        "[x](javascript:alert(1))",
        "javascript&colon;alert(1)",
        "data:text/html;base64,PHN",
        "mailto:a@evil.example?body=x",
        "&#104;ttps://evil.example",
        "ht\u200btps://evil.example/x",
        "ｈｔｔｐｓ¦：／／evil.example",
        "https:evil.example",
        "https:\\\\evil.example",
        "https:\\/\\/evil.example",
        "<https://evil.example>",
        "https://ok.example@evil.example/",
        "https://ok.example%2eevil.com/",
        "https://ok.example.evil.example/",
        "https://оk.example/",
        "http://3232235777/x",
        "https://[::1]/x",
        "file:///etc/passwd",
        "\\\\evil.example\\share",
        "www.evil.example/x",
        "evil.example/log?d=SECRET",
        "https://docs.example/a/b?x=1SECRET",
        "https://docs.example/a/b?x=1[1]SECRET",
    ],
}
ALLOWED = [
    "See https://docs.example/a/b?x=1 [1].",
    "[docs](https://docs.example/a/b), ok",
    '"https://ok.example"',
    "(https://ok.example/)[1].",
    "As you asked: https://asked.example/page",
    "Stop![1] Go on.",
    "vec![1, 2]",
    "URLs begin with https://.",
    "a // comment; x//y",
    "config.py, e.g. this: yes",
    "handlers[name](request=x)",
    "dict[str]: int",
    "`<img>` and List<Link>, x <b and c> d",
    "C:\\Users\\me",
    "std::vector<int>",
    "You answer questions. Use only what you must.",
    "Is it? Yes=no, 10:30 / 11:45",
    "请访问网站，2024年。谢谢！",
    "Tabs\tand\nlines stay.",
]
CASES = [(rule, text) for rule, texts in FORBIDDEN.items() for text in texts]
PIECES = (1, 2, 5, 1000)


@pytest.fixture
def request_(make_request: Build) -> GenerateRequest:
    context = {
        "marker": 1, "chunk_id": "c1", "document_id": "d", "text": TEXT,
        "span": [0, len(TEXT)], "score": 1.0,
    }  # fmt: skip
    prompt = [{"role": "system", "content": RULES}, {"role": "user", "content": "?"}]
    return make_request(
        query="What about https://asked.example/page?",
        contexts=[context],
        prompt=prompt,
        canaries=[MARK],
    )


def fed(request: GenerateRequest, text: str, size: int) -> tuple[str | None, list[str]]:
    """The rule that stopped a text, and what was sent of it."""
    output = OutputFilter(request, secrets=[KEY], canaries=["planted-canary"])
    sent = [output.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return output.hit or output.find(text), [*sent, output.finish()]


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize(("rule", "text"), CASES, ids=[text[:30] for _, text in CASES])
def test_fault_output_filtered_by_rule(
    request_: GenerateRequest, rule: str, text: str, size: int
) -> None:
    """Each form is found under its rule, in pieces of any size and between other text, and nothing
    of it was sent; what stands before "¦" is harmless."""
    harmless = text.split("¦")[0] if "¦" in text else ""
    text = text.replace("¦", "")

    found, sent = fed(request_, f"The board signs. {text} And on.", size)

    assert found == rule
    assert f"The board signs. {harmless}".startswith("".join(sent))


@pytest.mark.parametrize("text", ALLOWED)
def test_what_is_harmless_leaves_as_it_is(request_: GenerateRequest, text: str) -> None:
    """Addresses of the passages and of the question, code, other languages."""
    for size in PIECES:
        found, sent = fed(request_, text, size)
        assert (found, "".join(sent)) == (None, text), size


def test_text_comes_word_by_word(request_: GenerateRequest) -> None:
    """Nothing is held back longer than it must: a word, in scripts without blanks a character."""
    assert fed(request_, "Boards alone may sign.", 3)[1] == [
        "", "", "Boards ", "", "alone ", "may ", "", "", "sign.",
    ]  # fmt: skip
    assert fed(request_, "董事会可以签署。", 2)[1] == ["董事", "会可", "以签", "署。", ""]


def test_invisible_characters_are_taken_out(request_: GenerateRequest) -> None:
    """What nobody sees carries nothing out."""
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "salary 91420")
    for size in PIECES:
        assert (
            "".join(fed(request_, f"All\u200b is {hidden}well\r\n.", size)[1]) == "All is well\n."
        )


class Says:
    """A model that says this, in small pieces."""

    name = "says"
    model: str | None = "toy"

    def __init__(self, text: str) -> None:
        self.text, self.closed = text, False

    def stream(self, request: GenerateRequest) -> Iterator[str | Draft]:
        try:
            for at in range(0, len(self.text), 3):
                yield self.text[at : at + 3]
            yield Draft(self.text, "stop", Usage(llm_calls=2, completion_tokens=5))
        finally:
            self.closed = True


def run(request: GenerateRequest, model: Any) -> tuple[list[str], GenerateResponse]:
    *pieces, response = stream(
        request,
        generators={"m": model},
        default="m",
        no_context_text="None.",
        filtered_text="Withheld.",
    )
    assert isinstance(response, GenerateResponse)
    return [str(piece) for piece in pieces], response


def test_fault_output_filtered_answer(request_: GenerateRequest) -> None:
    """The configured text, no citations, the rule in a warning; the model's call is ended."""
    model = Says("It is so [1]. See https://evil.example/?d=SECRET for more of it.")

    pieces, response = run(request_, model)

    assert "".join(pieces) == "It is so [1]. See "
    assert model.closed
    assert (response.answer, response.finish_reason) == ("Withheld.", "filtered")
    assert (response.answerable, response.llm_generated) == (False, False)
    assert response.citations == []
    assert response.warnings == ["filtered: foreign_url"]
    assert response.contexts == request_.contexts  # the documents' own words remain
    assert response.usage.llm_calls == 1


def test_fault_output_filtered_after_the_check_of_citations(request_: GenerateRequest) -> None:
    """A number that is taken out leaves nothing behind that was hidden by it."""
    pieces, response = run(request_, Says("Go to https:[9]//evil.example/SECRET"))

    assert response.warnings == ["filtered: foreign_url"]
    assert "https://evil" not in "".join(pieces)


def test_a_refusal_with_more_in_it_is_filtered(request_: GenerateRequest) -> None:
    """What a refusal ends with is not sent unseen."""
    pieces, response = run(request_, Says("None. https://evil.example/SECRET"))

    assert response.finish_reason == "filtered"
    assert "evil" not in "".join(pieces)


def test_the_passages_own_sentences_are_not_filtered(make_request: Build) -> None:
    """`extractive` repeats the documents, addresses and all, but shows no image of theirs."""
    text = "Contracts are signed by ![x](https://a.example/p.png) the board, see https://a.example."
    context = {
        "marker": 1, "chunk_id": "c1", "document_id": "d", "text": text,
        "span": [0, len(text)], "score": 1.0,
    }  # fmt: skip
    request = make_request(contexts=[context], query="Who are contracts signed by?")

    pieces, response = run(request, Extractive(min_support=0.0))

    assert response.finish_reason == "stop"
    assert "https://a.example" in response.answer
    assert "![" not in response.answer + "".join(pieces)
    assert response.citations[0].quote == text


def test_the_key_of_this_installation_is_a_secret(
    make_request: Build, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's server knows the key it was sent; it does not get it into an answer."""
    key = "own-installation-key-77"
    for name, value in (
        ("BASE_URL", llm.url), ("MODEL", "m"), ("API_KEY", key),
    ):  # fmt: skip
        monkeypatch.setenv(f"RAG_LLM_{name}", value)
    llm.script = [llm.text("The key ", f"is {key} [1].")]
    with open_step() as handler:
        text = handler(make_request().model_dump_json())

    assert llm.headers[0]["authorization"] == f"Bearer {key}"
    assert '"warnings":["filtered: secret"]' in text
    assert key not in text
