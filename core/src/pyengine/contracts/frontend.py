"""Frontends: what speaks to clients (entry-point group ``pyengine.api``).

A frontend translates a wire protocol to calls of the engine's services and back. It holds no state
of containers. Several may run beside each other in the daemon's event loop.
"""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine


class Listener(NamedTuple):
    """A listening socket (unix or TCP) that does not block. ``tls``: its clients speak TLS, and
    the context says with which certificates; half-closed connections must live on."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


class Frontend(ABC):
    """One protocol. Constructed when the daemon starts, before it listens."""

    name: ClassVar[str]
    #: "http": core hands it the daemon's listening sockets (``-H``); "": it opens its own.
    protocol: ClassVar[str] = "http"
    #: Keys of daemon.json that mean something only where this frontend is installed.
    keys: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    async def start(self, listeners: list[Listener]) -> None:
        """Serve on these until ``stop``."""

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """Accept no more; end what is open within ``timeout`` seconds."""
