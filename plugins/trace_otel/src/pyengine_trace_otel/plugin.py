"""Spans of the engine become spans of OpenTelemetry."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyengine.errors import ConfigError
from pyengine.hooks import hookimpl

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from pyengine.engine.tracing import Span

#: How long the end of the daemon waits for the collector, in milliseconds.
FLUSH_MS = 1500


class OtelPlugin:
    """Takes part only if the environment asks for traces. ``provider``: instead of one that sends
    to the collector which the environment names."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        make = (lambda: provider) if provider is not None else _from_environment(os.environ)
        if make is None:
            return
        # at the first span: it starts a thread, which is too early now
        made = functools.cache(make)

        # Not there otherwise: a span would be made for every step, for nobody.
        @hookimpl
        def engine_span(span: Span) -> None:
            if span.ended:
                _end(span)
            else:
                span.data = _begin(made().get_tracer("pyengine"), span)

        @hookimpl
        def engine_closing() -> None:
            made().force_flush(FLUSH_MS)

        self.engine_span = engine_span
        self.engine_closing = engine_closing


def _from_environment(environ: Mapping[str, str]) -> Callable[[], TracerProvider] | None:
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    wanted = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return None
    if not wanted and not exporter:
        return None
    if exporter not in ("", "otlp"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER={exporter}: unknown", help="otlp or none")
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: not spoken",
                          help="http/protobuf is")  # fmt: skip
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            "traces are asked for and nothing can send them", str(error),
            "pip install 'pyengine-trace-otel[otlp]'",
        ) from error  # fmt: skip
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    def make() -> TracerProvider:
        name = environ.get("OTEL_SERVICE_NAME") or "pyengine"
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return provider

    return make


def _begin(tracer: Any, span: Span) -> Any:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if span.parent is None:
        carrier = {"traceparent": span.traceparent} if span.traceparent else {}
        context = TraceContextTextMapPropagator().extract(carrier)
    else:
        context = trace.set_span_in_context(span.parent.data)  # type: ignore[arg-type]
    kind = trace.SpanKind.SERVER if span.kind == "request" else trace.SpanKind.INTERNAL
    return tracer.start_span(span.name, context, kind, dict(span.attributes), start_time=span.began)


def _end(span: Span) -> None:
    from opentelemetry.trace import Status, StatusCode

    found: Any = span.data
    found.set_attributes(span.attributes)
    if span.error is not None:
        found.set_status(Status(StatusCode.ERROR, str(span.error)))
    elif int(span.attributes.get("status", 0)) >= 500:
        found.set_status(Status(StatusCode.ERROR))
    found.end(span.ended)
