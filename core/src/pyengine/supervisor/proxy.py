"""The small proxy: published ports where packets cannot be translated.

The kernel does not translate what is sent to ``[::1]``, nor from IPv6 to IPv4, so for these one
process per engine listens and forwards: single-threaded, epoll, tcp with half-close, and udp. It is
started when the first such port is published, is told the whole desired state by each request,
survives the daemon, is found again by the next one through its socket, and ends when nothing is
left to listen on.

``python -m pyengine.supervisor.proxy SOCKET`` is the process; :class:`PortProxy` is the daemon's
side. A request is one line of JSON on a unix stream socket::

    {"version": 1, "listen": [["tcp", "::1", 8080, "172.17.0.2", 80, 1], ...]}
    {"version": 1, "failed": ["[::1]:8080/tcp: Address already in use"]}

A request without ``listen`` asks for the version alone. The process imports little: it is there as
long as a port is published.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pyengine.contracts.firewall import PublishedPort

VERSION = 1
#: Seconds until an answer to a datagram is no longer waited for; the same as Docker's proxy.
UDP_IDLE = 90.0
_CHUNK = 65536
_UDP_CLIENTS = 4096
_STARTUP = 10.0
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50


class Forward(NamedTuple):
    """``span`` consecutive ports from ``port`` at ``address`` go to as many at ``target``."""

    protocol: str
    address: str
    port: int
    target: str
    target_port: int
    span: int = 1


def forwards(published: Iterable[PublishedPort], ipv4: str = "", ipv6: str = "") -> list[Forward]:
    """What of a container's published ports is the proxy's: IPv6 loopback, and every IPv6 address
    if the container (``ipv4``, ``ipv6``: its addresses, empty if none) has none itself."""
    found = []
    for port in published:
        if ":" not in port.host_ip or port.protocol == "sctp":
            continue
        loopback = port.host_ip == "::1"
        if ipv6 and not loopback and port.host_ip != "::":
            continue
        address = "::1" if ipv6 else port.host_ip
        target = ipv4 or ipv6
        if target:
            found.append(
                Forward(
                    port.protocol, address, port.host_port, target, port.container_port, port.count
                )
            )
    return found


class PortProxy:
    """The daemon's side. ``path``: of the socket, under the exec-root, at most 107 bytes."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._process: Any = None

    async def apply(self, wanted: Sequence[Forward]) -> list[str]:
        """Listen on exactly ``wanted``; returns a sentence for each that cannot be had.

        Starts the process if it is needed and not there. ``OSError`` if it does not answer."""
        import asyncio

        return await asyncio.to_thread(self.apply_now, wanted)

    def apply_now(self, wanted: Sequence[Forward]) -> list[str]:
        """:meth:`apply`, blocking."""
        with self._lock:
            for _ in range(3):
                try:
                    with self._connect(start=bool(wanted)) as server:
                        failed = self._talk(server, wanted) if server.fileno() >= 0 else []
                    if not wanted:
                        self._reap()
                    return failed
                except (ConnectionResetError, BrokenPipeError, EOFError):
                    continue  # it was just ending; the next one is fresh
            raise OSError(errno.EPIPE, "the port proxy does not answer", self._path)

    def inodes(self) -> set[int]:
        """Inodes of the sockets that the process holds, empty if there is none."""
        found: set[int] = set()
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(self._path)
                pid = _peer(server)
            for name in os.listdir(f"/proc/{pid}/fd"):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
        except OSError:
            pass
        return found

    def _reap(self) -> None:
        """With nothing to listen on the process ends; if we started it, it is ours to reap."""
        if self._process is not None:
            try:
                self._process.wait(_STARTUP)
            except Exception:  # TimeoutExpired: it has been told to listen again, or hangs
                return
            self._process = None

    def _talk(self, server: socket.socket, wanted: Sequence[Forward]) -> list[str]:
        if _request(server, {"version": VERSION}).get("version") != VERSION:
            # Another version of this package made it: its successor takes over.
            os.kill(_peer(server), 15)
            server.recv(1)
            raise ConnectionResetError
        answer = _request(server, {"version": VERSION, "listen": list(wanted)})
        return [str(each) for each in answer.get("failed", [])]

    def _connect(self, start: bool) -> socket.socket:
        """A connection; a closed socket if nothing runs and nothing shall be started."""
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(_STARTUP)
        deadline = time.monotonic() + _STARTUP
        while True:
            try:
                server.connect(self._path)
                return server
            except (FileNotFoundError, ConnectionRefusedError):
                if not start:
                    server.close()
                    return server
                if self._process is None or self._process.poll() is not None:
                    self._start()
                if time.monotonic() > deadline:
                    server.close()
                    raise
                time.sleep(0.005)

    def _start(self) -> None:
        import subprocess

        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyengine.supervisor.proxy", self._path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def _request(server: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    server.sendall(json.dumps(message).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        chunk = server.recv(_CHUNK)
        if not chunk:
            raise EOFError
        data += chunk
    answer: dict[str, Any] = json.loads(data)
    return answer


