"""The embedded name server against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from dnslib import EDNS0, RCODE, RR, DNSRecord

from pyengine.engine.containers.resolv import Upstream
from pyengine.engine.model import Container, ContainerConfig, EndpointSettings, HostConfig
from pyengine.engine.networks.dns import answers as module
from pyengine.engine.networks.dns.answers import Answers
from pyengine.engine.networks.dns.names import Names

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
Behave = Callable[[bytes], list[bytes]]


def container(name: str, address: str) -> Container:
    settings = EndpointSettings(ip_address=address, dns_names=[name], aliases=["all"])
    return Container(
        id=name * 8, name=name, created="", path="", args=[], config=ContainerConfig(),
        host_config=HostConfig(), networks={"n": settings},
    )  # fmt: skip


RECORDS = [container(f"c{i}", f"10.0.0.{i}") for i in range(2, 60)]


class Server(asyncio.DatagramProtocol):
    """A name server on loopback; ``behave`` says what it sends for a question."""

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.asked: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.append(data)
        for said in self.behave(data):
            self.transport.sendto(said, addr)  # type: ignore[attr-defined]

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        for said in self.behave(await reader.readexactly(size)):
            writer.write(len(said).to_bytes(2, "big") + said)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(*behave: Behave) -> AsyncIterator[tuple[Answers, list[Server]]]:
    """Answers whose servers are at 127.0.0.1, 127.0.0.2 and so on, at one port."""
    loop = asyncio.get_running_loop()
    servers, closing, port = [], [], 0
    for number, how in enumerate(behave, 1):
        address = f"127.0.0.{number}"
        server = Server(how)
        transport, _ = await loop.create_datagram_endpoint(
            lambda server=server: server, local_addr=(address, port)
        )
        port = transport.get_extra_info("sockname")[1]
        tcp = await asyncio.start_server(server.converse, address, port)
        servers.append(server)
        closing += [transport, tcp]

    def open_(upstream: Upstream, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        if kind is UDP:
            sock.connect((upstream.address, port))
        return sock

    before, module.PORT = module.PORT, port
    try:
        yield (
            Answers(RECORDS[0], Names(lambda: RECORDS), lambda: _listed(len(servers)), open_),
            servers,
        )
    finally:
        module.PORT = before
        for each in closing:
            each.close()


def _listed(count: int) -> Sequence[Upstream]:
    return [Upstream(f"127.0.0.{number}") for number in range(1, count + 1)]


def ask(name: str, kind: str = "A") -> bytes:
    packed: bytes = DNSRecord.question(name, kind).pack()
    return packed


def says(address: str, code: int = RCODE.NOERROR) -> Behave:
    def behave(query: bytes) -> list[bytes]:
        reply = DNSRecord.parse(query).reply()
        reply.header.rcode = code
        if code == RCODE.NOERROR:
            reply.add_answer(*RR.fromZone(f"{reply.q.qname} 60 A {address}"))
        return [reply.pack()]

    return behave


def silent(query: bytes) -> list[bytes]:
    return []


async def answered(answers: Answers, query: bytes, kind: socket.SocketKind = UDP) -> DNSRecord:
    said = await answers.answer(query, kind)
    assert said is not None
    assert said[:2] == query[:2], "under the client's number"
    return DNSRecord.parse(said)


async def test_names_of_the_engine() -> None:
    async with serving() as (answers, _):
        reply = await answered(answers, ask("c3"))
        assert [str(rr.rdata) for rr in reply.rr] == ["10.0.0.3"]
        assert reply.header.ra == 1
        empty = await answered(answers, ask("C3.n", "AAAA"))
        assert (empty.header.rcode, empty.rr) == (RCODE.NOERROR, [])
        assert (await answered(answers, ask("c3", "MX"))).header.rcode == RCODE.NOERROR
        pointer = await answered(answers, ask("3.0.0.10.in-addr.arpa", "PTR"))
        assert [str(rr.rdata) for rr in pointer.rr] == ["c3.n."]


async def test_others_are_asked_for_what_is_not_ours() -> None:
    async with serving(says("192.0.2.7")) as (answers, [server]):
        for kind in (UDP, TCP):
            reply = await answered(answers, ask("example.org"), kind)
            assert [str(rr.rdata) for rr in reply.rr] == ["192.0.2.7"]
        query = ask("example.org")
        await answers.answer(query, UDP)
        assert server.asked[-1][2:] == query[2:]
        assert len({data[:2] for data in server.asked}) == len(server.asked), "numbers of our own"


async def test_many_answers_come_by_tcp() -> None:
    async with serving() as (answers, _):
        short = await answered(answers, ask("all"))
        assert short.header.tc == 1
        whole = await answered(answers, ask("all"), TCP)
        assert len(whole.rr) == len(RECORDS)
        large = DNSRecord.question("all")
        large.add_ar(EDNS0(udp_len=4096))
        assert len((await answered(answers, large.pack())).rr) == len(RECORDS)


async def test_the_next_server_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    bad = (silent, says("", RCODE.SERVFAIL), says("", RCODE.REFUSED))
    for behave in bad:
        async with serving(behave, says("192.0.2.7")) as (answers, _):
            reply = await answered(answers, ask("example.org"))
            assert [str(rr.rdata) for rr in reply.rr] == ["192.0.2.7"]
    async with serving(says("", RCODE.NXDOMAIN), says("192.0.2.7")) as (answers, _):
        assert (await answered(answers, ask("no.example"))).header.rcode == RCODE.NXDOMAIN
    async with serving(silent) as (answers, _):
        assert (await answered(answers, ask("no.example"))).header.rcode == RCODE.SERVFAIL
    async with serving() as (answers, _):
        assert (await answered(answers, ask("no.example"))).header.rcode == RCODE.SERVFAIL


async def test_answers_to_other_questions_are_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1.0)

    def guesses(query: bytes) -> list[bytes]:
        right = says("192.0.2.7")(query)[0]
        other_number = bytes((query[0] ^ 1, query[1])) + says("192.0.2.66")(query)[0][2:]
        other_name = query[:2] + says("192.0.2.66")(ask("evil.example"))[0][2:]
        return [b"", b"x" * 11, other_number, query, other_name, right]

    async with serving(guesses) as (answers, _):
        reply = await answered(answers, ask("example.org"))
        assert [str(rr.rdata) for rr in reply.rr] == ["192.0.2.7"]


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"\0" * 11,
        b"\xff" * 512,
        ask("a")[:-3],
        # a name that points at itself
        ask("a")[:12] + b"\xc0\x0c\0\1\0\1",
        # an answer, and a question of two
        bytes((0, 1, 0x80, 0)) + ask("a")[4:],
        ask("a")[:4] + b"\0\2" + ask("a")[6:] + ask("b")[12:],
    ],
)
async def test_what_is_no_question_gets_no_answer(query: bytes) -> None:
    async with serving(says("192.0.2.7")) as (answers, [server]):
        assert await asyncio.wait_for(answers.answer(query, UDP), 5) is None
        assert server.asked == []


async def test_too_many_questions_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    monkeypatch.setattr(module, "MOST_UNDER_WAY", 3)
    async with serving(silent) as (answers, _):
        said = await asyncio.gather(*(answered(answers, ask(f"x{i}.org")) for i in range(5)))
    codes = sorted(reply.header.rcode for reply in said)
    assert codes == [RCODE.SERVFAIL] * 3 + [RCODE.REFUSED] * 2


async def test_only_questions_of_the_internet_class_are_ours() -> None:
    async with serving(says("192.0.2.1")) as (answers, servers):
        chaos = bytearray(ask("c3"))
        chaos[-1] = 3
        await answered(answers, bytes(chaos))
        assert len(servers[0].asked) == 1, "not answered from the records"
        update = bytearray(ask("c3"))
        update[2] |= 5 << 3
        assert (await answered(answers, bytes(update))).header.rcode == RCODE.NOTIMP
        assert len(servers[0].asked) == 1
