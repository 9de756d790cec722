"""The port proxy: streams with half-close, datagrams, restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.firewall import PublishedPort
from pyengine.supervisor.proxy import Forward, PortProxy, forwards


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pxy") as directory:
        yield Path(directory) / "proxy"


@pytest.fixture
def proxy(path: Path) -> Iterator[PortProxy]:
    made = PortProxy(path)
    yield made
    made.apply_now([])


def _echo_after_end() -> tuple[socket.socket, int]:
    """A server that answers only when it has read everything: needs half-close."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(caller,), daemon=True).start()

    def answer(caller: socket.socket) -> None:
        with caller:
            total = 0
            while chunk := caller.recv(65536):
                total += len(chunk)
            caller.sendall(f"{total}:".encode() + b"x" * total)

    threading.Thread(target=serve, daemon=True).start()
    return server, server.getsockname()[1]


def _free(address: str = "::1", kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _talk(port: int, data: bytes) -> bytes:
    with socket.create_connection(("::1", port), timeout=10) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        sender.join()
    return answer


def _pid(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(os.fspath(path))
        return int.from_bytes(
            control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little"
        )


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_stream_with_half_close(proxy: PortProxy, size: int) -> None:
    server, target = _echo_after_end()
    with server:
        port = _free()
        assert proxy.apply_now([Forward("tcp", "::1", port, "127.0.0.1", target)]) == []
        assert _talk(port, b"x" * size) == f"{size}:".encode() + b"x" * size


def test_an_end_does_not_overtake_what_a_slow_reader_has_not_read(proxy: PortProxy) -> None:
    """The server says goodbye at once; what was sent to it still arrives, whole."""
    size = 8_000_000
    got: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                caller.shutdown(socket.SHUT_WR)
                time.sleep(0.2)
                total = 0
                while chunk := caller.recv(65536):
                    total += len(chunk)
                got.append(total)

        thread = threading.Thread(target=serve)
        thread.start()
        port = _free()
        proxy.apply_now([Forward("tcp", "::1", port, "127.0.0.1", server.getsockname()[1])])
        assert _talk(port, b"x" * size) == b""
        thread.join(10)
    assert got == [size]


def test_many_at_once(proxy: PortProxy) -> None:
    server, target = _echo_after_end()
    with server:
        port = _free()
        proxy.apply_now([Forward("tcp", "::1", port, "127.0.0.1", target)])
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(len(_talk(port, b"y" * n))))
            for n in range(1000, 1030)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [n + 5 for n in range(1000, 1030)]


def test_nobody_at_the_target_is_an_error_for_the_caller(proxy: PortProxy) -> None:
    port, dead = _free(), _free()
    proxy.apply_now([Forward("tcp", "::1", port, "127.0.0.1", dead)])
    # A reset, perhaps while we are still connecting; not an orderly end that looks like an empty
    # answer.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("::1", port), timeout=5) as client,
    ):
        client.recv(1)


def test_datagrams_go_there_and_back(proxy: PortProxy) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        port = _free(kind=socket.SOCK_DGRAM)
        proxy.apply_now([Forward("udp", "::", port, "127.0.0.1", server.getsockname()[1])])
        callers = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
        for number, caller in enumerate(callers):
            caller.settimeout(5)
            caller.connect(("::1", port))
            caller.send(b"%d" % number)
        for _ in callers:
            data, peer = server.recvfrom(100)
            server.sendto(b"answer " + data, peer)
        for number, caller in enumerate(callers):
            assert caller.recv(100) == b"answer %d" % number
            caller.close()


def test_desired_state_replaces_what_was(proxy: PortProxy, path: Path) -> None:
    server, target = _echo_after_end()
    other, elsewhere = _echo_after_end()
    with server, other:
        first, second = _free(), _free()
        proxy.apply_now([Forward("tcp", "::1", first, "127.0.0.1", target)])
        pid = _pid(path)
        wanted = [Forward("tcp", "::1", second, "127.0.0.1", elsewhere)]
        assert proxy.apply_now(wanted) == []
        assert _talk(second, b"1") == b"1:x"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", first), timeout=5)
        assert _pid(path) == pid


def test_a_span_is_as_many_ports(proxy: PortProxy) -> None:
    server, target = _echo_after_end()
    with server:
        port = 41000 + os.getpid() % 1000
        proxy.apply_now([Forward("tcp", "::1", port, "127.0.0.1", target - 2, 3)])
        assert _talk(port + 2, b"z") == b"1:x"


def test_a_port_in_use_is_told_and_the_rest_works(proxy: PortProxy) -> None:
    server, target = _echo_after_end()
    with server, socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        busy, port = taken.getsockname()[1], _free()
        failed = proxy.apply_now(
            [Forward("tcp", "::1", each, "127.0.0.1", target) for each in (busy, port)]
        )
        assert failed == [f"[::1]:{busy}/tcp: Address already in use"]
        assert _talk(port, b"1") == b"1:x"


def test_it_outlives_its_daemon_and_the_next_one_finds_it(proxy: PortProxy, path: Path) -> None:
    server, target = _echo_after_end()
    with server:
        port = _free()
        wanted = [Forward("tcp", "::1", port, "127.0.0.1", target)]
        child = os.fork()
        if child == 0:
            PortProxy(path).apply_now(wanted)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        pid = _pid(path)
        assert _talk(port, b"1") == b"1:x"
        assert proxy.apply_now(wanted) == []
        assert _pid(path) == pid


def test_killed_it_is_made_again(proxy: PortProxy, path: Path) -> None:
    server, target = _echo_after_end()
    with server:
        port = _free()
        wanted = [Forward("tcp", "::1", port, "127.0.0.1", target)]
        proxy.apply_now(wanted)
        pid = _pid(path)
        os.kill(pid, signal.SIGKILL)
        assert proxy.apply_now(wanted) == []
        assert _pid(path) != pid
        assert _talk(port, b"1") == b"1:x"


def test_it_ends_when_nothing_is_left_and_starts_for_something_only(path: Path) -> None:
    proxy = PortProxy(path)
    assert asyncio.run(proxy.apply([])) == []
    assert not path.exists()
    assert asyncio.run(proxy.apply([Forward("tcp", "::1", _free(), "127.0.0.1", 1)])) == []
    pid = _pid(path)
    assert proxy.inodes()
    assert asyncio.run(proxy.apply([])) == []
    assert not Path(f"/proc/{pid}").exists(), "not ended, or not reaped"
    assert not path.exists()


def test_what_is_the_proxys() -> None:
    any6, loop6 = PublishedPort("tcp", 80, 8080, "::", 2), PublishedPort("udp", 53, 53, "::1")
    one6, any4 = PublishedPort("tcp", 81, 81, "fd00::9"), PublishedPort("tcp", 80, 8080)
    ports = [any4, any6, loop6, one6]
    assert forwards(ports, "10.0.0.2") == [
        Forward("tcp", "::", 80, "10.0.0.2", 8080, 2),
        Forward("udp", "::1", 53, "10.0.0.2", 53),
        Forward("tcp", "fd00::9", 81, "10.0.0.2", 81),
    ]
    assert forwards(ports, "10.0.0.2", "fd88::2") == [
        Forward("tcp", "::1", 80, "10.0.0.2", 8080, 2),
        Forward("udp", "::1", 53, "10.0.0.2", 53),
    ]
