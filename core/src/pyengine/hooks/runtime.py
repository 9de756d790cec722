"""Runtime hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from pyengine.hooks import PROJECT

if TYPE_CHECKING:
    from pyengine.engine.model import Container

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def runtime_amend_spec(container: Container, spec: dict[str, Any]) -> None:
    """Fires when a container starts, before the security plugins: amend the OCI ``spec`` in place.

    An exception fails the start with its message. Since 1.0.
    """


@hookspec
def runtime_state_changed(container: Container, old: str, new: str) -> None:
    """Fires after a container's status changed and was stored. Exceptions are logged. Since 1.0."""


@hookspec
def runtime_exec(container: Container, process: dict[str, Any]) -> None:
    """Fires before an exec runs: amend the OCI ``process`` in place. An exception fails it.
    Since 1.0."""
