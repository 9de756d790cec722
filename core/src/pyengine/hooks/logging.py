"""Logging hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from pyengine.hooks import PROJECT

if TYPE_CHECKING:
    from pyengine.engine.model import Container

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def logging_opened(container: Container, driver: str, options: dict[str, str]) -> None:
    """Fires before a container's log is opened: amend ``options`` in place. An exception fails
    the start. Since 1.0."""


@hookspec
def logging_redact(container: Container, data: bytes) -> bytes | None:
    """Fires for each piece of log that ``docker logs`` reads, and for each line that a sink sends,
    there in the sink's process, which loads the hooks anew: return what shall be shown instead,
    None to leave it. The file keeps what was written, and attached clients see it. An exception
    ends the reading; a sink tries again later. Since 1.0."""
