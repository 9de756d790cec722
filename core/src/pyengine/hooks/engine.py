"""Engine hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from pyengine.hooks import PROJECT

if TYPE_CHECKING:
    from pyengine.engine.tracing import Span

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def engine_event(event: dict[str, Any]) -> None:
    """Fires for each event after it is in the journal; ``event`` is Docker's message. Exceptions
    are logged. Since 1.0."""


@hookspec
def engine_health() -> str | None:
    """Fires for ``docker info``: return a warning line, or None when all is well. Since 1.0."""


@hookspec
def engine_metrics() -> dict[str, float] | None:
    """Fires when metrics are read: return name -> value. Since 1.0."""


@hookspec
def engine_span(span: Span) -> None:
    """Fires when a step of a request begins (``span.ended`` is 0) and again when it has ended: the
    API call, what a service does for it, each call of a driver, and (told when they are over) the
    steps of shim and runtime in a container's start. Runs on the daemon's event loop,
    so it must be quick. Exceptions are logged. Since 1.0."""


@hookspec
def engine_closing() -> None:
    """Fires when the daemon ends, after its containers: the last moment to send what is kept.
    Blocks the end; stay below two seconds. Exceptions are logged. Since 1.0."""
