"""The embedded store's use of the file system: atomic writes, one owner, free space."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rag_kit.errors import StepError

MIB = 1 << 20
LOCK = ".lock"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when there is no file.

    Raises:
        StepError: `store_corrupt`, the file holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:
        raise _corrupt(path, str(error)) from None
    if not isinstance(value, dict):
        raise _corrupt(path, "it is not a JSON object")
    return value


def write_json(path: Path, value: object) -> None:
    """Replace a file atomically: after a crash it holds the old value or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=True, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _read_only(path) from error
        raise explain(error, path) from error


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def require_own(folder: Path) -> None:
    """Refuse a folder that others can write to, because they could change the answers.

    This process's own groups may: Kubernetes opens a volume to its pod's group (`fsGroup`).

    Raises:
        StepError: `misconfigured`, with its owner and the command that repairs it.
    """
    found = folder.stat()
    if found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
        repair = f"chown -R {os.geteuid()} {folder}"
    elif found.st_mode & 0o002 or (found.st_mode & 0o020 and found.st_gid not in _groups()):
        why = f"can be written by others (mode {found.st_mode & 0o777:o})"
        repair = f"chmod -R go-w {folder}"
    else:
        return
    raise StepError(
        "misconfigured",
        f"the store's folder {folder} {why}; if its content can be trusted, run `{repair}`, else "
        "set RAG_HOME to another folder",
    )


def _groups() -> list[int]:
    return [os.getegid(), *os.getgroups()]


class FolderLock:
    """The lock of a folder's one owner; the kernel releases it when the process dies.

    Raises:
        StepError: `store_locked` at once when another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        try:
            self._fd = self._acquire()
        except OSError as error:
            raise explain(error, self._path) from error

    def _acquire(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(fd):
                    os.truncate(fd, 0)
                    os.pwrite(fd, str(os.getpid()).encode(), 0)
                    return fd
            except BlockingIOError:
                owner = os.pread(fd, 20, 0).decode("ascii", "replace") or "unknown"
                os.close(fd)
                raise self._held_by(owner) from None
            except OSError:
                os.close(fd)
                raise
            os.close(fd)

    def _is_current(self, fd: int) -> bool:
        """Tell whether the locked file is still the one at the path: the folder may have been removed."""
        try:
            return os.fstat(fd).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def _held_by(self, pid: str) -> StepError:
        folder = self._path.parent
        return StepError(
            "store_locked",
            f"collection '{folder.name}' in {folder.parent} is open in process {pid}; stop it, or "
            "use a Qdrant server (RAG_STORE=qdrant), which many processes can share",
            param="collection",
        )

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def free_bytes(folder: Path) -> int:
    """Return the bytes a write may take on the folder's disk."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def used_bytes(folder: Path) -> int:
    """Return the bytes a folder takes on the disk; holes in files count nothing."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def require_room(folder: Path, needed: int) -> None:
    """Refuse to write when fewer than `needed` bytes would be free.

    The engine writes through memory maps: on a full disk the kernel would end this process
    (SIGBUS) where other programs get an error, so there must be room before each write.

    Raises:
        StepError: `storage_full`.
    """
    free = free_bytes(folder)
    if free < needed:
        raise StepError(
            "storage_full",
            f"{folder} has {free / MIB:.0f} MiB free and this needs {needed / MIB:.0f} MiB; "
            "free some space, or move RAG_HOME to a larger disk. What is open can still be searched",
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the engine's and the system's failures about `path` into StepErrors."""
    try:
        yield
    except StepError:
        raise
    except Exception as error:
        raise explain(error, path) from error
    except BaseException as error:  # a panic of the engine is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise explain(error, path) from error


def explain(error: BaseException, path: Path) -> StepError:
    """Return the StepError for a failure about `path`."""
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return StepError("storage_full", f"no space left for {path}; free some and try again")
    if number == errno.EROFS or "Read-only file system" in text:
        return _read_only(path)
    if number in (errno.EACCES, errno.EPERM) or "Permission denied" in text:
        return StepError(
            "misconfigured",
            f"{path} cannot be written ({text}); check its owner and mode, or set RAG_HOME",
        )
    if "WouldBlock" in text:
        return StepError(
            "store_locked", f"{path} is open in another process; stop it", param="collection"
        )
    if "Shard is not initialized" in text:
        return StepError("not_ready", f"{path} has been closed; open the collection again")
    if isinstance(error, TypeError | ValueError):
        return StepError("internal_error", f"the store of {path} refused a value: {text}")
    return _corrupt(path, text)


def _read_only(path: Path) -> StepError:
    return StepError(
        "storage_full",
        f"{path} cannot be written: its folder or disk is read-only. What is open can still be "
        "searched; make it writable and try again, or set RAG_HOME",
    )


def _corrupt(path: Path, reason: str) -> StepError:
    return StepError(
        "store_corrupt",
        f"{path} cannot be read: {reason}. Restore it from a copy, or delete the collection with "
        "`rag collections delete` and index its documents again",
    )
