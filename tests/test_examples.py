"""Examples and guides call functions that exist and keep to the contract."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

pytest.importorskip("dagger.mod", reason="dagger-io is not installed")

from rag_augment.module import Augment
from rag_generate.module import Generate
from rag_pipeline.module import Rag
from rag_pipeline.quality.conformance import check_step
from rag_rerank.module import Rerank
from rag_retrieve.module import Retrieve

ROOT = Path(__file__).resolve().parent.parent
MODULES: dict[str, type] = {
    "retrieve": Retrieve,
    "rerank": Rerank,
    "augment": Augment,
    "generate": Generate,
    "rag": Rag,
}
GUIDES = [
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("dagger.md", "publishing.md", "transition.md")),
    *(ROOT / f"dagger/{name}/README.md" for name in MODULES),
]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SCRIPTS = sorted(ROOT.glob("dagger/*/examples/shell/*.sh"))
SOURCES = sorted(
    [
        *ROOT.glob("dagger/*/examples/python/src/*/module.py"),
        *ROOT.glob("examples/*/src/*/module.py"),
    ]
)
PROJECTS = sorted([*ROOT.glob("dagger/*/examples/python"), *(ROOT / "examples").glob("*/")])
# What can be chained on a result in the shell, of Dagger's own types.
VERBS = {"call", "check", "core", "functions", "init", "install", "run", "session", "update"}
CHAINED = {"export": {"path"}, "up": {"ports"}, "publish": {"address"}, "file": {"path"}}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: str) -> ModuleType:
    """Return a file of an example as a module; the examples are projects of their own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "examples" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(module: str, function: str = "") -> set[str]:
    """Return the arguments of a module's function, or of its constructor."""
    if module not in MODULES:
        known = of_example(module)
        assert function in known, f"{module} has no function {function!r}"
        return known[function]
    main = MODULES[module]
    registered = main.__dagger_module__.get_object(main.__name__)  # type: ignore[attr-defined]
    if not function:
        return set(registered.get_constructor().parameters)
    assert function in registered.functions, f"{module} has no function {function!r}"
    return set(registered.functions[function].parameters)


