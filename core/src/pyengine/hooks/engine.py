"""Engine hooks."""

from __future__ import annotations

from typing import Any

import pluggy

from pyengine.hooks import PROJECT

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
