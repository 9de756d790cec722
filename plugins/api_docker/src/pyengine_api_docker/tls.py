"""TLS below the HTTP server, on which one direction can end while the other goes on.

asyncio's own TLS closes a connection when the client says close_notify. ``echo x | docker run -i``
says it long before it has read the output, so records are made and read here, by OpenSSL through
memory (SSL_read(3), SSL_shutdown(3)). To the protocol above, the end of a client's data is
``eof_received``, as it is on a plain socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

log = logging.getLogger(__name__)

#: How long a client may take to introduce itself, in seconds.
HANDSHAKE = 60.0
_READ = 65536
#: The most that a record holds (RFC 8446, section 5.1).
_RECORD = 16384


class TlsConnection(asyncio.Protocol):
    """The socket's side of one connection: bytes come in and records are read from them."""

    def __init__(self, context: ssl.SSLContext, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._upper: TlsTransport | None = None
        self._reading = True
        self._ended = False

    # -- what the transport above asks for ----------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_RECORD]) :]
            self._flush()

    def say_end(self) -> None:
        """close_notify. What the client has sent is read before: OpenSSL would miss it after."""
        self._read()
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        self._flush()

    def pause(self) -> None:
        self._reading = False
        self._plain.pause_reading()

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            self._plain.resume_reading()
            # Records that have come already make no socket readable.
            asyncio.get_running_loop().call_soon(self._read)

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._plain = cast(asyncio.Transport, transport)
        self._patience = asyncio.get_running_loop().call_later(HANDSHAKE, self._plain.abort)

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        if self._upper is not None or self._greet():
            self._read()

    def eof_received(self) -> bool:
        """The TCP stream has ended. Without a close_notify before it, that ended the client's
        data; with one, the client has gone."""
        if self._upper is None or self._ended:
            return False
        self._in.write_eof()
        self._read()
        return True

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._upper.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._upper.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._ended = True
        upper, self._upper = self._upper, None
        if upper is not None:
            upper.lost = True
            upper.protocol.connection_lost(exc)

    # -- inside ---------------------------------------------------------------------------------

    def _greet(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, OSError) as error:
            self._flush()  # the alert that says why
            log.info("TLS handshake failed: %s", error)
            self._plain.close()
            return False
        self._patience.cancel()
        self._flush()
        self._upper = TlsTransport(self, self._plain, self._tls, self._make())
        self._upper.protocol.connection_made(self._upper)
        return True

    def _read(self) -> None:
        upper = self._upper
        while upper is not None and not upper.lost and self._reading and not self._ended:
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except (ssl.SSLError, OSError) as error:
                # The end of the TCP stream where a record was due counts as the client's end.
                if not isinstance(error, ssl.SSLEOFError):
                    log.info("TLS: %s", error)
                    self._plain.abort()
                    return
                data = b""
            if data:
                cast(asyncio.Protocol, upper.protocol).data_received(data)
            else:
                self._ended = True
                if not cast(asyncio.Protocol, upper.protocol).eof_received():
                    upper.close()
        self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            self._plain.write(data)


class TlsTransport(asyncio.Transport):
    """What the protocol above sees: a transport like that of a plain socket."""

    def __init__(
        self,
        connection: TlsConnection,
        plain: asyncio.Transport,
        tls: ssl.SSLObject,
        protocol: asyncio.BaseProtocol,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._plain = plain
        self._tls = tls
        self._closing = False
        self._said_end = False
        self.protocol = protocol
        self.lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "ssl_object":
                return self._tls
            case "sslcontext":
                return self._tls.context
            case "peercert":
                return self._tls.getpeercert()
            case "cipher":
                return self._tls.cipher()
        return self._plain.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not (self.lost or self._said_end):
            self._connection.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self.lost or self._said_end):
            self._connection.say_end()
            self._said_end = True

    def close(self) -> None:
        """What was written still goes out."""
        if not self._closing:
            self._closing = True
            self.write_eof()
            self._plain.close()

    def abort(self) -> None:
        self._closing = True
        self._plain.abort()

    def is_closing(self) -> bool:
        return self._closing or self._plain.is_closing()

    def pause_reading(self) -> None:
        if not self.lost:
            self._connection.pause()

    def resume_reading(self) -> None:
        if not self.lost:
            self._connection.resume()

    def is_reading(self) -> bool:
        return self._plain.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._plain.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._plain.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._plain.set_write_buffer_limits(high, low)
