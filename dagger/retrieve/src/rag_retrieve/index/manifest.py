"""The manifest of a collection: its recipe (model, chunking) and a digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag_kit.errors import StepError

from ..settings import RetrieveSettings
from .embedders import Embedder
from .points import Version

INDEXING = 3  # raise when more is stored or searched with a passage, and say what in GAINS
BY_LANGUAGE = 3  # the first version whose terms are those of each document's own language
GAINS = {
    2: "headings, dates and columns of passages, and search by the names of files and folders",
    3: "search by the words of each document's own language",
}
CHUNKER = "structure-1"  # raise when the chunker cuts differently
BM25_K = 1.2  # term saturation, unitless
BM25_B = 0.75  # length penalty, 0 to 1
BM25_AVG_LEN = 256.0  # terms; fixed per collection, because stored weights depend on it
_MODULUS = 1 << 256


class Recipe(BaseModel):
    """Everything a stored vector or passage depends on; two equal recipes build equal collections."""

    model_config = ConfigDict(frozen=True)

    embedding_model: str
    embedding_identity: str
    dim: int
    distance: Literal["cosine"] = "cosine"
    chunker: str = CHUNKER
    chunk_tokens: int
    chunk_overlap_tokens: int
    bm25_k: float = BM25_K
    bm25_b: float = BM25_B
    bm25_avg_len: float = BM25_AVG_LEN
    language: str

    @classmethod
    def of(cls, settings: RetrieveSettings, embedder: Embedder) -> Recipe:
        """Return the recipe that the settings and the loaded embedder ask for."""
        return cls(
            embedding_model=embedder.model,
            embedding_identity=embedder.identity,
            dim=embedder.dim,
            chunk_tokens=settings.chunk_tokens,
            chunk_overlap_tokens=settings.chunk_overlap_tokens,
            language=settings.language,
        )


class Manifest(BaseModel):
    """The recipe of a collection and a digest of its content."""

    format: Literal[1] = 1
    name: str
    recipe: Recipe
    corpus_sum: str = Field("0", description="Sum of document hashes modulo 2^256, hexadecimal.")
    documents: int = 0
    chunks: int = 0
    indexing: int = Field(1, description="`INDEXING` of the version that built all of it.")
    languages: list[str] = Field(
        default_factory=list, description="Languages its documents are or were in, sorted."
    )
    roots: dict[str, str] = Field(
        default_factory=dict,
        description="By id of a file, or by `folder/`, where it was on disk when it was last indexed.",
    )

    @classmethod
    def new(cls, name: str, recipe: Recipe, roots: dict[str, str] | None = None) -> Manifest:
        """Return the manifest of a collection that is built anew."""
        return cls(name=name, recipe=recipe, roots=roots or {}, indexing=INDEXING)

    @property
    def outdated(self) -> str:
        """What a reindex would bring, as a warning; "" where it would bring nothing."""
        if self.indexing >= INDEXING:
            return ""
        gains = "; ".join(gain for number, gain in GAINS.items() if number > self.indexing)
        return (
            f"collection_outdated: '{self.name}' was indexed by an earlier version; "
            f"`rag reindex --collection {self.name}` brings {gains}"
        )

    @property
    def searched_languages(self) -> list[str] | None:
        """The languages in which a question's words are looked for; None where passages have no own."""
        if self.indexing < BY_LANGUAGE:
            return None
        return sorted({*self.languages, self.recipe.language})

    @property
    def corpus_digest(self) -> str:
        """Digest of recipe and documents; equal digests give equal answers."""
        text = f"{self.recipe.model_dump_json()}:{self.corpus_sum}:{self.documents}:{self.chunks}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def add(self, document_id: str, content_hash: str, chunks: int, *, sign: int = 1) -> None:
        """Count a document in (`sign=1`) or out (`sign=-1`); the order of calls does not matter.

        Source: Bellare and Micciancio, EUROCRYPT 1997 (AdHash): a sum of hashes is a set's digest.
        """
        term = hashlib.sha256(
            f"{document_id}\0{content_hash}".encode("utf-8", "replace")
        ).hexdigest()
        total = (int(self.corpus_sum, 16) + sign * int(term, 16)) % _MODULUS
        self.corpus_sum = f"{total:x}"
        self.documents += sign
        self.chunks += sign * chunks

    def after(self, changes: Iterable[tuple[Version | None, Version | None]]) -> Manifest:
        """Return the manifest after documents went from one version to another; None: not there."""
        result = self.model_copy()
        for old, new in changes:
            for version, sign in ((old, -1), (new, 1)):
                if version:
                    result.add(version.document_id, version.content_hash, version.chunks, sign=sign)
        return result


def read_manifest(raw: dict[str, Any], name: str) -> Manifest:
    """Validate a stored manifest.

    Raises:
        StepError: `store_corrupt`, it is not one this version can read.
    """
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise StepError(
            "store_corrupt",
            f"the manifest of collection '{name}' is not valid (field {field}); "
            "its documents are still stored, so delete nothing: restore a backup beside it",
        ) from None


def check_recipe(manifest: Manifest, wanted: Recipe) -> None:
    """Refuse a collection that was built with another recipe.

    Raises:
        StepError: `collection_mismatch`, with both values and the command that mends it.
    """
    have, want = manifest.recipe.model_dump(), wanted.model_dump()
    for field, value in have.items():
        if value != want[field]:
            raise StepError(
                "collection_mismatch",
                f"collection '{manifest.name}' was built with {field} = {value}, but {want[field]} is "
                f"configured; run `rag reindex --collection {manifest.name}`, or configure {value} again",
                param="collection",
            )
