"""OpenTelemetry traces, a span for each generation, by the conventions for generative AI; only where its exporter is configured."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from dedup.version import version
from dedup_server.completion import Completion
from dedup_server.requests.base import GenerationRequest

_log = logging.getLogger("dedup.server")
_MAX_MODEL_CHARS = 200
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


_NO_SPAN = contextlib.nullcontext()


class Tracer:
    """Traces nothing unless `provider` is given, or the environment names an endpoint of OTLP over HTTP and the extra `otel` is there."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider or _provider_from_environment()
        self._tracer = self._provider.get_tracer("dedup", version()) if self._provider else None

    def span(
        self, request: GenerationRequest, operation: str, completion: Completion
    ) -> contextlib.AbstractContextManager[None]:
        """The span of a request; its trace goes on from the client's `traceparent` and to the upstream's."""
        return self._span(request, operation, completion) if self._tracer else _NO_SPAN

    @contextlib.contextmanager
    def _span(
        self, request: GenerationRequest, operation: str, completion: Completion
    ) -> Iterator[None]:
        assert self._tracer is not None
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator, exchange = TraceContextTextMapPropagator(), request.exchange
        came = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in exchange.headers
            if name.startswith(b"trace")
        }
        model = (request.model or "")[:_MAX_MODEL_CHARS]
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "gen_ai.output.type": "text",
        }
        with self._tracer.start_as_current_span(
            f"{operation} {model}".strip(),
            context=propagator.extract(came),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        ) as span:
            exchange.report["trace_id"] = f"{span.get_span_context().trace_id:032x}"  # for the log
            goes: dict[str, str] = {}
            propagator.inject(goes)
            headers = [header for header in exchange.headers if not header[0].startswith(b"trace")]
            exchange.headers = headers + [
                (name.encode(), value.encode()) for name, value in goes.items()
            ]
            try:
                yield
            finally:
                report = completion.report()
                span.set_attribute("dedup.outcome", report["outcome"])
                for name, key in (
                    ("gen_ai.usage.input_tokens", "input_tokens"),
                    ("gen_ai.usage.output_tokens", "output_tokens"),
                    ("dedup.removed_chars", "removed_chars"),
                    ("dedup.loop", "loop"),
                ):
                    if report[key] is not None:
                        span.set_attribute(name, report[key])
                if exchange.upstream:
                    span.set_attribute("server.address", exchange.upstream)
                if report["outcome"] == "upstream_error":
                    span.set_attribute("error.type", exchange.upstream_status or "upstream_error")
                    span.set_status(Status(StatusCode.ERROR))

    def close(self) -> None:
        """Sends what is not sent yet."""
        if self._provider:
            self._provider.shutdown()


def _provider_from_environment() -> Any:
    if (
        not any(os.environ.get(name) for name in _ENDPOINTS)
        or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        _log.warning(
            'traces are asked for in the environment, but %s is missing: pip install "dedup-llm[otel]"',
            error.name,
        )
        return None
    # Resource.create reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which win.
    provider = TracerProvider(
        resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "dedup")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
