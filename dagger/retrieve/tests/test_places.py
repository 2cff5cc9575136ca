"""Which ids the documents of files and folders get, and which of them an ingest may delete."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import office_kit as kit
import pytest

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings
from rag_retrieve.index.places import find_files
from rag_retrieve.stores.embedded.database import EdgeStores


def write(path: Path, text: str = "Tea is hot.") -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ids(retriever: Retriever) -> list[str]:
    """Return the ids of all documents."""
    return [info.document_id for info in retriever.documents("default")]


def test_folders_of_the_same_name_do_not_overwrite_each_other(
    retriever: Retriever, tmp_path: Path
) -> None:
    """The second one gets the name of the folder above it, every time; prune spares the first one."""
    for year in ("2023", "2024", "2025"):
        write(tmp_path / year / "reports" / "sales.md", f"Sales of {year}.")
    write(tmp_path / "2024" / "reports" / "only-2024.md")

    for _ in range(2):
        retriever.ingest([tmp_path / "2024" / "reports"])
        report = retriever.ingest([tmp_path / "2025" / "reports"], prune=True)
        retriever.ingest([tmp_path / "2023" / "reports"], prune=True)

    assert report.unchanged == ["2025/reports/sales.md"]
    assert (report.missing, report.deleted) == ([], [])
    assert ids(retriever) == [
        "2023/reports/sales.md",
        "2025/reports/sales.md",
        "reports/only-2024.md",
        "reports/sales.md",
    ]


def test_both_can_be_given_at_once(retriever: Retriever, tmp_path: Path) -> None:
    """Files, too: the first one keeps the short id."""
    one, two = write(tmp_path / "a" / "same.txt"), write(tmp_path / "b" / "same.txt")

    report = retriever.ingest([one, two, tmp_path / "a", one])

    assert report.added == ["b/same.txt", "same.txt"]


def test_a_file_named_by_its_path_updates_what_its_folder_brought(
    retriever: Retriever, tmp_path: Path
) -> None:
    """So does a folder inside it, and the folder that it lies in."""
    everything = tmp_path / "all"
    file = write(everything / "docs" / "guide" / "a.md", "One.")
    write(everything / "other.md")
    retriever.ingest([everything / "docs"])

    file.write_text("Two.")
    assert retriever.ingest([file]).updated == ["docs/guide/a.md"]
    file.write_text("Three.")
    assert retriever.ingest([file.parent]).updated == ["docs/guide/a.md"]
    file.write_text("Four.")
    report = retriever.ingest([everything], prune=True)
    assert report.updated == ["docs/guide/a.md"]
    assert report.added == ["all/other.md"]
    file.unlink()
    assert retriever.ingest([everything], prune=True).deleted == ["docs/guide/a.md"]


def test_a_folder_that_was_moved_keeps_its_ids(retriever: Retriever, tmp_path: Path) -> None:
    """Its old place is gone and its files have the names of stored ones."""
    write(tmp_path / "old" / "docs" / "a.md")
    write(tmp_path / "old" / "docs" / "b.md")
    retriever.ingest([tmp_path / "old" / "docs"])
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "new" / "docs" / "b.md").unlink()

    report = retriever.ingest([tmp_path / "new" / "docs"], prune=True)

    assert (report.unchanged, report.deleted) == (["docs/a.md"], ["docs/b.md"])


def test_another_folder_does_not_take_the_place_of_one_that_is_gone(
    retriever: Retriever, tmp_path: Path
) -> None:
    """No file of it has the name of a stored one, so it is no moved folder."""
    gone = write(tmp_path / "2024" / "reports" / "a.md")
    retriever.ingest([gone.parent])
    gone.unlink()
    gone.parent.rmdir()
    write(tmp_path / "2025" / "reports" / "b.md")

    report = retriever.ingest([tmp_path / "2025" / "reports"], prune=True)

    assert (report.added, report.deleted) == (["2025/reports/b.md"], [])


def test_a_store_from_before_keeps_its_ids_and_loses_nothing(
    settings: RetrieveSettings, tmp_path: Path
) -> None:
    """Its manifest names no folder: the ids are kept, and what may be of another folder is reported."""
    write(tmp_path / "docs" / "a.md", "Tea is hot.")
    with Retriever.open(settings) as before:
        before.ingest_documents(
            LoadedDocument(name, "", name, "Tea is hot.", "text/markdown")
            for name in ("docs/a.md", "docs/from-elsewhere.md")
        )
    with Retriever.open(settings) as after:
        report = after.ingest([tmp_path / "docs"], prune=True)
        assert report.added == []
        assert (report.missing, report.deleted) == (["docs/from-elsewhere.md"], [])
        after.reindex("default")
    with Retriever.open(settings) as later:
        assert later.ingest([tmp_path / "docs" / "a.md"]).unchanged == ["docs/a.md"]


def test_a_name_that_is_not_utf8_costs_nobody_else_anything(
    retriever: Retriever, tmp_path: Path
) -> None:
    """Its bytes are written as escapes; it is read, found and deleted like any other."""
    folder = tmp_path / "docs"
    write(folder / "a.md", "Ice is cold.")
    bad = write(folder / os.fsdecode(b"caf\xe9.txt"), "The bar opens at nine.")

    report = retriever.ingest([folder])

    assert report.added == ["docs/a.md", "docs/caf\\xe9.txt"]
    assert retriever.ingest([bad]).unchanged == ["docs/caf\\xe9.txt"]
    bad.unlink()
    assert retriever.ingest([folder], prune=True).deleted == ["docs/caf\\xe9.txt"]


def test_what_is_not_read_is_counted(retriever: Retriever, tmp_path: Path) -> None:
    """By ending and reason; a hidden folder counts once."""
    folder = tmp_path / "docs"
    for name in ("a.md", "b.PNG", "c.png", "LICENSE", ".env", ".git/x.md", ".git/y.md"):
        write(folder / name)
    (folder / "out.md").symlink_to(write(tmp_path / "secret.md"))
    (folder / "broken.md").symlink_to(folder / "nothing")

    report = retriever.ingest([folder])

    assert report.added == ["docs/a.md"]
    assert [(one.reason, one.ending, one.files) for one in report.skipped] == [
        ("format", "", 1),
        ("format", ".png", 2),
        ("hidden", "", 2),
        ("link out of the folder", ".md", 1),
        ("no file", ".md", 1),
    ]


@pytest.mark.parametrize("name", ["c#", "a b", "..docs", "docs#1"])
def test_names_with_marks_are_names(tmp_path: Path, name: str) -> None:
    """A `#` in a folder's name does not make its files records."""
    file = write(tmp_path / name / "x.md")
    first = find_files([tmp_path / name], {}, [])
    again = find_files([file], first.roots, [f"{name}/x.md"])

    assert [one.name for one in (*first.files, *again.files)] == [f"{name}/x.md"] * 2
    assert again.prefixes == [f"{name}/x.md"]


