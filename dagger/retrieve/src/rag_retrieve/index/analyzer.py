"""What a collection's recipe makes of documents and queries: passages and vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag_kit.reports import Counters
from rag_kit.text import fold
from rag_kit.words import is_latin

from ..documents import LoadedDocument
from ..documents.chunker import Chunk, chunk
from .cache import EmbeddingCache
from .embedders import MINILM, Embedder, PartsEmbedder, Vectors
from .manifest import Recipe
from .sentence_vectors import Span, folded_spans
from .sparse import TermEncoder


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
        self.terms = TermEncoder(recipe)

    def dense_query(self, query: str) -> Vectors:
        """Embed a query."""
        self.counters.queries_embedded += 1
        return self.embedder.embed_query(fold(query))

    def is_unfit(self, query: str) -> bool:
        """Tell whether the embedder cannot know the question's words, because they are in another script."""
        return self.embedder.model == MINILM and not is_latin(query)

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
