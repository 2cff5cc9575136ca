"""The table of what a folder's files came to."""

from __future__ import annotations

from pathlib import Path

import pytest
import read_files


def test_the_tables_count_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By ending; refusals by reason, without names and numbers."""
    for name, data in {
        "a.md": b"Text.",
        "sub/b.TXT": b"Caf\xe9 opens at nine.",
        "c.pdf": b"no PDF",
        "d.docx": b"no zip",
        "e.txt": b"",
        "f.png": b"not counted",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)

    assert read_files.main([str(tmp_path), "--names"]) == 0

    said = capsys.readouterr()
    assert "| `.txt` | 2 | 0 | 1 | 1 | 0 |" in said.out
    assert "| all | 5 | 1 | 1 | 3 | 0 |" in said.out
    assert "| `.txt` | 1 | it is empty |" in said.out
    assert "c.pdf: refused: cannot read" in said.err


def test_a_reader_that_takes_too_long_is_a_crash(tmp_path: Path) -> None:
    """Its process is ended, and the reason says after how long."""
    file = tmp_path / "a.md"
    file.write_text("Text.")

    assert read_files.read(file, seconds=0) == ("crashed", "it took more than 0 s")


def test_a_reader_that_dies_is_a_crash(tmp_path: Path) -> None:
    """As one that runs out of memory; other files are read all the same."""
    file = tmp_path / "a.md"
    file.write_text("Text. " * 7_000_000)  # more than the allocator keeps at hand

    outcome = read_files.read(file, mib=1)

    assert outcome.kind == "crashed"
    file.write_text("Text.")
    assert read_files.read(file).kind == "read"
