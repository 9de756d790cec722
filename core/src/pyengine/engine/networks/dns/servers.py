"""The sockets of the embedded name server, one pair inside each container's network namespace.

It listens at 127.0.0.11 on a port that is free; what is sent to port 53 there arrives at it by a
rule of the firewall driver's in that namespace, so that the container may serve DNS itself at any
address. Where no firewall driver can do so, it listens at port 53.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

from pyengine.engine.containers.resolv import EMBEDDED, Upstream, upstreams
from pyengine.engine.model import Container
from pyengine.engine.networks.dns.answers import PORT, Answers
from pyengine.engine.networks.dns.names import Names
from pyengine.errors import EngineError
from pyengine.linux.netns import inside

log = logging.getLogger(__name__)

#: How long a client may be silent on a connection, in seconds, and how many it may have.
IDLE, MOST_CONNECTIONS = 10.0, 64
#: Questions by UDP that are worked on at a time; more are dropped, as a full socket would.
MOST_DATAGRAMS = 512
#: Questions by UDP that are taken at once, by all servers that have more waiting, and the seconds
#: until they take more: who floods its server leaves the daemon most of its time.
AT_ONCE, PAUSE = 16, 0.008
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

Redirect = Callable[[int, str, int, int], Awaitable[bool]]


class NameServers:
    """Starts and ends the name servers of containers."""

    def __init__(
        self,
        names: Names,
        redirect: Redirect,
        servers: Sequence[str],
        internal: Callable[[Container], bool],
    ) -> None:
        """``redirect``: (namespace, address, port, to) -> whether it could be done. ``servers``:
        the daemon's own ``dns``. ``internal``: the container reaches nobody outside."""
        self._names = names
        self._redirect = redirect
        self._configured = servers
        self._internal = internal
        self._serving: dict[str, _NameServer] = {}
        self._pausing: set[_NameServer] = set()

    async def open(self, container: Container, netns: int) -> None:
        """Serve in the namespace behind ``netns``, which stays the caller's. An engine that cannot
        is no reason not to run a container: it is logged."""
        if container.id in self._serving:
            return
        own = _Namespace(netns)
        try:
            udp, tcp = await asyncio.to_thread(_listen, own, 0)
            try:
                port = udp.getsockname()[1]
                if not await self._redirect(netns, EMBEDDED, PORT, port):
                    udp.close()
                    tcp.close()
                    udp, tcp = await asyncio.to_thread(_listen, own, PORT)
                server = _NameServer(own, udp, tcp, self._pausing)
                await server.start(self._answers(container, own))
            except BaseException:
                udp.close()
                tcp.close()
                raise
        except (OSError, EngineError) as error:
            own.close()
            log.error("container %s has no name server: %s", container.id[:12], error)
        except BaseException:
            own.close()
            raise
        else:
            self._serving[container.id] = server

    def close(self, container_id: str) -> None:
        server = self._serving.pop(container_id, None)
        if server is not None:
            server.close()

    def close_all(self) -> None:
        for id in list(self._serving):
            self.close(id)

    def _answers(self, container: Container, netns: _Namespace) -> Answers:
        def servers() -> Sequence[Upstream]:
            found = upstreams(container.host_config.dns or self._configured)
            # Asked for by --dns: a question would go round until too many are under way.
            found = [server for server in found if server != Upstream(EMBEDDED)]
            # Nothing of an internal network gets out, not through the host either.
            if self._internal(container):
                return [server for server in found if not server.from_host]
            return found

        def connect(server: Upstream, kind: socket.SocketKind) -> socket.socket:
            with contextlib.nullcontext() if server.from_host else netns.entered():
                family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
                sock = socket.socket(family, kind)
            sock.setblocking(False)
            if kind is socket.SOCK_DGRAM:
                try:
                    sock.connect((server.address, PORT))
                except OSError:
                    sock.close()
                    raise
            return sock

        return Answers(container, self._names, servers, connect)


class _Namespace:
    """A container's network namespace, for threads that make sockets in it. After ``close`` none
    enters: the number of the descriptor may be that of another container's by then."""

    def __init__(self, netns: int) -> None:
        self._fd = os.dup(netns)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the container has ended")
            with inside(self._fd):
                yield

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class _NameServer:
    def __init__(
        self,
        netns: _Namespace,
        udp: socket.socket,
        tcp: socket.socket,
        pausing: set[_NameServer],
    ) -> None:
        """``pausing``: all servers that have more waiting than they may take."""
        self._netns = netns
        self._udp, self._tcp = udp, tcp
        self._pausing = pausing
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._closed = False

    async def start(self, answers: Answers) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._udp, self._receive)
        self._server = await asyncio.start_server(self._converse, sock=self._tcp, limit=65536)

    def close(self) -> None:
        self._closed = True
        self._pausing.discard(self)
        self._loop.remove_reader(self._udp)
        self._udp.close()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        self._netns.close()

    def _receive(self) -> None:
        self._pausing.discard(self)
        for _ in range(max(AT_ONCE // (len(self._pausing) + 1), 1)):
            try:
                query, client = self._udp.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # a client did not wait for its answer
            if len(self._tasks) < MOST_DATAGRAMS:
                self._run(self._reply(query, client))
        self._pausing.add(self)
        self._loop.remove_reader(self._udp)
        self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._udp, self._receive)
            self._receive()

    async def _reply(self, query: bytes, client: tuple[str, int]) -> None:
        said = await self._answers.answer(query, socket.SOCK_DGRAM)
        if said is not None and not self._closed:
            # A client that does not take its answers goes without, as by any datagram.
            with contextlib.suppress(OSError):
                self._udp.sendto(said, client)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        try:
            while self._connections <= MOST_CONNECTIONS:
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), IDLE), "big")
                query = await asyncio.wait_for(reader.readexactly(size), IDLE)
                said = await self._answers.answer(query, socket.SOCK_STREAM)
                if said is None:
                    return
                writer.write(len(said).to_bytes(2, "big") + said)
                await asyncio.wait_for(writer.drain(), IDLE)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.close()

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listen(netns: _Namespace, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP on one port of 127.0.0.11 in the namespace; 0: any."""
    with netns.entered():
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            _loopback_up(udp)
            udp.bind((EMBEDDED, port))
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            udp.close()
            raise
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(udp.getsockname())
            tcp.listen(MOST_CONNECTIONS)
        except OSError:
            udp.close()
            tcp.close()
            raise
    udp.setblocking(False)
    tcp.setblocking(False)
    return udp, tcp


def _loopback_up(sock: socket.socket) -> None:
    """The container's init does it too, perhaps a moment later (netdevice(7))."""
    request = struct.pack("16sH14x", b"lo", 0)
    flags = struct.unpack("16xH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
