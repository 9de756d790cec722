"""A shim as the daemon sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from pyengine.contracts.runtime import RuntimeStats
from pyengine.errors import Unavailable
from pyengine.supervisor import protocol
from pyengine.supervisor.channel import Channel
from pyengine.supervisor.protocol import Message, Type
from pyengine.supervisor.records import ExecOrder, ExecRecord, ExitRecord, Hello, Started, Step

_decode_hello = msgspec.json.Decoder(Hello).decode
_decode_exit = msgspec.json.Decoder(ExitRecord).decode
_decode_exec = msgspec.json.Decoder(ExecRecord).decode
_decode_stats = msgspec.json.Decoder(RuntimeStats).decode
_decode_started = msgspec.json.Decoder(Started).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


def _callback(name: str, doc: str) -> Any:
    """An attribute that takes a function; what happened before it was set is told when it is."""

    def get(self: Shim) -> Callable[..., None] | None:
        return self._callbacks.get(name)

    def put(self: Shim, function: Callable[..., None] | None) -> None:
        if function is None:
            self._callbacks.pop(name, None)
            return
        self._callbacks[name] = function
        for arguments in self._untold.pop(name, []):
            self._tell(name, *arguments)

    return property(get, put, doc=doc)


class Attachment:
    """The daemon's end of one attached client. ``sock`` is a non-blocking stream socket.

    Read: Docker's frames, or plain bytes of a terminal, until the end of file, which comes when
    the process has ended and everything was passed on. Written: the plain bytes of the input.
    """

    def __init__(self, shim: Shim, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self._shim = shim
        self._number = number

    async def stdin_eof(self, sent: int) -> None:
        """The input is complete with ``sent`` bytes, counted from the attachment's beginning; they
        need not have left ``sock`` yet."""
        await self._shim.request(Type.STDIN_EOF, {"attach": self._number, "sent": sent})

    def close(self) -> None:
        """Detach."""
        self.sock.close()


class Shim:
    """Made by :class:`~pyengine.supervisor.client.Supervisor`. Methods raise what the runtime
    driver raised, and ``Unavailable`` when the shim is gone.

    The callbacks are plain functions, called on the event loop; each event once.
    """

    on_exit: Callable[[ExitRecord], None] | None = _callback("exit", "The container has ended.")
    on_exec_exit: Callable[[str, int], None] | None = _callback(
        "exec_exit", "An exec has ended: id and exit code. The shim forgets it afterwards."
    )
    on_oom: Callable[[int], None] | None = _callback(
        "oom", "The OOM killer took processes: how many more than was told before."
    )
    on_lost: Callable[[], None] | None = _callback(
        "lost", "The shim died without an exit record; see Supervisor.end_lost."
    )

    def __init__(self, id: str, sock: socket.socket) -> None:
        self.id = id
        self.shim_pid = 0
        self.pid = 0
        self.hello: Hello | None = None
        self.namespaces: Callable[[int], None] | None = None
        self.greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self._pidfd = -1
        self._over = False
        self._given_up = False
        self._callbacks: dict[str, Callable[..., None]] = {}
        self._untold: dict[str, list[tuple[Any, ...]]] = {}
        self.channel = Channel(sock, f"the shim of {id[:12]}", self._event, self._closed)

    # -- verbs

    async def request(
        self, type: Type, value: Any = None, descriptors: list[int] | None = None
    ) -> Message:
        payload = b"" if value is None else protocol.encode(value)
        return await self.channel.request(type, payload, descriptors)

    async def start(self) -> Started:
        """Run the command.

        When it cannot be run (``StartError``) nothing is left: shim and container are gone, and no
        callback is called."""
        try:
            return _decode_started((await self.request(Type.START)).payload)
        except Exception:
            if self._given_up:
                await self.gone()
            raise

    async def kill(self, signal: int, all: bool = False) -> None:
        """Signal init, or with ``all`` every process of the container."""
        await self.request(Type.KILL, {"signal": int(signal), "all": all})

    async def pause(self) -> None:
        await self.request(Type.PAUSE)

    async def resume(self) -> None:
        await self.request(Type.RESUME)

    async def update(self, resources: dict[str, Any]) -> None:
        """``resources``: ``linux.resources`` of a runtime spec."""
        await self.request(Type.UPDATE, resources)

    async def stats(self) -> RuntimeStats:
        return _decode_stats((await self.request(Type.STATS)).payload)

    async def ps(self) -> list[int]:
        """Host pids of the container's processes."""
        pids: list[int] = (await self.request(Type.PS)).value()
        return pids

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        """Size of the container's terminal, or an exec's, in characters."""
        await self.request(Type.RESIZE, {"width": width, "height": height, "exec_id": exec_id})

    async def trace(self) -> list[Step]:
        """What was done so far, with times, for ``run --trace``."""
        return _decode_steps((await self.request(Type.TRACE)).payload)

    async def delete(self) -> None:
        """Remove the container's cgroups and runtime state, killing what is left. Idempotent."""
        await self.request(Type.DELETE)

    async def shutdown(self) -> bool:
        """``delete``, and end the shim; attached clients still get all that was said. No callback
        is called any more. Returns when the shim has let go of the container: False if it died
        before it said so, and something may be left for ``Supervisor.end_lost``."""
        self._over = True
        try:
            await self.request(Type.SHUTDOWN)
        except Unavailable:
            return False
        return True

    async def attach(
        self,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        pair: tuple[socket.socket, socket.socket] | None = None,
    ) -> Attachment:
        """Attach one client; before ``start`` as well, and then it misses nothing.

        ``pair``: connected stream sockets that exist already, the daemon's end and the shim's, for
        a client that was served before there was a shim. Both are taken over.
        """
        wants = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        ours, theirs = pair or socket.socketpair()
        ours.setblocking(False)
        try:
            answer = await self.request(Type.ATTACH, wants, [theirs.detach()])
        except BaseException:
            ours.close()
            raise
        return Attachment(self, ours, answer.value()["attach"])

    async def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        terminal: bool,
        stdin: bool,
        attach: bool,
        stdout: bool = True,
        stderr: bool = True,
        console_size: tuple[int, int] = (0, 0),
        about: dict[str, Any] | None = None,
    ) -> tuple[int, Attachment | None]:
        """Run ``process`` (of a runtime spec) in the container; returns its host pid. ``about``
        comes back in the hello that the next daemon gets.

        Without ``attach`` its input is empty and its output goes nowhere.
        """
        order = ExecOrder(
            exec_id=exec_id,
            process=process,
            terminal=terminal,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            console_size=console_size,
            about=about or {},
        )
        if not attach:
            answer = (await self.request(Type.EXEC, order)).value()
            return answer["pid"], None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            answer = (await self.request(Type.EXEC, order, [theirs.detach()])).value()
        except BaseException:
            ours.close()
            raise
        return answer["pid"], Attachment(self, ours, answer["attach"])

    # -- events

    def _event(self, message: Message) -> None:
        try:
            if message.type == Type.HELLO:
                self.hello = _decode_hello(message.payload)
                self.shim_pid, self.pid = self.hello.shim_pid, self.hello.pid
                if not self.greeted.done():
                    self.greeted.set_result(self.hello)
            elif message.type == Type.NAMESPACES:
                self.pid = message.value()["pid"]
                if self.namespaces is not None:
                    self.namespaces(message.descriptors.pop())
            elif message.type == Type.EXIT:
                if not self._over:
                    self._over = True
                    self._tell("exit", _decode_exit(message.payload))
            elif message.type == Type.EXEC_EXIT:
                record = _decode_exec(message.payload)
                self._tell("exec_exit", record.exec_id, record.code)
            elif message.type == Type.ENDING:
                self._given_up = self._over = True
            elif message.type == Type.OOM:
                self._tell("oom", message.value().get("new", 1))
        finally:
            message.close()

    def _tell(self, name: str, *arguments: Any) -> None:
        function = self._callbacks.get(name)
        if function is None:
            self._untold.setdefault(name, []).append(arguments)
            return
        function(*arguments)
        if name == "exec_exit":
            self.channel.send(Type.EXEC_ACK, 0, protocol.encode({"exec_id": arguments[0]}))

    def _closed(self) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(Unavailable(f"the shim of {self.id[:12]} said nothing"))
            self.greeted.exception()

    def recall(self, hello: Hello) -> None:
        """Tell what happened while no daemon was connected."""
        for record in hello.execs:
            if record.code is not None:
                self._tell("exec_exit", record.exec_id, record.code)
        if hello.exit is not None and not self._over:
            self._over = True
            self._tell("exit", hello.exit)

    # -- the process

    def follow(self, pidfd: int) -> None:
        """Learn of the shim's death through ``pidfd``, which this takes over."""
        if self._pidfd >= 0 or self.ended.is_set():
            os.close(pidfd)
            return
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    def follow_pid(self, pid: int) -> None:
        """The same by number; a pid that is gone has died."""
        if self._pidfd >= 0:
            return
        try:
            self.follow(os.pidfd_open(pid))
        except ProcessLookupError:
            self._died()

    def terminate(self) -> None:
        """Kill a shim that does not answer any more."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def unfollow(self) -> None:
        """Leave the shim alone from now on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self.channel.close()

    async def gone(self, timeout: float = 10.0) -> bool:
        """Wait until the shim's process has ended."""
        try:
            await asyncio.wait_for(self.ended.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _died(self) -> None:
        # Its last words are still in the socket.
        self.channel.drain()
        if self._pidfd >= 0:
            try:
                # A shim whose zygote died before it is our child; another's parent reaps it.
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
        self.unfollow()
        self._closed()
        self.ended.set()
        if not self._over:
            self._over = True
            self._tell("lost")
