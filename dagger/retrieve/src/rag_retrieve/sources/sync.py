"""A collection brought in step with a source: first a plan, then only what has changed.

What a sync knows of a source stands in the documents that it brought (`Origin`), so it is as durable as
they are, and a run that was interrupted is simply repeated. A document without an origin came by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import ALLOWED_GROUPS
from rag_kit.reports import Failure, SyncPlan, SyncReport

from ..documents import LoadedDocument, Origin, load
from ..index.collection import Collection, Synced
from ..index.ingest import Ingest, Reader
from ..index.places import covers, file_of
from ..index.points import content_hash
from ..stores.base import batches
from .groups import GroupRules, read_rules
from .source import Divisible, Item, Listing, OnProgress, Source, only_here, quoted

NAME = re.compile(r"[^\s/#][^/#]{0,99}")
PLACES = ("{path}", "{revision}")  # what an address of a document may hold
URL, REVISION = "source_url", "source_revision"  # metadata of a document


@dataclass(frozen=True)
class SyncOptions:
    """How a source is brought into a collection.

    Args:
        name: First part of the ids; None: as before, or the source's own.
        prune: Delete what the source no longer has.
        adopt: Take over documents of the same ids that came by hand.
        groups_file: File of patterns and groups that may read; see `groups`.
        links: Address of a document with `{path}` and `{revision}`; None: the source's own.
    """

    name: str | None = None
    prune: bool = False
    adopt: bool = False
    groups_file: Path | None = None
    links: str | None = None


@dataclass
class Known:
    """What a collection holds, as a sync sees it.

    Attributes:
        mine: Documents that this source brought, by id.
        items: Their ids, by item.
        owners: By id of a document and of its file, who brought it if not this source; "": by hand.
    """

    mine: dict[str, Synced] = field(default_factory=dict)
    items: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[str, str] = field(default_factory=dict)


def known_of(collection: Collection | None, address: str) -> Known:
    """Return what a collection, if there is one, holds of a source and of others."""
    known = Known()
    if collection is None:
        return known
    synced = collection.synced()
    for document_id in collection.document_ids():
        brought = synced.get(document_id)
        if brought is not None and brought.origin.source == address:
            known.mine[document_id] = brought
            known.items[brought.origin.item].append(document_id)
        else:
            owner = brought.origin.source if brought else ""
            known.owners |= {document_id: owner, file_of(document_id): owner}
    return known


@dataclass(frozen=True)
class Learned:
    """What reading items has shown besides their documents.

    Attributes:
        noted: By id, the content hash and the new origin of documents whose content is the same.
        stale: Documents that the items no longer have.
    """

    noted: dict[str, tuple[str, Origin | None]]
    stale: set[str]


class Sync:
    """One sync of a source into a collection: `plan`, then `run`.

    Args:
        source: What is brought.
        options: How.
        collection: Where to; None: it does not exist yet.
    """

    def __init__(
        self, source: Source, options: SyncOptions, name: str, collection: Collection | None
    ) -> None:
        self._source = source
        self._options = options
        self._known = known_of(collection, source.address)
        self._rules = read_rules(options.groups_file) if options.groups_file else GroupRules()
        self._name = _name(source, options, self._known)
        _check_links(options.links)
        self._listing = Listing()
        self._read: list[Item] = []
        self._unchanged: list[str] = []  # items
        self._noted: dict[str, tuple[str, Origin | None]] = {}
        self._accepted: dict[str, str] = {}  # id by item
        self._leftovers: dict[str, set[str]] = {}  # of earlier versions, by item
        self._stale: set[str] = set()
        self.plan = SyncPlan(collection=name, source=source.address, prune=options.prune)

    def make_plan(self, progress: OnProgress) -> SyncPlan:
        """List the source and compare it with the collection; changes nothing."""
        current = {key: self._stored(key) for key in self._known.items}
        conditional = {key: origin for key, origin in current.items() if origin is not None}
        self._listing = self._source.list_items(conditional, progress)
        for item in self._listing.items:
            self._compare(item, current.get(item.key))
        for key, why in sorted(self._listing.refused.items()):
            self._refuse(self._id(key), why)
        self._plan_removals()
        self.plan.skipped = self._listing.skipped
        self.plan.warnings += self._listing.warnings
        self.plan.warnings += self._rules.unused(item.key for item in self._listing.items)
        return self.plan

    def _compare(self, item: Item, stored: Origin | None) -> None:
        base = self._id(item.path)
        if (why := self._refusal(base)) is not None:
            self._refuse(base, why)
            return
        self._accepted[item.key] = base
        if stored is not None and stored.version == item.version:
            self.plan.unchanged.append(base)
            self._unchanged.append(item.key)
            self._stale |= self._leftovers[item.key]
            self._note(item, stored)
            return
        self._read.append(item)
        (self.plan.changed if item.key in self._known.items else self.plan.added).append(base)

    def _note(self, item: Item, stored: Origin) -> None:
        """Remember what else has changed of an item whose content has not."""
        noted = replace(stored, validators=item.validators, links=item.links)
        if noted != stored:
            for document_id in set(self._known.items[item.key]) - self._leftovers[item.key]:
                content = self._known.mine[document_id].content_hash
                self._noted[document_id] = (content, noted)

    def _plan_removals(self) -> None:
        """Find what the source no longer has, unless it is not known whether it has it."""
        there = {item.key for item in self._listing.items} | self._listing.refused.keys()
        gone = [one for key, ids in self._known.items.items() if key not in there for one in ids]
        if gone and not self._listing.items and not self._listing.partial:
            self._listing.partial = (
                "it holds no document any more; if that is meant, `rag sources forget --delete` "
                "removes what it brought"
            )
        if self._listing.partial:
            kept = f"; nothing counts as removed ({len(gone)} not seen)" if gone else ""
            self.plan.warnings.append(f"{self._source.address}: {self._listing.partial}{kept}")
            gone = []
        renamed = [
            document_id
            for document_id, brought in self._known.mine.items()
            if (base := self._accepted.get(brought.origin.item)) and not covers(base, document_id)
        ]
        self._stale |= {*gone, *renamed}
        self.plan.removed = sorted(self._stale)

    def _stored(self, key: str) -> Origin | None:
        """Return the origin of an item that is stored to its last document, and as this run would.

        Documents that an earlier version of the item had are stale then.
        """
        by_version: dict[str, list[str]] = defaultdict(list)
        for document_id in self._known.items[key]:
            by_version[self._known.mine[document_id].origin.version].append(document_id)
        whole = [ids for ids in by_version.values() if len(ids) == self._first(ids).documents]
        if len(whole) != 1:
            return None
        settings = self._settings(key)
        if any(self._known.mine[one].origin.settings != settings for one in whole[0]):
            return None
        self._leftovers[key] = set(self._known.items[key]) - set(whole[0])
        return self._first(whole[0])

    def _first(self, ids: Sequence[str]) -> Origin:
        return self._known.mine[ids[0]].origin

    def _refusal(self, base: str) -> str | None:
        if base in self._accepted.values():
            return "another item of the source gives the same id; only that one is read"
        owner = self._known.owners.get(base)
        if owner is None or (owner == "" and self._options.adopt):
            return None
        who = f"{owner} brought" if owner else "you brought by hand"
        out = "" if owner else ", or take it over with --adopt"
        return f"a document of this id is there that {who}; choose another --name{out}"

    def _refuse(self, document_id: str, why: str) -> None:
        self.plan.refused.append(
            Failure(document_id=document_id, code="document_unreadable", message=why)
        )

    def parts(self, size: int) -> list[Sync]:
        """Return what is to be read in parts of so many items; each can be pickled and read elsewhere.

        Raises:
            StepError: `not_supported`: only this process can read the source.
        """
        if not isinstance(self._source, Divisible):
            raise only_here(self._source.address)
        starts = range(0, len(self._read), size)
        return [self._part(self._source, self._read[at : at + size]) for at in starts]

    def _part(self, source: Divisible, items: list[Item]) -> Sync:
        part = copy(self)
        ids = {item.key: self._known.items.get(item.key, []) for item in items}
        mine = {one: self._known.mine[one] for found in ids.values() for one in found}
        part._known = Known(mine, ids)
        part._source = source.only(items)
        part._read, part._listing, part._unchanged = items, Listing(), []
        part._noted, part._stale = {}, set()
        part._accepted, part._leftovers = {}, {}
        part.plan = SyncPlan(collection=self.plan.collection, source=self.plan.source)
        return part

    @property
    def items(self) -> int:
        """How many items are to be read."""
        return len(self._read)

    def learned(self) -> Learned:
        """Return what reading the items has shown besides their documents."""
        return Learned(self._noted, self._stale)

    def close(self) -> None:
        """Close the source of a part."""
        self._source.close()

    def learn(self, learned: Learned) -> None:
        """Take over what reading a part has shown."""
        self._noted |= learned.noted
        self._stale |= learned.stale

    def run(
        self, ingest: Ingest, collection: Collection, read: Callable[[], object] | None = None
    ) -> SyncReport:
        """Bring what the plan says into the collection.

        Args:
            ingest: The run.
            collection: Where to.
            read: Reads and ingests the parts elsewhere, and lets this sync learn from them.
        """
        if read is None:
            ingest.documents(self.documents(ingest))
        else:
            read()
        collection.note_origins(self._noted)
        ingest.gone(sorted(self._stale), prune=self._options.prune)
        report = SyncReport(**ingest.report.model_dump(), source=self._source.address)
        kept = {one for key in self._unchanged for one in self._known.items[key]} - self._stale
        report.unchanged = sorted({*report.unchanged, *kept})
        report.failed += self.plan.refused
        report.skipped = self.plan.skipped
        report.notes = self.plan.warnings
        return report

    def documents(self, reader: Reader) -> Iterator[LoadedDocument]:
        """Yield the documents of the items that are to be read; an unreadable one is reported."""
        left = len(self._read)
        for item, data in self._source.read(self._read):
            left -= 1
            base = self._id(item.path)
            try:
                if isinstance(data, StepError):
                    raise data
                loaded = load(base, data)
            except StepError as error:
                reader.expect(0, left)
                reader.fail(base, error)
                continue
            reader.expect(len(loaded), left)
            before = self._known.items.get(item.key, ())
            self._stale |= set(before) - {one.document_id for one in loaded}
            for document in loaded:
                yield self._marked(document, item, len(loaded))

    def _marked(self, document: LoadedDocument, item: Item, documents: int) -> LoadedDocument:
        """Return a document with its address, revision, groups and origin.

        One whose content is that of the stored one keeps the revision at which it had it first.
        """
        origin = Origin(
            source=self._source.address,
            name=self._name,
            item=item.key,
            version=item.version,
            path=item.path,
            documents=documents,
            settings=self._settings(item.key),
            validators=item.validators,
            links=item.links,
        )
        added: dict[str, JsonValue] = {URL: self._url(item), REVISION: item.revision}
        if groups := self._rules.groups_of(item.key):
            added[ALLOWED_GROUPS] = list(groups)
        marked = replace(document, metadata={**document.metadata, **added}, origin=origin)
        stored = self._known.mine.get(document.document_id)
        if stored is None or REVISION not in stored.metadata:
            return marked
        same = replace(marked, metadata={**marked.metadata, REVISION: stored.metadata[REVISION]})
        if content_hash(same) != stored.content_hash:
            return marked
        self._noted[document.document_id] = (stored.content_hash, origin)
        return same

    def _url(self, item: Item) -> str:
        if self._options.links is None:
            return item.url
        url = self._options.links.replace("{path}", quoted(item.path))
        return url.replace("{revision}", quoted(item.revision))

    def _settings(self, key: str) -> str:
        """Return a digest of what a sync adds to a document besides what the item says."""
        told = json.dumps([self._name, self._options.links, *self._rules.groups_of(key)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _id(self, path: str) -> str:
        return f"{self._name}/{path}"


def forget(collection: Collection, address: str, *, delete: bool) -> list[str]:
    """Forget a source: its documents are deleted, or stay as if they had come by hand.

    Returns:
        Their ids.

    Raises:
        StepError: `not_found`, nothing in the collection came from there.
    """
    mine = {
        document_id: brought
        for document_id, brought in collection.synced().items()
        if brought.origin.source == address
    }
    if not mine:
        raise StepError(
            "not_found",
            f"no document of collection '{collection.manifest.name}' came from {address}; "
            "`rag sources list` shows the sources",
            param="source",
        )
    with collection.checkpointed():
        if delete:
            for ids in batches(list(mine)):
                collection.commit(collection.removals(ids))
        else:
            collection.note_origins({one: (mine[one].content_hash, None) for one in mine})
    return sorted(mine)


def _name(source: Source, options: SyncOptions, known: Known) -> str:
    before: Sequence[str] = [one.origin.name for one in known.mine.values()]
    name = options.name or (before[-1] if before else source.name)
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise StepError(
            "invalid_request",
            f"'{name}' cannot begin the ids of documents; give one with --name, without / and #",
            param="name",
        )
    return name


def _check_links(links: str | None) -> None:
    unknown = set(re.findall(r"{[^}]*}", links or "")) - set(PLACES)
    if unknown:
        raise StepError(
            "invalid_request",
            f"the address of documents '{links}' holds {', '.join(sorted(unknown))}; "
            f"it may hold {' and '.join(PLACES)}",
            param="links",
        )
