"""`rag index --service URL`: documents are sent to a running service, which has the store open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pydantic_core
from httpx_sse import EventSource

from rag_kit.errors import CODES, StepError, error_of
from rag_kit.reports import IngestReport, Progress

from ..settings import read_settings
from ..steps.local import files_of

GROUP_BYTES = 16 * 2**20  # of the files in one request
GROUP_FILES = 100
CONNECT_S = 2.0
SILENT_S = 120.0  # seconds without a sign of life; the service sends pings
OnProgress = Callable[[Progress], None]


def answers(url: str) -> bool:
    """Whether a service answers at a URL."""
    try:
        with _client(url) as client:
            return client.get("/healthz", timeout=CONNECT_S).status_code == 200
    except httpx.HTTPError:
        return False


def upload(
    url: str, paths: Sequence[Path], *, collection: str, progress: OnProgress
) -> IngestReport:
    """Send files and folders to a service; the document ids are those of `rag index`.

    Raises:
        StepError: What the service answers; `not_ready`, it cannot be reached.
    """
    files = files_of(paths)
    report = IngestReport(collection=collection)
    done = 0
    with _client(url) as client:
        for group in _groups(files):
            ended = _send(client, group, collection, _shifted(progress, done, len(files)))
            for name in ("added", "updated", "unchanged", "failed", "warnings"):
                getattr(report, name).extend(getattr(ended, name))
            report.chunks += ended.chunks
            report.embeddings += ended.embeddings
            done += len(group)
    return report


def _shifted(progress: OnProgress, done: int, total: int) -> OnProgress:
    return lambda at: progress(Progress(done + at.done, total, at.document_id))


def _client(url: str) -> httpx.Client:
    key = read_settings().secret("api_key", code="misconfigured")
    return httpx.Client(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(SILENT_S, connect=CONNECT_S),
        trust_env=False,
    )


def _groups(files: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    group: list[tuple[str, Path]] = []
    size = 0
    for name, path in files:
        more = path.stat().st_size
        if group and (len(group) >= GROUP_FILES or size + more > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append((name, path))
        size += more
    if group:
        yield group


def _send(
    client: httpx.Client, group: list[tuple[str, Path]], collection: str, progress: OnProgress
) -> IngestReport:
    with ExitStack() as stack:
        opened = [(name, stack.enter_context(path.open("rb"))) for name, path in group]
        try:
            with client.stream(
                "POST",
                "/v1/documents",
                params={"collection": collection},
                files=[("files", file) for file in opened],
                headers={"accept": "text/event-stream"},
            ) as response:
                return _report(response, progress)
        except httpx.HTTPError as error:
            raise StepError(
                "not_ready",
                f"the service at {client.base_url} cannot be reached ({type(error).__name__}); "
                "what it had accepted is stored, and costs nothing when it is sent again",
            ) from None


def _report(response: httpx.Response, progress: OnProgress) -> IngestReport:
    if response.status_code != 200:
        raise _failure(response.read(), response.status_code)
    for event in EventSource(response).iter_sse():
        if event.event == "error":
            raise _failure(event.data.encode(), response.status_code)
        if event.event == "report":
            return IngestReport.model_validate_json(event.data)
        if event.event == "progress":
            at = event.json()
            progress(Progress(at["done"], at["total"], at["document_id"]))
    raise StepError("not_ready", "the service ended before it reported; send the files again")


def _failure(content: bytes, status: int) -> StepError:
    try:
        error: dict[str, Any] | None = error_of(pydantic_core.from_json(content))
    except (ValueError, AttributeError):
        error = None
    if error is None or error["code"] not in CODES:
        return StepError("module_bad_output", f"the service answered HTTP {status}")
    text = error["message"]
    if error["code"] == "unauthenticated":
        text += "; set RAG_API_KEY"
    return StepError(error["code"], text, retry_after=error.get("retry_after"))
