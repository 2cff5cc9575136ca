"""`rag ask`, `rag search`, `rag doctor` and the prompt: processes on one indexed home."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from rag_command import BYLAWS, RAG, environment, run, write_documents
from reranker_double import reranker_double

from rag_pipeline.models import RagResponse, SearchResponse

QUESTION = "Who may sign contracts?"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two documents in the collection `default`."""
    folder = tmp_path_factory.mktemp("indexed")
    ran = run("index", str(write_documents(folder)), home=folder / "home")
    assert ran.code == 0, ran.err
    return folder / "home"


def heed_ctrl_c() -> None:
    """As on a terminal: where the tests run in the background it is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def terminal(*arguments: str, home: Path, **variables: str) -> Iterator[pexpect.spawn]:
    """Run `rag` on a terminal of 80 columns."""
    child = pexpect.spawn(
        RAG,
        list(arguments),
        env=environment(home, TERM="xterm-256color", **variables),
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 80),
        preexec_fn=heed_ctrl_c,
    )
    try:
        yield child
    finally:
        child.close(force=True)


def test_json_is_exactly_the_composites_response(indexed: Path) -> None:
    """`ask --json` prints one JSON document of the contract; the quote stands at its span."""
    ran = run("ask", QUESTION, "--json", "--top-k", "2", home=indexed)
    response = RagResponse.model_validate_json(ran.out)
    (citation,) = response.citations
    start, end = citation.spans[0]

    assert (ran.code, ran.err) == (0, "")
    assert ran.json == json.loads(response.model_dump_json())
    assert response.answer == "Only the board may sign contracts above 10 000 euros [1]."
    assert citation.document_id == "papers/bylaws.md"
    assert BYLAWS[start:end] == citation.quote
    assert set(response.timings_ms) == {"retrieve", "augment", "generate", "total"}
    assert set(response.provenance) == {"retrieve", "augment", "generate", "rag"}


def test_json_is_stable(indexed: Path) -> None:
    """Two runs print the same but for the id and the timings."""
    first, second = (run("ask", QUESTION, "--json", home=indexed).json for _ in range(2))
    for response in (first, second):
        del response["id"], response["timings_ms"]

    assert first == second


def test_people_see_numbered_citations(indexed: Path) -> None:
    """Answer, then each number with document, characters and quote; no escape codes in a pipe."""
    ran = run("ask", QUESTION, home=indexed)

    assert ran.code == 0
    assert ran.out == (
        "Only the board may sign contracts above 10 000 euros [1].\n\n"
        "[1] papers/bylaws.md, “By-laws”, characters 11–64\n"
        "    “Only the board may sign contracts above 10 000 euros.”\n"
    )


def test_search_shows_passages_with_scores(indexed: Path) -> None:
    """Passages of the mode asked for, as a table or as JSON with exact spans."""
    table = run("search", QUESTION, "--mode", "sparse", home=indexed)
    ran = run("search", QUESTION, "--json", home=indexed)
    response = SearchResponse.model_validate_json(ran.out)
    best = response.results[0]

    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["#", "score", "sparse", "document", "passage"]
    assert best.document_id == "papers/bylaws.md"
    assert BYLAWS[best.span[0] : best.span[1]] == best.text


def test_an_unknown_collection_fails_with_the_way_out(indexed: Path) -> None:
    """Exit code 1; the error on stderr; with --json the envelope on stdout."""
    ran = run("ask", QUESTION, "-c", "nope", home=indexed)
    as_json = run("ask", QUESTION, "-c", "nope", "--json", home=indexed)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: collection 'nope' does not exist")
    assert "rag collections list" in ran.err
    assert (as_json.code, as_json.json["error"]["code"]) == (1, "collection_not_found")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask"],
        ["ask", QUESTION, "--top-k", "0"],
        ["ask", QUESTION, "--filter", "{"],
        ["ask", QUESTION, "--mode", "magic"],
        ["ask", QUESTION, "--unknown"],
    ],
)
def test_wrong_usage_exits_with_2(home: Path, arguments: list[str]) -> None:
    """Usage errors load nothing and are told on stderr."""
    ran = run(*arguments, home=home)

    assert (ran.code, ran.out) == (2, "")
    assert "Usage: rag ask" in ran.err


@pytest.mark.parametrize("question", ["", "   ", "x" * 10_000, "\udcff"])
def test_a_bad_question_is_an_error(indexed: Path, question: str) -> None:
    """Empty, too long, and bytes that are no text: a clear error and exit code 1."""
    ran = run("ask", question, home=indexed)

    assert ran.code == 1
    assert ran.err.startswith("error: ") and "invalid_request" in ran.err


def test_the_prompt_answers_until_an_empty_line(indexed: Path) -> None:
    """On a terminal without a question: ask, be answered in colour, fail, go on, end."""
    with terminal("ask", home=indexed) as child:
        child.expect_exact("? ")
        child.sendline(QUESTION)
        child.expect_exact("Only the board may sign contracts above 10 000 euros [1].")
        child.expect_exact("\x1b[")
        child.expect_exact("papers/bylaws.md")
        child.expect_exact("\r\n? ")
        child.sendline("x" * 3000 * 3)
        child.expect("error: ")
        child.expect_exact("\r\n? ")
        child.sendline("")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_the_prompt_understands_a_follow_up(indexed: Path) -> None:
    """What was said before completes it, and what was searched is shown."""
    with terminal("ask", home=indexed) as child:
        child.expect_exact("? ")
        child.sendline("Who keeps the accounts?")
        child.expect_exact("The treasurer keeps the accounts [1].")
        child.expect_exact("\r\n? ")
        child.sendline("When are they audited?")
        child.expect_exact("The accounts are audited every year in March [1].")
        child.expect_exact("also searched: When are they audited keeps accounts?")
        child.expect_exact("\r\n? ")
        child.sendline("")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_the_prompt_ends_at_ctrl_d(indexed: Path) -> None:
    """End of input is a normal end."""
    with terminal("ask", home=indexed) as child:
        child.expect_exact("? ")
        child.sendeof()
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_ctrl_c_is_quiet(indexed: Path) -> None:
    """An interrupt at the prompt exits with 130 and no traceback."""
    with terminal("ask", home=indexed) as child:
        child.expect_exact("? ")
        state = Path(f"/proc/{child.pid}/task/{child.pid}/stat")
        while state.exists() and state.read_text("ascii").rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)  # until it waits: a signal just before is lost in readline
        child.sendintr()
        child.expect(pexpect.EOF)
        assert "Traceback" not in child.before
    assert child.exitstatus == 130


def test_an_interrupt_while_an_answer_is_made_is_quiet(indexed: Path) -> None:
    """A model server that never answers does not hold up Ctrl-C."""
    asked, release = threading.Event(), threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.set()
            release.wait(60)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    variables = {
        "RAG_LLM_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}/v1",
        "RAG_LLM_MODEL": "m",
        "RAG_LLM_FIRST_TOKEN_S": "50",
        "RAG_LLM_TOTAL_S": "50",
    }
    process = subprocess.Popen(
        [RAG, "ask", QUESTION],
        env=environment(indexed, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    try:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
        release.set()
        server.shutdown()
        server.server_close()

    assert (process.returncode, out, err) == (130, "", "")


def test_no_color_is_honoured(indexed: Path) -> None:
    """With NO_COLOR a terminal gets no colours."""
    with terminal("ask", QUESTION, home=indexed, NO_COLOR="1") as child:
        child.expect(pexpect.EOF)
        text = child.before
    assert "Only the board" in text
    assert "\x1b[3" not in text.replace("\x1b[3m", "") and "\x1b[9" not in text


def test_indexing_on_a_terminal_shows_a_progress_bar(home: Path, tmp_path: Path) -> None:
    """The bar counts documents."""
    with terminal("index", str(write_documents(tmp_path)), home=home) as child:
        child.expect_exact("indexing into default")
        child.expect_exact("2/2")
        child.expect_exact("2 added")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_deleting_on_a_terminal_asks(home: Path, tmp_path: Path) -> None:
    """A no deletes nothing, a yes deletes."""
    run("index", str(write_documents(tmp_path)), home=home)
    for reply, code in (("n", 1), ("y", 0)):
        with terminal("collections", "delete", "default", home=home) as child:
            child.expect_exact("Delete the collection default?")
            child.sendline(reply)
            child.expect(pexpect.EOF)
        assert child.exitstatus == code
    assert run("collections", "list", "--json", home=home).json == {"collections": []}


def test_the_demo_indexes_and_answers(home: Path, tmp_path: Path) -> None:
    """Report, question, answer with citations, and the end; on a terminal and in a pipe."""
    papers = write_documents(tmp_path)
    with terminal("demo", str(papers), "--question", QUESTION, home=home) as child:
        child.expect_exact("docs: 2 added")
        child.expect_exact(f"? {QUESTION}")
        child.expect_exact("Only the board may sign")
        child.expect(pexpect.EOF)
    ran = run("demo", str(papers), "--question", QUESTION, home=home)

    assert child.exitstatus == ran.code == 0
    assert "[1] papers/bylaws.md" in ran.out


def test_documents_cannot_steer_the_terminal(home: Path, tmp_path: Path) -> None:
    """Escape codes in a document are shown as replacement characters, markup as it is."""
    papers = write_documents(tmp_path)
    text = "The [bold]gate[/bold] code is \x1b]0;owned\x07 four two.\n"
    (papers / "gate.txt").write_text(text, encoding="utf-8")
    run("index", str(papers), home=home)
    asked = run("ask", "What is the gate code?", home=home)
    shown = run("documents", "show", "papers/gate.txt", home=home)

    assert "[bold]gate[/bold]" in asked.out and "[bold]gate[/bold]" in shown.out
    assert "\x1b" not in asked.out + shown.out and "\x07" not in asked.out + shown.out


def test_doctor_tries_everything(indexed: Path) -> None:
    """Store, embedder, tokenizer, generator and one real question work."""
    ran = run("doctor", "--json", home=indexed)
    status = {check["name"]: check["status"] for check in ran.json["checks"]}

    assert ran.code == 0
    assert status["llm"] == "off"
    names = ("python", "home", "disk", "store", "embedder", "tokenizer", "generator", "trial")
    assert [status[name] for name in names] == ["works"] * len(names)


def test_doctor_finds_what_does_not_work(indexed: Path, tmp_path: Path) -> None:
    """A home that is a file, other settings than a collection has, a model server that is down."""
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    homeless = run("doctor", "--json", home=file)
    other = run("doctor", home=indexed, RAG_CHUNK_TOKENS="64")
    down = "http://127.0.0.1:9/v1"
    modelless = run("doctor", home=indexed, RAG_LLM_BASE_URL=down, RAG_LLM_MODEL="m")

    failed = {check["name"] for check in homeless.json["checks"] if check["status"] == "fails"}
    assert homeless.code == 1
    assert "home" in failed
    assert other.code == 1
    assert "✗ collection" in other.out and "rag reindex" in other.out
    assert modelless.code == 1
    assert "✗ llm" in modelless.out and "mend: start the server" in modelless.out


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="needs /proc")
def test_a_home_that_cannot_be_written_is_an_error() -> None:
    """Indexing into a read-only place is one line and exit code 1."""
    ran = run("index", __file__, home=Path("/proc/rag"))

    assert ran.code == 1
    assert ran.err.startswith("error: ")


def test_the_command_ranks_again_or_not(indexed: Path) -> None:
    """With a reranker each passage has its score, unless --no-rerank; without one --rerank is refused."""
    with reranker_double() as double:
        on = run("search", "contracts", "--json", home=indexed, RAG_RERANKER_URL=double.url)
        told = run("search", "contracts", home=indexed, RAG_RERANKER_URL=double.url)
        off = run(
            *("search", "contracts", "--no-rerank", "--json"),
            home=indexed,
            RAG_RERANKER_URL=double.url,
        )
        asked = len(double.bodies)
    without = run("search", "contracts", "--rerank", home=indexed)

    assert all("rerank" in each["scores"] for each in on.json["results"])
    assert told.out.splitlines()[0].split()[:5] == ["#", "score", "dense", "sparse", "rerank"]
    assert all("rerank" not in each["scores"] for each in off.json["results"])
    assert (asked, without.code) == (2, 1)
    assert "docs/reranking.md" in without.err


def test_doctor_tries_the_reranker(indexed: Path) -> None:
    """It works, it fails with the reason and how to mend it, or it is off."""
    with reranker_double() as double:
        works = run("doctor", "--json", home=indexed, RAG_RERANKER_URL=double.url)
    fails = run("doctor", home=indexed, RAG_RERANKER_URL=double.url)
    off = run("doctor", "--json", home=indexed)
    checks = [
        next(check for check in ran.json["checks"] if check["name"] == "reranker")
        for ran in (works, off)
    ]

    assert [(check["status"], check["detail"][:15]) for check in checks] == [
        ("works", "cohere: words-1"),
        ("off", "not configured "),
    ]
    assert fails.code == 1
    assert "reranker_unavailable" in fails.out and "RAG_RERANKER_URL" in fails.out
