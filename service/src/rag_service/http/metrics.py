"""The metrics of `GET /metrics`, in the Prometheus text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, registry=self.registry)

        def histogram(name: str, about: str, *labels: str) -> Histogram:
            return Histogram(name, about, labels, registry=self.registry, buckets=SECONDS)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(name, about, labels, registry=self.registry)

        self.requests = counter(
            "rag_requests_total", "Answered requests.", "route", "status", "code", "step"
        )
        self.request_seconds = histogram("rag_request_seconds", "Seconds per request.", "route")
        self.step_seconds = histogram("rag_step_seconds", "Seconds per step.", "step")
        self.dep_seconds = histogram(
            "rag_dep_seconds", "Seconds per call of a dependency, however it ended.", "dep"
        )
        self.inflight = gauge("rag_inflight", "Requests being answered.")
        self.queued = gauge("rag_queued", "Requests waiting for their turn.")
        self.rejected = counter("rag_rejected_total", "Requests refused unread.", "reason")
        self.auth_fail = counter("rag_auth_fail_total", "Requests without a valid key.")
        self.authz_deny = counter("rag_authz_deny_total", "Collections refused to a key.")
        self.ssrf_block = counter(
            "rag_ssrf_block_total", "Requests that named a host, a URL or a key."
        )
        self.contract_violation = counter(
            "rag_contract_violation_total", "Answers of a step or store that were not usable."
        )
        self.quota = counter("rag_quota_total", "Requests over a rate.", "kind")
        self.shed = counter("rag_shed_total", "Requests refused for load.", "reason")
        self.deadline = counter("rag_deadline_total", "Deadlines passed.", "step")
        self.cancelled = counter("rag_cancel_total", "Requests whose client went away.")
        self.module_fail = counter(
            "rag_module_fail_total", "Steps that raised or were killed.", "code", "step"
        )
        self.llm_fail = counter(
            "rag_llm_fail_total", "Answers the language model failed to give.", "kind"
        )
        self.truncated = counter(
            "rag_truncated_total", "Answers whose passages were cut to the context window."
        )
        self.no_context = counter("rag_no_context_total", "Answers without support.")
        self.filtered = counter(
            "rag_output_filtered_total", "Answers that held what may not leave.", "rule"
        )
        self.degraded = counter("rag_degraded_total", "Answers without the model that failed.")
        self.answer_cache = counter(
            "rag_answer_cache_total",
            "Answers of the model that were kept (hit) or asked for (miss), where answers are kept.",
            "result",
        )
        self.stream_aborts = counter("rag_stream_abort_total", "Streams that ended in an error.")
        self.breaker_state = gauge(
            "rag_breaker_state", "1: calls of this dependency are refused for now.", "dep"
        )
        self.engine_session = counter(
            "rag_engine_session_total",
            "Sessions on the Dagger engine: open, failed, lost, replaced.",
            "event",
        )
        self.free_bytes = gauge("rag_storage_free_bytes", "Bytes free on the disk of RAG_HOME.")
        self.ready = gauge("rag_ready", "Whether the service is ready.")

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
