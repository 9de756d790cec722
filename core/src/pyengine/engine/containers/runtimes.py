"""Names of runtimes: those of the drivers that are installed, and the operator's own for them.

daemon.json's ``runtimes`` names a runtime as Docker does; its ``runtimeType`` says which driver it
is (``{"runc": {"runtimeType": "native"}}``). A container keeps the name that it was asked for by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyengine.config import RuntimeEntry
from pyengine.contracts.base import Kind
from pyengine.drivers import Drivers
from pyengine.errors import Unsupported


class Runtimes:
    """Resolves what containers ask for. ``default``: the configured name, or empty."""

    def __init__(
        self, drivers: Drivers, configured: Mapping[str, RuntimeEntry], default: str
    ) -> None:
        self._drivers = drivers
        self.reload(configured, default)

    def reload(self, configured: Mapping[str, RuntimeEntry], default: str) -> None:
        """From the next container on."""
        self._configured = configured
        self._default = default

    @property
    def default(self) -> str:
        return self._default or self._drivers.default(Kind.RUNTIME)

    def driver(self, name: str) -> str:
        """The driver behind a name. ``DriverMissing`` if it is neither configured nor installed,
        ``Unsupported`` if it is a program that no driver here runs."""
        entry = self._configured.get(name)
        if entry is None:
            return self._drivers.get(Kind.RUNTIME, name).name
        if entry.path:
            raise Unsupported(
                f"runtime {name!r} is a program, {entry.path}",
                "no runtime driver that is installed runs programs",
                f"give it a runtimeType: one of {', '.join(self._installed())}",
            )
        return self._drivers.get(Kind.RUNTIME, entry.runtime_type).name

    def shown(self) -> dict[str, Any]:
        """``Runtimes`` of ``docker info``."""
        found: dict[str, Any] = {name: {"path": name} for name in self._installed()}
        for name, entry in self._configured.items():
            found[name] = {"path": entry.path or entry.runtime_type}
            if entry.runtime_args:
                found[name]["runtimeArgs"] = entry.runtime_args
        return found

    def _installed(self) -> list[str]:
        return self._drivers.catalog.names(Kind.RUNTIME)
