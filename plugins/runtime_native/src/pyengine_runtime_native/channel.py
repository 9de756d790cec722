"""What a new process and the runtime that made it say to each other.

A pair of sequenced-packet sockets, one packet per message; the first byte says which. The child
speaks in system calls and bytes only, as it may be behind the border of a foreign root. Closing its
end by execve is a message as well: the command runs.

======  =========  ===========================================================
packet  from       meaning
======  =========  ===========================================================
``G``   runtime    go on (identity maps, limits or hooks are done)
``E``   child      a step failed: step NUL errno NUL detail
``S``   child      the command cannot be run: exit code NUL text
``C``   child      the pty's master comes with this packet
``M``   child      everything is mounted; waits for ``G``
``R``   child      ready: lines of step, space, microseconds
======  =========  ===========================================================
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import NoReturn

from pyengine.errors import EngineError, StartError

_PACKET = 8192


class Child:
    """The new process's side: says where it is, what went wrong, and waits for the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.step = "start"
        self.steps: list[tuple[str, float]] = []
        self._since = time.perf_counter()

    def enter(self, step: str) -> None:
        """The next thing is ``step``; what was before is over."""
        now = time.perf_counter()
        self.steps.append((self.step, now - self._since))
        self.step, self._since = step, now

    def send(self, packet: bytes) -> None:
        self.sock.send(packet)

    def send_descriptor(self, fd: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))
        self.sock.sendmsg([b"C"], [rights])

    def wait(self) -> None:
        """Wait for ``G``; ends the process if nobody is there to send it."""
        if self.sock.recv(1) != b"G":
            os._exit(1)

    def ready(self) -> None:
        lines = "".join(f"{name} {int(took * 1e6)}\n" for name, took in self.steps)
        self.send(b"R" + lines.encode("ascii", "replace")[: _PACKET - 1])

    def fail(self, error: BaseException) -> NoReturn:
        """Report ``error`` and end."""
        try:
            self.send(describe(self.step, error)[:_PACKET])
        finally:
            os._exit(1)


def describe(step: str, error: BaseException) -> bytes:
    """An error as a packet; the only formatting that is done behind the border."""
    if isinstance(error, StartError):
        return f"S{error.exit_code}\0{error.brief}".encode("utf-8", "replace")
    if isinstance(error, OSError):
        detail = error.filename
        if isinstance(detail, bytes):
            detail = detail.decode("utf-8", "replace")
        text = f"E{step}\0{error.errno or 0}\0{detail if detail is not None else ''}"
    elif isinstance(error, EngineError):
        text = f"E{step}\0{0}\0{error.brief}"
    else:
        text = f"E{step}\0{0}\0{type(error).__name__}"
    return text.encode("utf-8", "replace")


def parse_error(packet: bytes, what: str) -> EngineError:
    """The error that a packet ``E`` or ``S`` describes; ``what`` begins its text."""
    text = packet[1:].decode("utf-8", "replace")
    if packet[:1] == b"S":
        code, _, brief = text.partition("\0")
        return StartError(f"{what}: {brief}", exit_code=int(code))
    step, _, rest = text.partition("\0")
    number, _, detail = rest.partition("\0")
    reason = os.strerror(int(number)) if number not in ("", "0") else ""
    brief = f"{what}: {step}" + (f": {reason.lower()}" if reason else "")
    return EngineError(brief, detail)


class Parent:
    """The runtime's side."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.console = -1

    def go(self) -> None:
        try:
            self.sock.send(b"G")
        except OSError:
            pass  # it died; its end of the socket says why

    def receive(self, what: str) -> bytes:
        """The next packet, empty at the end. Raises what the child reports; keeps a console."""
        while True:
            packet, ancillary, _, _ = self.sock.recvmsg(_PACKET, socket.CMSG_SPACE(4))
            if packet[:1] == b"C":
                for _, _, data in ancillary:
                    (self.console,) = struct.unpack("i", data[:4])
                os.set_inheritable(self.console, False)
                continue
            if packet[:1] in (b"E", b"S"):
                raise parse_error(packet, what)
            return packet


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
