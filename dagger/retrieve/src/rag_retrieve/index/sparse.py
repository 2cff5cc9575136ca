"""Sparse vectors: the terms of passages and questions in any language, weighed by BM25."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from qdrant_edge import Bm25, Bm25Config, DisabledStemmer, StopwordsSet, TokenizerType

from rag_kit.languages import ENGLISH
from rag_kit.text import comparable
from rag_kit.words import (
    compound_parts,
    content_words,
    is_unspaced,
    main_language,
    stem,
    stop_words,
    terms,
    words,
)

from ..stores.base import Sparse
from .manifest import Recipe

PART_WEIGHT = 0.3  # of a part of a compound word, where the whole word counts 1


class QueryTerm(NamedTuple):
    """A word of a question, the ids that it has as a term of each language, and those of its parts."""

    word: str
    ids: frozenset[int]
    parts: frozenset[int] = frozenset()


class TermEncoder:
    """Turns texts into sparse vectors; the id of a term is the hash of its stem.

    Args:
        recipe: The parameters of BM25, and the language of earlier versions' collections.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def document(self, text: str, language: str | None) -> Sparse:
        """Weigh a passage's terms by BM25, without the IDF that the store adds at search.

        Args:
            text: The passage with what names it.
            language: The language of its document; None for a collection of an earlier version.
        """
        if language is None:
            return _sparse(self._earlier.embed_document(comparable(text)))
        if language == ENGLISH and not is_unspaced(text):
            return _sparse(self._english.embed_document(comparable(text)))
        whole = _sparse(self._stems.embed_document(" ".join(terms(text, language))))
        weight = PART_WEIGHT * min(whole.values, default=0.0)  # that of a word that stands once
        parts = [part for word in words(text, language) for part in compound_parts(word, language)]
        ids = sorted(self._ids(parts, language) - set(whole.indices))
        return Sparse([*whole.indices, *ids], [*whole.values, *[weight] * len(ids)])

    def query(self, query: str, languages: Sequence[str] | None) -> Sparse:
        """Weigh a question's terms; every term counts 1.

        Args:
            query: The question.
            languages: Those of the collection's documents; None for one of an earlier version.
        """
        if languages is None:
            return _sparse(self._earlier.embed_query(comparable(query)))
        return sparse_of(self.query_terms(query, languages))

    def query_terms(self, query: str, languages: Iterable[str]) -> list[QueryTerm]:
        """Return the words of a question that are looked for, as terms of each language."""
        languages = sorted(set(languages))
        main = main_language(query, {*languages, ENGLISH}) or ENGLISH
        found: dict[str, QueryTerm] = {}
        for language in languages:
            kept = words(query) if language == main == ENGLISH else content_words(query, main)
            for word in dict.fromkeys(kept):
                before = found.get(word, QueryTerm(word, frozenset()))
                ids = before.ids | self.ids_of(word, language)
                parts = before.parts | self._ids(compound_parts(word, language), language)
                found[word] = QueryTerm(word, ids, parts - ids)
        return [term for term in found.values() if term.ids]

    def any_of(self, found: Iterable[str], languages: Iterable[str]) -> Sparse:
        """Return the vector of all these words at once, as terms of these languages."""
        found = list(found)
        ids = frozenset[int]().union(*(self._ids_of(found, language) for language in languages))
        return Sparse(sorted(ids), [1.0] * len(ids))

    def ids_of(self, word: str, language: str) -> frozenset[int]:
        """Return the ids of a word as a term of a language; none for a stop word."""
        return self._ids_of([word], language)

    def _ids_of(self, found: Sequence[str], language: str) -> frozenset[int]:
        if language != ENGLISH:
            return self._ids(found, language)
        if not is_unspaced(whole := " ".join(found)):
            return frozenset(self._english.embed_query(whole).indices)
        spaced = " ".join(word for word in found if not is_unspaced(word))
        unspaced = [word for word in found if is_unspaced(word)]
        ids = frozenset(self._english.embed_query(spaced).indices)
        return ids | self._ids(unspaced, language) if unspaced else ids

    def _ids(self, found: Iterable[str], language: str) -> frozenset[int]:
        stops = stop_words(language)
        stems = " ".join(stem(word, language) for word in found if word not in stops)
        return frozenset(self._stems.embed_query(stems).indices)

    @cached_property
    def _earlier(self) -> Any:
        return self._bm25(language=self._recipe.language)

    @cached_property
    def _english(self) -> Any:
        return self._bm25(language=ENGLISH)

    @cached_property
    def _stems(self) -> Any:
        return self._bm25(
            tokenizer=TokenizerType.Whitespace,
            lowercase=False,
            stemmer=DisabledStemmer(),
            stopwords=StopwordsSet(),
        )

    def _bm25(self, **options: Any) -> Any:
        recipe = self._recipe
        return Bm25(Bm25Config(recipe.bm25_k, recipe.bm25_b, recipe.bm25_avg_len, **options))


def sparse_of(found: Iterable[QueryTerm]) -> Sparse:
    """Return the vector of a question's terms."""
    found = list(found)
    weights = {id_: PART_WEIGHT for term in found for id_ in term.parts}
    weights |= {id_: 1.0 for term in found for id_ in term.ids}
    return Sparse(list(weights), list(weights.values()))


def _sparse(vector: Any) -> Sparse:
    return Sparse(list(vector.indices), list(vector.values))
