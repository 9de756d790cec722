"""Connection tracking forgets what a newly published udp port makes wrong (ctnetlink).

Rules of translation are asked for the first packet of a flow only. A client that keeps sending
datagrams keeps its flow, and with it the translation of yesterday: none, or to a container that is
gone. So flows to a port that was just published are dropped, and their next packet finds the rule.

The kernel looks through its whole table for that, 5 to 25 ms with the usual 262,144 buckets, so it
is done beside the caller: a container's start does not wait, and a client that speaks udp sends
again.

Source: linux/netfilter/nfnetlink_conntrack.h; filtering in the kernel since Linux 5.8.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Collection, Iterator, Mapping

from pyengine.faults import failpoint
from pyengine.linux.netlink import attribute, nest, parse, u32

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS, _FILTER_PROTO_NUM = 1, 2, 1 << 3
_HEADER = struct.Struct("=IHHII")


class Conntrack:
    """Acts in the network namespace of the thread that made it. The socket is kept: closing one of
    this protocol waits for what the last rule change deleted (10 ms)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._socket.close()

    def forget_udp_soon(self, ports: Mapping[int, Collection[int]]) -> None:
        """:meth:`forget_udp` for ports by IP version, on a thread that ends with it."""

        def work() -> None:
            with self._lock:
                for version, numbers in ports.items():
                    if self._socket.fileno() < 0:
                        return
                    try:
                        self.forget_udp(version, numbers)
                    except OSError as error:
                        log.warning("old udp flows to published ports go on: %s", error)

        threading.Thread(target=work, name="conntrack", daemon=True).start()

    def forget_udp(self, version: int, ports: Collection[int]) -> int:
        """Drop flows of IP ``version`` to one of ``ports`` that are translated or end at this host;
        returns how many. What containers send elsewhere to such a port goes on."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        stale = [
            attributes for attributes in self._udp_flows(family) if _is_stale(attributes, ports)
        ]
        for attributes in stale:
            failpoint("conntrack.delete")
            body = attribute(_TUPLE_ORIG | 0x8000, attributes[_TUPLE_ORIG])
            for kind in (_ID, _ZONE):
                if kind in attributes:
                    body += attribute(kind, attributes[kind])
            self._send(_DELETE, _NLM_F_ACK, family, body)
            # An answer of any kind will do: the flow may have ended by itself.
            self._socket.recv(4096)
        return len(stale)

    def _udp_flows(self, family: int) -> Iterator[dict[int, bytes]]:
        proto = nest(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])))
        flags = u32(_FILTER_ORIG_FLAGS, _FILTER_PROTO_NUM) + u32(_FILTER_REPLY_FLAGS, 0)
        self._send(_GET, _NLM_F_DUMP, family, nest(_TUPLE_ORIG, proto) + nest(_FILTER, flags))
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                yield parse(body[4:])

    def _send(self, kind: int, flags: int, family: int, body: bytes) -> None:
        self._sequence += 1
        message = struct.pack("=BBH", family, 0, 0) + body
        header = _HEADER.pack(16 + len(message), kind, flags | _NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + message)


def _is_stale(attributes: dict[int, bytes], ports: Collection[int]) -> bool:
    source, destination, protocol, port = _endpoints(attributes.get(_TUPLE_ORIG, b""))
    back_source, back_destination, _, _ = _endpoints(attributes.get(_TUPLE_REPLY, b""))
    if protocol != socket.IPPROTO_UDP or port not in ports:
        return False
    # Translated by a rule like ours, or neither translated nor masqueraded.
    return back_source != destination or back_destination == source


def _endpoints(data: bytes) -> tuple[bytes, bytes, int, int]:
    """(source, destination, protocol, destination port) of a tuple."""
    parts = parse(data)
    ip, proto = parse(parts.get(_TUPLE_IP, b"")), parse(parts.get(_TUPLE_PROTO, b""))
    addresses = [ip.get(four) or ip.get(four + 2) or b"" for four in (1, 2)]
    port = int.from_bytes(proto.get(_PROTO_DST_PORT, b""), "big")
    return addresses[0], addresses[1], int.from_bytes(proto.get(_PROTO_NUM, b""), "big"), port
