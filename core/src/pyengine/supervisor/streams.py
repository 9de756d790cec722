"""The standard streams of one process in a container: to the log, to clients, and from them.

Everything is done by chunk, nothing by line. A client that reads slowly has a buffer with a bound;
when it is full the container's output waits in its pipe, as the process would wait for a terminal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable

from pyengine.contracts.logging import STDERR, STDOUT, LogWriter
from pyengine.contracts.runtime import Stdio
from pyengine.supervisor.loop import READ, WRITE, Loop, Timer

#: Larger reads cost more than they save: they outgrow the cache, and the allocator maps each anew.
CHUNK = 64 * 1024
#: What one client may have outstanding before the container waits for it.
CLIENT_BOUND = 1024 * 1024
#: Pipes of this size let a busy container write on while the shim is at the log.
PIPE_SIZE = 1024 * 1024
F_SETPIPE_SZ = 1031
#: Chunks from this size on leave the allocator with memory that a quiet shim should give back.
BULK = 32 * 1024

_frame = struct.Struct(">BxxxI").pack


class Client:
    """One attached client: a stream socket whose other end the daemon holds.

    Out go Docker's frames (stream number, length, bytes), or plain bytes for a terminal; in come
    the plain bytes of its input. The daemon detaches by closing its end.
    """

    def __init__(
        self,
        streams: Streams,
        sock: socket.socket,
        number: int,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> None:
        sock.setblocking(False)
        self.streams = streams
        self.sock = sock
        self.number = number
        self.wants = {STDOUT: stdout, STDERR: stderr}
        self.gives = stdin
        self._received = 0
        self._announced = -1
        self._out: deque[memoryview] = deque()
        self._outstanding = 0
        self._closing = False
        self.watch()

    @property
    def full(self) -> bool:
        return self._outstanding >= CLIENT_BOUND

    def send(self, stream: int, chunk: bytes) -> None:
        """Pass on what the process wrote; what the socket does not take now is kept."""
        parts = [chunk] if self.streams.terminal else [_frame(stream, len(chunk)), chunk]
        sent = 0
        if not self._out:
            try:
                sent = self.sock.sendmsg(parts, [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass
            except OSError:
                self.drop()
                return
        for part in parts:
            rest = memoryview(part)[sent:]
            sent = max(0, sent - len(part))
            if rest:
                self._out.append(rest)
                self._outstanding += len(rest)
        if self._out:
            self.watch()

    def end_of_input(self, sent: int) -> None:
        """The client's input is complete once ``sent`` bytes have come."""
        self._announced = sent
        self._check_end()

    def finish(self) -> None:
        """Close as soon as everything is sent."""
        self._closing = True
        if not self._out:
            self.drop()

    def drop(self) -> None:
        """The client is gone, or done."""
        if self.sock.fileno() < 0:
            return
        self.streams.loop.forget(self.sock.fileno())
        self.sock.close()
        self._out.clear()
        self._outstanding = 0
        self.streams.dropped(self)

    def watch(self) -> None:
        """Tell the loop what to wait for; input stays in the socket while the process is behind."""
        events = 0 if self.gives and self.streams.input_full else READ
        if self._out:
            events |= WRITE
        self.streams.loop.watch(self.sock.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE and self.sock.fileno() >= 0:
            self._take()

    def _flush(self) -> None:
        try:
            while self._out:
                first = self._out[0]
                sent = self.sock.send(first, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._outstanding -= sent
                if sent < len(first):
                    self._out[0] = first[sent:]
                    break
                self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        if not self._out:
            if self._closing:
                self.drop()
                return
            self.watch()
        self.streams.relieved()

    def _take(self) -> None:
        try:
            data = self.sock.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self._received += len(data)
        if self.gives:
            self.streams.feed(data)
            self._check_end()

    def _check_end(self) -> None:
        if self.gives and 0 <= self._announced <= self._received:
            self.gives = False
            self.watch()
            self.streams.input_ended()


class Streams:
    """Opened before the process exists, so that who attaches early misses nothing.

    ``writer`` gets every chunk (None for an exec). ``close_stdin``: the process's input ends with
    the first client that gave some; otherwise only with the process.
    """

    def __init__(
        self, loop: Loop, writer: LogWriter | None, *, terminal: bool, close_stdin: bool
    ) -> None:
        self.loop = loop
        self.terminal = terminal
        self.console = -1
        self.lost = 0
        self.last_write = 0
        self.clients: dict[int, Client] = {}
        self._writer = writer
        self._close_stdin = close_stdin
        self._outputs: dict[int, int] = {}
        self._paused: set[int] = set()
        self._child: list[int] = []
        self._stdin = -1
        self._unwritten = b""
        self._stdin_ending = False
        self._wants_stdin = False
        self._done: Callable[[], None] | None = None
        self._done_first = False
        self._grace: Timer | None = None

    def open(self, stdin: bool, discard: bool = False) -> Stdio:
        """Make pipes and return the process's ends. ``stdin`` False: it reads /dev/null.

        ``discard``: nobody will ever look at the output, so it goes to /dev/null as well.
        """
        self._wants_stdin = stdin
        if self.terminal:
            return Stdio()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._child.append(null)
        child_in = null
        if stdin:
            child_in, self._stdin = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._stdin, False)
            self._child.append(child_in)
        if discard:
            return Stdio(child_in, null, null)
        return Stdio(child_in, self._output(STDOUT), self._output(STDERR))

    def _output(self, stream: int) -> int:
        ours, child = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        try:
            fcntl.fcntl(ours, F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # above this user's share (pipe-user-pages-soft): smaller works too
            pass
        self._child.append(child)
        self._listen(stream, ours)
        return child

    def _listen(self, stream: int, fd: int) -> None:
        def ready(_events: int) -> None:
            self._pump(stream)

        self._outputs[stream] = fd
        self.loop.watch(fd, READ, ready)

    def started(self, console: int = -1) -> None:
        """The process has its ends: close ours of them, take the pty's master if there is one."""
        self._close_child()
        if console >= 0:
            # One descriptor for each job, so that each is watched and closed like a pipe's end.
            os.set_blocking(console, False)
            self.console = console
            if self._wants_stdin:
                self._stdin = os.dup(console)
            self._listen(STDOUT, os.dup(console))

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size, in characters; the kernel tells the processes (SIGWINCH)."""
        if self.console >= 0:
            fcntl.ioctl(self.console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def attach(
        self, sock: socket.socket, number: int, *, stdin: bool, stdout: bool, stderr: bool
    ) -> None:
        self.clients[number] = Client(
            self,
            sock,
            number,
            stdin=stdin and self._wants_stdin,
            stdout=stdout,
            stderr=stderr,
        )

    # -- output

    def _pump(self, stream: int, bounded: bool = True) -> bool:
        """Pass on one chunk; True if there may be more."""
        fd = self._outputs.get(stream, -1)
        if fd < 0:
            return False
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: nobody has the pty's other side any more
                raise
            chunk = b""
        if not chunk:
            self._end_output(stream)
            return False
        if len(chunk) >= BULK:
            self.loop.tidy_later()
        if self._writer is not None:
            try:
                self._writer.write(stream, chunk, time.time_ns())
            except Exception:  # a log that fails must not stop the container
                self.lost += len(chunk)
        for client in list(self.clients.values()):
            if client.wants[stream]:
                client.send(stream, chunk)
                if bounded and client.full:
                    self._pause(stream)
        return True

    def _end_output(self, stream: int) -> None:
        fd = self._outputs.pop(stream)
        self.loop.forget(fd)
        self._paused.discard(stream)
        os.close(fd)
        if self._done is not None and not self._outputs:
            self._drained()

    def _pause(self, stream: int) -> None:
        if stream in self._outputs:
            self._paused.add(stream)
            self.loop.forget(self._outputs[stream])

    def relieved(self) -> None:
        """A client took something: go on reading what no other client holds up."""
        for stream in list(self._paused):
            if not any(c.full for c in self.clients.values() if c.wants[stream]):
                self._paused.discard(stream)
                self._listen(stream, self._outputs[stream])

    def finish(
        self, grace: float, done: Callable[[], None], *, before_clients: bool = False
    ) -> None:
        """The process has ended: read the rest, then call ``done``; with ``before_clients`` ahead
        of closing theirs, for a client that asks for the exit code as soon as its stream ends.

        Who inherited the output may hold it open; it has ``grace`` seconds. The clients' bound is
        off: what is left is at most two pipes.
        """
        self._done = done
        self._done_first = before_clients
        deadline = time.monotonic() + grace
        for stream in list(self._outputs):
            while self._pump(stream, bounded=False) and time.monotonic() < deadline:
                pass
        if self._done is None:
            return
        if not self._outputs:
            self._drained()
            return
        for stream in list(self._paused):
            self._paused.discard(stream)
            self._listen(stream, self._outputs[stream])
        self._grace = self.loop.later(grace, self._drained)

    def _drained(self) -> None:
        done, self._done = self._done, None
        if self._grace is not None:
            self._grace.cancel()
        for stream in list(self._outputs):
            self._end_output(stream)
        self._shut_stdin()
        if self.console >= 0:
            os.close(self.console)
            self.console = -1
        if done is not None and self._done_first:
            done()
        for client in list(self.clients.values()):
            client.finish()
        if done is not None and not self._done_first:
            done()

    def close(self) -> None:
        """Let go of everything at once; the process never came to be, or nobody asks any more."""
        self._close_child()
        self._drained()

    def _close_child(self) -> None:
        while self._child:
            os.close(self._child.pop())

    # -- input

    @property
    def input_full(self) -> bool:
        return bool(self._unwritten)

    def feed(self, data: bytes) -> None:
        """Input of a client; one client's chunk at a time, the next waits in its socket."""
        if self._stdin < 0:
            return
        was_empty = not self._unwritten
        self._unwritten += data
        if was_empty:
            self._write_stdin()
            if self._unwritten:
                self._hold_clients()

    def input_ended(self) -> None:
        """A client's input is over. A terminal stays: it ends with a character, not with a byte
        count."""
        if self._close_stdin and not self.terminal:
            self._stdin_ending = True
            if not self._unwritten:
                self._shut_stdin()

    def dropped(self, client: Client) -> None:
        self.clients.pop(client.number, None)
        if client.gives:
            self.input_ended()
        self.relieved()

    def _stdin_ready(self, _events: int) -> None:
        self._write_stdin()
        if not self._unwritten:
            self._hold_clients()

    def _write_stdin(self) -> None:
        try:
            self._unwritten = self._unwritten[os.write(self._stdin, self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more: as in a shell's pipe, the rest is lost
            self._shut_stdin()
        if self._unwritten:
            self.loop.watch(self._stdin, WRITE, self._stdin_ready)
        elif self._stdin_ending:
            self._shut_stdin()
        elif self._stdin >= 0:
            self.loop.forget(self._stdin)

    def _shut_stdin(self) -> None:
        fd, self._stdin = self._stdin, -1
        self._unwritten = b""
        if fd >= 0:
            self.loop.forget(fd)
            os.close(fd)

    def _hold_clients(self) -> None:
        for client in self.clients.values():
            if client.gives:
                client.watch()
