"""Words of a text as they are compared, in any language: lower-cased, stemmed, without stop words.

Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) and Korean, whose
words carry endings, give pairs of neighbouring characters instead.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import Stemmer  # type: ignore[import-not-found]

from .languages import COMPOUNDING, ENGLISH, ENGLISH_STOPS, QUESTION_WORDS, UNSPACED_STOPS
from .text import comparable

PART_LETTERS = 4  # letters; the shortest part of a compound word that is looked for

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA, _KATAKANA, _HANGUL = "\u3041-\u309f", "\u30a1-\u30fa\u30fc-\u30ff", "\uac00-\ud7af"
_SOUTH_EAST = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ecd\u1000-\u109f\u1780-\u17d3"
_RUN = re.compile(f"[{_HAN}]+|[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_HANGUL}]+|[{_SOUTH_EAST}]+")
_UNSPACED = re.compile(f"[{_HAN}{_HIRAGANA}{_KATAKANA}{_HANGUL}{_SOUTH_EAST}]")
_KANA = re.compile(f"[{_HIRAGANA}{_KATAKANA}]")
_HANGUL_WORD = re.compile(f"[{_HANGUL}]+")
_CLUSTER = re.compile(
    "[\u0e40-\u0e44\u0ec0-\u0ec4]?.[\u0e30-\u0e3a\u0e45-\u0e4e\u0eb0-\u0ebc\u0ec8-\u0ecd]*"
)
# with the vowel and tone signs of India and South East Asia, which Python counts to no word
_WORD = re.compile(
    "[\\w\u0900-\u0963\u0966-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3]+"
    "(?:[.,]\\d+)*"
)
# forms of one letter of Arabic and Persian that writers mix
_ARABIC_FORMS = str.maketrans(
    "\u0623\u0625\u0622\u0671\u0649\u06cc\u06a9\u06c0\u0629",
    "\u0627\u0627\u0627\u0627\u064a\u064a\u0643\u0647\u0647",
)
_LETTERS = str.maketrans({"ß": "ss", "ı": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe"})
_DROPPED_MARKS = frozenset(
    {7, *range(10, 37)}
)  # combining classes: nukta; points of Hebrew and Arabic

# Endings that say a word's part in the sentence, the longest first.
_KOREAN_ENDINGS = re.compile(
    "(?:입니까|입니다|습니까|습니다|합니까|합니다|됩니까|됩니다|하나요|되나요|인가요|에서는|에게서|으로는|으로|에서|에게|까지|부터"
    "|이며|이다|한다|된다|해야|하는|되는|은|는|이|가|을|를|의|에|로|와|과|도|만)$"
)
_HEBREW_SUFFIX = re.compile("(?<=...)(?:יים|ים|ות|ה|ת|י)$")
_HEBREW_PREFIX = re.compile("^[והבלשמכ](?=...)")

# The file of Turkish stop words was read as Latin-1 when it was made.
_TURKISH = str.maketrans("ýþð", "ışğ")


def words(text: str, language: str = ENGLISH) -> list[str]:
    """Return the words of a text as they are compared, lower-cased, in order."""
    text = _folded(text, language)
    if not _UNSPACED.search(text):
        return _WORD.findall(text)
    return _WORD.findall(_RUN.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", text))


@lru_cache(maxsize=65536)
def stem(word: str, language: str = ENGLISH) -> str:
    """Return the stem of a lower-cased word, by Snowball where it knows the language, without accents."""
    if language == "hebrew":
        return _hebrew_stem(word)
    stemmed = _stemmer(language)(word)
    if language == ENGLISH:
        return stemmed
    return plain(stemmed if len(stemmed) > 2 else word)


def content_words(text: str, language: str = ENGLISH) -> list[str]:
    """Return the words of a question that tell its topic; stop words only when there is nothing else."""
    stops = stop_words(language)
    found = words(without_unspaced_stops(comparable(text)), language)
    return [word for word in found if word not in stops] or found or words(text, language)


def terms(text: str, language: str) -> list[str]:
    """Return the stems of a text's words without stop words, repeats included."""
    stops = stop_words(language)
    return [stem(word, language) for word in words(text, language) if word not in stops]


def compound_parts(word: str, language: str) -> list[str]:
    """Return the beginnings and endings of a long word where the language joins nouns to one word.

    Every place is tried, for no list of nouns is complete: few of the parts are words, and the others
    stand in no question.
    """
    if language not in COMPOUNDING or not word.isalpha() or len(word) < 2 * PART_LETTERS:
        return []
    cuts = range(PART_LETTERS, len(word) - PART_LETTERS + 1)
    return [part for cut in cuts for part in (word[:cut], word[cut:])]


