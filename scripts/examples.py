"""The examples of contract/examples/ and the steps that answer them.

The collection `handbook` is made of contract/examples/corpus with the packaged embedding model.
"""

from __future__ import annotations

import json
import math
import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects import PIPELINE, ROOT, STEPS

from rag_pipeline.steps.local import open_local
from rag_retrieve.wire import handler_for

EXAMPLES = ROOT / "contract/examples"
COLLECTION = "handbook"
FLOAT_TOLERANCE = 1e-3  # a score may differ this much between processors

Answer = Callable[[str | bytes], str]


@dataclass(frozen=True)
class Good:
    """A request and the response it must get."""

    step: str
    name: str
    request: dict[str, Any]
    response_path: Path

    @property
    def response(self) -> dict[str, Any]:
        """The expected response."""
        response: dict[str, Any] = json.loads(self.response_path.read_bytes())
        return response


@dataclass(frozen=True)
class Bad:
    """A request and the error it must get; `request` is None when the raw bytes are not JSON."""

    step: str
    name: str
    raw: bytes
    code: str
    param: str | None = None
    request: Any = None
    beyond_schema: bool = True


def good_examples() -> list[Good]:
    """Return the ok pairs of every step, by step and name."""
    return [
        Good(step, name, json.loads(path.read_bytes()), path.with_name(f"{name}.response.json"))
        for step in (*STEPS, PIPELINE)
        for path in sorted((EXAMPLES / step).glob("ok-*.request.json"))
        if (name := path.name.removesuffix(".request.json"))
    ]


def bad_examples() -> list[Bad]:
    """Return the bad requests of every step, by step and name."""
    examples = []
    for step in (*STEPS, PIPELINE):
        for path in sorted((EXAMPLES / step).glob("bad-*.json")):
            record = json.loads(path.read_bytes())
            raw = json.dumps(record["request"]).encode()
            examples.append(
                Bad(
                    step,
                    path.stem,
                    raw,
                    record["code"],
                    record["param"],
                    record["request"],
                    record.get("beyond_schema", False),
                )
            )
        for path in sorted((EXAMPLES / step).glob("bad-*.txt")):
            name, code, _ = path.name.split(".")
            examples.append(Bad(step, name, path.read_bytes(), code))
    return examples


@contextmanager
def open_steps(home: Path) -> Iterator[dict[str, Answer]]:
    """Yield every step's handler, over a new store in `home` with the example corpus.

    Other settings of the environment (`RAG_…`) are ignored.
    """
    # passages this short: several of one document
    values = {"RAG_HOME": str(home), "RAG_CHUNK_TOKENS": "64"}
    with ExitStack() as stack:
        with _environment(values):
            pipeline = stack.enter_context(open_local())
            handlers = {
                step: stack.enter_context(pkgutil.resolve_name(f"rag_{step}.wire:open_step")())
                for step in STEPS
                if step != "retrieve"
            }
        pipeline.retriever.ingest([EXAMPLES / "corpus"], collection=COLLECTION)
        retrieve = handler_for(pipeline.retriever)
        yield {"retrieve": retrieve, **handlers, PIPELINE: pipeline.handler}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RAG_")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(saved)


def differences(expected: Any, actual: Any, at: str = "") -> list[str]:
    """Return where two responses differ; scores may by `FLOAT_TOLERANCE`, times and generated ids always."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        keys = sorted(expected.keys() | actual.keys())
        return [
            line
            for key in keys
            for line in _missing_or_different(expected, actual, key, f"{at}.{key}" if at else key)
        ]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual, strict=True))
        return [line for n, (one, two) in pairs for line in differences(one, two, f"{at}[{n}]")]
    if at.endswith(".results_digest"):  # holds scores: another processor, another digest
        return []
    if at.startswith("timings_ms.") or (at == "id" and str(expected).startswith("rag_")):
        return []
    if isinstance(expected, float) and isinstance(actual, int | float):
        close = math.isclose(expected, actual, rel_tol=0, abs_tol=FLOAT_TOLERANCE)
        return [] if close else [f"{at}: {expected} expected, got {actual}"]
    return [] if expected == actual else [f"{at}: {expected!r} expected, got {actual!r}"]


def _missing_or_different(
    expected: dict[str, Any], actual: dict[str, Any], key: str, at: str
) -> list[str]:
    if key not in actual:
        return [f"{at}: missing"]
    if key not in expected:
        return [f"{at}: not expected"]
    return differences(expected[key], actual[key], at)


def write_responses() -> int:
    """Rewrite the responses of ok examples that differ; returns the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder, open_steps(Path(folder)) as steps:
        for example in good_examples():
            response = json.loads(steps[example.step](json.dumps(example.request)))
            path = example.response_path
            if "error" in response:
                failed += 1
                print(f"{example.step}/{example.name}: {response['error']['message']}")
            elif not path.exists() or differences(example.response, response):
                text = json.dumps(response, indent=2, ensure_ascii=False)
                path.write_text(text + "\n", encoding="utf-8")
                print(f"{path.relative_to(EXAMPLES.parent.parent)} written")
    return 1 if failed else 0
