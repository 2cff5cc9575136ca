"""Ratings of answers: kept in order, bounded, and turned into a dataset."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from rag_command import run, write_documents

from rag_kit.errors import StepError
from rag_pipeline.quality import feedback
from rag_pipeline.quality.configuration import read_configuration, without_secrets
from rag_pipeline.quality.feedback import (
    Feedback,
    append,
    parse,
    path_of,
    read_all,
    read_tenant,
    to_questions,
)
from rag_pipeline.quality.metrics import word_recall
from rag_pipeline.quality.runs import compare_runs, read_run, read_runs
from rag_pipeline.settings import overridden, read_settings

CITED = [{"document_id": "papers/bylaws.md", "marker": 1, "quote": "Only the board"}]


def rating(query: str = "Who may sign?", **fields: Any) -> Feedback:
    return Feedback.model_validate({"rating": "up", "query": query, "citations": CITED, **fields})


def write_many(folder: Path, number: int) -> None:
    for at in range(50):
        append(folder, "me", rating(f"Question {number}-{at}?"))


def test_ratings_of_many_writers_are_all_kept(tmp_path: Path) -> None:
    """Processes that append at the same time mix no lines."""
    writers = [multiprocessing.Process(target=write_many, args=(tmp_path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_tenant(tmp_path, "me")
    assert (len(found.ratings), found.unreadable) == (150, 0)
    assert path_of(tmp_path, "me").stat().st_mode & 0o777 == 0o600


def test_a_line_cut_off_costs_only_itself(tmp_path: Path) -> None:
    """What a writer that died left behind is counted, and the next line is whole."""
    append(tmp_path, "me", rating())
    with path_of(tmp_path, "me").open("a") as file:
        file.write('{"rating": "up", "que')
    append(tmp_path, "me", rating("When is the audit?"))
    found = read_all(tmp_path)
    assert [one.query for one in found.ratings] == ["Who may sign?", "When is the audit?"]
    assert found.unreadable == 1


def test_a_full_file_makes_room_for_new_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest ratings stay, in at most two files of the greatest size."""
    monkeypatch.setattr(feedback, "MAX_BYTES", 2000)
    for number in range(40):
        append(tmp_path, "me", rating(f"Question {number}?"))
    files = list(tmp_path.iterdir())
    assert len(files) == 2 and all(file.stat().st_size <= 2000 for file in files)
    kept = [one.query for one in read_tenant(tmp_path, "me").ratings]
    assert kept == [f"Question {number}?" for number in range(40 - len(kept), 40)]
    assert len(kept) > 5


@pytest.mark.parametrize("tenant", ["../x", "a/b", "é" * 60, "", ".", "x.jsonl", "a b:c"])
def test_any_tenant_has_a_file_of_its_own(tmp_path: Path, tenant: str) -> None:
    """No name leaves the folder, and no two share a file."""
    append(tmp_path, tenant, rating())
    append(tmp_path, "other", rating())
    assert len(list(tmp_path.iterdir())) == 2
    assert len(read_tenant(tmp_path, tenant).ratings) == 1
    assert len(read_all(tmp_path).ratings) == 2


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StepError, match=r"cannot be stored in .*file") as failed:
        append(tmp_path / "file", "me", rating())
    assert failed.value.code == "storage_full"


def test_a_later_rating_of_an_answer_replaces_the_earlier(tmp_path: Path) -> None:
    """By the id of the answer, in one tenant's file."""
    append(tmp_path, "me", rating(id="a", rating="up"))
    append(tmp_path, "me", rating(id="b"))
    append(tmp_path, "me", rating(id="a", rating="down", right_answer="The board."))
    append(tmp_path, "you", rating(id="a"))
    assert [(one.id, one.rating) for one in read_tenant(tmp_path, "me").ratings] == [
        ("b", "up"),
        ("a", "down"),
    ]


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({}, {"answerable": True, "relevant": {"papers/bylaws.md": 1}}),
        ({"citations": [], "answerable": False}, {"answerable": False}),
        ({"rating": "down", "right_answer": "28"}, {"answerable": True, "answer": "28"}),
        ({"right_answer": "28"}, {"answerable": True, "answer": "28"}),
        ({"rating": "down"}, None),
        ({"citations": []}, None),
        ({"collection": "other"}, None),
    ],
)
def test_a_rating_tells_what_it_can(
    tmp_path: Path, fields: dict[str, Any], known: dict[str, Any] | None
) -> None:
    """A confirmed answer names its documents; a correction what to say; mere displeasure nothing."""
    append(tmp_path, "me", rating(**fields))
    questions = to_questions(read_all(tmp_path).ratings, "default").questions
    got = [one.model_dump(exclude_defaults=True, exclude={"id"}) for one in questions]
    assert got == ([{"query": "Who may sign?", **known}] if known else [])


