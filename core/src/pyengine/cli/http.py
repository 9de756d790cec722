"""HTTP/1.1 to an engine: as much as Docker's API needs, over unix sockets, TCP, TLS and ssh.

The standard library's client takes longer to import than most commands take altogether, cannot
hand over the socket of an upgraded connection together with what was read ahead, and reads
endless bodies badly. RFC 9112 is the source for framing.
"""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    from pyengine.cli.tls import TlsStream

_READ = 65536


class ConnectError(OSError):
    """No engine answers there."""


class Endpoint:
    """Where the engine listens: ``scheme`` is unix, tcp or ssh.

    ``tls`` holds the paths (ca, cert, key) and whether the server's name is verified.
    """

    def __init__(
        self, scheme: str, address: str, port: int = 0, tls: Tls | None = None, url: str = ""
    ) -> None:
        self.scheme = scheme
        self.address = address
        self.port = port
        self.tls = tls
        self.url = url

    @classmethod
    def parse(cls, url: str, tls: Tls | None = None) -> Endpoint:
        """``unix:///run/pyengine.sock``, ``tcp://host:2376``, ``ssh://user@host``; ValueError."""
        scheme, separator, rest = url.partition("://")
        if not separator:
            raise ValueError(f"unable to parse docker host `{url}`")
        if scheme == "unix":
            return cls(scheme, rest, url=url)
        if scheme == "ssh":
            from pyengine.cli import ssh

            ssh.arguments(url)
            return cls(scheme, rest, url=url)
        if scheme not in ("tcp", "http", "https"):
            raise ValueError(f"unsupported protocol scheme in host `{url}`: {scheme}")
        host, _, port = rest.rstrip("/").rpartition(":")
        if not port.isdecimal():
            host, port = rest.rstrip("/"), "2376" if tls else "2375"
        return cls("tcp", host.strip("[]") or "127.0.0.1", int(port), tls, url)

    def connect(self, timeout: float | None = None) -> socket.socket | TlsStream:
        """A connected stream; ConnectError if nothing listens or the hand-shake fails."""
        try:
            if self.scheme == "unix":
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                stream.settimeout(timeout)
                try:
                    stream.connect(self.address)
                except BaseException:
                    stream.close()
                    raise
            elif self.scheme == "ssh":
                from pyengine.cli import ssh

                return ssh.SshStream(ssh.arguments(self.url))
            else:
                stream = socket.create_connection((self.address, self.port), timeout)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.tls is not None:
                    return self._secure(stream, self.tls)
            stream.settimeout(None)
        except OSError as error:
            raise ConnectError(error.errno or 0, str(error)) from error
        return stream

    def _secure(self, stream: socket.socket, tls: Tls) -> TlsStream:
        from pyengine.cli.tls import TlsStream

        try:
            secure = TlsStream(stream, tls.context(), self.address)
        except BaseException:
            stream.close()
            raise
        secure.settimeout(None)
        return secure


class Tls:
    """Paths of certificates: of who is believed (empty: whom the system believes) and our own."""

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca, self.cert, self.key, self.verify = ca, cert, key, verify

    def context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.verify and not self.ca:
            context.load_default_certs()
        elif self.verify:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                # Not the system's authorities in its place: any of them could then be the engine.
                error.filename = self.ca
                raise
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert and os.path.exists(self.cert):
            context.load_cert_chain(self.cert, self.key)
        return context


