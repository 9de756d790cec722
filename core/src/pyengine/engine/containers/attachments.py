"""Attaching to a container that does not run yet.

The client gets its end of a socket pair at once; the other end goes to the shim when there is one,
before the command starts. So nothing that is written from the first byte on is missed.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyengine.supervisor.client import Attachment, Shim


class PendingAttachment:
    """Looks like :class:`~pyengine.supervisor.client.Attachment` to whoever holds it."""

    def __init__(self, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.sock, self._peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self._wanted = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        self._eof: int | None = None
        self._real: Attachment | None = None
        self.closed = False

    async def connect(self, shim: Shim) -> None:
        """Hand the far end to the shim."""
        if self.closed:
            return
        self._real = await shim.attach(**self._wanted, pair=(self.sock, self._peer))
        if self._eof is not None:
            await self._real.stdin_eof(self._eof)

    async def stdin_eof(self, sent: int) -> None:
        """The client's input ended after ``sent`` bytes."""
        if self._real is not None:
            await self._real.stdin_eof(sent)
        else:
            self._eof = sent

    def close(self) -> None:
        if self._real is not None:
            self._real.close()
        else:
            self.sock.close()
            self._peer.close()
        self.closed = True
