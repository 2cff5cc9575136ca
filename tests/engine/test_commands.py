"""The commands of the guide, literally, on a real engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_kit import Dagger, Session, served
from examples import differences

from rag_augment.module import Augment
from rag_generate.module import Generate
from rag_pipeline.module import Rag
from rag_pipeline.steps.local import open_local
from rag_rerank.module import Rerank
from rag_retrieve.module import Retrieve

MODULES: dict[str, Any] = {
    "retrieve": Retrieve,
    "rerank": Rerank,
    "augment": Augment,
    "generate": Generate,
    "rag": Rag,
}
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "contract/examples"
QUESTION = "How does retrieval fuse dense and sparse results?"


def locally(docs: Path, request: dict[str, Any], home: Path) -> dict[str, Any]:
    """Answer in one process, over a folder that is called docs."""
    with open_local(home=home) as rag:
        rag.retriever.ingest([docs])
        return rag.answer(request)


def test_functions_lists_the_composite(dagger_cli: Dagger) -> None:
    """`dagger functions` at the root names what can be called there."""
    ran = dagger_cli("functions")

    assert ran.code == 0, ran.log
    assert re.search(r"^rag\s+\S", ran.out, re.MULTILINE)


def test_a_question_with_no_other_argument_is_answered_from_the_projects_docs(
    dagger_cli: Dagger, repository: Path, tmp_path: Path
) -> None:
    """The answer has citations, and is the one that one process gives."""
    answer = dagger_cli("call", "rag", "run", "--query", QUESTION).json

    assert answer["citations"][0]["document_id"].startswith("docs/")
    expected = locally(repository / "docs", {"query": QUESTION}, tmp_path)
    assert differences(expected, answer) == []


def test_a_users_folder_is_asked(dagger_cli: Dagger, my_docs: Path) -> None:
    """`--docs` takes a folder of the caller's machine."""
    ran = dagger_cli(
        *("call", "rag", "--docs", str(my_docs), "run", "--query", "How much holds the kettle?")
    )

    assert ran.json["answer"] == "The kettle on the third floor holds 1.7 litres [1]."
    assert ran.json["citations"][0]["document_id"] == "docs/kettle.md"


def test_search_gives_passages_without_an_answer(dagger_cli: Dagger) -> None:
    """`search` is retrieval only."""
    found = dagger_cli("call", "rag", "search", "--query", QUESTION, "--top-k", "2").json

    assert len(found["results"]) == 2
    assert "answer" not in found


def test_an_exported_index_is_the_store_of_the_embedded_default(
    dagger_cli: Dagger, my_docs: Path, tmp_path: Path
) -> None:
    """`index … export` writes a folder that one process opens and asks."""
    store = tmp_path / "store"
    index = ("index", "--docs", str(my_docs), "export", "--path", str(store))
    ran = dagger_cli("call", "rag", *index)

    assert ran.code == 0, ran.log[-3000:]
    assert json.loads((store / "ingest-report.json").read_text())["embeddings"] <= 2
    with open_local(home=store) as rag:
        answer = rag.answer({"query": "Where are bicycles parked?"})
    assert answer["citations"][0]["document_id"] == "docs/bicycles.md"
    again = dagger_cli(
        *("call", "rag", "--store", str(store), "run", "--query", "Where are bicycles parked?")
    ).json
    assert differences(answer, again) == []


def test_serve_up_gives_the_resident_pipeline_on_localhost(repository: Path, my_docs: Path) -> None:
    """`serve up` answers `POST /run` on this machine, and says when it is ready."""
    with served(repository, "call", "rag", "--docs", str(my_docs)) as url:
        question = {"query": "Where are bicycles parked?"}
        answer = httpx.post(f"{url}/run", json=question, trust_env=False, timeout=120).json()

    assert answer["answer"] == "Bicycles are parked behind the east gate [1]."


@pytest.mark.parametrize(
    ("step", "name"), [("augment", "numbered"), ("generate", "cited")], ids=["augment", "generate"]
)
def test_a_step_answers_a_request_as_text_and_as_a_file(
    dagger_cli: Dagger, step: str, name: str
) -> None:
    """`-m dagger/STEP call run` takes `--input-json` and `--input`, and gives the step's response."""
    request = EXAMPLES / step / f"ok-{name}.request.json"
    expected = json.loads((EXAMPLES / step / f"ok-{name}.response.json").read_text())

    by_text = dagger_cli("-m", f"dagger/{step}", "call", "run", "--input-json", request.read_text())
    by_file = dagger_cli("-m", f"dagger/{step}", "call", "run", "--input", str(request))

    assert by_text.json == expected
    assert by_file.json == expected


def test_retrieve_answers_over_an_index(dagger_cli: Dagger, my_docs: Path, tmp_path: Path) -> None:
    """`retrieve` builds an index and searches it; what is wrong is an envelope, not a stack trace."""
    store = tmp_path / "store"
    at = ("-m", "dagger/retrieve", "call")
    built = dagger_cli(*at, "index", "--docs", str(my_docs), "export", "--path", str(store))
    assert built.code == 0, built.log[-3000:]

    found = dagger_cli(*at, "--store", str(store), "run", "--input-json", '{"query": "kettle"}')
    bad = dagger_cli(*at, "run", "--input-json", '{"query": "kettle", "top_k": 0}')
    none = dagger_cli(*at, "run", "--input-json", '{"query": "kettle", "collection": "no"}')

    assert found.json["results"][0]["document_id"] == "docs/kettle.md"
    assert bad.json["error"]["param"] == "top_k"
    assert none.json["error"]["code"] == "collection_not_found"
    assert "Traceback" not in bad.out + none.out


