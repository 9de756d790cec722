"""A trace of ``docker run``, received as a collector receives it (OTLP over HTTP)."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from harness import EngineProcess

from pyengine.linux.syscalls import CLONE_NEWNET, setns

_collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Receiver(BaseHTTPRequestHandler):
    bodies: list[bytes] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_run_is_traced_to_the_drivers(
    tmp_path: Path, docker_binary: str, busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Receiver, "bodies", [])
    engine = EngineProcess(
        tmp_path, docker_binary, env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        },
    )  # fmt: skip
    ready = threading.Event()
    servers: list[HTTPServer] = []

    def receive() -> None:
        """On a thread of its own in the engine's network namespace."""
        descriptor = os.open(f"/run/netns/{engine.namespace}", os.O_RDONLY)
        setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)
        servers.append(HTTPServer(("127.0.0.1", 4318), Receiver))
        ready.set()
        servers[0].serve_forever()

    threading.Thread(target=receive, daemon=True).start()
    assert ready.wait(10)
    try:
        engine.start()
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        engine.docker("run", "--rm", "busybox", "true")
        engine.stop()
    finally:
        engine.dispose()
        servers[0].shutdown()
        servers[0].server_close()
    spans = {}
    for body in Receiver.bodies:
        message = _collector.ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                spans.update({found.span_id: found for found in scope.spans})

    def way(name: str) -> list[str]:
        """Names from a span up to its API call."""
        found = next(one for one in spans.values() if one.name == name)
        names = [found.name]
        while found.parent_span_id:
            found = spans[found.parent_span_id]
            names.append(found.name)
        return names

    assert way("storage.prepare")[1] == "container create"
    assert way("storage.prepare")[2].endswith("/containers/create")
    assert way("network allocate")[1] == "container start"
    assert way("network.join")[-1].endswith("/start")
    assert way("init: pivot_root")[1] == "container start"
