"""What a collection's recipe makes of documents and queries: passages and vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qdrant_edge import Bm25, Bm25Config

from rag_kit.reports import Counters
from rag_kit.text import comparable, fold

from ..documents import LoadedDocument
from ..documents.chunker import Chunk, chunk
from ..stores.base import Sparse
from .cache import EmbeddingCache
from .embedders import Embedder, PartsEmbedder, Vectors
from .manifest import Recipe
from .sentence_vectors import Span, folded_spans


class Analyzer:
    """Cuts documents and turns text into the vectors that a collection's recipe asks for."""

    def __init__(
        self,
        recipe: Recipe,
        embedder: Embedder,
        count_tokens: Callable[[str], int],
        counters: Counters,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.recipe = recipe
        self.embedder = embedder
        self._count_tokens = count_tokens
        self.counters = counters
        self._cache = cache
        self._bm25 = Bm25(
            Bm25Config(
                k=recipe.bm25_k,
                b=recipe.bm25_b,
                avg_len=recipe.bm25_avg_len,
                language=recipe.language,
            )
        )

    def dense_query(self, query: str) -> Vectors:
        """Embed a query."""
        self.counters.queries_embedded += 1
        return self.embedder.embed_query(fold(query))

    def sparse_query(self, query: str) -> Sparse:
        """Weigh a query's terms; every term counts 1."""
        vector = self._bm25.embed_query(comparable(query))
        return Sparse(list(vector.indices), list(vector.values))

    def sparse_document(self, text: str) -> Sparse:
        """Weigh a passage's terms by BM25, without the IDF that the store adds at search."""
        vector = self._bm25.embed_document(comparable(text))
        return Sparse(list(vector.indices), list(vector.values))

    def cut(
        self, document: LoadedDocument, check: Callable[[], None] = lambda: None
    ) -> list[Chunk]:
        """Cut a document into passages; `check` is called often and may raise to end it."""

        def count_tokens(text: str) -> int:
            check()
            return self._count_tokens(text)

        return chunk(
            document,
            count_tokens=count_tokens,
            max_tokens=self.recipe.chunk_tokens,
            overlap_tokens=self.recipe.chunk_overlap_tokens,
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N passages; returns N × dim."""
        texts = [fold(text) for text in texts]
        if self._cache is None:
            vectors, computed = self.embedder.embed(texts), len(texts)
        else:
            vectors, computed = self._cache.fill(texts, self.embedder.embed)
        self.counters.texts_embedded += computed
        return vectors

    def embed_parts(
        self, texts: Sequence[str], parts: Sequence[Sequence[Span]]
    ) -> list[Vectors] | None:
        """Embed N passages with their sentences; None when the embedder gives no parts.

        Returns:
            For each passage (1 + sentences) × dim rows, the passage's own first; without sentences
            where folding the text joins two of them.
        """
        if not isinstance(self.embedder, PartsEmbedder):
            return None
        plain = [fold(text) for text in texts]
        places = [folded_spans(text, spans) for text, spans in zip(texts, parts, strict=True)]
        if self._cache is None:
            rows, computed = self.embedder.embed_parts(plain, places), len(plain)
        else:
            rows, computed = self._cache.fill_parts(plain, places, self.embedder.embed_parts)
        self.counters.texts_embedded += computed
        return rows
