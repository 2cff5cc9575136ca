"""The table of what a folder's files came to."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGKILL

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


def test_a_reader_that_needs_too_much_memory_is_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is bounded; other files are read all the same."""
    file = tmp_path / "a.md"
    file.write_text("Text.")
    with monkeypatch.context() as patched:
        patched.setattr(read_files, "load", lambda name, data: bytes(1 << 30))

        outcome = read_files.read(file, mib=1)

    assert outcome == ("crashed", "MemoryError: ")
    assert read_files.read(file).kind == "read"


def test_a_reader_that_dies_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that the system kills; the reason says with which exit code."""
    file = tmp_path / "a.md"
    file.write_text("Text.")
    monkeypatch.setattr(read_files, "load", lambda name, data: os.kill(os.getpid(), SIGKILL))

    assert read_files.read(file) == ("crashed", "its process died with exit code -9")