def test_a_store_from_before_says_what_a_reindex_brings(
    settings: RetrieveSettings, tmp_path: Path
) -> None:
    """It answers as it is, with a warning, until it is reindexed; its manifest lacks the fields of today."""
    file = write(tmp_path / "docs" / "rules-2024.md", "# Rules\n\nTea is hot.")
    with Retriever.open(settings) as now:
        now.ingest([file.parent])
    with closing(EdgeStores(settings.home)) as stores:
        manifest = stores.read_manifest("default") or {}
        stores.write_manifest(
            "default", {k: v for k, v in manifest.items() if k not in ("indexing", "roots")}
        )

    with Retriever.open(settings) as later:
        before = later.retrieve(RetrieveRequest(query="tea"))
        unchanged = later.ingest([file.parent]).unchanged
        still = later.retrieve(RetrieveRequest(query="tea")).warnings
        later.reindex("default")
        after = later.retrieve(RetrieveRequest(query="tea"))

    assert unchanged == ["docs/rules-2024.md"]
    assert before.results == after.results
    assert len(before.warnings) == len(still) == 1
    assert "`rag reindex --collection default` brings headings" in before.warnings[0]
    assert after.warnings == []


def test_the_files_of_a_store_in_a_folder_are_not_read(
    retriever: Retriever, settings: RetrieveSettings, tmp_path: Path
) -> None:
    """Wherever the folder begins; the documents beside the store are read."""
    write(settings.home / "service.json", '{"url": "http://localhost"}')
    write(settings.home / "notes.md")
    write(settings.home / "papers" / "collections" / "list.md")
    retriever.ingest([write(tmp_path / "other" / "tea.txt")])

    found = [find_files([folder], {}, []) for folder in (tmp_path, settings.home)]
    inside = find_files([settings.home / "collections"], {}, [])

    assert [file.name for file in found[0].files] == [
        f"{tmp_path.name}/home/notes.md",
        f"{tmp_path.name}/home/papers/collections/list.md",
        f"{tmp_path.name}/other/tea.txt",
    ]
    assert [file.name for file in found[1].files] == [
        "home/notes.md",
        "home/papers/collections/list.md",
    ]
    assert inside.files == []
    assert [(one.reason, one.files) for one in found[1].skipped] == [("store", 2)]


def test_an_archive_is_known_by_its_file(retriever: Retriever, tmp_path: Path) -> None:
    """Named by its path, it updates what its folder brought."""
    path = tmp_path / "docs" / "z.zip"
    path.parent.mkdir()
    path.write_bytes(kit.zipped({"a.txt": b"Tea is hot."}))
    retriever.ingest([path.parent])

    report = retriever.ingest([path], prune=True)

    assert (report.unchanged, report.deleted) == (["docs/z.zip/a.txt"], [])
