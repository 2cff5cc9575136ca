"""The application: runner, parts, middleware and routes; the only module that knows them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rag_kit.errors import CODES, StepError
from rag_pipeline.settings import read_settings as rag_settings

from .api import (
    dify,
    document_view,
    documents,
    evaluations,
    examples,
    feedback,
    health,
    oauth,
    openai_chat,
    openai_embeddings,
    openai_files,
    openai_responses,
    openai_stores,
    openai_vector_stores,
    questions,
    rerank,
)
from .api.api_docs import add_api_docs
from .api.mcp import add_mcp
from .api.page import add_page
from .dagger_engine.options import options_of
from .http.errors import on_http_error, on_step_error, on_validation_error
from .http.fair_queue import Admission, Rates
from .http.metrics import Metrics
from .http.middleware import OPEN, Gate, Keyring, Keys, Limits, Requests
from .http.openapi import describe
from .http.proxies import Paths, Proxies
from .http.same_origin import SameOrigin
from .http.tokens import Tokens
from .http.tracing import open_traces
from .library.files import Files
from .library.library import Library, open_library
from .links import Signer
from .runners.base import Runner
from .service import Service
from .settings import MIN_SECRET, ServiceSettings, read_settings

LOG = logging.getLogger(__name__)
PARTS = (
    questions,
    examples,
    feedback,
    evaluations,
    dify,
    document_view,  # before the document, whose id may end in `/view`
    documents,
    health,
    oauth,
    openai_chat,
    openai_responses,
    openai_vector_stores,
    openai_stores,
    openai_files,
    openai_embeddings,
    rerank,
)
CLOSE_S = 10.0  # seconds the runner may take to close
ABOUT = """Ask documents; answers come with verified citations. Every failure has one shape, and a
`code` to act on."""


def create_app(
    settings: ServiceSettings | None = None,
    *,
    runner: Runner | None = None,
    notify: Callable[[str], None] = LOG.info,
) -> FastAPI:
    """Return the application; it loads after its start, and `/readyz` tells when it can answer.

    Args:
        settings: None: from the environment.
        runner: Answers questions; None: as configured.
        notify: Takes a line of progress.

    Raises:
        StepError: `misconfigured`.
    """
    settings = settings or read_settings()
    metrics, keys = Metrics(), settings.keys()
    keyring = Keyring(keys, Tokens(settings) if settings.oidc_issuer else None)
    admission = Admission(
        settings.max_concurrency,
        settings.max_queue,
        settings.queue_wait_s,
        metrics,
        reserve=max(1, settings.max_concurrency // 8)
        if len(keys) > 1 or settings.oidc_issuer
        else 0,
    )
    service = Service(settings, bool(keyring), metrics, admission, runner or open_runner(settings))
    service.signer = _signer(settings)
    service.containers = _containers(settings, service.runner)
    files = Files(rag_settings().home, settings.max_files_bytes)
    service.library = open_library(settings, service.runner, metrics, files)
    if service.library is not None:
        service.files = files
    traces = open_traces(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(traces.close)
            stack.push_async_callback(_close, service, notify)
            if service.library is not None:
                stack.push_async_callback(_close_library, service.library, notify)
            for manager in app.state.mcp:
                await stack.enter_async_context(manager.run())
            for work in (service.get_ready(notify), service.start_containers(notify)):
                stack.push_async_callback(_cancel, asyncio.create_task(work))
            yield

    # the API page with local files only, or no such page
    make = FastAPIOffline if settings.docs_page else FastAPI
    app = make(
        title="rag",
        description=ABOUT,
        version=version("rag-service"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an absolute URL, which is wrong behind most proxies
        openapi_url="/openapi.json" if settings.docs_page else None,
        middleware=[
            Middleware(Requests, settings=settings, metrics=metrics, traces=traces),
            Middleware(SameOrigin, settings=settings),
            Middleware(
                Keys,
                keys=keyring,
                rates=Rates(),
                settings=settings,
                metrics=metrics,
                signer=service.signer,
            ),
            Middleware(Limits, settings=settings, metrics=metrics),
            Middleware(Paths),
        ],
        exception_handlers={
            StepError: on_step_error,
            RequestValidationError: on_validation_error,
            HTTPException: on_http_error,
            ClientDisconnect: _gone,
        },
    )
    app.state.service = service
    app.state.examples = examples.Remembered()
    app.state.home = rag_settings().home
    app.state.routes = []
    app.state.responses = openai_responses.Responses()
    for part in PARTS:
        app.include_router(part.router)
        app.state.routes += part.router.routes
    app.state.mcp = add_mcp(app, service)
    add_page(app)
    if settings.docs_page:
        add_api_docs(app)
    app.state.routes += app.router.routes
    describe(app, OPEN, keyed=service.keyed)
    stack = app.build_middleware_stack()  # the gate is outermost: refusals must be cheap
    gate = Gate(stack, admission=admission, keys=keyring, settings=settings, metrics=metrics)
    app.state.gate = gate
    plain = {route.path for route in app.state.routes if "{" not in getattr(route, "path", "{")}
    app.middleware_stack = Proxies(gate, settings=settings, paths=plain - {"", "/"})
    return app


def _signer(settings: ServiceSettings) -> Signer | None:
    """Return what signs links; None where nothing is configured."""
    secret = settings.secret("link_secret", code="misconfigured")
    if secret is None:
        return None
    if len(secret) < MIN_SECRET:
        raise StepError(
            "misconfigured",
            f"RAG_LINK_SECRET_FILE={settings.link_secret_file} holds {len(secret)} characters; "
            f"what signs links needs at least {MIN_SECRET}",
        )
    return Signer(secret, settings.link_days * 86400)


def open_runner(settings: ServiceSettings) -> Runner:
    """Return the configured runner, not started; only its own modules are imported.

    Raises:
        StepError: `misconfigured`, a setting it needs is missing.
    """
    match settings.runner:
        case "local":
            from .runners.local import LocalRunner

            return LocalRunner()
        case "remote":
            from .runners.remote import RemoteRunner

            return RemoteRunner(settings)
        case "resident":
            from .dagger_engine.resident import ResidentRunner

            return ResidentRunner(options_of(settings))
        case "call":
            from .dagger_engine.call import CallRunner

            return CallRunner(options_of(settings))
        case "containers":
            return _open_containers(settings)


def _open_containers(settings: ServiceSettings) -> Runner:
    from .dagger_engine.containers import ContainersRunner

    return ContainersRunner(options_of(settings))


def _containers(settings: ServiceSettings, runner: Runner) -> Runner | None:
    """Return the runner of `POST /rag`: the given one, another one on its engine, or None."""
    if runner.runs_containers:
        return runner
    return _open_containers(settings) if runner.on_engine else None


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CODES["client_cancelled"].status)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


async def _close(service: Service, notify: Callable[[str], None]) -> None:
    """Close the runners; one that hangs is abandoned."""
    containers = [service.containers] if service.containers is not None else []
    for runner in dict.fromkeys([service.runner, *containers]):
        closing = asyncio.ensure_future(runner.close())  # its thread cannot be cancelled
        done, _ = await asyncio.wait((closing,), timeout=CLOSE_S)
        if not done:
            notify(f"the runner {runner.name} did not close within {CLOSE_S:g} s")
            continue
        closing.result()


async def _close_library(library: Library, notify: Callable[[str], None]) -> None:
    """Stop ingests after their current commit; a commit that takes too long is abandoned."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await library.close()
    except TimeoutError:
        notify(
            f"documents were still being written after {CLOSE_S:g} s; the journal keeps them whole"
        )
