"""Files on disk and the ids of their documents.

A collection remembers the folders and files it was given (`Manifest.roots`), so that a file has the
same id however it is named, and two folders of the same name have different ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rag_kit.errors import StepError
from rag_kit.reports import Skipped

from ..documents import CONTAINERS, SUPPORTED_SUFFIXES

COLLECTIONS, MANIFEST, SERVICE = "collections", "manifest.json", "service.json"  # of a RAG_HOME


@dataclass(frozen=True)
class File:
    """A file to ingest and the document id it gets."""

    path: Path
    name: str


@dataclass
class Places:
    """What paths hold, and where that stands in the ids of a collection.

    Attributes:
        files: What to read, ordered by id.
        roots: By id of a file, or by `folder/`, the path on disk; with those known before.
        prefixes: What the paths cover: ids of files, `prefix/` of folders.
        adopted: Those of `prefixes` with documents of which it is not known where they came from.
        skipped: What in the folders is not read.
    """

    files: list[File] = field(default_factory=list)
    roots: dict[str, str] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def find_files(paths: Sequence[Path], roots: Mapping[str, str], stored: Collection[str]) -> Places:
    """List the files to ingest and their ids.

    A folder `docs` gives ids `docs/…`, a file gives its name; the folders above are put before it where
    another folder or file that exists has these ids. What lies in a folder that is known already
    has the ids that this folder gives. Folders are walked without hidden and unsupported files, without
    the files of an embedded store and without following links out; a file named directly is always taken.

    Args:
        paths: Files and folders.
        roots: Those that the collection knows, see `Places.roots`.
        stored: Ids of its documents.

    Raises:
        StepError: `invalid_request`, a path does not exist.
    """
    found = Places(roots=dict(roots))
    files: dict[str, File] = {}
    skipped: Counter[tuple[str, str]] = Counter()
    for given in paths:
        path = Path(given).resolve()
        if not path.exists():
            raise StepError(
                "invalid_request", f"there is no file or folder '{given}'", param="paths"
            )
        inside = list(walk(path, skipped)) if path.is_dir() else [path]
        if _known(path, found.roots) is None:
            _add_root(path, inside, stored, found)
        for item in inside:
            name = _known(item, found.roots)
            if name is not None:
                files[name] = File(item, name)
        found.prefixes += _covered(path, found.roots)
    found.files = [files[name] for name in sorted(files)]
    found.skipped = skipped_of(skipped)
    return found


def skipped_of(counted: Mapping[tuple[str, str], int]) -> list[Skipped]:
    """Return the files not read, from their numbers by reason and ending."""
    return [
        Skipped(reason=reason, ending=ending, files=count)
        for (reason, ending), count in sorted(counted.items())
        if count
    ]


def readable(name: str) -> str:
    r"""Return a file's name as text: bytes that are not UTF-8 become `\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(path: Path) -> str:
    return readable(path.as_posix())


def _known(path: Path, roots: Mapping[str, str]) -> str | None:
    """Return the id of a file, or `prefix/` of a folder, by the deepest root that holds it."""
    keys = {folder: key for key, folder in roots.items()}
    for parent in (path, *path.parents):
        key = keys.get(_text(parent))
        if key is not None and (parent == path or key.endswith("/")):
            below = _text(path)[len(_text(parent)) :].lstrip("/")
            return key + below + ("/" if below and path.is_dir() else "")
    return None


def _covered(path: Path, roots: Mapping[str, str]) -> list[str]:
    """Return the id of a file, or `prefix/` of a folder and what it has of the roots in it."""
    own = _known(path, roots) or ""
    within = f"{_text(path).rstrip('/')}/"
    return [own, *(key for key, folder in roots.items() if folder.startswith(within))]


def _add_root(path: Path, inside: Sequence[Path], stored: Collection[str], found: Places) -> None:
    """Give a new folder or file the shortest name that no other one has."""
    end = "/" if path.is_dir() else ""
    below = {_text(item)[len(_text(path)) :].lstrip("/") for item in inside}
    parts = [readable(part) for part in path.parts if part != path.anchor] or ["root"]
    for length in range(1, len(parts) + 1):
        key = "/".join(parts[-length:]) + end
        before = found.roots.get(key)
        last = length == len(parts)
        if not last and (_is_elsewhere(before) or _is_inside(key, found.roots)):
            continue
        there = [one for one in stored if covers(key, one)]
        same = any(file_of(one.removeprefix(key)) in below for one in there)
        if there and not same and not last:
            continue
        found.roots[key] = _text(path)
        if there and before is None:
            found.adopted.append(key)
        return


def covers(key: str, document_id: str) -> bool:
    """Tell whether a document is of the folder `key/`, or of the file `key`, its records or members."""
    if key.endswith("/"):
        return document_id.startswith(key)
    return document_id == key or document_id.startswith((f"{key}#", f"{key}/"))


def path_of(document_id: str, roots: Mapping[str, str]) -> Path | None:
    """Return where the file of a document was on disk when it was indexed; None for what came otherwise."""
    keys = [key for key in roots if key == document_id or key.endswith("/")]
    key = max((one for one in keys if document_id.startswith(one)), key=len, default=None)
    return None if key is None else Path(roots[key]) / document_id.removeprefix(key)


def file_of(document_id: str) -> str:
    """Return the id of the file that a document is of: of a record, its file; of a member, its archive."""
    path = PurePosixPath(document_id.partition("#")[0])
    outermost = (one for one in reversed(path.parents) if one.suffix.lower() in CONTAINERS)
    return str(next(outermost, path))


def _is_elsewhere(folder: str | None) -> bool:
    """Whether the name is that of another folder or file, one that was not moved."""
    return folder is not None and Path(folder).exists()


def _is_inside(key: str, roots: Mapping[str, str]) -> bool:
    return any(one != key and one.endswith("/") and key.startswith(one) for one in roots)


def _store_in(folder: Path, folders: Sequence[str]) -> set[str]:
    """Return what in a folder is of an embedded store: its collections, and where its service runs."""
    if any(map(_is_store, (folder, folder.parent))):
        return {entry.name for entry in folder.iterdir()}
    own = {name for name in folders if _is_store(folder / name)}
    return own | {SERVICE} if own and (folder / SERVICE).is_file() else own


def _is_store(folder: Path) -> bool:
    """Whether a folder holds the collections of an embedded store."""
    if folder.name != COLLECTIONS:
        return False
    return any(
        (inner / MANIFEST).is_file() and any(inner.glob("g[0-9]*")) for inner in folder.iterdir()
    )


def walk(root: Path, skipped: Counter[tuple[str, str]]) -> Iterator[Path]:
    """Yield the files of a folder that are read, in order of their names; count the others."""
    for folder, folders, names in os.walk(root):
        hidden = {name for name in (*folders, *names) if name.startswith(".")}
        own = _store_in(Path(folder), folders)
        skipped["hidden", ""] += len(hidden)
        skipped["store", ""] += len(own)
        folders[:] = sorted(set(folders) - hidden - own)
        for name in sorted(set(names) - hidden - own):
            path = Path(folder, name)
            ending = path.suffix.lower()
            if ending not in SUPPORTED_SUFFIXES:
                skipped["format", readable(ending)] += 1
            elif not path.is_file():
                skipped["no file", ending] += 1
            elif not path.resolve().is_relative_to(root):
                skipped["link out of the folder", ending] += 1
            else:
                yield path
