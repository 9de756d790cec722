"""Security plugins: hooks only. All that are enabled take part.

They are listed, enabled and probed by name like drivers, and implement hooks of
:mod:`pyengine.hooks.security` with :data:`pyengine.hooks.hookimpl`.
"""

from __future__ import annotations

from typing import ClassVar

from pyengine.contracts.base import Driver, Kind


class SecurityPlugin(Driver):
    """A driver in name, choice and probe; what it does is in its hooks."""

    kind: ClassVar[Kind] = Kind.SECURITY

    def security_options(self) -> list[str]:
        """Lines for ``SecurityOptions`` of ``docker info`` (``name=seccomp,profile=builtin``)."""
        return []
