"""Traces: a span for each generation, in the client's trace and before the upstream's."""

import json
import urllib.request
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dedup_server.tracing import Tracer
from tests.server.mock_upstream import proxy, upstream

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def ask(url: str, model: str) -> None:
    body = json.dumps(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01",
    }
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", body, headers), timeout=20
    ) as answer:
        answer.read()


def test_a_generation_is_a_span_of_the_clients_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dedup.requests")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("dedup_server.app.Tracer", lambda: Tracer(provider))
    with upstream() as mock, proxy(mock.url) as url:
        ask(url, "novel")
        ask(url, "loop")
        ask(url, "reset")
    spans: list[Any] = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    assert [span.name for span in spans] == ["chat novel", "chat loop", "chat reset"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE_ID}
    assert [record.args["trace_id"] for record in caplog.records] == 3 * [TRACE_ID]
    said = [dict(span.attributes) for span in spans]
    assert [one["dedup.outcome"] for one in said] == ["ok", "cut", "upstream_error"]
    assert (said[0]["gen_ai.operation.name"], said[0]["gen_ai.request.model"]) == ("chat", "novel")
    assert said[1]["dedup.loop"] == "content/exact"
    assert spans[2].status.status_code.name == "ERROR"
    for span, traceparent in zip(spans, mock.traceparents, strict=True):
        assert traceparent == f"00-{TRACE_ID}-{span.context.span_id:016x}-01"


def test_nothing_is_traced_unless_the_environment_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert Tracer()._provider is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = Tracer()
    assert tracer._provider is not None
    tracer.close()
