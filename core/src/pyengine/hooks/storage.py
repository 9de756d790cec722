"""Storage hooks."""

from __future__ import annotations

import pluggy

from pyengine.hooks import PROJECT

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def storage_layer_applied(layer: str, diff_id: str, size: int) -> None:
    """Fires after an image's layer was unpacked and stored. Exceptions are logged. Since 1.0."""


@hookspec
def storage_snapshot_prepared(layer: str, parent: str, owner: str) -> None:
    """Fires after a container's writable layer was made. An exception undoes it. Since 1.0."""


@hookspec
def storage_snapshot_removed(layer: str) -> None:
    """Fires after a writable layer was removed. Exceptions are logged. Since 1.0."""
