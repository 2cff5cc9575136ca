"""A git repository as a source, read by the `git` command: nothing is checked out and nothing of it runs.

Only the commit and its folders are fetched, then in one request the files that have changed; a server
that cannot filter sends the whole commit. A local repository is read where it is.
"""

from __future__ import annotations

import re
import shutil
import subprocess  # nosec B404
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rag_kit.errors import StepError

from ..documents import MAX_DOCUMENT_BYTES, Origin
from ..index.places import readable, skipped_of
from ..settings import child_environment
from .source import Item, Listing, OnProgress, is_readable, not_read, quoted, too_large, unavailable
from .source import without_credentials as plain

FETCH_S = 600.0  # seconds a fetch may take
ASK_S = 60.0  # seconds any other command may take
SAFE = (  # the user's own configuration stays, as for proxies and credentials
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never"),
    *("-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false"),
)  # fmt: skip
# Of the repository whose hook may have started this process.
HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
LINK, SUBMODULE = "120000", "160000"  # modes of entries that are no files
LFS = b"version https://git-lfs.github.com/spec/"
SCP_LIKE = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)\S+")
SECRET = re.compile(r"(?<=://)[^/@\s]+@")
# Forges: how the address of a file follows from that of its repository.
PAGES = {
    "github.com": "/blob/{revision}/{path}",
    "gitlab.com": "/-/blob/{revision}/{path}",
    "codeberg.org": "/src/commit/{revision}/{path}",
    "bitbucket.org": "/src/{revision}/{path}",
}


class Place(NamedTuple):
    """A folder in a repository at a branch, tag or commit; "" is the default branch, the whole."""

    repository: str
    ref: str
    folder: str


def place_of(address: str) -> Place:
    """Return what `repository#ref:folder` names.

    Raises:
        StepError: `invalid_request`.
    """
    repository, _, fragment = address.removeprefix("git+").partition("#")
    ref, _, folder = fragment.partition(":")
    folder = folder.strip("/")
    bad = repository.startswith("-") or "::" in repository or ref.startswith("-") or not repository
    if bad or ".." in ref or {"..", "."} & set(folder.split("/")) or re.search(r"\s", ref):
        raise StepError(
            "invalid_request",
            f"'{SECRET.sub('', address)}' is no git repository; write URL#BRANCH:FOLDER, where branch "
            "and folder may be left out",
            param="source",
        )
    return Place(repository, ref, folder)


class Entry(NamedTuple):
    """A file of a commit: the id of its content, and its path in the repository."""

    blob: str
    path: str