def of_example(module: str) -> dict[str, set[str]]:
    """Return what `parameters` gives for each function of an example, read from its source."""
    [source] = (ROOT / "examples" / module / "src").glob("*/module.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    [main] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    fields = {ast.unparse(node.target) for node in main.body if isinstance(node, ast.AnnAssign)}
    return {"": fields} | {
        node.name: {each.arg for each in node.args.args[1:]}
        for node in main.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list
    }


def functions_of(module: str) -> set[str]:
    if module not in MODULES:
        return {name.replace("_", "-") for name in of_example(module) if name}
    main = MODULES[module]
    registered = main.__dagger_module__.get_object(main.__name__)  # type: ignore[attr-defined]
    return {name.replace("_", "-") for name in registered.functions if name}


# -- the shell: scripts and guides --------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Yield every `dagger … call …` of a text, as words; lines that end in \\ go on."""
    for line in text.replace("\\\n", " ").splitlines():
        for found in re.findall(r"(?:^|`)\s*(dagger(?: -m \S+)? call [^`]*)", line):
            yield shlex.split(found, comments=True)


def check_command(words: list[str], *, default: str | None = None) -> None:
    """Assert that a command calls functions and arguments that exist.

    Args:
        words: `dagger -m dagger/rag call …`, or `dagger call rag …` at the root.
        default: The module where the command is run; none: the repository's root.
    """
    module, rest = default, words[2:]
    if words[1] == "-m":
        rest = words[4:]
        module = default if words[2] == "$module" else words[2].split("@")[0].rpartition("/")[2]
    if module is None:
        module, *rest = rest
    if module == "$step":  # a loop over them
        for each in MODULES:
            check_command([*words[:2], f"dagger/{each}", *words[3:]])
        return
    known = module in MODULES or (ROOT / "examples" / module / "dagger.json").exists()
    assert known, f"{module!r} is not called from here: {words}"
    allowed, chain = parameters(module), [""]
    for word in rest:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            known = name in allowed or name == "help"
            assert known, f"{module} {chain[-1]} has no {word}: {shlex.join(words)}"
        elif word in functions_of(module) and len(chain) == 1:
            chain.append(word)
            allowed = parameters(module, word.replace("-", "_"))
        elif word in CHAINED and len(chain) == 2:
            chain.append(word)
            allowed = CHAINED[word]
    assert len(chain) > 1 or "--help" in rest, f"no function is called: {shlex.join(words)}"


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_a_shell_example_calls_what_there_is(script: Path) -> None:
    """Its file is named after the function it shows, as the Daggerverse wants it."""
    module = script.parts[-4]
    found = list(commands(script.read_text()))

    assert found
    for words in found:
        check_command(words, default=module)
    functions = [name.replace("-", "_") for name in functions_of(module)]
    assert any(script.stem.startswith(f"{module}_{function}") for function in functions)


@pytest.mark.parametrize("guide", GUIDES, ids=relative)
def test_a_guide_calls_what_there_is(guide: Path) -> None:
    """Every `dagger call` in a guide names functions and arguments that exist."""
    found = list(commands(guide.read_text(encoding="utf-8")))

    assert found, f"{guide} shows no dagger call"
    for words in found:
        check_command(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_a_document_names_commands_and_modules_that_there_are(document: Path) -> None:
    """Every `make` target, `dagger` verb and module reference in a document exists."""
    text = document.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for target, variables in re.findall(r"(?m)(?:^ *|`)make ([a-z-]+)((?: [A-Z]+=)?)", text):
        assert re.search(rf"(?m)^{target}:", makefile), f"make {target}"
        name = variables.strip(" =")
        assert not name or f"$({name})" in makefile, f"make {target} {name}="
    for verb in re.findall(r"(?m)(?:^ *|`)dagger (?:-m \S+ )?([a-z]+)", text):
        assert verb in VERBS, f"dagger {verb}"
    for module in re.findall(r"OWNER/REPO(?:\.git)?/([a-z/-]+)@v", text):
        assert (ROOT / module / "dagger.json").exists(), module


def test_a_wrong_command_is_found() -> None:
    """The check above notices a function or an argument that does not exist."""
    with pytest.raises(AssertionError, match="has no --querry"):
        check_command(shlex.split("dagger call rag run --querry x"))
    with pytest.raises(AssertionError, match="no function is called"):
        check_command(shlex.split("dagger -m dagger/rag call runs"))
    with pytest.raises(AssertionError, match="has no --qery"):
        check_command(shlex.split("dagger -m examples/team-catalog call ask --qery x"))
    with pytest.raises(AssertionError, match="has no --adress"):
        check_command(shlex.split("dagger -m dagger/$step call publish --adress x"))


# -- Python modules -----------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, str, set[str]]]:
    """Yield (module, function or "" for its constructor, arguments) of every call of a dependency.

    `dag.rag(…)` may be kept in a variable or returned by a method; a method called on either is taken
    for a function of that module.
    """
    holders: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.FunctionDef) and (module := _constructs(node)):
            name = node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.targets[0])
            holders[name] = module
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        module, function = _module_of(node, {}), ""
        if module is None:
            module, function = _module_of(node.func.value, holders), node.func.attr
        if module is not None:
            assert not node.args, f"give arguments by name: {ast.unparse(node)}"
            yield module, function, {str(each.arg) for each in node.keywords}


def _module_of(node: ast.AST, holders: dict[str, str]) -> str | None:
    """Return the module that an expression is an object of: `dag.rag(…)`, or what holds one."""
    if isinstance(node, ast.Call):
        function = ast.unparse(node.func)
        if found := re.fullmatch(r"dag\.(\w+)", function):
            return found[1].replace("_", "-")
        return holders.get(function.removeprefix("self."))
    return holders.get(node.id) if isinstance(node, ast.Name) else None


def _constructs(node: ast.Assign | ast.FunctionDef) -> str | None:
    value: ast.AST | None = node.value if isinstance(node, ast.Assign) else None
    if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
        value = node.body[-1].value
    return _module_of(value, {}) if isinstance(value, ast.Call) else None


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_a_python_example_calls_what_there_is(source: Path) -> None:
    """Functions and arguments exist, and each module called is a dependency in its dagger.json."""
    project = source.parents[2]
    config = json.loads((project / "dagger.json").read_text())
    dependencies = {each["name"] for each in config.get("dependencies", [])}
    called = list(calls(ast.parse(source.read_text())))

    assert {module for module, _, _ in called} == dependencies
    for module, function, arguments in called:
        if module in MODULES:
            assert arguments <= parameters(module, function), (module, function, arguments)


def test_a_wrong_call_is_found() -> None:
    """The check above sees a call through a variable, a method, and in a chain."""
    code = "class A:\n    def _rag(self): return dag.rag(docs=1)\n    def f(self): self._rag().one(a=1)"
    code += "\nstep = dag.augment()\nstep.two(b=2)\njson.loads(dag.generate().three())"

    assert set(map(str, calls(ast.parse(code)))) == {
        "('rag', '', {'docs'})",
        "('rag', 'one', {'a'})",
        "('augment', '', set())",
        "('augment', 'two', {'b'})",
        "('generate', '', set())",
        "('generate', 'three', set())",
    }


