"""The service behind every interface: authorization, admission, deadline, runner, readiness."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic_core
from starlette.requests import Request

from rag_kit.breaker import Breaker
from rag_kit.errors import StepError
from rag_kit.handler import Event
from rag_kit.server import while_connected
from rag_pipeline.models import RagRequest

from .access import as_asked, check_passages, restricted
from .http.context import Context, context_of
from .http.fair_queue import Admission
from .http.metrics import Metrics
from .links import Links, Signer
from .runners.base import Runner
from .settings import ServiceSettings

if TYPE_CHECKING:
    from .library.files import Files
    from .library.library import Library

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
# `/readyz` fails with these, but questions are still tried: the dependency may be back.
TRANSIENT = ("retriever_unavailable", "embedder_unavailable", "deadline_exceeded")
CHECKED = ("search_results", "final_answer")  # events that hold passages
CITING = ("citation", "final_answer")  # events that hold citations
FILTERED = "filtered: "  # begins the warning that names the rule
RULES = ("canary", "secret", "system_prompt", "image", "active_html", "foreign_url")


@dataclass
class Service:
    """The parts behind the routes, held by the application while it runs.

    Args:
        settings: What is configured.
        keyed: Whether callers need a key or a token; otherwise the service is open to this machine.
        metrics: Counters and gauges.
        admission: Slots and the queue for them.
        runner: Answers `POST /rag_modules` and all other questions.
        containers: Answers `POST /rag`; None where there is no engine.
        library: Keeps documents; None where they are kept elsewhere.
        files: Keeps files as they were uploaded; None without a library.
        missing: Why it is not ready; None: it is.
        signer: Signs links to documents; None: they need a key.
        note: What a user of a ready service should know: there is nothing to ask yet; or empty.
        on_fatal: Called when the runner can never start.
        on_ready: Called each time it becomes ready.
        containers_wanted: Set by the first `POST /rag`.
    """

    settings: ServiceSettings
    keyed: bool
    metrics: Metrics
    admission: Admission
    runner: Runner
    containers: Runner | None = None
    library: Library | None = None
    files: Files | None = None
    missing: StepError | None = field(
        default_factory=lambda: StepError("not_ready", "the service is starting")
    )
    signer: Signer | None = None
    note: str = ""
    on_fatal: Callable[[], None] = lambda: None
    on_ready: Callable[[], None] = lambda: None
    containers_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _timeouts: set[asyncio.Timeout] = field(default_factory=set)
    _given_up: bool = False

    # -- questions ---------------------------------------------------------------------------

    async def answer(
        self, http: Request, request: RagRequest, *, runner: Runner | None = None
    ) -> str:
        """Return a `RagResponse` as JSON text.

        Args:
            http: The HTTP request it came with; when its client goes away, the work is cancelled.
            request: The question.
            runner: Answers it; None: the configured one.

        Raises:
            StepError: Why it cannot be answered.
            ClientDisconnect: The client went away.
        """
        runner = runner or self.runner
        text = await self._ask(http, request, runner, runner.answer)
        answer = self._note(context_of(http.scope), text)
        return self._with_addresses(http, request, answer)

    async def search(self, http: Request, request: RagRequest) -> str:
        """Return a `SearchResponse` as JSON text; arguments and errors as for `answer`."""
        text = await self._ask(http, request, self.runner, self.runner.search)
        self._note(context_of(http.scope), text)
        return text

    async def rerank(self, http: Request, text: str) -> dict[str, Any]:
        """Return the response of the step `rerank` to a request; errors as for `answer`."""
        context = context_of(http.scope)
        self._require_ready(self.runner)
        reply = await self._in_slot(http, context, lambda: self.runner.rerank(text))
        data: dict[str, Any] = pydantic_core.from_json(reply)
        return data

    async def in_slot(self, http: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do other work that takes a processor as a question does; errors as for `answer`."""
        self._require_ready(self.runner)
        return await self._in_slot(http, context_of(http.scope), work)

    async def complete(
        self,
        http: Request,
        collection: str,
        messages: list[dict[str, str]],
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Have the language model go on with a conversation, without a search.

        Args:
            http: As for `answer`.
            collection: Whose model it is; the key must be allowed to use it.
            messages: The conversation, oldest first.
            options: Of `generate`; None: not given.

        Returns:
            id, answer, finish_reason, usage, model.

        Raises:
            StepError: `not_supported`, there is no model; those of `answer`.
        """
        context = context_of(http.scope)
        self.authorize(context, collection)
        self._require_ready(self.runner)
        text = _completion_request(context, messages, options)
        reply = await self._in_slot(http, context, lambda: self.runner.generate(text))
        data = pydantic_core.from_json(reply)
        if not data["llm_generated"] and data["finish_reason"] == "no_context":
            raise StepError(
                "not_supported",
                "no language model is configured, which a side task needs; the operator sets "
                "RAG_LLM_BASE_URL and RAG_LLM_MODEL, or takes it out of RAG_SIDE_TASKS",
            )
        names = ("answer", "finish_reason", "usage")
        return {"id": context.request_id, **{name: data[name] for name in names}}

    async def events(
        self, http: Request, request: RagRequest, *, runner: Runner | None = None
    ) -> AsyncGenerator[Event, None]:
        """Answer piece by piece; arguments and errors as for `answer`. Run it in one task."""
        runner = runner or self.runner
        context = context_of(http.scope)
        text = self._prepare(context, request, runner)
        groups = context.principal.groups
        async with self._slot(context), aclosing(_as_asked(runner.stream(text))) as events:
            async for event in events:
                if event.name in CHECKED:
                    check_passages(groups, event.data)
                if event.name == "final_answer":
                    self._note(context, event.data)
                if event.name in CITING:
                    data = pydantic_core.from_json(event.data)
                    event = Event(event.name, self._with_addresses(http, request, data))
                yield event

    def links(self, http: Request) -> Links:
        """Return what makes addresses for the sender of a request."""
        views = self.library is not None
        return Links.of(http, self.settings.public_url, views=views, signer=self.signer)

    def _with_addresses(self, http: Request, request: RagRequest, data: dict[str, Any]) -> str:
        """Return an answer, or the event of one citation, as JSON with the citations' addresses."""
        links = self.links(http)
        for citation in [data["citation"]] if "citation" in data else data["citations"]:
            if url := links.cited(citation, request.collection):
                citation["url"] = url
        return pydantic_core.to_json(data).decode()

    async def _ask(
        self,
        http: Request,
        request: RagRequest,
        runner: Runner,
        ask: Callable[[str], Awaitable[str]],
    ) -> str:
        context = context_of(http.scope)
        text = self._prepare(context, request, runner)
        with as_asked():
            found = await self._in_slot(http, context, lambda: ask(text))
        check_passages(context.principal.groups, found)
        return found

    async def _in_slot(
        self, http: Request, context: Context, work: Callable[[], Awaitable[Result]]
    ) -> Result:
        """Work in a slot; when the client goes away, the work is cancelled."""

        async def answer() -> Result:
            async with self._slot(context):
                return await work()

        return await while_connected(http, answer())

    @asynccontextmanager
    async def _slot(self, context: Context) -> AsyncIterator[None]:
        """Hold a slot until the request's deadline, or until `give_up`."""
        async with self.admission.slot(context.tenant, context.remaining_s()):
            try:
                async with asyncio.timeout(context.remaining_s()) as limit:
                    self._timeouts.add(limit)
                    try:
                        yield
                    finally:
                        self._timeouts.discard(limit)
            except TimeoutError as error:
                raise self._timed_out(error.__cause__) from None

    def _prepare(self, context: Context, request: RagRequest, runner: Runner) -> str:
        """Check that the question may be asked now, and return it as the runner's request text."""
        self.authorize(context, request.collection)
        self._require_ready(runner)
        request.filters = restricted(request.filters, context.principal.groups)
        request.cache_scope = context.principal.name
        if request.request_id is None:
            request.request_id = context.request_id
        left = context.remaining_s()
        deadline_s = request.generate.get("deadline_s")
        if not isinstance(deadline_s, (int, float)) or deadline_s > left:
            request.generate = {**request.generate, "deadline_s": max(0.001, round(left, 3))}
        if self.settings.log_queries:
            LOG.info("request %s asks: %s", context.request_id, request.query)
        return pydantic_core.to_json(request).decode()

    def _require_ready(self, runner: Runner) -> None:
        missing = self.missing
        if missing is not None and runner is self.runner and missing.code not in TRANSIENT:
            raise missing

    def authorize(self, context: Context, collection: str, *, write: bool = False) -> None:
        """Check what a key may do; a collection it may not use looks as if it did not exist.

        Raises:
            StepError: `collection_not_found`; `forbidden` when a key may only read.
        """
        context.collection = collection
        if not context.principal.may_use(collection):
            self.metrics.authz_deny.inc()
            raise StepError(
                "collection_not_found",
                f"collection '{collection}' does not exist",
                param="collection",
                step="retrieve",
            )
        if write:
            self.authorize_writing(context)

    def authorize_writing(self, context: Context) -> None:
        """Check that a key may change documents and files; raises `forbidden`."""
        if not context.principal.write:
            self.metrics.authz_deny.inc()
            raise StepError(
                "forbidden", f"the key '{context.principal.name}' may read, not change documents"
            )

    def _timed_out(self, cause: BaseException | None) -> StepError:
        if self._given_up:
            return StepError("draining", "the service ended before this was answered; ask again")
        # the pipeline names the step that was cancelled
        step = cause.args[0] if isinstance(cause, asyncio.CancelledError) and cause.args else None
        return StepError(
            "deadline_exceeded",
            f"no answer within {self.settings.deadline_s:g} s (RAG_DEADLINE_S)"
            + (f"; {step} was at work" if step else ""),
            step=step,
        )

    def _note(self, context: Context, text: str) -> dict[str, Any]:
        """Update metrics and context from a response; returns it."""
        data: dict[str, Any] = pydantic_core.from_json(text)
        context.timings_ms = data["timings_ms"]
        for step, ms in context.timings_ms.items():
            self.metrics.step_seconds.labels(step).observe(ms / 1000)
        if data.get("finish_reason") == "no_context":
            self.metrics.no_context.inc()
        if data.get("finish_reason") == "filtered":
            self.metrics.filtered.labels(_rule_of(data["warnings"])).inc()
        if any(warning.startswith("context_truncated") for warning in data.get("warnings", ())):
            self.metrics.truncated.inc()
        if data.get("degraded"):
            self.metrics.degraded.inc()
        if found := data["provenance"].get("generate", {}).get("cache"):
            self.metrics.answer_cache.labels(found).inc()
        return data

    # -- readiness ----------------------------------------------------------------------

    async def get_ready(self, notify: Callable[[str], None]) -> None:
        """Start the runner, probe until a question is answered, then poll whether it stays ready."""
        starting = True

        def progress(line: str) -> None:
            if starting:
                self._set(StepError("not_ready", f"the service is starting: {line}"))
            notify(line)

        try:
            self._count_sessions(self.runner)
            await self.runner.start(progress)
            starting = False
            for breaker in self.runner.breakers:
                self._observe(breaker)
            if self.runner.max_concurrency is not None:
                self.admission.narrow(self.runner.max_concurrency)
        except StepError as error:
            self._set(error)
            notify(f"cannot start: {error.message}")
            self.on_fatal()
            return
        reason = ""
        while True:
            try:
                await self._probe()
            except StepError as error:
                self._set(error)
                if error.message != reason:
                    reason = error.message
                    notify(f"not ready: {reason}")
            else:
                began = self.missing is not None and not self.admission.draining
                if began:
                    notify("; ".join(filter(None, ("ready", self.note))))
                    self.on_ready()
                reason = ""
                self._set(None)
                if began and self.library is not None:
                    await self.library.forget_files()
            await asyncio.sleep(self.settings.probe_retry_s if reason else self.runner.poll_s)

    async def start_containers(self, notify: Callable[[str], None]) -> None:
        """Start the container pipeline beside another runner, at the first `POST /rag`.

        Not earlier, since it costs a session; not within that request, which is told to come back.
        """
        await self.containers_wanted.wait()
        if self.containers is None or self.containers is self.runner:
            return
        try:
            self._count_sessions(self.containers)
            await self.containers.start(notify)
        except StepError as error:
            notify(f"/rag cannot start: {error.message}")

    def drain(self) -> None:
        """Accept no more requests; those under way go on."""
        self._set(StepError("draining", "the service is shutting down; ask another one"))
        self.admission.draining = True

    def give_up(self) -> None:
        """End the requests that are still under way, with an error that says so."""
        self._given_up = True
        for limit in self._timeouts:
            if not limit.expired():
                limit.reschedule(0)  # in the past

    def _set(self, missing: StepError | None) -> None:
        if not self.admission.draining:
            self.missing = missing
        self.metrics.ready.set(0 if missing else 1)

    def _count_sessions(self, runner: Runner) -> None:
        runner.on_session_event(lambda event: self.metrics.engine_session.labels(event).inc())

    def _observe(self, breaker: Breaker) -> None:
        """Time the calls of a dependency, and show whether its breaker is open."""
        breaker.on_call = self.metrics.dep_seconds.labels(breaker.name).observe
        self.metrics.breaker_state.labels(breaker.name).set_function(lambda: breaker.open)

    async def _probe(self) -> None:
        """Ask a real question until one is answered; from then on only whether the runner is ready."""
        await self.runner.ready()
        if self.missing is None and not self.note:
            return
        probe = RagRequest(
            query=self.settings.probe_query,
            collection=self.settings.collection,
            request_id="probe",
            rerank={"enabled": False},  # a probe is not worth a model's call
            generate={"target": "extractive"},
        )
        try:
            await self.runner.answer(pydantic_core.to_json(probe).decode())
            self.note = ""
        except StepError as error:
            if error.code != "collection_not_found":
                raise
            # a new installation must be reachable to take its first documents
            self.note = f"no collection '{probe.collection}' yet; add documents to make it"


def _completion_request(
    context: Context, messages: list[dict[str, str]], options: dict[str, Any]
) -> str:
    """Return the request of the step `generate` for a prompt of the client's own."""
    given = {name: value for name, value in options.items() if value is not None}
    request = {
        "query": "side task",
        "request_id": context.request_id,
        "contexts": [],
        "warnings": [],
        "provenance": {},
        "prompt": messages,
        "no_context": "answer",
        "generate": {**given, "deadline_s": max(0.001, round(context.remaining_s(), 3))},
    }
    return pydantic_core.to_json(request).decode()


async def _as_asked(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield events; an error about their filter is about the caller's own."""
    async with aclosing(events):
        with as_asked():
            async for event in events:
                yield event


def _rule_of(warnings: list[str]) -> str:
    """Return the rule that withheld an answer; `model`: the model's own server did."""
    rules = [text.removeprefix(FILTERED) for text in warnings if text.startswith(FILTERED)]
    return rules[0] if rules and rules[0] in RULES else "model"
