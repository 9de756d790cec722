"""The tree of spans, the client's trace, and what the environment decides."""

from __future__ import annotations

import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pyengine.engine.tracing import past, request, span
from pyengine.errors import ConfigError
from pyengine.hooks.manager import Hooks
from pyengine_trace_otel.plugin import OtelPlugin

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_tree_below_the_clients_trace() -> None:
    exporter, provider, hooks = InMemorySpanExporter(), TracerProvider(), Hooks()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    assert not hooks.has_tracing()
    hooks.register(OtelPlugin(provider), "otel")
    assert hooks.has_tracing()
    with request(hooks.engine_span, "POST /x", PARENT, method="POST") as first:
        with pytest.raises(OSError, match="no"), span("storage.mount", "driver", driver="d"):
            raise OSError("no")
        first.attributes["status"] = 500
        now = time.monotonic_ns()
        past("mount /proc", "runtime", now - 5_000_000, now - 2_000_000, process="init")
    with span("later", "driver"):
        past("later", "runtime", 0, 1)  # belongs to no request
    driver, step, call = exporter.get_finished_spans()
    assert (driver.name, call.name) == ("storage.mount", "POST /x")
    assert driver.parent is not None
    assert call.parent is not None
    assert driver.parent.span_id == call.context.span_id
    assert f"{call.parent.trace_id:032x}-{call.parent.span_id:016x}" in PARENT
    assert dict(call.attributes or {}) == {"method": "POST", "status": 500}
    assert not driver.status.is_ok
    assert driver.start_time is not None
    assert call.start_time is not None
    assert call.start_time <= driver.start_time
    assert step.parent is not None
    assert step.parent.span_id == call.context.span_id
    assert step.start_time is not None
    assert step.end_time is not None
    assert step.end_time - step.start_time == 3_000_000
    assert 0 < time.time_ns() - step.end_time < 60 * 10**9


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_asks(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hooks = Hooks()
    hooks.register(OtelPlugin(), "otel")
    assert not hooks.has_tracing()


def test_what_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ConfigError, match="zipkin"):
        OtelPlugin()