def main_language(text: str, languages: Iterable[str]) -> str | None:
    """Return the language whose stop words a text uses most; None when it has none of any."""
    counts = {one: _stops_in(text, one) for one in sorted(languages)}
    best = max(counts, key=lambda one: counts[one], default=None)
    return best if best and counts[best] else None


def _stops_in(text: str, language: str) -> int:
    stops = stop_words(language)
    return sum(len(word) > 1 and word in stops for word in words(text, language))


@lru_cache(maxsize=64)
def stop_words(language: str) -> frozenset[str]:
    """Return the question and function words of a language, lower-cased, with and without accents."""
    if language == ENGLISH:
        return frozenset(ENGLISH_STOPS.split())
    from stop_words import safe_get_stop_words  # type: ignore[import-untyped]

    listed = [] if language in UNSPACED_STOPS else safe_get_stop_words(language)
    if language == "turkish":
        listed = [word.translate(_TURKISH) for word in listed]
    listed += QUESTION_WORDS.get(language, "").split()
    whole = {part for word in listed for part in words(word, language)}
    return frozenset(whole | {plain(word) for word in whole})


def is_unspaced(text: str) -> bool:
    """Tell whether a text holds characters of a script whose words are told by pairs of them."""
    return bool(_UNSPACED.search(text))


def is_latin(text: str) -> bool:
    """Tell whether most letters of a text are Latin ones; a text without letters counts as Latin."""
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(_is_latin(character) for character in letters) >= len(letters)


def _is_latin(letter: str) -> bool:
    return letter < "\u0250" or "\u1e00" <= letter < "\u1f00" or "\uff21" <= letter <= "\uff5a"


def without_unspaced_stops(text: str) -> str:
    """Return a question without its words for what is asked, where no spaces mark them."""
    if not _UNSPACED.search(text):
        return text
    language = "japanese" if _KANA.search(text) else "chinese"
    for one in (language, "korean", "thai"):
        text = _unspaced_stops(one).sub(" ", text)
    return text


@lru_cache(maxsize=8)
def _unspaced_stops(language: str) -> re.Pattern[str]:
    listed = map(comparable, UNSPACED_STOPS[language].split())
    either = "|".join(map(re.escape, sorted(listed, key=len, reverse=True)))
    if language == "korean":  # whose words stand between spaces
        return re.compile(
            f"(?<![{_HANGUL}])(?:{either})(?:[을를이가은는에도]|까지|부터|동안|인가요|인지|이나|입니까|이에요|예요)?(?![{_HANGUL}])"
        )
    return re.compile(either)


def _folded(text: str, language: str) -> str:
    text = comparable(text)
    if language == "turkish":
        text = text.replace("İ", "i").replace("I", "ı")
    text = text.lower()
    return text if text.isascii() else "".join(_without_marks(text))


def _without_marks(text: str) -> Iterator[str]:
    """Yield the characters without marks that are often left out, and with the digits 0 to 9."""
    for character in text:
        if character < "\u0300":
            yield character
        elif unicodedata.combining(character) not in _DROPPED_MARKS and character != "\u0640":
            yield str(unicodedata.digit(character)) if character.isdigit() else character


def _pairs(run: str) -> list[str]:
    """Return the pairs of neighbouring characters of a run of one script; a single one is itself."""
    if _HANGUL_WORD.fullmatch(run):
        bare = _KOREAN_ENDINGS.sub("", run)
        run = bare if len(bare) > 1 else run
    units = _CLUSTER.findall(run)
    return ["".join(pair) for pair in pairwise(units)] or units


def _hebrew_stem(word: str) -> str:
    """Strip the plural and the prefixes (and, the, in, to, that, from, as) that Hebrew writes in the word."""
    word = _HEBREW_SUFFIX.sub("", word)
    while shorter := _HEBREW_PREFIX.sub("", word):
        if shorter == word:
            return word
        word = shorter
    return word


def plain(word: str) -> str:
    """Return a word of Latin or Greek letters without accents, and of Arabic ones in one form."""
    if word.isascii():
        return word
    parts = unicodedata.normalize("NFD", word.translate(_LETTERS))
    bare = "".join(c for c in parts if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare).translate(_ARABIC_FORMS)


_local = threading.local()  # a stemmer keeps the word it works on


def _stemmer(language: str) -> Callable[[str], str]:
    loaded: dict[str, Any] = _local.__dict__.setdefault("stemmers", {})
    if language not in loaded:
        known = language in Stemmer.algorithms()
        loaded[language] = Stemmer.Stemmer(language, 0).stemWord if known else str  # 0: no cache
    stem_word: Callable[[str], str] = loaded[language]
    return stem_word
