"""`rag doctor`: tries everything that is configured and says how to fix what does not work."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
from rich.text import Text

from rag_kit.errors import StepError, error_of, errors_of

from ..settings import RagSettings, read_settings
from ..stages import PIPELINE
from . import output as screen

if TYPE_CHECKING:
    from ..steps.local import Retriever

PACKAGES = ("rag-pipeline", *(stage.package.replace("_", "-") for stage in PIPELINE))
EXTRAS = {
    "fastembed": "RAG_EMBEDDER=fastembed, RAG_RERANKER=onnx",
    "rapidocr": "text in scans and images",
    "xllamacpp": "a model on this machine",
}
RERANKER_HINT = "look at that server's log, or mend RAG_RERANKER_URL and RAG_RERANKER"
MIN_FREE_MB = 200  # a small corpus and its write-ahead log
REPAIR = "rag doctor --repair"
PROBE_S = 5.0  # seconds
SAMPLE = "The bridge over the river was opened in 1912. It is 340 metres long."
QUESTION = "When was the bridge opened?"


@dataclass(frozen=True)
class Check:
    """One thing that was tried; `off` means not configured, which is not an error."""

    name: str
    status: Literal["works", "fails", "off"]
    detail: str
    mend: str | None = None


def examine(*, repair: bool = False) -> list[Check]:
    """Run every check, one after the other; a failure does not stop the rest.

    `repair` mends collections first, as far as that can be done without losing anything.
    """
    checks = [_python(), *_packages(), *_extras()]
    try:
        settings = read_settings()
        urls = settings.step_urls()
    except StepError as error:
        return [*checks, _failed("settings", error)]
    if urls:
        return [*checks, *(_server(step, url) for step, url in urls.items())]
    return [*checks, *_home(settings), *_local(repair=repair)]


def write_checks(checks: list[Check]) -> None:
    """Print one line per check, and how to mend those that fail."""
    console = screen.out()
    marks = {"works": ("✓", "green"), "fails": ("✗", "bold red"), "off": ("–", "dim")}
    for check in checks:
        line = Text.assemble(
            marks[check.status], f" {check.name:<12} {screen.one_line(check.detail)}"
        )
        if check.mend:
            line.append(f"\n  {'':<12} mend: {check.mend}", "cyan")
        console.print(line, soft_wrap=not console.is_terminal)
    failing = sum(check.status == "fails" for check in checks)
    console.print(f"\n{failing} of {len(checks)} need mending" if failing else "\neverything works")


def _failed(name: str, error: StepError, mend: str | None = None) -> Check:
    return Check(
        name, "fails", f"{error.code}: {error.message}", mend or screen.HINTS.get(error.code)
    )


def _python() -> Check:
    detail = f"{platform.python_version()} at {sys.executable}"
    return Check("python", "works", detail)


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name, "works", version(name))
        except PackageNotFoundError:
            yield Check(name, "off", "not installed; needed unless its step runs behind a URL")


def _extras() -> Iterator[Check]:
    for name, purpose in EXTRAS.items():
        found = find_spec(name) is not None
        yield Check(
            name, "works" if found else "off", f"{'' if found else 'not '}installed ({purpose})"
        )


def _home(settings: RagSettings) -> Iterator[Check]:
    origin = "RAG_HOME" if "home" in settings.model_fields_set else "default; RAG_HOME is not set"
    detail = f"{settings.home} ({origin})"
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.home) as file:
            file.write(b"x")
    except OSError as error:
        text = f"{detail}: not writable: {error.strerror}"
        yield Check("home", "fails", text, "set RAG_HOME to a folder you may write to")
        return
    yield Check("home", "works", f"{detail}: writable")
    free = shutil.disk_usage(settings.home).free // 2**20
    detail = f"{free} MB free"
    if free < MIN_FREE_MB:
        yield Check("disk", "fails", detail, f"free {MIN_FREE_MB} MB there, or move RAG_HOME")
    else:
        yield Check("disk", "works", detail)


def _local(*, repair: bool) -> Iterator[Check]:
    yield from _store(repair=repair)
    yield from _trial()
    yield _attempt("llm", _ask_llm)


def _attempt(name: str, work: Callable[[], Check]) -> Check:
    try:
        return work()
    except StepError as error:
        return _failed(name, error)


def _store(*, repair: bool) -> Iterator[Check]:
    """Open the store and look at every collection in it."""
    from ..steps.local import open_retriever

    try:
        with open_retriever() as retriever:
            if repair:
                for name in retriever.lost_collections():
                    retriever.restore_collection(name)
                    yield Check("repair", "works", f"{name} is found again")
            names = [item.name for item in retriever.collections()]
            detail = f"{retriever.settings.store}; collections: {len(names)}"
            yield Check("store", "works", detail)
            yield from _strangers(retriever)
            for name in names:
                if repair:
                    yield _attempt("repair", partial(_repair, retriever, name))
                yield _attempt("collection", partial(_collection, retriever, name))
    except StepError as error:
        yield _failed("store", error)


def _strangers(retriever: Retriever) -> Iterator[Check]:
    for name in retriever.lost_collections():
        yield Check("collection", "fails", f"{name}: it lost its alias on the server", REPAIR)
    for name in retriever.foreign():
        yield Check("foreign", "off", f"'{name}' on the server is not of rag, and is left alone")


def _repair(retriever: Retriever, name: str) -> Check:
    with errors_of("retrieve"):
        done = retriever.repair(name)
    return Check("repair", "works", f"{name}: {'; '.join(done) or 'there was nothing to mend'}")


def _collection(retriever: Retriever, name: str) -> Check:
    with errors_of("retrieve"):
        documents, checkup = len(retriever.documents(name)), retriever.checkup(name)
    if checkup.problems:
        return Check("collection", "fails", f"{name}: {'; '.join(checkup.problems)}", REPAIR)
    notes = "".join(f"; {note}" for note in checkup.notes)
    return Check("collection", "works", f"{name}: {documents} documents{notes}")


def _trial() -> Iterator[Check]:
    """Index a small document into a temporary store and ask a question about it."""
    from ..steps.local import open_local

    with tempfile.TemporaryDirectory(prefix="rag-doctor-") as folder:
        try:
            with open_local(home=Path(folder, "home")) as pipeline:
                document = Path(folder, "bridge.txt")
                document.write_text(SAMPLE, encoding="utf-8")
                report = pipeline.retriever.ingest([document])
                request = {"query": QUESTION, "generate": {"target": "extractive"}}
                response = pipeline.answer(request)
        except StepError as error:
            yield _failed("trial", error)
            return
    if failure := error_of(response):
        text = f"{failure['step']}: {failure['code']}: {failure['message']}"
        yield Check("trial", "fails", text, screen.HINTS.get(failure["code"]))
        return
    provenance = response["provenance"]
    embedded = f"{provenance['retrieve']['embedding_model']}; {report.embeddings} text embedded"
    yield Check("embedder", "works", embedded)
    counted = f"{provenance['augment']['tokenizer']}; {response['usage']['context_tokens']} tokens counted"
    yield Check("tokenizer", "works", counted)
    yield _reranker(response)
    yield Check("generator", "works", provenance["generate"]["generator"])
    found = "1912" in response["answer"]
    mend = None if found else "unset RAG_MIN_SUPPORT and RAG_MIN_RELEVANCE, and try again"
    detail = f"“{QUESTION}” “{response['answer']}”"
    yield Check("trial", "works" if found else "fails", detail, mend)


def _reranker(response: dict[str, Any]) -> Check:
    """Return whether the trial's passages were ranked again; a warning says why not."""
    made = response["provenance"].get("rerank")
    if made is None:
        return Check("reranker", "off", "not configured (RAG_RERANKER_URL, RAG_RERANKER_PATH)")
    if "failed" in made:
        reason = next(text for text in response["warnings"] if text.startswith("degraded: "))
        return Check("reranker", "fails", reason.removeprefix("degraded: "), RERANKER_HINT)
    return Check("reranker", "works", f"{made['reranker']}: {made['model'] or 'its own model'}")


