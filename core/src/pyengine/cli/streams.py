"""The terminal on one side, a container's stream on the other.

One thread and one poll loop: input and output move at their own pace, so a container that
writes without reading (or the other way round) blocks nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios

from pyengine.cli.client import Client, CommandError, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyengine.cli.http import Response

_CHUNK = 65536
DEFAULT_DETACH = b"\x10\x11"  # ctrl-p, ctrl-q


class Detached(CommandError):
    """The user typed the detach keys."""

    def __init__(self) -> None:
        super().__init__("read escape sequence")


def detach_sequence(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as bytes; CommandError for an unknown key."""
    if not text:
        return DEFAULT_DETACH
    out = bytearray()
    for key in text.split(","):
        name = key.lower()
        if len(key) == 1:
            out += key.encode()
        elif name.startswith("ctrl-") and len(name) == 6 and name[5] in _CONTROLS:
            out.append(_CONTROLS[name[5]])
        else:
            raise CommandError(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(out)


_CONTROLS = {chr(96 + code): code for code in range(1, 27)} | {
    "@": 0,
    "[": 27,
    "\\": 28,
    "]": 29,
    "^": 30,
    "_": 31,
}


def check_terminal(stdin: bool, tty: bool) -> None:
    """Docker's refusal of ``-it`` with an input that is no terminal."""
    if stdin and tty and not sys.stdin.isatty():
        raise CommandError("the input device is not a TTY")


def terminal_size(fd: int = 1) -> tuple[int, int]:
    """Rows and columns; zeros where there is no terminal."""
    try:
        packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return 0, 0
    rows, columns, _, _ = struct.unpack("HHHH", packed)
    return rows, columns


@contextlib.contextmanager
def raw_terminal(active: bool) -> Iterator[None]:
    """Keys as they are typed, without echo or signals, for the time of the block."""
    if not active or not os.isatty(0):
        yield
        return
    import tty

    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def follow_size(client: Client, path: str) -> None:
    """Tell the engine the terminal's size now and whenever it changes."""
    other = client.separate()

    def tell(*_: object) -> None:
        rows, columns = terminal_size()
        if rows and columns:
            with contextlib.suppress(CommandError):
                other.post(path, {"h": rows, "w": columns})

    tell()
    signal.signal(signal.SIGWINCH, tell)


_NOT_PROXIED = {"SIGCHLD", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGKILL", "SIGSTOP", "SIGTTIN"}
_NOT_PROXIED |= {"SIGTTOU", "SIGTSTP", "SIGCONT"}


def proxy_signals(client: Client, container: str) -> None:
    """Pass every signal that reaches us on to the container."""
    other = client.separate()

    def send(number: int, _: object) -> None:
        with contextlib.suppress(CommandError):
            name = signal.Signals(number).name.removeprefix("SIG")
            other.post(f"/containers/{quote(container)}/kill", {"signal": name})

    for member in signal.Signals:
        if member.name not in _NOT_PROXIED and not member.name.startswith("SIGRT"):
            signal.signal(member, send)


class _Keys:
    """Finds the detach sequence in typed input; holds back what may be its beginning."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def pass_on(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    raise Detached()
                continue
            out += self._sequence[: self._matched]
            self._matched = 0
            if byte == self._sequence[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out)


class Demultiplexer:
    """Docker's frames (stream, 3 zero bytes, big-endian length) to stdout and stderr."""

    def __init__(self, stdout: int | None = 1, stderr: int | None = 2) -> None:
        self._targets = {0: stdout, 1: stdout, 2: stderr}
        self._rest = b""
        self._left = 0
        self._target: int | None = None

    def feed(self, data: bytes) -> None:
        """Write out everything that came; CommandError for what is no frame."""
        data, position = self._rest + data, 0
        self._rest = b""
        pieces: list[bytes] = []
        while position < len(data):
            if not self._left:
                if len(data) - position < 8:
                    self._rest = data[position:]
                    break
                stream = data[position]
                target = self._targets.get(stream, -1)
                if target == -1:
                    self._write(pieces)
                    self._refuse(stream, data[position + 8 :])
                if target != self._target:
                    self._write(pieces)
                    self._target = target
                self._left = int.from_bytes(data[position + 4 : position + 8], "big")
                position += 8
                continue
            piece = data[position : position + self._left]
            pieces.append(piece)
            position += len(piece)
            self._left -= len(piece)
        self._write(pieces)

    def _write(self, pieces: list[bytes]) -> None:
        if pieces and self._target is not None:
            write_all(self._target, b"".join(pieces))
        pieces.clear()

    @staticmethod
    def _refuse(stream: int, text: bytes) -> None:
        if stream == 3:
            raise CommandError(f"error from daemon in stream: {text.decode('utf-8', 'replace')}")
        raise CommandError(f"Unrecognized input header: {stream}")


def write_all(fd: int, data: bytes) -> None:
    """Write to a descriptor until everything is out."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Attachment:
    """An upgraded connection, and what of it goes where."""

    def __init__(
        self,
        response: Response,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        detach: bytes = DEFAULT_DETACH,
    ) -> None:
        self._stream = response.connection.stream
        self._ahead = response.connection.read_ahead()
        self._tty = tty
        self._stdin = stdin
        self._wants_output = stdout or stderr
        frames = Demultiplexer(1 if stdout else None, 2 if stderr else None)
        multiplexed = response.headers.get("content-type", "").endswith("multiplexed-stream")
        plain = tty and not multiplexed
        self._emit = (lambda data: write_all(1, data)) if plain else frames.feed
        self._keys = _Keys(detach) if tty else None

    def close(self) -> None:
        self._stream.close()

    def copy(self) -> None:
        """Move data until the output ends; Detached if the user leaves first."""
        sys.stdout.flush()
        self._stream.setblocking(False)
        with raw_terminal(self._tty and self._stdin):
            self._loop()

    def _loop(self) -> None:
        if self._ahead:
            self._emit(self._ahead)
        poll = select.poll()
        pending, reading, half_closed = b"", self._stdin, False
        if not self._stdin and self._wants_output:
            half_closed = self._close_write()
        while True:
            waiting = pending or self._unsent()
            interest = select.POLLIN | (select.POLLOUT if waiting else 0)
            poll.register(self._stream, interest)
            if reading and len(pending) < _CHUNK:
                poll.register(0, select.POLLIN)
            elif self._stdin:
                with contextlib.suppress(KeyError):
                    poll.unregister(0)
            for fd, _ in poll.poll(0 if self._buffered() else None):
                if fd == 0 and reading:
                    data = self._read_input()
                    reading = data is not None
                    pending += data or b""
            if not self._drain():
                return
            pending = self._push(pending)
            if not reading and not pending and not half_closed:
                half_closed = self._close_write()
            if half_closed and not self._wants_output and not self._unsent():
                return

    def _read_input(self) -> bytes | None:
        """What was typed; None at its end."""
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            return None
        if not data:
            return None
        return self._keys.pass_on(data) if self._keys else data

    def _buffered(self) -> bool:
        """Whether TLS holds data that poll cannot see."""
        return not isinstance(self._stream, socket.socket) and self._stream.pending() > 0

    def _unsent(self) -> bool:
        """Whether TLS holds data that the socket has not taken yet."""
        return not isinstance(self._stream, socket.socket) and self._stream.unsent

    def _drain(self) -> bool:
        """Take everything that is there; False at the end of the output."""
        while True:
            try:
                data = self._stream.recv(_CHUNK)
            except OSError as error:
                return would_block(error)
            if not data:
                return False
            self._emit(data)
            if len(data) < _CHUNK and not self._buffered():
                return True

    def _push(self, pending: bytes) -> bytes:
        try:
            if not isinstance(self._stream, socket.socket) and not self._stream.flush():
                return pending
            return pending[self._stream.send(pending) :] if pending else b""
        except (BrokenPipeError, ConnectionResetError):
            return b""
        except OSError as error:
            if would_block(error):
                return pending
            raise

    def _close_write(self) -> bool:
        """End our direction only: the container reads end of file, its output still comes."""
        # A peer that is gone already shows as the end of the output.
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)
        return True


def would_block(error: OSError) -> bool:
    """Whether a non-blocking stream only asks to try again, TLS streams included."""
    names = ("BlockingIOError", "SSLWantReadError", "SSLWantWriteError")
    return type(error).__name__ in names
