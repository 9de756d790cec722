"""A small engine for the command line's tests: it answers what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyengine.cli.root import run

Answer = Callable[["Request"], None]


class Request:
    """One request, and the means to answer it."""

    def __init__(self, stream: socket.socket, method: str, target: str, body: bytes) -> None:
        self.stream, self.method, self.target, self.body = stream, method, target, body
        self.path, _, self.query = target.partition("?")
        self.headers: dict[str, str] = {}
        self.keep = True

    def json(self) -> Any:
        return json.loads(self.body)

    def send(self, value: Any = None, status: int = 200) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        self.stream.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def fail(self, status: int, message: str) -> None:
        self.send({"message": message}, status)

    def chunks(self, *pieces: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.stream.sendall(head.encode())
        for piece in pieces:
            self.stream.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.stream.sendall(b"0\r\n\r\n")

    def upgrade(self, kind: str = "application/vnd.docker.raw-stream") -> socket.socket:
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\n"
        self.stream.sendall(f"{head}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        self.keep = False
        return self.stream


class FakeEngine:
    """Listens on a unix socket; ``routes`` maps ``METHOD /path`` (no version) to answers."""

    def __init__(self, path: str) -> None:
        self.url = f"unix://{path}"
        self.version = "1.45"
        self.routes: dict[str, Answer] = {}
        self.seen: list[Request] = []
        self.wrap: Callable[[socket.socket], socket.socket] = lambda stream: stream
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(20)
        self._accepting = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._accepting.start()

    def listen_tcp(self) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    def on(self, route: str, value: Any = None, status: int = 200) -> None:
        """Answer a route with JSON."""
        self.routes[route] = lambda request: request.send(value, status)

    def requests(self, route: str) -> list[Request]:
        return [request for request in self.seen if _route(request) == route]

    def close(self) -> None:
        # A thread that is about to accept would do it on whoever has the descriptor by then.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        # A client may leave in the middle of anything.
        with contextlib.suppress(OSError):
            self._talk(stream)

    def _talk(self, stream: socket.socket) -> None:
        with stream, self.wrap(stream) as wrapped:
            reader = wrapped.makefile("rb")
            while line := reader.readline().decode().strip():
                method, target, _ = line.split(" ")
                headers = {}
                while header := reader.readline().decode().strip():
                    name, _, value = header.partition(": ")
                    headers[name.lower()] = value
                request = Request(wrapped, method, target, self._body(reader, headers))
                request.headers = headers
                self.seen.append(request)
                self._answer(request)
                if not request.keep:
                    return

    def _body(self, reader: Any, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            data: bytes = reader.read(int(headers.get("content-length", 0)))
            return data
        out = b""
        while size := int(reader.readline(), 16):
            out += reader.read(size)
            reader.readline()
        reader.readline()
        return out

    def _answer(self, request: Request) -> None:
        if request.target == "/_ping":
            head = f"HTTP/1.1 200 OK\r\nApi-Version: {self.version}\r\nOstype: linux\r\n"
            request.stream.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            return
        answer = self.routes.get(_route(request))
        if answer is None:
            request.fail(404, f"page not found: {_route(request)}")
        else:
            answer(request)


def _route(request: Request) -> str:
    version, _, path = request.path.removeprefix("/").partition("/")
    return f"{request.method} /{path}" if version.startswith("v1.") else request.target


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """A fake engine that DOCKER_HOST points to."""
    fake = FakeEngine(str(tmp_path / "engine.sock"))
    monkeypatch.setenv("DOCKER_HOST", fake.url)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("DOCKER_API_VERSION", raising=False)
    monkeypatch.delenv("PYENGINE_HOST", raising=False)
    yield fake
    fake.close()


class Outcome:
    """What one command line printed, and its exit status."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def pyengine(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process."""

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = run(list(words))
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def certificates() -> Callable[[Path], ssl.SSLContext]:
    """Makes certificates in a folder, and the context of a server that has them."""
    return _certificates


@pytest.fixture
def use_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEngine], None]:
    """Makes the engine speak TLS, and clients too."""

    def use(engine: FakeEngine) -> None:
        folder = tmp_path / "certs"
        folder.mkdir()
        context = _certificates(folder)

        def wrap(stream: socket.socket) -> socket.socket:
            return context.wrap_socket(stream, server_side=True, suppress_ragged_eofs=True)

        engine.wrap = wrap
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))

    return use


def _certificates(folder: Path) -> ssl.SSLContext:
    """Of a server that wants its own certificate of its clients; the files are in ``folder``."""
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = "-keyout key.pem -out cert.pem"
    subprocess.run(
        ["openssl", *request.split(), *names.split(), *files.split()],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    return context
