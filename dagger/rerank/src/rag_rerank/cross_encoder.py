"""A cross-encoder in this process, by fastembed on ONNX Runtime (extra `rag-rerank[fastembed]`).

It reads question and passage together, so each pair is a run of the model: about as dear as
embedding the passage. Batches are small, and between two of them the deadline is looked at.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_kit.errors import StepError
from rag_kit.handler import on_cancel
from rag_kit.workers import processors

from .reranker import Scored
from .scores import probability
from .settings import RerankSettings

if TYPE_CHECKING:
    from fastembed.rerank.cross_encoder import TextCrossEncoder

DEFAULT_MODEL = "Xenova/ms-marco-MiniLM-L-6-v2"  # 23 million parameters, Apache-2.0
LOCAL = "local/"  # begins the name under which a folder's model is registered
FILES = ("model.onnx", "onnx/model.onnx")


class CrossEncoder:
    """The reranker `onnx`; thread-safe, one question at a time.

    Args:
        settings: The model's name or folder, threads, batch and deadline.

    Raises:
        StepError: `reranker_misconfigured`, the extra is missing or the model cannot be loaded.
    """

    name = "onnx"

    def __init__(self, settings: RerankSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._model = _load(settings)
        file = _file_of(self._model)
        self.model: str | None = settings.reranker_model or (
            settings.reranker_path.name if settings.reranker_path else DEFAULT_MODEL
        )
        self.digest: str | None = f"sha256:{_sha256(file)}"

    def close(self) -> None:
        """Give back the model."""
        del self._model

    def score(self, query: str, texts: Sequence[str]) -> Scored:
        """Score texts for a question, one bounded batch after the other."""
        limit = self._settings.reranker_timeout_s
        end = time.monotonic() + limit
        cancelled = threading.Event()
        on_cancel(cancelled.set)
        if not self._lock.acquire(timeout=limit):
            raise _out_of_time(limit, 0, len(texts))
        try:
            scores: list[float] = []
            for batch in _batches(texts, self._settings.batch):
                if cancelled.is_set() or time.monotonic() >= end:
                    raise _out_of_time(limit, len(scores), len(texts))
                rows = self._model.rerank(query, batch, batch_size=len(batch))
                scores += [probability(row, logits=self._settings.logits) for row in rows]
        finally:
            self._lock.release()
        return Scored(scores)


def _batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _out_of_time(limit: float, done: int, count: int) -> StepError:
    return StepError(
        "deadline_exceeded",
        f"the reranker scored {done} of {count} passages within {limit:g} s (RAG_RERANKER_TIMEOUT_S); "
        "rank fewer with rerank.candidates, or take a smaller model",
    )


def _load(settings: RerankSettings) -> TextCrossEncoder:
    try:
        from fastembed.common.model_description import ModelSource
        from fastembed.rerank.cross_encoder import TextCrossEncoder
    except ImportError:
        raise StepError(
            "reranker_misconfigured",
            "the reranker 'onnx' needs its extra: pip install 'rag-rerank[fastembed]'",
        ) from None
    name, path = settings.reranker_model or DEFAULT_MODEL, settings.reranker_path
    if path is not None:
        file = next((each for each in FILES if (path / each).is_file()), None)
        if file is None:
            raise StepError(
                "reranker_misconfigured", f"RAG_RERANKER_PATH={path} has no {' or '.join(FILES)}"
            )
        name = f"{LOCAL}{path.resolve()}"
        known = {each["model"] for each in TextCrossEncoder.list_supported_models()}
        if name not in known:
            TextCrossEncoder.add_custom_model(name, ModelSource(hf=name), model_file=file)
    try:
        return TextCrossEncoder(
            name,
            threads=settings.reranker_threads or processors(),
            specific_model_path=None if path is None else str(path),
        )
    except Exception as error:  # fastembed names no narrower class
        raise StepError(
            "reranker_misconfigured",
            f"fastembed cannot load '{path or name}' ({type(error).__name__}); without network access "
            "set RAG_RERANKER_PATH to a folder with model.onnx, tokenizer.json, config.json, "
            "tokenizer_config.json and special_tokens_map.json",
        ) from None


def _file_of(encoder: TextCrossEncoder) -> Path:
    """Return the model's file; fastembed has no public name for it."""
    model: Any = encoder.model
    return Path(model._model_dir, model.model_description.model_file)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
