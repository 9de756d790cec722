"""Bytes on the wire: HTTP framing, Docker's multiplexed frames, half-close, detach keys, ttys."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.cli import streams
from pyengine.cli.client import CommandError, encode, quote
from pyengine.cli.http import ConnectError, Connection, Endpoint
from pyengine.cli.tls import TlsStream


def respond(*pieces: bytes) -> Connection:
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for piece in pieces:
                theirs.sendall(piece)
                time.sleep(0.005)

    threading.Thread(target=send).start()
    return Connection(ours)


def test_length_body_in_pieces() -> None:
    connection = respond(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 10\r\n\r\n01234", b"56789")
    response = connection.request("GET", "/")
    assert response.read() == b"0123456789"
    assert response.reusable


def test_chunks_and_lines() -> None:
    connection = respond(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\n[1\r\n",
        b"4;x=y\r\n]\n42\r\n0\r\n\r\n",
    )
    response = connection.request("GET", "/")
    assert list(response.lines()) == [b"{}", b"[1]", b"42"]
    assert response.reusable


def test_body_to_the_end_of_the_stream() -> None:
    response = respond(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def").request("GET", "/")
    assert response.read() == b"abcdef"


def test_answer_cut_short_ends_the_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = respond(head + b"9\r\nabc").request("GET", "/")
    assert response.read() == b"abc"


def test_interim_answers_are_skipped() -> None:
    response = respond(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").request(
        "GET", "/"
    )
    assert response.status == 204
    assert response.read() == b""


def test_bytes_behind_an_upgrade_are_not_lost() -> None:
    connection = respond(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nearly")
    response = connection.request("POST", "/")
    assert response.status == 101
    assert connection.read_ahead() == b"early"


def test_peer_that_hangs_up() -> None:
    with pytest.raises(ConnectError):
        respond().request("GET", "/")


def test_query_encoding() -> None:
    query = {
        "a": True,
        "b": False,
        "c": None,
        "d": "x y/ü",
        "e": ["1", "2"],
        "f": {"k": {"v": True}},
    }
    assert encode(query) == "?a=1&d=x%20y%2F%C3%BC&e=1&e=2&f=%7B%22k%22%3A%7B%22v%22%3Atrue%7D%7D"
    assert encode({}) == ""
    assert quote("a/b:c") == "a%2Fb%3Ac"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("unix:///run/x.sock", ("unix", "/run/x.sock", 0)),
        ("tcp://host:2375", ("tcp", "host", 2375)),
        ("tcp://host", ("tcp", "host", 2375)),
        ("tcp://[::1]:99", ("tcp", "::1", 99)),
        ("ssh://me@host", ("ssh", "me@host", 0)),
    ],
)
def test_endpoints(url: str, parts: tuple[str, str, int]) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.address, endpoint.port) == parts


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="unsupported protocol scheme"):
        Endpoint.parse("npipe://x")


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def test_frames_cut_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    wire = frame(1, b"out-1 ") + frame(2, b"err ") + frame(1, b"") + frame(1, b"out-2")
    for size in range(1, len(wire) + 1):
        frames = streams.Demultiplexer()
        for start in range(0, len(wire), size):
            frames.feed(wire[start : start + size])
        assert capfd.readouterr() == ("out-1 out-2", "err ")


def test_frames_that_are_none() -> None:
    with pytest.raises(CommandError, match="Unrecognized input header: 104"):
        streams.Demultiplexer().feed(b"hello, world")
    with pytest.raises(CommandError, match="error from daemon in stream: broken"):
        streams.Demultiplexer().feed(frame(3, b"broken"))


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-a,b", b"\x01b"), ("ctrl-[,ctrl-@", b"\x1b\x00"), ("x", b"x")],
)
def test_detach_sequences(text: str, keys: bytes) -> None:
    assert streams.detach_sequence(text) == keys


def test_unknown_detach_key() -> None:
    with pytest.raises(CommandError, match="invalid detach keys \\(foo\\)"):
        streams.detach_sequence("foo")


def test_half_a_detach_sequence_is_passed_on() -> None:
    keys = streams._Keys(b"\x10\x11")
    assert keys.pass_on(b"a\x10") == b"a"
    assert keys.pass_on(b"b\x10\x10") == b"\x10b\x10"
    with pytest.raises(streams.Detached):
        keys.pass_on(b"\x11")


def _container_with_late_output(request: Any) -> None:
    """An attach like `sh -c 'cat; sleep; echo late'`: it answers after the end of the input."""
    stream = request.upgrade()
    received = b""
    while data := stream.recv(65536):
        received += data
    stream.sendall(frame(1, received) + frame(2, b"e"))
    time.sleep(0.05)
    stream.sendall(frame(1, b" late"))


def _attachable(engine: Any) -> None:
    engine.on("POST /containers/create", {"Id": "c1", "Warnings": ["careful"]}, 201)
    engine.routes["POST /containers/c1/attach"] = _container_with_late_output
    engine.on("POST /containers/c1/wait", {"StatusCode": 9})
    engine.on("POST /containers/c1/start", None, 204)


def _pyengine(*words: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-c", "import sys; from pyengine.cli import main; sys.exit(main())"]
    return subprocess.run([*argv, *words], capture_output=True, timeout=20, check=False, **settings)


def _by_ssh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """``ssh`` becomes a script that connects to the engine of now, whatever the host."""
    script = folder / "ssh"
    script.write_text(
        f"#!/bin/sh\nDOCKER_HOST={os.environ['DOCKER_HOST']} "
        f"exec {sys.executable} -m pyengine system dial-stdio\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")


@pytest.mark.parametrize("transport", ["unix", "tcp", "tls", "ssh", "ssh, then tls"])
def test_input_ends_and_output_still_comes(
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    transport: str,
    use_tls: Callable[[Any], None],
) -> None:
    _attachable(engine)
    if transport not in ("unix", "ssh"):
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{engine.listen_tcp()}")
    if "tls" in transport:
        use_tls(engine)
    if "ssh" in transport:
        _by_ssh(monkeypatch, tmp_path)
    big = os.urandom(300_000)
    done = _pyengine("run", "-i", "img", "cat", input=big)
    assert done.stdout == big + b" late", done.stderr
    assert done.stderr == b"WARNING: careful\ne"
    assert done.returncode == 9
    order = [request.path.rpartition("/")[2] for request in engine.seen if "c1" in request.path]
    assert order == ["attach", "wait", "start"]


def test_tls_ends_in_one_direction(
    tmp_path: Path, certificates: Callable[[Path], ssl.SSLContext]
) -> None:
    """What has arrived when our direction ends is read all the same, and so is what comes later."""
    context = certificates(tmp_path)
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []

    def serve() -> None:
        server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(server_in, server_out, server_side=True)

        def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    theirs.sendall(server_out.read())
                    server_in.write(theirs.recv(65536))

        until_done(tls.do_handshake)
        heard.append(until_done(lambda: tls.read(100)))
        for record in (b"one ", b"two ", b"three "):
            tls.write(record)
        theirs.sendall(server_out.read())
        heard.append(until_done(lambda: tls.read(100)))
        tls.write(b"late")
        theirs.sendall(server_out.read())
        theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(tmp_path / "cert.pem")
    trusting.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    stream = TlsStream(ours, trusting, "127.0.0.1")
    stream.sendall(b"hello")
    assert stream.recv(4) == b"one "
    stream.shutdown(socket.SHUT_WR)
    rest = b""
    while piece := stream.recv(3):
        rest += piece
    server.join()
    assert rest == b"two three late"
    assert heard == [b"hello", b""]


def test_an_answer_that_breaks_off_in_the_middle(
    engine: Any, monkeypatch: pytest.MonkeyPatch, use_tls: Callable[[Any], None]
) -> None:
    def break_off(request: Any) -> None:
        request.stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        request.stream.sendall(b'e\r\n{"Type": "x"}\n\r\n')
        os.write(request.stream.fileno(), b"this is no TLS")
        time.sleep(1)

    use_tls(engine)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{engine.listen_tcp()}")
    engine.routes["GET /events"] = break_off
    done = _pyengine("events", "--format", "{{.Type}}")
    assert (done.returncode, done.stdout) == (1, b"x\n")
    assert done.stderr.startswith(b"error during connect: ")
    assert b"Traceback" not in done.stderr


class Terminal:
    """``pyengine`` under a real pseudo-terminal."""

    def __init__(self, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            program = "import sys; from pyengine.cli import main; sys.exit(main())"
            os.execv(sys.executable, [sys.executable, "-c", program, *words])
        self.shown = b""

    def expect(self, pattern: bytes) -> None:
        until = time.monotonic() + 10
        while not re.search(pattern, self.shown):
            assert time.monotonic() < until, self.shown
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:
                    break
        assert re.search(pattern, self.shown), self.shown

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def end(self) -> int:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, 9)
        raise AssertionError(f"still running: {self.shown!r}")


@pytest.fixture
def terminal() -> Callable[..., Terminal]:
    return Terminal


def test_a_terminal_is_raw_sized_and_detachable(
    engine: Any, terminal: Callable[..., Terminal]
) -> None:
    import fcntl
    import termios

    _attachable(engine)
    typed: list[bytes] = []

    def echo(request: Any) -> None:
        stream = request.upgrade()
        stream.sendall(b"$ ")
        while data := stream.recv(100):
            typed.append(data)
            stream.sendall(b"<" + data + b">")

    engine.routes["POST /containers/c1/attach"] = echo
    engine.on("POST /containers/c1/resize")
    shell = terminal("run", "-it", "img")
    shell.expect(rb"\$ ")
    shell.type(b"\x03q")
    shell.expect(rb"<\x03.*q")
    fcntl.ioctl(shell.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    shell.type(b"\x10")
    time.sleep(0.3)
    shell.type(b"\x11")
    assert shell.end() == 0
    assert b"".join(typed) == b"\x03q"
    assert "h=33&w=77" in engine.requests("POST /containers/c1/resize")[-1].query


def test_exec_reports_the_commands_status(engine: Any, terminal: Callable[..., Terminal]) -> None:
    engine.on("POST /containers/c1/exec", {"Id": "e1"}, 201)
    engine.routes["POST /exec/e1/start"] = lambda request: request.upgrade().sendall(b"bye\r\n")
    engine.on("POST /exec/e1/resize")
    engine.on("GET /exec/e1/json", {"ExitCode": 6})
    shell = terminal("exec", "-it", "-e", "A=1", "c1", "sh", "-c", "exit 6")
    assert shell.end() == 6
    assert b"bye" in shell.shown
    made = engine.requests("POST /containers/c1/exec")[0].json()
    assert made["Cmd"] == ["sh", "-c", "exit 6"]
    assert made["Env"] == ["A=1"]
    assert made["Tty"]
    assert made["AttachStdin"]


def test_signals_reach_the_container(engine: Any) -> None:
    _attachable(engine)
    killed = threading.Event()

    def attach(request: Any) -> None:
        stream = request.upgrade()
        stream.sendall(frame(1, b"ready\n"))
        killed.wait(10)

    def kill(request: Any) -> None:
        request.send(None, 204)
        killed.set()

    engine.routes["POST /containers/c1/attach"] = attach
    engine.routes["POST /containers/c1/kill"] = kill
    program = "import sys; from pyengine.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", "img"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 9
    assert engine.requests("POST /containers/c1/kill")[0].query == "signal=TERM"
