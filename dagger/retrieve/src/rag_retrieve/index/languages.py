"""The language of a document, by the letters and words it uses."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from rag_kit.languages import ENGLISH, LANGUAGES
from rag_kit.words import is_unspaced, words

SAMPLE = 3000  # characters; more of a text adds nothing
SURE_BYTES = 24  # UTF-8 bytes of letters; below, a text has too few to tell languages apart
CONFIDENCE = 0.7  # least probability, which py3langid calibrates by the length of the text
ENGLISH_WORDS = frozenset(
    ["the", "of", "and", "to", "is", "that", "with", "this", "from", "which", "were"]
)
ENGLISH_SHARE = 0.1  # of a text's words; at most 0.07 in German and Spanish paragraphs of XQuAD


class Identifier(Protocol):
    """What tells languages apart."""

    def classify(self, text: str) -> tuple[str, float]:
        """Return the code of the likeliest language and its probability."""


def language_of(text: str, default: str) -> str:
    """Return the name of a text's language; `default` where it is too short or unlike any."""
    sample = text[:SAMPLE]
    if is_english(sample):
        return ENGLISH
    letters = "".join(filter(str.isalpha, sample))
    if len(letters.encode("utf-8", "replace")) < SURE_BYTES and not is_unspaced(letters):
        return default
    code, share = _identifier().classify(sample)
    return LANGUAGES[code] if share >= CONFIDENCE else default


def is_english(text: str) -> bool:
    """Tell whether a text is surely English, without a model."""
    found = words(text)
    return sum(word in ENGLISH_WORDS for word in found) > ENGLISH_SHARE * len(found)


@lru_cache(maxsize=1)
def _identifier() -> Identifier:
    # loading its model takes a second
    from py3langid.langid import (  # type: ignore[import-untyped]
        MODEL_FILE,
        LanguageIdentifier,
    )

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(set(LANGUAGES) & set(identifier.labels))
    return identifier  # type: ignore[no-any-return]
