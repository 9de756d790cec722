"""Frontends: what speaks to clients (entry-point group ``pyengine.api``).

A frontend translates a wire protocol to calls of the engine's services and back. It holds no state
of containers. Several may run beside each other in the daemon's event loop.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine


class Frontend(ABC):
    """One protocol. Constructed when the daemon starts, before it listens."""

    name: ClassVar[str]
    #: "http": core hands it the daemon's listening sockets (``-H``); "": it opens its own.
    protocol: ClassVar[str] = "http"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    async def start(self, listeners: list[socket.socket]) -> None:
        """Serve on these listening sockets (unix or TCP, non-blocking) until ``stop``."""

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """Accept no more; end what is open within ``timeout`` seconds."""