class GitSource:
    """The files of one commit; a file counts as changed when git's hash of it is another."""

    def __init__(self, address: str) -> None:
        self._place = place_of(address)
        self._local = _local(self._place.repository)
        self._repository = str(self._local) if self._local else self._place.repository
        shown = self._local.as_uri() if self._local else plain_address(self._repository)
        self._shown = shown
        where = f"{self._place.ref}{':' if self._place.folder else ''}{self._place.folder}"
        self.address = shown + (f"#{where}" if where else "")
        self.name = re.split(r"[/:]", shown.removesuffix("/.git").rstrip("/"))[-1]
        self.name = self.name.removesuffix(".git")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._entries: dict[str, Entry] = {}
        self._commit = ""

    def list_items(self, known: Mapping[str, Origin], progress: OnProgress) -> Listing:
        """List the files of the commit; links and submodules are not followed."""
        self._commit = self._find_commit()
        skipped: Counter[tuple[str, str]] = Counter()
        self._entries = dict(self._files(skipped))
        items = [self._item(key, entry) for key, entry in sorted(self._entries.items())]
        return Listing(items, skipped=skipped_of(skipped))

    def _item(self, key: str, entry: Entry) -> Item:
        return Item(key, key, entry.blob, self._page(entry.path), self._commit)

    def _page(self, path: str) -> str:
        parts = urlsplit(self._shown)
        page = PAGES.get(parts.hostname or "") if parts.scheme == "https" else None
        if page is None:
            return f"{self._shown}#{self._place.ref or 'HEAD'}:{path}"
        root = self._shown.rstrip("/").removesuffix(".git")
        return root + page.format(revision=self._commit, path=quoted(path))

    def _find_commit(self) -> str:
        """Return the commit that the ref names; fetch it from a repository elsewhere."""
        if self._local is None:
            return self._fetch()
        ref = self._place.ref or "HEAD"
        try:
            return self._ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
        except StepError:
            self._ask("rev-parse", "--git-dir")  # or the reason why git does not read it
            raise self._no_ref() from None

    def _no_ref(self) -> StepError:
        ref = self._place.ref or "HEAD"
        return StepError(
            "invalid_request",
            f"{self._shown} has no branch, tag or commit '{ref}'; `git ls-remote` lists them",
            param="source",
        )

    def _fetch(self) -> str:
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="rag-sync-")
        self._ask("init", "--quiet", "--bare", ".")
        self._ask("config", "remote.origin.url", self._repository)
        try:
            self._get(self._place.ref or "HEAD")
        except StepError as error:
            if "remote ref" in error.message:
                raise self._no_ref() from None
            raise
        return self._ask("rev-parse", "--verify", "FETCH_HEAD^{commit}").strip()

    def _get(self, *wanted: str, stdin: str = "") -> None:
        self._ask(
            *("fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags", "origin"),
            *wanted,
            stdin=stdin,
            seconds=FETCH_S,
        )

    def _files(self, skipped: Counter[tuple[str, str]]) -> Iterator[tuple[str, Entry]]:
        below = f"{self._place.folder}/" if self._place.folder else ""
        tree = self._ask("ls-tree", "-r", "-z", f"{self._commit}:{self._place.folder}")
        for line in filter(None, tree.split("\0")):
            head, _, name = line.partition("\t")
            mode, _, blob = head.split()
            if mode == SUBMODULE:
                skipped["submodule", ""] += 1
            elif mode == LINK:
                skipped["link", ""] += 1
            elif not is_readable(name):
                skipped[not_read(readable(name))] += 1
            else:
                yield readable(name), Entry(blob, below + readable(name))

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | StepError]]:
        """Yield the content of files; those that are not here yet are fetched together first."""
        blobs = [self._entries[item.key].blob for item in items]
        if self._local is None:
            self._fetch_missing(set(blobs))
        command = self._command("cat-file", "--batch")
        with subprocess.Popen(  # noqa: S603  # nosec B603
            command,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            for item, blob in zip(items, blobs, strict=True):
                yield item, self._content(process, blob)
            assert process.stdin is not None
            process.stdin.close()

    def _fetch_missing(self, blobs: set[str]) -> None:
        listed = self._ask("rev-list", "--objects", "--missing=print", self._commit)
        missing = blobs & {line[1:] for line in listed.splitlines() if line.startswith("?")}
        if missing:
            self._get("--stdin", stdin="\n".join(sorted(missing)))

    def _content(self, process: subprocess.Popen[bytes], blob: str) -> bytes | StepError:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{blob}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return unavailable(self.address, "git ended while files were read; try again")
        head = process.stdout.readline().split()
        if len(head) != 3:
            return unavailable(self.address, f"git cannot give the file {blob}; try again")
        size = int(head[2])
        if size > MAX_DOCUMENT_BYTES:
            _skip(process, size + 1)
            return too_large(size)
        data = process.stdout.read(size + 1)[:-1]
        if data.startswith(LFS):
            return StepError(
                "document_unreadable",
                "it is a pointer to a file in Git LFS, which is not fetched; sync a folder that has "
                "the files",
            )
        return data

    def _command(self, *arguments: str) -> list[str]:
        git = shutil.which("git")
        if git is None:
            raise StepError(
                "misconfigured",
                "the command `git` is not installed here, and a git repository is read by it; install "
                "git, or sync a folder with the files",
            )
        return [
            git,
            *SAFE,
            "-C",
            str(self._local or (self._folder and self._folder.name)),
            *arguments,
        ]

    def _ask(self, *arguments: str, stdin: str = "", seconds: float = ASK_S) -> str:
        try:
            done = subprocess.run(  # noqa: S603  # nosec B603
                self._command(*arguments),
                env=_environment(),
                input=stdin.encode(),
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise unavailable(self.address, f"git needed more than {seconds:g} s") from None
        if done.returncode:
            raise unavailable(self.address, _reason(done.stderr))
        return done.stdout.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Remove what was fetched."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def plain_address(repository: str) -> str:
    """Return a repository's address without credentials; `git@host:path` keeps its user."""
    return plain(repository) if "://" in repository else repository


def is_bare(path: Path) -> bool:
    """Whether a folder is a bare repository: it has no files of its own to sync."""
    return all((path / name).exists() for name in ("HEAD", "objects", "refs"))


def _local(repository: str) -> Path | None:
    path = Path(repository)
    if "://" not in repository and (is_bare(path) or (path / ".git").exists()):
        return path.resolve()
    if "://" in repository or (SCP_LIKE.fullmatch(repository) and not path.exists()):
        return None
    raise StepError(
        "invalid_request", f"there is no git repository at '{repository}'", param="source"
    )


def _environment() -> dict[str, str]:
    """Return an environment in which git never asks, and never reads from a remote unasked."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}
    return child_environment(quiet, without=HOOK_VARIABLES)


def _skip(process: subprocess.Popen[bytes], size: int) -> None:
    assert process.stdout is not None
    while size > 0:
        size -= len(process.stdout.read(min(size, 1 << 20))) or size


def _reason(stderr: bytes) -> str:
    """Return what git complains of, without credentials."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines() or ["git failed"]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return SECRET.sub("", " ".join(told))[:400]