def _peer(server: socket.socket) -> int:
    credentials = server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


class Loop:
    """epoll, and who is to be called for which descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._called: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}

    def watch(self, fd: int, mask: int, call: Callable[[int], None]) -> None:
        """Call ``call`` with what happened; ``mask`` 0 means errors and hang-ups only."""
        self._called[fd] = call
        if fd not in self._masks:
            self._epoll.register(fd, mask)
        elif self._masks[fd] != mask:
            self._epoll.modify(fd, mask)
        self._masks[fd] = mask

    def forget(self, fd: int) -> None:
        if self._masks.pop(fd, None) is not None:
            self._called.pop(fd)
            self._epoll.unregister(fd)

    def turn(self, timeout: float) -> None:
        for fd, events in self._epoll.poll(timeout):
            call = self._called.get(fd)
            if call is not None:
                call(events)


class Listener:
    """One port. ``target`` may change under existing connections, which keep theirs."""

    def __init__(self, loop: Loop, protocol: str, address: str, port: int) -> None:
        self.target = ("", 0)
        self._loop = loop
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream = protocol == "tcp"
        self._socket = socket.socket(
            family, (socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK
        )
        try:
            if stream:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if not stream:
                    self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            self._socket.bind((address, port))
            if stream:
                self._socket.listen(1024)
        except OSError:
            self._socket.close()
            raise
        self._clients: dict[tuple[Any, ...], Datagrams] = {}
        loop.watch(self._socket.fileno(), select.EPOLLIN, self._accept if stream else self._receive)

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        for client in self._clients.values():
            client.close()
        self._socket.close()

    def expire(self, now: float) -> None:
        """Forget who has sent and got no datagram for a while."""
        for key, client in list(self._clients.items()):
            if now - client.used > UDP_IDLE:
                client.close()
                del self._clients[key]

    def _accept(self, events: int) -> None:
        for _ in range(64):
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            try:
                Connection(self._loop, caller, self.target)
            except OSError:
                caller.close()

    def _receive(self, events: int) -> None:
        for _ in range(64):
            try:
                data, control, _, caller = self._socket.recvmsg(_CHUNK, 64)
            except OSError:
                return
            # The address the caller wrote to must be the one that answers.
            local = [
                (level, kind, value)
                for level, kind, value in control
                if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO)
            ]
            key = (caller, *(value for _, _, value in local))
            client = self._clients.get(key)
            if client is None or client.target != self.target:
                if client is not None:
                    client.close()
                if len(self._clients) >= _UDP_CLIENTS:
                    self._drop_oldest()
                try:
                    client = Datagrams(self._loop, self._socket, caller, local, self.target)
                except OSError:
                    continue
                self._clients[key] = client
            client.send(data)

    def _drop_oldest(self) -> None:
        key = min(self._clients, key=lambda each: self._clients[each].used)
        self._clients.pop(key).close()


class Datagrams:
    """One caller of a udp port: a socket of its own towards the container."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        caller: Any,
        local: list[tuple[int, int, bytes]],
        target: tuple[str, int],
    ) -> None:
        self.target = target
        self.used = time.monotonic()
        self._loop, self._listener, self._caller, self._local = loop, listener, caller, local
        self._socket = _towards(target, socket.SOCK_DGRAM)
        self._socket.connect(target)
        loop.watch(self._socket.fileno(), select.EPOLLIN, self._answer)

    def send(self, data: bytes) -> None:
        self.used = time.monotonic()
        try:
            self._socket.send(data)
        except OSError:
            pass  # datagrams get lost; nobody listening there is no reason to stop

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()

    def _answer(self, events: int) -> None:
        self.used = time.monotonic()
        try:
            while True:
                data = self._socket.recv(_CHUNK)
                self._listener.sendmsg([data], self._local, 0, self._caller)
        except OSError:
            return