class Connection:
    """One connection, one request at a time."""

    def __init__(self, stream: socket.socket | TlsStream, host: str = "localhost") -> None:
        self.stream = stream
        self._host = host
        self._buffer = b""
        self._position = 0

    def request(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send, and read the answer's head. A body that is no bytes goes out in chunks.

        ConnectError if the peer closes before it answers.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", "User-Agent: pyengine"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method == "POST":
            lines.append("Content-Length: 0")
        head = "\r\n".join([*lines, "", ""]).encode()
        try:
            if isinstance(body, bytes):
                self.stream.sendall(head + body)
            else:
                self.stream.sendall(head)
                if body is not None:
                    self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have refused early; its answer explains more than our broken pipe.
            pass
        return self._read_head(method)

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        for chunk in body:
            if chunk:
                self.stream.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.stream.sendall(b"0\r\n\r\n")

    def _read_head(self, method: str) -> Response:
        while True:
            status_line = self.read_line()
            if not status_line:
                raise ConnectError(0, "the engine closed the connection")
            status = int(status_line.split(b" ", 2)[1])
            headers: dict[str, str] = {}
            while line := self.read_line():
                name, _, value = line.partition(b":")
                headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
            if status >= 200 or status == 101:
                return Response(self, status, headers, method == "HEAD")

    def fill(self) -> bool:
        """Read once more from the socket; False at its end. ConnectError if it fails, as when the
        engine does not like our certificate."""
        try:
            data = self.stream.recv(_READ)
        except ConnectionResetError:
            return False
        except ConnectError:
            raise
        except OSError as error:
            raise ConnectError(error.errno or 0, str(error)) from error
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
        return bool(data)

    def buffered(self) -> bool:
        """Whether something can be taken without waiting."""
        return self._position < len(self._buffer)

    def read_line(self) -> bytes:
        """One line without its end; empty at the end of a head or of the stream."""
        while (end := self._buffer.find(b"\n", self._position)) < 0:
            if not self.fill():
                return b""
        line = self._buffer[self._position : end]
        self._position = end + 1
        return line.rstrip(b"\r")

    def take(self, limit: int) -> bytes:
        """At most ``limit`` bytes as soon as there are some; empty at the end."""
        if self._position == len(self._buffer) and not self.fill():
            return b""
        data = self._buffer[self._position : self._position + limit]
        self._position += len(data)
        return data

    def read_ahead(self) -> bytes:
        """What was read beyond the head; the caller takes the stream over."""
        data = self._buffer[self._position :]
        self._buffer, self._position = b"", 0
        return data

    def close(self) -> None:
        self.stream.close()


class Response:
    """An answer whose body is read as it comes."""

    def __init__(
        self, connection: Connection, status: int, headers: dict[str, str], bodiless: bool
    ) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.finished = bodiless or status in (101, 204, 304)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._left = int(length) if length is not None and not self._chunked else None
        if self._left == 0:
            self.finished = True

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        closes = self.headers.get("connection", "").lower() == "close"
        return self.finished and not closes and self.status != 101

    def __iter__(self) -> Iterator[bytes]:
        """The body in pieces, each as soon as it is there."""
        if self.finished:
            return
        if self._chunked:
            yield from self._chunks()
        elif self._left is not None:
            while self._left and (data := self.connection.take(self._left)):
                self._left -= len(data)
                yield data
        else:
            while data := self.connection.take(_READ):
                yield data
        self.finished = True

    def _chunks(self) -> Iterator[bytes]:
        """Chunks that arrived together come out as one piece: logs send a chunk per line."""
        connection, pieces = self.connection, list[bytes]()
        while size := int(connection.read_line().partition(b";")[0] or b"0", 16):
            while size and (data := connection.take(size)):
                size -= len(data)
                pieces.append(data)
                if not connection.buffered():
                    yield b"".join(pieces)
                    pieces.clear()
            if size:
                return
            connection.read_line()
            if pieces and not connection.buffered():
                yield b"".join(pieces)
                pieces.clear()
        if pieces:
            yield b"".join(pieces)
        connection.read_line()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self)

    def lines(self) -> Iterator[bytes]:
        """The body by line, each as soon as it is complete."""
        pending = b""
        for piece in self:
            *complete, pending = (pending + piece).split(b"\n")
            yield from (line for line in complete if line.strip())
        if pending.strip():
            yield pending
