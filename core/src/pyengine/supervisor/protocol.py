"""Messages between the daemon, the zygote and the shims, and how they are framed.

One message is one packet on a ``SOCK_SEQPACKET`` socket: a fixed header, a JSON payload, and
descriptors beside it (SCM_RIGHTS, unix(7)). A payload above 64 KiB travels as one more descriptor,
a sealed memfd, so that no message depends on socket buffer sizes.

A request carries a number other than 0; its answer is ``OK`` or ``ERROR`` with the same number.
Events carry 0. The version in the header is the sender's; a daemon speaks all since 1, and within a
version fields and types are only ever added.
"""

from __future__ import annotations

import enum
import fcntl
import os
import socket
import struct
from typing import Any, NamedTuple

import msgspec

from pyengine import errors
from pyengine.supervisor.records import PROTOCOL

MAGIC = b"PYEN"
HEADER = struct.Struct("<4sHHHxxII")
_INT = struct.Struct("i")
INLINE = 64 * 1024
MAX_DESCRIPTORS = 4
#: The header's flag for "the last descriptor holds the payload".
IN_MEMFD = 1
#: The request number that the answer to a launch bears, since nobody sent it as a message.
LAUNCH = 1

_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE
_MFD_NOEXEC_SEAL = 0x8


class Type(enum.IntEnum):
    """What a message is. Numbers are for ever; payloads are in parentheses."""

    OK = 1  # (the answer's own)
    ERROR = 2  # (Fault)

    # daemon <-> zygote
    CONFIGURE = 10  # (ZygoteConfig) once, first
    LOADING = 11  # event ({"plugin"}): about to be imported
    SPAWN = 12  # descriptors: launch memfd, the shim's end of its socket -> ({"pid"}) and a pidfd
    SHIM_ENDED = 13  # event ({"pid", "status"}): status as waitpid(2) gives it
    SWEEP = 14  # ({"id", "runtime", "bundle"}): delete a container whose shim is gone
    INFO = 15  # -> (ZygoteInfo)

    # daemon <-> shim
    HELLO = 30  # event (Hello), first on every connection
    NAMESPACES = 31  # event ({"pid"}), descriptor: init's network namespace
    START = 32  # -> (Started)
    KILL = 33  # ({"signal", "all"})
    PAUSE = 34
    RESUME = 35
    UPDATE = 36  # (linux.resources of a runtime spec)
    STATS = 37  # -> (RuntimeStats)
    PS = 38  # -> (list of pids)
    RESIZE = 39  # ({"width", "height", "exec_id"})
    DELETE = 40
    TRACE = 41  # -> (list of Step)
    SHUTDOWN = 42
    ATTACH = 43  # ({"stdin", "stdout", "stderr"}), descriptor: stream socket -> ({"attach"})
    STDIN_EOF = 44  # ({"attach", "sent"}): the client's input ends after that many bytes
    EXEC = 45  # (ExecOrder), descriptor: stream socket or none -> ({"pid", "attach"})
    EXEC_ACK = 46  # event ({"exec_id"}) to the shim: the exit code has arrived
    EXIT = 47  # event (ExitRecord)
    EXEC_EXIT = 48  # event (ExecRecord)
    OOM = 49  # event ({"kills", "new"}): processes killed so far, and since the last such event
    ENDING = 50  # event: the shim gives the container up; its connection closes next


class ProtocolError(Exception):
    """The peer sent what is no message of ours."""


class Fault(msgspec.Struct, omit_defaults=True):
    """An error on its way to the daemon; ``kind`` is the class's name in :mod:`pyengine.errors`."""

    kind: str
    brief: str
    detail: str = ""
    help: str = ""
    exit_code: int = 0


class Message(NamedTuple):
    type: int
    request: int
    payload: bytes
    descriptors: list[int]
    version: int = PROTOCOL

    def value(self) -> Any:
        """The payload as plain JSON values; None if it is empty."""
        return decode(self.payload) if self.payload else None

    def close(self) -> None:
        """Close what came along; a receiver that takes a descriptor removes it from the list."""
        while self.descriptors:
            os.close(self.descriptors.pop())


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
_decode_fault = msgspec.json.Decoder(Fault).decode


def memfd(name: str, data: bytes) -> int:
    """A sealed memfd that holds ``data``: who gets it can neither change nor extend it."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        fd = os.memfd_create(name, flags)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def read_memfd(fd: int) -> bytes:
    """All of a memfd, whatever its offset."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def send(
    sock: socket.socket,
    type: Type,
    request: int = 0,
    payload: bytes = b"",
    descriptors: list[int] | None = None,
) -> None:
    """Send one message without waiting; the caller keeps its descriptors.

    Raises ``BlockingIOError`` when the peer's buffer is full (nothing was sent) and ``OSError``
    when there is no peer.
    """
    fds = descriptors or []
    flags = 0
    extra = -1
    if len(payload) > INLINE:
        extra = memfd("message", payload)
        fds = [*fds, extra]
        flags, payload = IN_MEMFD, b""
    try:
        header = HEADER.pack(MAGIC, PROTOCOL, type, flags, request, len(payload))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
        sock.sendmsg(
            [header, payload],
            rights if fds else [],
            socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
        )
    finally:
        if extra >= 0:
            os.close(extra)


def receive(sock: socket.socket) -> Message | None:
    """The next message, or None when the peer is gone.

    Raises ``BlockingIOError`` when there is none yet and ``ProtocolError`` for anything foreign.
    """
    try:
        # socket.recv_fds ignores flags (Python 3.11): its descriptors would reach containers.
        data, ancillary, flags, _ = sock.recvmsg(
            HEADER.size + INLINE,
            socket.CMSG_LEN((MAX_DESCRIPTORS + 1) * _INT.size),
            socket.MSG_CMSG_CLOEXEC,
        )
    except ConnectionError:
        return None
    fds = [
        fd
        for level, kind, raw in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in _INT.iter_unpack(raw[: len(raw) - len(raw) % _INT.size])
    ]
    if not data:
        return None
    try:
        magic, version, type, marks, request, length = HEADER.unpack_from(data)
        whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if magic != MAGIC or not whole or len(data) != HEADER.size + length:
            raise ProtocolError("a packet is damaged or cut off")
        payload = data[HEADER.size :]
        if marks & IN_MEMFD:
            payload = read_memfd(fds[-1])
            os.close(fds.pop())
    except (struct.error, IndexError, ProtocolError) as error:
        for fd in fds:
            os.close(fd)
        raise ProtocolError(str(error)) from error
    return Message(type, request, payload, fds, version)


def fault(error: BaseException, driver: str = "") -> bytes:
    """Encode ``error`` for an ``ERROR``; what is none of ours is blamed on ``driver``."""
    if not isinstance(error, errors.EngineError):
        brief = f"{driver} failed" if driver else "the supervisor failed"
        error = errors.DriverBroken(brief, f"{type(error).__name__}: {error}")
    return encode(
        Fault(type(error).__name__, error.brief, error.detail, error.help, error.exit_code)
    )


def unfault(payload: bytes) -> errors.EngineError:
    """The error of an ``ERROR``, as the class it was; a class we do not know is an EngineError."""
    value = _decode_fault(payload)
    kind = getattr(errors, value.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.EngineError)):
        kind = errors.EngineError
    error = kind(value.brief, value.detail, value.help)
    if value.exit_code:
        error.exit_code = value.exit_code
    return error
