"""What every source offers: a list of its items with their versions, and the content of chosen ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable
from urllib.parse import quote, urlsplit, urlunsplit

from rag_kit.errors import StepError
from rag_kit.reports import Progress, Skipped

from ..documents import MAX_DOCUMENT_BYTES, SUPPORTED_SUFFIXES, Origin

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Item:
    """A file, object or page that can be read.

    Attributes:
        key: What names it in its source.
        path: The ids of its documents, below the name of the source.
        version: Changes when its content does.
        url: Its address, for people.
        revision: What its content is a state of, for people: a commit, an ETag, a date.
        validators: ETag and date of a page; others do not mean that its content is another.
        links: Of a page, the addresses it leads to.
    """

    key: str
    path: str
    version: str
    url: str
    revision: str
    validators: tuple[str, str] = ("", "")
    links: tuple[str, ...] = ()


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        items: What can be read, ordered by path.
        refused: By key, why something is not read although it is there; what it brought before stays.
        skipped: Files of other formats and the like, counted.
        partial: Why the list may lack something, so that nothing counts as gone; "" when it is whole.
        warnings: What else a user should know of the whole source.
    """

    items: list[Item] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    partial: str = ""
    warnings: list[str] = field(default_factory=list)


class Source(Protocol):
    """A place with documents. What it keeps while it is read is removed by `close`.

    Attributes:
        address: Names the source among others; holds no credentials.
        name: First part of the ids of its documents, unless the user chooses another.
    """

    address: str
    name: str

    def list_items(self, known: Mapping[str, Origin], progress: OnProgress) -> Listing:
        """List what is there.

        Args:
            known: By key, what was brought before and need not be read again if its version is the same.
            progress: Called now and then.

        Raises:
            StepError: `source_unavailable` and others: there is no list.
        """

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | StepError]]:
        """Yield the content of items of the last list, or why one cannot be read."""

    def close(self) -> None:
        """Remove what was kept."""


@runtime_checkable
class Divisible(Source, Protocol):
    """A source whose items other processes can read, too."""

    def only(self, items: Sequence[Item]) -> Source:
        """Return the source to read these items elsewhere; it can be pickled."""


def only_here(address: str) -> StepError:
    """Return the error for a source that several workers cannot read."""
    return StepError(
        "not_supported",
        f"{address} is read by one process; leave --workers out, or run `rag sync`",
        param="source",
    )


def is_readable(path: str) -> bool:
    """Whether a file of this name has one of the formats that are read, and is not hidden."""
    return PurePosixPath(path).suffix.lower() in SUPPORTED_SUFFIXES and not is_hidden(path)


def is_hidden(path: str) -> bool:
    """Whether a name in a path begins with a dot; `..` is such a name, too."""
    return any(part.startswith(".") for part in path.split("/"))


def not_read(path: str) -> tuple[str, str]:
    """Return why a path is not read, and its ending, as a report counts them."""
    if is_hidden(path):
        return "hidden", ""
    return "format", PurePosixPath(path).suffix.lower()


def without_credentials(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def quoted(path: str) -> str:
    """Return a path for a URL."""
    return quote(path, safe="/~")


def unavailable(address: str, why: str) -> StepError:
    """Return the error for a source that does not answer as it should."""
    return StepError("source_unavailable", f"{address}: {why}", param="source")


def too_large(size: int) -> StepError:
    """Return the error for content that is larger than a document may be."""
    return StepError(
        "document_unreadable",
        f"{size} bytes is over the limit of {MAX_DOCUMENT_BYTES}; split the file",
    )
