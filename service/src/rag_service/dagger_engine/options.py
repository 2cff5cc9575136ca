"""Which engine, which module, and the limits of a session; checked before one is opened."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from rag_kit.errors import StepError
from rag_kit.origins import is_loopback

from ..settings import ServiceSettings, process_environment
from .errors import REMEDY, unavailable

RUNNER_HOST = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"


@dataclass(frozen=True)
class EngineOptions:
    """Which engine and module, what the pipeline searches and asks, and all time limits.

    Args:
        cli: The Dagger CLI, a name on PATH or a path.
        module: The module `rag`: a folder or a git reference.
        module_digest: The digest it must have, or the commit of a git reference; None: any.
        cwd: Working directory of the session; None: the current one.
        docs: Folder of this machine to answer from; None: the module's own documents.
        collection: The collection they are indexed into.
        qdrant_url: Search a Qdrant server instead; one on this machine is forwarded.
        qdrant_api_key: Its key.
        llm_base_url: OpenAI-compatible server; one on this machine is forwarded.
        llm_model: Name of the model there.
        llm_api_key: Its key.
        llm_pace: How fast it is; sets the deadlines of its calls.
        rewriting: Who completes a follow-up question for the search; None: model.
        reranker_url: Reranking server; one on this machine is forwarded; None: no reranking.
        reranker: What it speaks.
        reranker_model: Name of the model there.
        reranker_api_key: Its key.
        session_port: An existing session to use instead of a child process (under `dagger run`).
        session_token: Its token.
        connect_s: Seconds until a session answers, where the engine's address is given.
        provision_s: The same where the CLI first has to download and start an engine.
        load_s: Seconds one step of start-up may take: building and loading, indexing, starting.
        deadline_s: Seconds one call may take.
        ping_s: Seconds between two pings.
        ping_timeout_s: Seconds without an answer until the service is not ready.
        hung_s: Seconds without an answer until the session counts as lost.
        rotate_calls: Calls of one session before it is replaced.
        rotate_s: Seconds of one session before it is replaced.
        rotate_mib: MiB its process may grow before it is replaced, where /proc exists.
        same_errors: Equal internal errors in a row before it is replaced.
        mend_s: Age in seconds before a session is replaced for its errors.
        drain_s: Seconds the calls of a replaced session may go on.
        stop_s: Seconds a session may take to end before it is killed.
        retry_s: Longest wait between two attempts to build a session.
        probe: The question that must be answered before a session is used.
    """

    cli: str = "dagger"
    module: str = "dagger/rag"
    module_digest: str | None = None
    cwd: Path | None = None
    docs: Path | None = None
    collection: str = "default"
    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    llm_base_url: str | None = None
    llm_model: str | None = None
    llm_api_key: SecretStr | None = None
    llm_pace: str | None = None
    rewriting: str | None = None
    reranker_url: str | None = None
    reranker: str | None = None
    reranker_model: str | None = None
    reranker_api_key: SecretStr | None = None
    session_port: int | None = None
    session_token: SecretStr | None = None
    connect_s: float = 10.0
    provision_s: float = 300.0
    load_s: float = 600.0
    deadline_s: float = 60.0
    ping_s: float = 0.25
    ping_timeout_s: float = 0.6
    hung_s: float = 10.0
    rotate_calls: int = 5000
    rotate_s: float = 1800.0
    rotate_mib: float = 256.0
    same_errors: int = 5
    mend_s: float = 60.0
    drain_s: float = 25.0
    stop_s: float = 5.0
    retry_s: float = 30.0
    probe: str = "What is this about?"

    @property
    def probe_request(self) -> str:
        """The probe as a request, answered without a model and a reranker."""
        return json.dumps(
            {
                "query": self.probe,
                "collection": self.collection,
                "rerank": {"enabled": False},
                "generate": {"target": "extractive"},
            }
        )

    def check(self) -> None:
        """Check what can be checked before a session is opened.

        Raises:
            StepError: `engine_unavailable`, there is no CLI; `misconfigured`, a folder is missing,
                or the engine is at plain TCP on another machine.
        """
        check_address(process_environment().get(RUNNER_HOST, ""))
        if self.session_port is None and shutil.which(self.cli) is None:
            text = f"there is no Dagger CLI: {self.cli!r} is no command here; {REMEDY}"
            raise unavailable(text)
        cwd = self.cwd or Path()
        remote = self.module.startswith("github.com/") or "@" in self.module or "://" in self.module
        if not remote and not (cwd / self.module / "dagger.json").is_file():
            text = f"there is no Dagger module at {self.module!r}; set RAG_DAGGER_MODULE"
            raise StepError("misconfigured", text)
        if self.docs is not None and not self.docs.is_dir():
            raise StepError("misconfigured", f"there is no folder {str(self.docs)!r}; set RAG_DOCS")


def check_address(address: str) -> None:
    """Refuse an engine on another machine over plain TCP: any client of its port is root there.

    Raises:
        StepError: `misconfigured`.
    """
    parts = urlsplit(address.strip())
    if parts.scheme == "tcp" and not is_loopback(parts.hostname or ""):
        text = (
            f"{RUNNER_HOST} names an engine at plain tcp:// beyond this machine, where anybody on "
            "the network commands it as root; let it listen on unix:// or with mTLS, and name it "
            "as unix:// or tls://"
        )
        raise StepError("misconfigured", text)


def options_of(settings: ServiceSettings) -> EngineOptions:
    """Return the options for the service's settings."""
    return EngineOptions(
        cli=settings.dagger_cli,
        module=settings.dagger_module,
        module_digest=settings.dagger_module_digest,
        docs=settings.docs,
        collection=settings.collection,
        qdrant_url=settings.qdrant_url,
        qdrant_api_key=settings.runner_secret("qdrant_api_key"),
        llm_base_url=settings.llm_base_url,
        llm_model=settings.llm_model,
        llm_api_key=settings.runner_secret("llm_api_key"),
        llm_pace=settings.llm_pace,
        rewriting=settings.rewriting,
        reranker_url=settings.reranker_url,
        reranker=settings.reranker,
        reranker_model=settings.reranker_model,
        reranker_api_key=settings.runner_secret("reranker_api_key"),
        session_port=settings.dagger_session_port,
        session_token=settings.dagger_session_token,
        load_s=settings.engine_load_s,
        deadline_s=settings.deadline_s,
        rotate_calls=settings.engine_rotate_calls,
        rotate_s=settings.engine_rotate_s,
        rotate_mib=settings.engine_rotate_mib,
        drain_s=max(settings.drain_s, settings.deadline_s),
        probe=settings.probe_query,
    )