@pytest.mark.parametrize("module", MODULES)
def test_help_tells_every_function_and_option(dagger_cli: Dagger, module: str) -> None:
    """What the module says of its constructor and functions stands in `--help`, word for word."""
    main = MODULES[module]
    registered = main.__dagger_module__.get_object(main.__name__)
    offered = [each for name, each in registered.functions.items() if name]
    constructor = registered.get_constructor().parameters.values()

    ran = dagger_cli("-m", f"dagger/{module}", "call", "--help")

    assert ran.code == 0, ran.log
    shown = " ".join(ran.out.split())
    for told in (each.doc for each in (*offered, *constructor)):
        assert " ".join(told.split("\n\n")[0].split()) in shown


def test_flags_of_the_pipeline_and_of_the_question_have_a_help_each(dagger_cli: Dagger) -> None:
    """`rag --help` has what stands before the function, `rag run --help` what stands after it."""
    pipeline = dagger_cli("call", "rag", "--help").out
    question = dagger_cli("call", "rag", "run", "--help").out

    for flag in ("--docs", "--docs-name", "--store", "--llm-model"):
        assert flag in pipeline
    for flag in ("--query", "--top-k", "--input-json", "--strict"):
        assert flag in question


@pytest.mark.parametrize("given", [("--query", " "), ("--input-json", '{"quer": "x"}')])
def test_a_bad_request_starts_no_service_and_fails_where_that_is_asked_for(
    dagger_cli: Dagger, given: tuple[str, str]
) -> None:
    """Without `--strict` it is an envelope; with it the call fails, and standard output is empty."""
    told = dagger_cli("-vv", "call", "rag", "run", *given)
    failed = dagger_cli("call", "rag", "run", *given, "--strict")

    assert told.json["error"]["code"] == "invalid_request"
    assert "Service.start" not in told.log
    assert (failed.code != 0, failed.out.strip()) == (True, "")
    assert "invalid_request in rag: quer" in failed.log


def test_the_steps_image_has_no_sdk_no_tools_and_is_not_root(session: Session) -> None:
    """Each image holds the step and its locked dependencies, and little else."""
    probe = (
        "import importlib.util as u, os, shutil;"
        "print([n for n in ('dagger', 'gql', 'pytest') if u.find_spec(n)],"
        "[t for t in ('gcc', 'cc', 'make', 'uv', 'git') if shutil.which(t)], os.getuid())"
    )
    query = (
        """query($probe: [String!]!) { rag { container { withExec(args: $probe) { stdout } } } }"""
    )

    printed = session.ask(query, probe=["python", "-c", probe])

    assert printed["rag"]["container"]["withExec"]["stdout"] == "[] [] 10001\n"


@pytest.mark.parametrize("step", ["augment", "rerank"])
def test_check_runs_the_steps_own_tests_in_its_container(dagger_cli: Dagger, step: str) -> None:
    """`dagger check` runs pytest inside the step's image."""
    ran = dagger_cli("-m", f"dagger/{step}", "call", "check")

    assert ran.code == 0, ran.log[-3000:]
    assert re.search(r"\d+ passed", ran.out)
    assert "failed" not in ran.out


def test_an_answer_is_replayed(dagger_cli: Dagger, my_docs: Path, tmp_path: Path) -> None:
    """`replay` says identical on the same documents, and names what changed on others."""
    at = ("call", "rag", "--docs", str(my_docs))
    answer = dagger_cli(*at, "run", "--query", "How much holds the kettle?")
    file = tmp_path / "answer.json"
    file.write_text(answer.out)

    same = dagger_cli(*at, "replay", "--answer", str(file)).json
    (my_docs / "kettle.md").write_text("# Kettle\n\nThe kettle holds 2 litres.\n")
    other = dagger_cli(*at, "replay", "--answer", str(file)).json

    assert (same["identical"], same["differences"]) == (True, [])
    assert other["identical"] is False
    assert other["differences"]


def test_answers_are_measured_on_a_users_own_questions(
    dagger_cli: Dagger, my_docs: Path, tmp_path: Path
) -> None:
    """`eval` asks every question of a dataset and gives metrics with their number of questions."""
    dataset = tmp_path / "questions.jsonl"
    dataset.write_text(
        '{"query": "How much holds the kettle?", "relevant": ["docs/kettle.md"]}\n'
        '{"query": "Where are bicycles parked?", "relevant": ["docs/bicycles.md"]}\n'
    )

    report = dagger_cli(
        *("call", "rag", "--docs", str(my_docs), "eval", "--dataset", str(dataset))
    ).json

    ndcg = report["metrics"]["ndcg@10"]
    assert (ndcg["value"], ndcg["n"], report["failed"]) == (1.0, 2, 0)
