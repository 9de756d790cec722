"""A client of D-Bus, as small as what is asked of it: calls, and signals that are waited for.

It speaks to a bus (``bus=True``: it says Hello there) or to a server itself, over a socket in the
file system, with the credentials that the kernel vouches for. Values are Python's by signature:
``u t i s o b`` and arrays, structs (tuples) and variants (``(signature, value)``; an array of bytes
is ``bytes``). It imports little, so that a process of which there is one per container may have it.
Source: D-Bus specification, "Type system", "Message protocol" and "Authentication protocol".
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pyengine.errors import EngineError

_CALL, _REPLY, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = (
    1, 2, 3, 4, 5, 6, 8,
)  # fmt: skip
#: Format of struct by type; each is aligned to its size.
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
#: The specification's limit of a message.
_LONGEST = 128 << 20
BUS = "org.freedesktop.DBus"


class CallFailed(EngineError):
    """The other side answered with an error; ``name`` is its (``org.freedesktop.DBus.Error.X``)."""

    def __init__(self, name: str, text: str, member: str) -> None:
        super().__init__(f"{member} failed", f"{name}: {text}")
        self.name = name
        self.text = text


class Message(NamedTuple):
    kind: int
    headers: dict[int, Any]
    body: tuple[Any, ...]

    @property
    def member(self) -> str:
        return str(self.headers.get(_MEMBER, ""))


class Connection:
    """Raises ``OSError`` where nobody listens, ``EngineError`` where the talk goes wrong.

    ``timeout``: seconds for any answer.
    """

    def __init__(self, path: str, *, bus: bool, timeout: float = 30.0) -> None:
        self._bus = bus
        self._timeout = timeout
        self._serial = 0
        self._signals: list[Message] = []
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._authenticate()
            if bus:
                self.call(BUS, "/org/freedesktop/DBus", BUS, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
    ) -> tuple[Any, ...]:
        """The answer's values. Raises :class:`CallFailed` when it is an error."""
        self._serial += 1
        serial = self._serial
        headers = {
            _PATH: ("o", path), _INTERFACE: ("s", interface), _MEMBER: ("s", member),
        }  # fmt: skip
        if self._bus:
            headers[_DESTINATION] = ("s", destination)
        self._socket.sendall(encode(_CALL, serial, headers, signature, arguments))
        deadline = time.monotonic() + self._timeout
        while True:
            message = self._receive(deadline)
            if message.kind == _SIGNAL:
                self._signals.append(message)
            elif message.headers.get(_REPLY_SERIAL) == serial:
                if message.kind == _ERROR:
                    text = str(message.body[0]) if message.body else ""
                    raise CallFailed(message.headers.get(_ERROR_NAME, ""), text, member)
                return message.body

    def listen(self, interface: str, member: str) -> None:
        """Have a bus pass on that signal; a server itself sends all that it has."""
        if self._bus:
            rule = f"type='signal',interface='{interface}',member='{member}'"
            self.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", rule)

    def signal(self) -> Message:
        """The oldest signal that was not asked for yet; waits for one."""
        deadline = time.monotonic() + self._timeout
        while not self._signals:
            message = self._receive(deadline)
            if message.kind == _SIGNAL:
                self._signals.append(message)
        return self._signals.pop(0)

    # -- the socket --------------------------------------------------------------------------------

    def _authenticate(self) -> None:
        """SASL EXTERNAL: the user's number, which the other side has from the kernel.

        BEGIN goes with it: systemd lets a message lie that it reads together with BEGIN, until
        there is another.
        """
        user = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n")
        deadline = time.monotonic() + self._timeout
        while b"\r\n" not in self._received:
            self._more(deadline)
        answer, _, self._received = self._received.partition(b"\r\n")
        if not answer.startswith(b"OK "):
            raise EngineError("D-Bus does not let us in", answer.decode(errors="replace"))

    def _receive(self, deadline: float) -> Message:
        while (size := length(self._received)) == 0 or len(self._received) < size:
            self._more(deadline)
        data, self._received = self._received[:size], self._received[size:]
        return decode(data)

    def _more(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        self._socket.settimeout(max(left, 0.001))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise EngineError(f"no answer over D-Bus in {self._timeout:g} seconds") from None
        if not data:
            raise EngineError("D-Bus ended the connection")
        self._received += data


# -- messages --------------------------------------------------------------------------------------


def encode(
    kind: int,
    serial: int,
    headers: dict[int, tuple[str, Any]],
    signature: str = "",
    values: Sequence[Any] = (),
) -> bytes:
    """A message, little-endian. ``headers``: variants by their code."""
    body = bytearray()
    for one, value in zip(split(signature), values, strict=True):
        _put(body, one, value)
    if signature:
        headers = {**headers, _SIGNATURE: ("g", signature)}
    data = bytearray(struct.pack("<cBBBII", b"l", kind, 0, 1, len(body), serial))
    _put(data, "a(yv)", list(headers.items()))
    _pad(data, 8)
    return bytes(data + body)


def length(data: bytes) -> int:
    """Of the message that begins with ``data``; 0 while too little of it is there."""
    if len(data) < 16:
        return 0
    order = _order(data)
    body, _, headers = struct.unpack_from(order + "III", data, 4)
    size: int = 16 + headers + -headers % 8 + body
    if size > _LONGEST:
        raise EngineError("no D-Bus message", f"{size} bytes")
    return size


def decode(data: bytes) -> Message:
    reader = _Reader(data, _order(data), 12)
    headers = {code: value for code, (_, value) in reader.value("a(yv)")}
    reader.align(8)
    body = tuple(reader.value(one) for one in split(headers.get(_SIGNATURE, "")))
    return Message(data[1], headers, body)


def split(signature: str) -> list[str]:
    """The complete types of a signature: ``sa(sv)u`` is ``s``, ``a(sv)`` and ``u``."""
    found = []
    while signature:
        end = _complete(signature)
        found.append(signature[:end])
        signature = signature[end:]
    return found


def _complete(signature: str) -> int:
    """Length of the first complete type."""
    if signature[0] == "a":
        return 1 + _complete(signature[1:])
    if signature[0] not in "({":
        return 1
    depth = 0
    for index, letter in enumerate(signature):
        depth += (letter in "({") - (letter in ")}")
        if not depth:
            return index + 1
    raise EngineError("no D-Bus signature", repr(signature))


def _order(data: bytes) -> str:
    return "<" if data[:1] == b"l" else ">"


def _alignment(kind: str) -> int:
    if kind[0] in _FIXED:
        return struct.calcsize(_FIXED[kind[0]])
    return {"(": 8, "{": 8, "g": 1, "v": 1}.get(kind[0], 4)


def _pad(data: bytearray, alignment: int) -> None:
    data += bytes(-len(data) % alignment)


def _put(data: bytearray, kind: str, value: Any) -> None:
    _pad(data, _alignment(kind))
    if kind in _FIXED:
        data += struct.pack("<" + _FIXED[kind], value)
    elif kind in ("s", "o"):
        text = value.encode()
        data += struct.pack("<I", len(text)) + text + b"\0"
    elif kind == "g":
        data += bytes([len(value)]) + value.encode() + b"\0"
    elif kind == "v":
        inner, content = value
        _put(data, "g", inner)
        _put(data, inner, content)
    elif kind[0] == "a":
        at = len(data)
        data += bytes(4)
        _pad(data, _alignment(kind[1:]))
        begin = len(data)  # the padding before the first item does not count
        for item in value:
            _put(data, kind[1:], item)
        struct.pack_into("<I", data, at, len(data) - begin)
    else:
        for one, item in zip(split(kind[1:-1]), value, strict=True):
            _put(data, one, item)


class _Reader:
    def __init__(self, data: bytes, order: str, at: int) -> None:
        self._data = data
        self._order = order
        self._at = at

    def align(self, size: int) -> None:
        self._at += -self._at % size

    def value(self, kind: str) -> Any:
        self.align(_alignment(kind))
        if kind in _FIXED:
            number = self._number(_FIXED[kind])
            return bool(number) if kind == "b" else number
        if kind in ("s", "o", "g"):
            size = self._number("B" if kind == "g" else "I")
            begin, self._at = self._at, self._at + size + 1
            return self._data[begin : begin + size].decode()
        if kind == "v":
            inner = self.value("g")
            return inner, self.value(inner)
        if kind[0] == "a":
            size = self._number("I")
            self.align(_alignment(kind[1:]))
            end = self._at + size
            items = []
            while self._at < end:
                items.append(self.value(kind[1:]))
            return bytes(items) if kind == "ay" else items
        return tuple(self.value(one) for one in split(kind[1:-1]))

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += struct.calcsize(form)
        return number