class Connection:
    """Two stream sockets; bytes and ends of stream go through in both directions."""

    def __init__(self, loop: Loop, caller: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        caller.setblocking(False)
        callee = _towards(target, socket.SOCK_STREAM)
        self._sockets = (caller, callee)
        self._pending = [b"", b""]  # read from a side, not yet written to the other
        self._ended = [False, False]  # a side sends no more
        self._passed = [False, False]  # and the other side knows
        self._connecting = True
        try:
            for each in self._sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = callee.connect_ex(target)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "cannot connect")
        except OSError:
            callee.close()
            raise
        loop.watch(callee.fileno(), select.EPOLLOUT, self._connected)

    def _connected(self, events: int) -> None:
        if self._sockets[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._close(reset=True)
            return
        self._connecting = False
        self._update()

    def _event(self, side: int, events: int) -> None:
        try:
            if events & select.EPOLLIN and not self._pending[side] and not self._ended[side]:
                self._read(side)
            if events & select.EPOLLOUT:
                self._write(1 - side)
            if events & select.EPOLLERR:
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            self._close(reset=True)
            return
        self._update()

    def _read(self, side: int) -> None:
        data = self._sockets[side].recv(_CHUNK)
        if data:
            self._pending[side] = data
        else:
            self._ended[side] = True
        self._write(side)

    def _write(self, side: int) -> None:
        """What ``side`` sent goes to the other, then the end of its stream."""
        other = self._sockets[1 - side]
        if self._pending[side]:
            try:
                sent = other.send(self._pending[side])
            except BlockingIOError:
                return
            self._pending[side] = self._pending[side][sent:]
        if self._ended[side] and not self._pending[side] and not self._passed[side]:
            self._passed[side] = True
            other.shutdown(socket.SHUT_WR)

    def _update(self) -> None:
        if all(self._passed):
            self._close()
            return
        for side in (0, 1):
            if self._ended[side] and self._passed[1 - side]:
                # Done both ways: the kernel would report a hang-up again and again.
                self._loop.forget(self._sockets[side].fileno())
                continue
            mask = 0
            if not self._ended[side] and not self._pending[side]:
                mask |= select.EPOLLIN
            if self._pending[1 - side]:
                mask |= select.EPOLLOUT
            call = self._from_caller if side == 0 else self._from_callee
            self._loop.watch(self._sockets[side].fileno(), mask, call)

    def _from_caller(self, events: int) -> None:
        self._event(0, events)

    def _from_callee(self, events: int) -> None:
        self._event(1, events)

    def _close(self, reset: bool = False) -> None:
        for each in self._sockets:
            self._loop.forget(each.fileno())
            if reset:
                # So that the peer sees an error and not an orderly end of half the data.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.close()


class Server:
    """The process: control connections in, listeners made to agree."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = Loop()
        self._listeners: dict[tuple[str, str, int], Listener] = {}
        self._done = False
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._bind()
        self._control.listen(8)
        self._loop.watch(self._control.fileno(), select.EPOLLIN, self._accept)

    def run(self) -> None:
        swept = time.monotonic()
        while not self._done:
            self._loop.turn(UDP_IDLE / 3)
            now = time.monotonic()
            if now - swept > UDP_IDLE / 3:
                swept = now
                for listener in self._listeners.values():
                    listener.expire(now)

    def _bind(self) -> None:
        """Take the path; ``FileExistsError`` if another process answers there."""
        os.umask(0o077)
        with socket.socket(socket.AF_UNIX) as other:
            if other.connect_ex(self._path) == 0:
                raise FileExistsError(errno.EEXIST, "a port proxy runs already", self._path)
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        self._control.bind(self._path)

    def _accept(self, events: int) -> None:
        try:
            caller, _ = self._control.accept()
        except OSError:
            return
        data = bytearray()

        def receive(events: int) -> None:
            try:
                chunk = caller.recv(_CHUNK)
            except OSError:
                chunk = b""
            data.extend(chunk)
            if chunk and not data.endswith(b"\n"):
                return
            try:
                if not chunk:
                    raise EOFError
                request = json.loads(data)
                data.clear()
                caller.setblocking(True)
                caller.sendall(json.dumps(self._answer(request)).encode() + b"\n")
                caller.setblocking(False)
            except (OSError, ValueError, EOFError):
                self._loop.forget(caller.fileno())
                caller.close()

        caller.setblocking(False)
        self._loop.watch(caller.fileno(), select.EPOLLIN, receive)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        failed: list[str] = []
        if "listen" in request:
            failed = self._apply([Forward(*each) for each in request["listen"]])
            if not self._listeners:
                # Nobody can find us any more before the answer says that we are gone.
                os.unlink(self._path)
                self._done = True
        return {"version": VERSION, "failed": failed}

    def _apply(self, wanted: list[Forward]) -> list[str]:
        targets = {
            (each.protocol, each.address, each.port + n): (each.target, each.target_port + n)
            for each in wanted
            for n in range(each.span)
        }
        for key in set(self._listeners) - set(targets):
            self._listeners.pop(key).close()
        failed = []
        for key, target in targets.items():
            listener = self._listeners.get(key)
            if listener is None:
                try:
                    listener = self._listeners[key] = Listener(self._loop, *key)
                except OSError as error:
                    protocol, address, port = key
                    failed.append(f"[{address}]:{port}/{protocol}: {error.strerror}")
                    continue
            listener.target = target
        return failed


def _towards(target: tuple[str, int], kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


def main(path: str) -> int:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        server = Server(path)
    except FileExistsError:
        return 3
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
