"""DNS as the embedded name server speaks it (RFC 1035, RFC 6891).

What the engine knows is answered; everything else goes to the container's own servers, byte for
byte as the client asked it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Sequence

from dnslib import AAAA, CLASS, OPCODE, PTR, QTYPE, RCODE, RR, A, DNSError, DNSRecord

from pyengine.engine.containers.resolv import Upstream
from pyengine.engine.model import Container
from pyengine.engine.networks.dns.names import Names, pointed_at

log = logging.getLogger(__name__)

PORT = 53
TTL = 600
#: Seconds that one server has for an answer, and how many servers are asked.
PATIENCE, MOST_SERVERS = 4.0, 3
#: Questions of one container that are under way at others; more are refused.
MOST_UNDER_WAY = 256
#: What a client takes by UDP that says nothing of it, and the most that is sent (RFC 6891, 6.2.5).
SMALL, LARGE = 512, 4096


class Answers:
    """Answers one container.

    ``servers``: asked anew for each question that is passed on. ``open``: a connected socket that
    does not block, to a server, of a kind (``SOCK_DGRAM``, ``SOCK_STREAM``).
    """

    def __init__(
        self,
        container: Container,
        names: Names,
        servers: Callable[[], Sequence[Upstream]],
        open: Callable[[Upstream, socket.SocketKind], socket.socket],
    ) -> None:
        self._container = container
        self._names = names
        self._servers = servers
        self._open = open
        self._under_way = 0

    async def answer(self, query: bytes, kind: socket.SocketKind) -> bytes | None:
        """The answer to ``query``; None where none is due (it is no question)."""
        try:
            question = DNSRecord.parse(query)
        except (DNSError, ValueError, IndexError, UnicodeError):
            return None
        if question.header.qr or len(question.questions) != 1:
            return None
        if question.header.opcode != OPCODE.QUERY:
            return _failed(question, RCODE.NOTIMP)
        own = self._own(question) if question.q.qclass == CLASS.IN else None
        if own is not None:
            return _packed(own, question, kind)
        if self._under_way >= MOST_UNDER_WAY:
            return _failed(question, RCODE.REFUSED)
        self._under_way += 1
        try:
            return await self._pass_on(query, kind) or _failed(question, RCODE.SERVFAIL)
        finally:
            self._under_way -= 1

    def _own(self, question: DNSRecord) -> DNSRecord | None:
        """What the engine itself knows; None: others have to be asked."""
        name, asked = str(question.q.qname), question.q.qtype
        reply = question.reply(ra=1, aa=0)
        if asked == QTYPE.PTR:
            address = pointed_at(name)
            target = self._names.reverse(self._container, address) if address else ""
            if not target:
                return None
            reply.add_answer(RR(name, QTYPE.PTR, rdata=PTR(f"{target}."), ttl=TTL))
            return reply
        if asked not in (QTYPE.A, QTYPE.AAAA):
            # A name of ours has no other records; whose it is not, others may know it.
            return reply if self._names.addresses(self._container, name) else None
        found = self._names.addresses(self._container, name)
        if found is None:
            return None
        v4, v6 = found
        for address in v4 if asked == QTYPE.A else v6:
            rdata = A(address) if asked == QTYPE.A else AAAA(address)
            reply.add_answer(RR(name, asked, rdata=rdata, ttl=TTL))
        return reply

    async def _pass_on(self, query: bytes, kind: socket.SocketKind) -> bytes | None:
        """What the first server says that has an answer; the last failure if none has."""
        failure: bytes | None = None
        for server in self._servers()[:MOST_SERVERS]:
            try:
                said = await asyncio.wait_for(self._ask(server, query, kind), PATIENCE)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.debug("name server %s: %s", server.address, error or type(error).__name__)
                continue
            if said[3] & 0xF not in (RCODE.SERVFAIL, RCODE.REFUSED):
                return said
            failure = said
        return failure

    async def _ask(self, server: Upstream, query: bytes, kind: socket.SocketKind) -> bytes:
        """One server's answer, under the client's number. ``OSError`` if it cannot be reached."""
        number = secrets.token_bytes(2)
        asked = number + query[2:]
        sock = await asyncio.to_thread(self._open, server, kind)
        loop = asyncio.get_running_loop()
        with contextlib.closing(sock):
            if kind is socket.SOCK_STREAM:
                await loop.sock_connect(sock, (server.address, PORT))
                await loop.sock_sendall(sock, len(asked).to_bytes(2, "big") + asked)
                size = int.from_bytes(await _exactly(sock, 2), "big")
                said = await _exactly(sock, size)
                if not _answers(said, asked):
                    raise OSError("the answer is to another question")
            else:
                await loop.sock_sendall(sock, asked)
                # What does not belong to the question is somebody's guess: the answer still comes.
                while not _answers(said := await loop.sock_recv(sock, 65535), asked):
                    pass
        return query[:2] + said[2:]


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise asyncio.IncompleteReadError(bytes(data), size)
        data += piece
    return bytes(data)


def _answers(said: bytes, asked: bytes) -> bool:
    """Same number, an answer, and the same question, which some leave out when they fail."""
    if len(said) < 12 or said[:2] != asked[:2] or not said[2] & 0x80:
        return False
    if said[4:6] == b"\0\0":
        return bool(said[3] & 0xF)
    end = _end_of_question(asked)
    return said[12:end].lower() == asked[12:end].lower()


def _end_of_question(message: bytes) -> int:
    """Where the name, type and class of the first question end. Names in questions are plain."""
    at = 12
    while at < len(message) and message[at]:
        at += message[at] + 1
    return at + 5


def _failed(question: DNSRecord, code: int) -> bytes:
    reply = question.reply(ra=1, aa=0)
    reply.header.rcode = code
    packed: bytes = reply.pack()
    return packed


def _packed(reply: DNSRecord, question: DNSRecord, kind: socket.SocketKind) -> bytes:
    """Cut to what the client takes by UDP: it asks again by TCP then."""
    packed: bytes = reply.pack()
    if kind is socket.SOCK_STREAM:
        return packed
    room = max((min(rr.rclass, LARGE) for rr in question.ar if rr.rtype == QTYPE.OPT), default=0)
    if len(packed) > max(room, SMALL):
        packed = reply.truncate().pack()
    return packed
