"""`rag sync` of folders and git repositories: changed, interrupted, repeated, and never by hand."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from qdrant_kit import Qdrant
from sync_kit import Breaking, Interruption, Repository, ids, plan, sync, write

from rag_kit.errors import StepError
from rag_retrieve import Retriever
from rag_retrieve.documents import LoadedDocument
from rag_retrieve.index.embedders import Embedder
from rag_retrieve.sources import kind_of, open_source
from rag_retrieve.sources.git import GitSource, place_of
from rag_retrieve.sources.groups import read_rules
from rag_retrieve.sources.sync import SyncOptions

HAND = LoadedDocument("docs/hand.md", "Hand", "docs/hand.md", "Typed by hand.", "text/markdown")
STAFF = '{"id": 1, "text": "Ann leads."}\n{"id": 2, "text": "Bob follows."}\n'


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with three documents in two files, a hidden one and one of another format."""
    files = {
        "a.md": "# A\n\nThe board signs.",
        "sub/staff.jsonl": STAFF,
        ".x.md": "x",
        "i.bin": "x",
    }
    return write(tmp_path / "docs", files)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with two documents below `docs` and one beside."""
    made = Repository(tmp_path)
    made.commit(
        {"docs/a.md": "# A\n\nThe board signs.", "docs/b.txt": "Bring a pen.", "c.md": "Top."}
    )
    return made


def test_a_plan_changes_nothing(retriever: Retriever, docs: Path) -> None:
    """It names what would be added and counts what is not read; there is no collection afterwards."""
    planned = plan(retriever, str(docs))

    assert planned.added == ["docs/a.md", "docs/sub/staff.jsonl"]
    assert {(one.reason, one.ending) for one in planned.skipped} == {
        ("hidden", ""),
        ("format", ".bin"),
    }
    assert retriever.collections() == []


def test_only_what_changed_is_read_and_embedded(retriever: Retriever, docs: Path) -> None:
    """The second run embeds nothing; then one file is changed, one added, and one gone until pruned."""
    first = sync(retriever, str(docs))
    again = sync(retriever, str(docs))
    write(docs, {"a.md": "# A\n\nThe chair signs.", "new.txt": "Fresh."})
    (docs / "sub/staff.jsonl").unlink()
    planned = plan(retriever, str(docs))
    changed = sync(retriever, str(docs))
    pruned = sync(retriever, str(docs), prune=True)

    assert first.added == ["docs/a.md", "docs/sub/staff.jsonl#1", "docs/sub/staff.jsonl#2"]
    assert (again.added, again.updated, again.embeddings) == ([], [], 0)
    assert again.unchanged == first.added
    assert (planned.changed, planned.added) == (["docs/a.md"], ["docs/new.txt"])
    assert planned.removed == ["docs/sub/staff.jsonl#1", "docs/sub/staff.jsonl#2"]
    assert (changed.updated, changed.added) == (["docs/a.md"], ["docs/new.txt"])
    assert changed.missing == planned.removed and changed.deleted == []
    assert pruned.deleted == planned.removed
    assert ids(retriever) == ["docs/a.md", "docs/new.txt"]


def test_a_touched_file_with_the_same_text_costs_no_embedding(
    retriever: Retriever, docs: Path
) -> None:
    """It is read again once, keeps its revision, and counts as unchanged from then on."""
    sync(retriever, str(docs))
    before = retriever.document("default", "docs/a.md").metadata
    os.utime(docs / "a.md", ns=(1, 1))
    touched = plan(retriever, str(docs))
    again = sync(retriever, str(docs))

    assert (touched.changed, again.updated, again.embeddings) == (["docs/a.md"], [], 0)
    assert plan(retriever, str(docs)).changed == []
    assert retriever.document("default", "docs/a.md").metadata == before


def test_an_interrupted_run_converges(retriever: Retriever, docs: Path) -> None:
    """Whatever was committed before the end is kept, and the next run brings the rest."""
    write(docs, {f"{n:02}.md": f"Number {n}." for n in range(34)})
    for after in (0, 33):
        with closing(open_source(str(docs))) as source, pytest.raises(Interruption):
            retriever.sync(retriever.plan_sync(Breaking(source, after), SyncOptions()))
    committed = len(ids(retriever))
    last = sync(retriever, str(docs))

    assert committed == len(last.unchanged) == 32
    assert (len(last.added), len(ids(retriever))) == (5, 37)
    assert len(plan(retriever, str(docs)).unchanged) == 36


def test_half_of_a_file_of_records_is_not_taken_for_all_of_it(
    retriever: Retriever, docs: Path
) -> None:
    """A record that is missing in the collection makes its file one that is read again."""
    sync(retriever, str(docs))
    retriever.delete_documents("default", ["docs/sub/staff.jsonl#2"])
    again = sync(retriever, str(docs))

    assert again.added == ["docs/sub/staff.jsonl#2"]


def test_records_that_are_gone_from_a_file_are_pruned(retriever: Retriever, docs: Path) -> None:
    """The other records stay; without --prune the record is told as missing, run after run."""
    sync(retriever, str(docs))
    write(docs, {"sub/staff.jsonl": STAFF.splitlines()[0]})
    kept = [sync(retriever, str(docs)).missing for _ in range(2)]
    pruned = sync(retriever, str(docs), prune=True)

    assert kept == [["docs/sub/staff.jsonl#2"]] * 2
    assert pruned.deleted == ["docs/sub/staff.jsonl#2"]
    assert "docs/sub/staff.jsonl#1" in ids(retriever)


def test_what_came_by_hand_is_neither_replaced_nor_pruned(retriever: Retriever, docs: Path) -> None:
    """A document of the same id is refused with the way out; beside it everything is brought."""
    write(docs, {"hand.md": "From the folder."})
    retriever.ingest_documents([HAND])
    report = sync(retriever, str(docs), prune=True)
    text = retriever.document("default", "docs/hand.md").text
    adopted = sync(retriever, str(docs), adopt=True)

    assert [one.document_id for one in report.failed] == ["docs/hand.md"]
    assert "by hand" in report.failed[0].message and "--name" in report.failed[0].message
    assert text == "Typed by hand."
    assert adopted.updated == ["docs/hand.md"]


def test_a_synced_document_that_is_replaced_by_hand_stays_so(
    retriever: Retriever, docs: Path
) -> None:
    """From then on the sync neither overwrites nor deletes it."""
    write(docs, {"hand.md": "From the folder."})
    sync(retriever, str(docs))
    retriever.ingest_documents([HAND])
    again = sync(retriever, str(docs), prune=True)
    (docs / "hand.md").unlink()
    gone = sync(retriever, str(docs), prune=True)

    assert [one.document_id for one in again.failed] == ["docs/hand.md"]
    assert gone.deleted == []
    assert retriever.document("default", "docs/hand.md").text == "Typed by hand."


def test_two_sources_leave_each_other_alone(
    retriever: Retriever, docs: Path, tmp_path: Path
) -> None:
    """The second one of the same name is refused; under another name both are pruned apart."""
    other = write(tmp_path / "other/docs", {"a.md": "Another A.", "z.md": "Z."})
    sync(retriever, str(docs))
    clash = sync(retriever, str(other), prune=True)
    sync(retriever, str(other), name="second", prune=True)
    (other / "z.md").unlink()
    pruned = sync(retriever, str(other), prune=True)

    assert [one.document_id for one in clash.failed] == ["docs/a.md"]
    assert docs.as_uri() in clash.failed[0].message
    assert pruned.deleted == ["second/z.md"]
    assert "docs/a.md" in ids(retriever) and "second/a.md" in ids(retriever)


def test_indexing_a_folder_with_prune_leaves_what_a_sync_brought(
    retriever: Retriever, repository: Repository, tmp_path: Path
) -> None:
    """`rag index handbook --prune` does not delete documents that came from a repository `handbook`."""
    sync(retriever, f"{repository.bare}#main:docs")
    folder = write(tmp_path / "handbook", {"own.md": "Own."})
    report = retriever.ingest([folder], prune=True)

    assert report.deleted == []
    assert "handbook/a.md" in ids(retriever)


def test_an_empty_source_prunes_nothing(retriever: Retriever, docs: Path) -> None:
    """A folder that is not mounted looks empty; the warning names the way to remove its documents."""
    sync(retriever, str(docs))
    for path in (docs / "a.md", docs / "sub/staff.jsonl"):
        path.unlink()
    report = sync(retriever, str(docs), prune=True)

    assert (report.deleted, len(ids(retriever))) == ([], 3)
    assert any("rag sources forget --delete" in note for note in report.notes)


def test_a_file_that_cannot_be_read_keeps_its_stored_version(
    retriever: Retriever, docs: Path
) -> None:
    """It is reported with the reason, again in the next run, until it can be read."""
    sync(retriever, str(docs))
    (docs / "a.md").write_bytes(b"\0\0\0")
    broken = [sync(retriever, str(docs), prune=True) for _ in range(2)]
    write(docs, {"a.md": "# A\n\nMended."})
    mended = sync(retriever, str(docs))

    assert [[one.document_id for one in report.failed] for report in broken] == [["docs/a.md"]] * 2
    assert all(report.deleted == [] for report in broken)
    assert mended.updated == ["docs/a.md"]


def test_documents_carry_address_revision_and_groups(
    retriever: Retriever, docs: Path, tmp_path: Path
) -> None:
    """The last line that fits counts; another groups file changes only the documents it is about."""
    rules = tmp_path / "groups"
    rules.write_text("# who\n*  staff\nsub  hr, board\nnone/*\tx\n", encoding="utf-8")
    report = sync(retriever, str(docs), groups_file=rules, links="https://wiki.example.com/{path}")
    first = retriever.document("default", "docs/sub/staff.jsonl#1").metadata
    rules.write_text("*  staff\nsub  hr\n", encoding="utf-8")
    changed = sync(retriever, str(docs), groups_file=rules, links="https://wiki.example.com/{path}")

    assert first["source_url"] == "https://wiki.example.com/sub/staff.jsonl"
    assert first["allowed_groups"] == ["hr", "board"]
    assert retriever.document("default", "docs/a.md").metadata["allowed_groups"] == ["staff"]
    assert report.notes == ["line 4 of the groups file: 'none/*' fits no document"]
    assert changed.updated == ["docs/sub/staff.jsonl#1", "docs/sub/staff.jsonl#2"]


@pytest.mark.parametrize("text", ["hr/*", "hr/* ,", "hr\t"])
def test_a_line_without_groups_is_refused(tmp_path: Path, text: str) -> None:
    """With its number: nobody should believe that documents are protected that are not."""
    (tmp_path / "groups").write_text(f"* staff\n{text}\n", encoding="utf-8")
    with pytest.raises(StepError, match="line 2 of"):
        read_rules(tmp_path / "groups")


def test_sources_are_listed_and_forgotten(retriever: Retriever, docs: Path, tmp_path: Path) -> None:
    """Forgotten documents stay as if they had come by hand; with delete they go."""
    other = write(tmp_path / "other", {"z.md": "Z."})
    sync(retriever, str(docs))
    sync(retriever, str(other))
    listed = [(one.source, one.documents) for one in retriever.sources("default")]
    retriever.forget_source("default", docs.as_uri())
    retriever.forget_source("default", other.as_uri(), delete=True)
    refused = sync(retriever, str(docs))

    assert listed == [(docs.as_uri(), 3), (other.as_uri(), 1)]
    assert retriever.sources("default") == []
    assert "other/z.md" not in ids(retriever)
    assert {one.document_id for one in refused.failed} == {"docs/a.md", "docs/sub/staff.jsonl"}
    with pytest.raises(StepError, match="no document of collection 'default' came from"):
        retriever.forget_source("default", docs.as_uri())


def test_a_reindex_keeps_where_documents_came_from(retriever: Retriever, docs: Path) -> None:
    """The next sync reads nothing."""
    sync(retriever, str(docs))
    retriever.reindex("default")

    assert plan(retriever, str(docs)).changed == []


def test_a_collection_on_a_server_is_synced_the_same_way(
    qdrant: Qdrant, minilm: Embedder, docs: Path
) -> None:
    """Changed, touched, pruned, forgotten."""
    with Retriever(qdrant.settings(), embedder=minilm) as retriever:
        sync(retriever, str(docs))
        os.utime(docs / "a.md", ns=(1, 1))
        touched = sync(retriever, str(docs))
        settled = plan(retriever, str(docs))
        (docs / "sub/staff.jsonl").unlink()
        pruned = sync(retriever, str(docs), prune=True)
        retriever.forget_source("default", docs.as_uri())

        assert (touched.updated, touched.embeddings, settled.changed) == ([], 0, [])
        assert pruned.deleted == ["docs/sub/staff.jsonl#1", "docs/sub/staff.jsonl#2"]
        assert (ids(retriever), retriever.sources("default")) == (["docs/a.md"], [])


# -- git ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "filters"),
    [
        pytest.param(False, False, id="local"),
        pytest.param(True, True, id="fetched"),
        pytest.param(True, False, id="fetched whole"),
    ],
)
def test_a_repository_is_synced_by_commits(
    retriever: Retriever, repository: Repository, remote: bool, filters: bool
) -> None:
    """A branch and a folder of it, read where it is or fetched, from servers that filter or do not."""
    if filters:
        repository.configure("uploadpack.allowFilter", "true")
        repository.configure("uploadpack.allowAnySHA1InWant", "true")
    address = repository.bare.as_uri() if remote else str(repository.bare)
    first = sync(retriever, f"{address}#main:docs")
    commit = repository.commit(
        {"docs/b.txt": "Bring two pens.", "docs/new.md": "New.", "c.md": "x"}
    )
    repository.commit({"docs/a.md": None})
    last = sync(retriever, f"{address}#main:docs", prune=True)

    assert first.added == ["handbook/a.md", "handbook/b.txt"]
    assert (last.added, last.updated) == (["handbook/new.md"], ["handbook/b.txt"])
    assert last.deleted == ["handbook/a.md"]
    metadata = retriever.document("default", "handbook/new.md").metadata
    assert metadata["source_url"] == f"{repository.bare.as_uri()}#main:docs/new.md"
    assert metadata["source_revision"] == repository.git("rev-parse", "HEAD").strip() != commit


def test_a_tag_and_the_default_branch_can_be_synced(
    retriever: Retriever, repository: Repository
) -> None:
    """Each is a source of its own; a name that does not exist is refused."""
    repository.git("tag", "v1")
    repository.commit({"docs/a.md": "# A\n\nThe chair signs."})
    sync(retriever, f"{repository.bare}#v1:docs", name="old")
    sync(retriever, str(repository.bare))

    assert "board" in retriever.document("default", "old/a.md").text
    assert "chair" in retriever.document("default", "handbook/docs/a.md").text
    for address in (str(repository.bare), repository.bare.as_uri()):
        with pytest.raises(StepError, match="has no branch, tag or commit 'nope'"):
            plan(retriever, f"{address}#nope")


def test_links_submodules_and_large_file_pointers_are_not_followed(
    retriever: Retriever, repository: Repository, tmp_path: Path
) -> None:
    """A link to a file outside gives nothing of it; what is not read is counted or reported."""
    (repository.tree / "secret.md").symlink_to("/etc/passwd")
    (tmp_path / "other").mkdir()
    other = Repository(tmp_path / "other")
    other.commit({"inner.md": "Inner."})
    repository.git("submodule", "--quiet", "add", str(other.bare), "module")
    repository.commit(
        {"big.txt": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}
    )
    report = sync(retriever, f"{repository.bare.as_uri()}")

    assert {(one.reason, one.files) for one in report.skipped} >= {("link", 1), ("submodule", 1)}
    assert [one.document_id for one in report.failed] == ["handbook/big.txt"]
    assert "Git LFS" in report.failed[0].message
    assert not any("inner" in one or "secret" in one for one in ids(retriever))


def test_a_repository_that_cannot_be_read_changes_nothing(
    retriever: Retriever, repository: Repository, tmp_path: Path
) -> None:
    """The error names the address, without its password, and what git says."""
    sync(retriever, f"{repository.bare}#main:docs")
    with pytest.raises(StepError, match="not appear to be a git") as failed:
        sync(retriever, f"file://user:hunter2@{tmp_path}/gone.git#main", prune=True)

    assert failed.value.code == "source_unavailable" and "hunter2" not in failed.value.message
    assert len(ids(retriever)) == 2


def test_without_git_the_error_says_what_to_install(
    retriever: Retriever, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`misconfigured`, and no traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="install git") as failed:
        plan(retriever, str(repository.bare))

    assert failed.value.code == "misconfigured"


@pytest.mark.parametrize(
    "address",
    [
        *("ext::sh -c touch% PWNED#main", "-oProxyCommand=x#main", "x.git#--upload-pack=x"),
        *("x.git#main:../../etc", "x.git#a b", "git+ext::x#main", "#main", "x.git#a..b"),
    ],
)
def test_an_address_never_becomes_an_option_or_a_command(address: str) -> None:
    """What git would take for one is refused before git sees it."""
    with pytest.raises(StepError, match="is no git repository"):
        place_of(address)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://git.example.com/team/handbook.git", "git"),
        ("https://git.example.com/team/handbook#main:docs", "git"),
        ("https://github.com/team/handbook", "git"),
        ("git@example.com:team/handbook.git", "git"),
        ("ssh://git@example.com/team/handbook", "git"),
        ("https://example.com/docs/", "web"),
        ("https://github.com/team/handbook/wiki", "web"),
        ("s3://bucket/prefix", "s3"),
        ("notes", "folder"),
        ("file:///srv/notes", "folder"),
    ],
)
def test_an_address_tells_what_it_is(address: str, kind: str) -> None:
    """`--as` says it where it does not."""
    assert kind_of(address) == kind


def test_a_file_of_a_forge_is_linked_at_its_commit(tmp_path: Path) -> None:
    """Credentials of the address are in no link and not in the name of the source."""
    source = GitSource("https://me:token@github.com/team/handbook.git#main:docs")
    source._commit = "0" * 40

    assert source.address == "https://github.com/team/handbook.git#main:docs"
    assert source._page("docs/a b.md") == (
        f"https://github.com/team/handbook/blob/{'0' * 40}/docs/a%20b.md"
    )