@pytest.mark.parametrize("project", sorted(ROOT.glob("dagger/*/examples/python")), ids=relative)
def test_a_python_example_is_named_as_the_daggerverse_wants_it(project: Path) -> None:
    """`retrieve_run` or `retrieve_run__other` is an example of the function `run` of `retrieve`."""
    module = project.parts[-3]
    tree = ast.parse((project / "src/examples/module.py").read_text())
    functions = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert functions
    for name in functions:
        shown = name.split("__")[0].removeprefix(f"{module}_")
        assert shown.replace("_", "-") in functions_of(module), name


@pytest.mark.parametrize("project", PROJECTS, ids=relative)
def test_an_example_is_a_whole_module(project: Path) -> None:
    """It has its own lock and Python version, and its dependencies exist."""
    config = json.loads((project / "dagger.json").read_text())

    assert (project / "uv.lock").exists()
    assert (project / ".python-version").read_text() == "3.11\n"
    for each in config.get("dependencies", []):
        found = json.loads((project / each["source"] / "dagger.json").read_text())
        assert found["name"] == each["name"]


# -- the retriever of someone else --------------------------------------------------------------


def retriever() -> ModuleType:
    return load("keyword-retriever/src/keyword_retriever/search.py")


def ask(**request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(retriever().run(json.dumps(request)))
    return answer


def test_the_keyword_retriever_keeps_the_contract() -> None:
    """It passes the check that every foreign step is offered."""
    run = retriever().run

    async def step(text: str) -> str:
        return str(run(text))

    report = asyncio.run(check_step("retrieve", step, query="canoe paddles"))

    assert [each.id for each in report.checks if not each.passed] == []


def test_its_response_fits_the_schema_and_its_spans_the_documents() -> None:
    """A passage is the part of its document that its span says."""
    schema = json.loads((ROOT / "contract/retrieve.response.schema.json").read_text())
    texts = {each["id"]: each["text"] for each in json.loads(retriever().CATALOGUE.read_text())}

    answer = ask(query="What does the stove cost in a tent?", top_k=100)

    jsonschema.validate(answer, schema)
    assert answer["results"]
    for passage in answer["results"]:
        start, end = passage["span"]
        assert texts[passage["document_id"]][start:end] == passage["text"]


def test_the_passage_with_the_rarest_words_of_the_question_is_first() -> None:
    """Its scoring is simple, and does what its docstring says."""
    best = ask(query="Until when can I cancel a booking?")["results"][0]
    only = ask(query="What does it cost a day?", filters={"kind": "boat"})["results"]

    assert best["chunk_id"] == "terms#1"
    assert {each["document_id"] for each in only} == {"canoe-reed"}
    assert ask(query="Who won the cup?")["results"] == []


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        ({"query": " "}, "invalid_request", "query"),
        ({"query": "x", "top_k": True}, "invalid_request", "top_k"),
        ({"query": "x", "min_score": "1"}, "invalid_request", "min_score"),
        ({"query": "x", "filters": {"year": {"$gte": 1}}}, "invalid_request", "filters"),
        ({"query": "x", "retrieve": {"mode": "dense"}}, "invalid_request", "retrieve"),
        ({"query": "x", "collection": "other"}, "collection_not_found", "collection"),
    ],
)
def test_a_bad_request_is_an_envelope(request_: dict[str, Any], code: str, param: str) -> None:
    """It refuses unsupported options with the field and the request's id."""
    answer = ask(**request_, request_id="r1")

    jsonschema.validate(answer, json.loads((ROOT / "contract/error.schema.json").read_text()))
    error = answer["error"]
    assert (error["code"], error["param"], error["request_id"]) == (code, param, "r1")


# -- an answer to read --------------------------------------------------------------------------


def test_the_teams_show_an_answer_with_its_citations() -> None:
    """Both print the text, and below it where each number points to."""
    answer = (ROOT / "contract/examples/rag/ok-question.response.json").read_text()
    cited = json.loads(answer)["citations"][0]

    for team in ("team-handbook/src/team_handbook", "team-catalog/src/team_catalog"):
        shown = load(f"{team}/reading.py").readable(answer)

        assert shown.startswith(json.loads(answer)["answer"])
        assert f"[1] {cited['document_id']}, characters {cited['spans'][0][0]}" in shown
        assert cited["quote"] in shown


def test_the_teams_fail_with_the_error_of_the_pipeline() -> None:
    """An envelope becomes an exception with its code, its step and its message."""
    failed = json.dumps(
        {"error": {"code": "invalid_request", "step": "rag", "message": "query: …"}}
    )

    with pytest.raises(ValueError, match="invalid_request in rag: query"):
        load("team-handbook/src/team_handbook/reading.py").readable(failed)