def _ask_llm() -> Check:
    from ..steps.local import generate_settings

    settings = generate_settings()
    if settings.default_generator() == "extractive":
        return Check("llm", "off", "not configured (RAG_LLM_BASE_URL); answers are extractive")
    if settings.llm_base_url is None:
        return Check("llm", "fails", "RAG_LLM_BASE_URL is not set", "set it, or RAG_GENERATOR")
    key = settings.api_key()
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return _get("llm", f"{settings.llm_base_url.rstrip('/')}/models", "RAG_LLM_BASE_URL", headers)


def _server(step: str, url: str) -> Check:
    return _get(step, f"{url.rstrip('/')}/readyz", f"RAG_{step.upper()}_URL", {})


def _get(name: str, url: str, variable: str, headers: dict[str, str]) -> Check:
    try:
        response = httpx.get(url, headers=headers, timeout=PROBE_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        detail = f"{url}: {type(error).__name__}"
        return Check(name, "fails", detail, f"start the server, or mend {variable}")
    detail = f"{url}: HTTP {response.status_code}"
    if response.status_code in (401, 403):
        return Check(name, "fails", detail, "the key is refused; mend RAG_LLM_API_KEY or its file")
    if response.status_code >= 400:
        return Check(name, "fails", detail, f"look at that server's log, or mend {variable}")
    return Check(name, "works", detail)
