"""OpenTelemetry traces, when a collector is configured: a span per request, and one per step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from rag_kit.errors import StepError
from rag_pipeline.stages import STEPS

from .context import Context


class Traces:
    """Makes no spans; the interface of `OtlpTraces`."""

    @contextmanager
    def request(self, scope: Scope, context: Context) -> Iterator[Any]:
        """Hold the span of a request."""
        yield None

    def finish(self, span: Any, context: Context, status: int) -> None:
        """Set the outcome as attributes and end the span; never a question, an answer or a key."""

    def close(self) -> None:
        """Flush."""


class OtlpTraces(Traces):
    """Sends spans to a collector over OTLP/HTTP.

    Args:
        endpoint: The collector, e.g. http://127.0.0.1:4318.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise StepError(
                "misconfigured",
                f"RAG_OTLP_ENDPOINT is set, but {error.name} is not installed; install "
                "rag-service[trace], or unset it",
            ) from None
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=Resource.create({"service.name": "rag-service"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rag_service")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope, context: Context) -> Iterator[Any]:
        """Hold the span of a request, a child of the caller's when it sends `traceparent`."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        began = time.time_ns()
        span = self._tracer.start_span(scope["method"], context=parent, start_time=began)
        span.set_attribute("http.request.method", scope["method"])
        span.set_attribute("rag.request_id", context.request_id)
        yield (span, began)

    def finish(self, span: Any, context: Context, status: int) -> None:
        """End the span; the steps become its children, one after the other."""
        from opentelemetry.trace import set_span_in_context

        request_span, at = span
        request_span.set_attribute("http.response.status_code", status)
        for name, value in (("rag.code", context.code), ("rag.collection", context.collection)):
            if value:
                request_span.set_attribute(name, value)
        request_span.update_name(f"{request_span.name} {context.route}")
        parent = set_span_in_context(request_span)
        for step in STEPS:
            if step in context.timings_ms:
                child = self._tracer.start_span(f"rag.{step}", context=parent, start_time=at)
                at += int(context.timings_ms[step] * 1_000_000)
                child.end(end_time=at)
        request_span.end()

    def close(self) -> None:
        """Flush."""
        self._provider.shutdown()


def open_traces(endpoint: str | None) -> Traces:
    """Return the traces for a collector, if any; raises `misconfigured` when the library is missing."""
    return OtlpTraces(endpoint) if endpoint else Traces()
