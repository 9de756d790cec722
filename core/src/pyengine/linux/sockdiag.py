"""Which ports of this network namespace are taken: sock_diag(7).

One request per protocol and family, answered from the kernel's hash tables: 0.1 ms on a quiet host,
where reading /proc/net/{tcp,udp}{,6} formats every socket as text.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from pyengine.linux.netlink import parse

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_SKV6ONLY = 11
_TCP_LISTEN, _ANY_STATE = 1 << 10, 0xFFFFFFFF
_MESSAGE = struct.Struct("=BBBBHH16s16s")
_MESSAGE_SIZE, _INODE_OFFSET = 72, 68

_WANTED = (
    ("tcp", socket.IPPROTO_TCP, _TCP_LISTEN),
    ("udp", socket.IPPROTO_UDP, _ANY_STATE),
    ("sctp", 132, _TCP_LISTEN),
)


class BoundSocket(msgspec.Struct, frozen=True):
    """A listening (tcp, sctp) or bound (udp) socket. ``address`` is ``0.0.0.0`` or ``::`` for all.

    ``inode``: as in ``socket:[inode]`` of /proc/PID/fd."""

    protocol: str
    address: str
    port: int
    inode: int


def bound_sockets() -> list[BoundSocket]:
    """Every port somebody listens on or is bound to.

    A socket for ``::`` that also serves IPv4 is listed for both. A protocol that this kernel does
    not know or cannot list has no sockets.
    """
    found: list[BoundSocket] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        for name, number, states in _WANTED:
            for family in (socket.AF_INET, socket.AF_INET6):
                for body in _dump(kernel, family, number, states):
                    found += _read(name, body)
    return found


def _read(protocol: str, body: bytes) -> Iterator[BoundSocket]:
    family, _, _, _, port, _, source, _ = _MESSAGE.unpack_from(body)
    port = socket.ntohs(port)
    if not port:
        return
    inode = int.from_bytes(body[_INODE_OFFSET : _INODE_OFFSET + 4], "little")
    if family == socket.AF_INET:
        yield BoundSocket(protocol, str(ip_address(source[:4])), port, inode)
        return
    address = ip_address(source)
    mapped = getattr(address, "ipv4_mapped", None)
    yield BoundSocket(protocol, str(mapped or address), port, inode)
    if address.is_unspecified and parse(body[_MESSAGE_SIZE:]).get(_INET_DIAG_SKV6ONLY) != b"\1":
        yield BoundSocket(protocol, "0.0.0.0", port, inode)


def _dump(kernel: socket.socket, family: int, protocol: int, states: int) -> Iterator[bytes]:
    # inet_diag_req_v2: an empty socket identity selects all.
    request = struct.pack("=BBBBI48x", family, protocol, 0, 0, states)
    header = struct.pack(
        "=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0
    )
    kernel.send(header + request)
    while True:
        data = kernel.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, _, _, _ = struct.unpack_from("=IHHII", data, offset)
            body = data[offset + 16 : offset + length]
            offset += (length + 3) & ~3
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code in (errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT):
                    return
                raise OSError(code, "cannot list sockets", f"sock_diag {protocol}")
            yield body
