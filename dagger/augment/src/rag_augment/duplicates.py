"""Find passages that repeat a better-ranked one.

Three tests, from cheap to expensive: the same text, the same span of the same document, and nearly
the same words. It does not detect paraphrases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

SHINGLE_WORDS = 4  # Manning et al., Introduction to Information Retrieval, 19.6: "a typical value"

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Passage:
    """A text to compare and its span in its document.

    Args:
        text: The passage as retrieved.
        document_id: Its document.
        start: Where it begins there, in characters.
        end: Where it ends there, in characters.
    """

    text: str
    document_id: str
    start: int
    end: int

    @cached_property
    def normal(self) -> str:
        """The text in NFKC, without its case and its kind of blanks."""
        return " ".join(unicodedata.normalize("NFKC", self.text).casefold().split())

    @cached_property
    def words(self) -> list[str]:
        """The words of the normal text in order."""
        return _WORD.findall(self.normal)

    @cached_property
    def numbers(self) -> list[str]:
        """The words with a digit, sorted."""
        return sorted(
            word for word in self.words if not word.isalpha() and any(map(str.isdigit, word))
        )

    @cached_property
    def shingles(self) -> frozenset[tuple[str, ...]]:
        """Every run of 4 words; a shorter text is one shingle."""
        words = self.words
        if len(words) <= SHINGLE_WORDS:
            return frozenset([tuple(words)])
        return frozenset(zip(*(words[shift:] for shift in range(SHINGLE_WORDS)), strict=False))


def find_duplicate(passage: Passage, kept: Sequence[Passage], *, threshold: float) -> int | None:
    """Return the position in `kept` of the first passage that makes `passage` superfluous, or None.

    Args:
        passage: The candidate.
        kept: Better-ranked passages.
        threshold: Share from which it is a duplicate, above 0, at most 1; 1 keeps everything that
            adds a word.
    """
    for position, other in enumerate(kept):
        if (
            passage.normal == other.normal
            or contained_share(passage, other) >= threshold
            or is_near_duplicate(passage, other, threshold=threshold)
        ):
            return position
    return None


def contained_share(passage: Passage, other: Passage) -> float:
    """Return the share of `passage` that stands in `other`, where chunks of a document overlap.

    |passage ∩ other| / |passage| over the spans. Not symmetric: a longer passage is not
    superfluous because its middle is known. Spans are believed only where the texts agree.
    """
    start, end = max(passage.start, other.start), min(passage.end, other.end)
    if passage.document_id != other.document_id or start >= end:
        return 0.0
    shared = passage.text[start - passage.start : end - passage.start]
    if shared != other.text[start - other.start : end - other.start]:
        return 0.0
    return len(shared) / len(passage.text)


def is_near_duplicate(a: Passage, b: Passage, *, threshold: float) -> bool:
    """Tell whether the word shingles of two passages agree, and their numbers do.

    resemblance = |A ∩ B| / |A ∪ B|. Passages whose numbers differ are never near-duplicates: two
    versions of a rule that differ in a date or an amount must both reach the reader.

    Source: Broder, "On the resemblance and containment of documents", SEQUENCES 1997.
    """
    if threshold >= 1 or not a.words or not b.words or a.numbers != b.numbers:
        return False
    return resemblance(a.shingles, b.shingles) >= threshold


def resemblance(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Return the Jaccard coefficient of two sets that are not both empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