def test_a_follow_up_is_asked_with_its_conversation(tmp_path: Path) -> None:
    """Two questions of the same words in other conversations are two."""
    for earlier in ("The bylaws?", "The handbook?"):
        said = [{"role": "user", "content": earlier}, {"role": "assistant", "content": "Yes."}]
        append(tmp_path, "me", rating("Since when?", messages=said))
    questions = to_questions(read_all(tmp_path).ratings, "default").questions
    assert [one.messages[0].content for one in questions] == ["The bylaws?", "The handbook?"]


def test_an_export_is_read_as_the_files_are(tmp_path: Path) -> None:
    """JSON Lines in, the same ratings out."""
    append(tmp_path, "me", rating(provenance={"generate": {"model": "small"}}))
    [one] = read_all(tmp_path).ratings
    assert parse(one.model_dump_json().encode()).ratings == [one]
    assert one.provenance == {"generate": {"model": "small"}}


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("It is 28 euros [1].", 1.0),
        ("28 Euros, says the rule", 1.0),
        ("It is 1 euro [28].", 0.0),
        ("28", 0.5),
        ("", 0.0),
    ],
)
def test_the_words_of_a_right_answer_are_looked_for(answer: str, share: float) -> None:
    """Case and punctuation do not count, and numbers of sources are no words."""
    assert word_recall("28 euros", answer) == share


# -- another configuration ------------------------------------------------------------------------


def test_a_file_of_settings_is_read_as_shells_and_compose_write_it() -> None:
    """Comments, `export`, quotes, and a value with an equals sign."""
    text = (
        "\ufeff# small\n\nexport RAG_LLM_MODEL='a b'\nRAG_EMBEDDING_CACHE = \"x\"\nRAG_HOME=/a=b\n"
    )
    assert read_configuration(text) == {
        "RAG_LLM_MODEL": "a b",
        "RAG_EMBEDDING_CACHE": "x",
        "RAG_HOME": "/a=b",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RAG_LLM_MODLE=x", "line 1: no setting RAG_LLM_MODLE; did you mean RAG_LLM_MODEL?"),
        ("\nPATH=/bin", "line 2: no setting PATH"),
        ("RAG_LLM_MODEL", "line 1: not RAG_NAME=value"),
        ("# nothing\n", "no setting; a line is, e.g., RAG_LLM_MODEL=small"),
    ],
)
def test_a_setting_that_is_none_is_refused(text: str, said: str) -> None:
    """A misspelt name would compare a configuration with itself."""
    with pytest.raises(StepError, match="^" + said.replace("?", r"\?")) as failed:
        read_configuration(text)
    assert failed.value.code == "invalid_request"


def test_settings_hold_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it fails; an empty value unsets."""
    monkeypatch.setenv("RAG_REWRITING", "off")
    with pytest.raises(KeyError), overridden({"RAG_REWRITING": "", "RAG_STEP_DEADLINE_S": "7"}):
        assert (read_settings().rewriting, read_settings().step_deadline_s) == ("model", 7)
        raise KeyError
    assert (read_settings().rewriting, read_settings().step_deadline_s) == ("off", 60)


def test_no_key_is_written_into_a_report() -> None:
    """Nor an address, which may hold one."""
    values = {"RAG_LLM_API_KEY": "s", "RAG_LLM_BASE_URL": "http://u:p@h", "RAG_LLM_MODEL": "m"}
    assert without_secrets(values) == {
        "RAG_LLM_API_KEY": "…",
        "RAG_LLM_BASE_URL": "…",
        "RAG_LLM_MODEL": "m",
    }


def test_ratings_are_measured_with_two_configurations_and_kept(tmp_path: Path) -> None:
    """`rag eval --from-feedback --against FILE --save NAME`, from ratings to a run that can be read."""
    home = tmp_path / "home"
    write_documents(tmp_path)
    run("index", str(tmp_path / "papers"), home=home)
    append(home / "feedback", "me", rating("Who may sign contracts?", id="1"))
    append(home / "feedback", "me", rating("When?", rating="down"))
    append(
        home / "feedback",
        "me",
        rating("When are the accounts audited?", rating="down", right_answer="March"),
    )
    (tmp_path / "other.env").write_text("RAG_GENERATOR=extractive\n")
    options = ("--from-feedback", "--against", str(tmp_path / "other.env"), "--save", "first")
    done = run("eval", *options, "--json", home=home)
    assert done.code == 0, done.err
    assert "2 of 3 rated questions have a right answer or a confirmed source" in done.err
    assert done.json["metrics"]["ndcg@10"]["value"] == 1.0
    assert done.json["metrics"]["answer_recall"]["value"] == 1.0
    assert done.json["comparison"]["settings"] == {"RAG_GENERATOR": "extractive"}
    assert done.json["comparison"]["differences"]["answer_recall"]["n"] == 1
    [kept] = read_runs(home)
    assert kept.report.model_dump(mode="json") == done.json
    again = compare_runs(kept, read_run(home, "first"))
    assert again.differences["ndcg@10"].value == 0
    assert json.loads((home / "evaluations" / "first.json").read_text())["name"] == "first"
