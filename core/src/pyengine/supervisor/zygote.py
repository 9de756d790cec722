"""The zygote: a small process, everything imported, that forks shims on request.

``python -m pyengine.supervisor.zygote``, with its socket as descriptor 3. Single-threaded, since a
fork copies only one thread, and ignorant of containers: it passes a launch on unread, so that no
container's secrets are in the memory that the next shim starts with. It ends when its socket
closes; its shims live on. What their deaths leave behind is reaped here (child subreaper).
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import msgspec

from pyengine.contracts.logging import LoggingDriver
from pyengine.contracts.runtime import RuntimeDriver
from pyengine.errors import DriverBroken, DriverMissing, EngineError
from pyengine.faults import failpoint, set_role
from pyengine.linux import syscalls
from pyengine.supervisor import protocol, rehearsal, shim, shimgroup
from pyengine.supervisor.protocol import Message, Type
from pyengine.supervisor.records import Plugin, ZygoteConfig, ZygoteInfo
from pyengine.supervisor.title import Title

SOCKET = 3


_decode_config = msgspec.json.Decoder(ZygoteConfig, dec_hook=lambda kind, text: kind(text)).decode


class Zygote:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._title = Title()
        self._runtimes: dict[str, RuntimeDriver] = {}
        self._loggers: dict[str, LoggingDriver] = {}
        self._sweeps: dict[int, int] = {}
        self._warnings: list[str] = []
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def configure(self) -> None:
        """Take the daemon's first message: import drivers, join the shims' cgroup, answer.

        A driver that does not load is answered with ``ERROR``; this process has been touched by
        it, so it ends.
        """
        message = protocol.receive(self._sock)
        if message is None:
            sys.exit(0)
        config = _decode_config(message.payload)
        sys.path += [entry for entry in config.path if entry not in sys.path]
        try:
            for plugin in config.runtimes:
                self._runtimes[plugin.name] = self._load("runtime", plugin, RuntimeDriver)
            for plugin in config.loggers:
                self._loggers[plugin.name] = self._load("logging", plugin, LoggingDriver)
        except EngineError as error:
            self._send(Type.ERROR, message.request, protocol.fault(error))
            sys.exit(1)
        self._title.set("pyengine-zygote", f"pyengine-zygote {config.label}")
        self._warnings = shimgroup.join(config.shim_cgroup)
        drivers = [*self._runtimes.values(), *self._loggers.values()]
        rehearsal.rehearse(drivers, config.rehearsal_dir)
        # What is alive now is shared with every shim: a collector that walked it would write into
        # each page and unshare it.
        gc.disable()
        gc.collect()
        rehearsal.fill_gaps()
        gc.freeze()
        self._send(Type.OK, message.request, b"{}")

    def _load(self, kind: str, plugin: Plugin, base: type) -> Any:
        what = f"{kind} driver {plugin.name!r}"
        self._send(Type.LOADING, 0, protocol.encode({"plugin": what}))
        module, _, attribute = plugin.target.partition(":")
        advice = f"repair or uninstall {plugin.distribution}, or choose another driver"
        try:
            driver_class = importlib.import_module(module)
            for part in attribute.split("."):
                driver_class = getattr(driver_class, part)
        except BaseException as error:
            raise DriverBroken(
                f"{what} of {plugin.distribution} cannot be imported",
                f"{type(error).__name__}: {error}",
                advice,
            )
        if not (isinstance(driver_class, type) and issubclass(driver_class, base)):
            raise DriverBroken(f"{what} of {plugin.distribution} is no {base.__name__}", "", advice)
        driver = driver_class(plugin.context)
        if len(os.listdir("/proc/self/task")) > 1:
            raise DriverBroken(
                f"{what} of {plugin.distribution} starts a thread at import",
                "shims are forked from the process that imports it",
                advice,
            )
        return driver

    def serve(self) -> None:
        """Answer until the daemon is gone."""
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake_in:
                    os.read(fd, 4096)
                    self._reap()
                else:
                    message = protocol.receive(self._sock)
                    if message is None:
                        return
                    self._handle(message)
                    message.close()

    def _handle(self, message: Message) -> None:
        try:
            if message.type == Type.SPAWN:
                self._spawn(message)
            elif message.type == Type.SWEEP:
                self._sweep(message)
            elif message.type == Type.INFO:
                self._send(Type.OK, message.request, protocol.encode(self._info()))
            else:
                raise EngineError(f"the zygote knows no message {message.type}")
        except (EngineError, OSError) as error:
            self._send(Type.ERROR, message.request, protocol.fault(error))

    def _spawn(self, message: Message) -> None:
        failpoint("zygote.fork")
        born = time.monotonic_ns()
        pid = os.fork()
        if pid == 0:
            self._become_shim(message, born)
        pidfd = syscalls.pidfd_open(pid)
        try:
            self._send(Type.OK, message.request, b'{"pid":%d}' % pid, [pidfd])
        finally:
            os.close(pidfd)

    def _become_shim(self, message: Message, born: int) -> NoReturn:
        try:
            self._leave()
            launch, control = message.descriptors
            os.close(self._sock.detach())
            shim.main(launch, control, self._title, self._runtimes, self._loggers, born)
        finally:
            os._exit(1)

    def _leave(self) -> None:
        """What a child must shed of the zygote, but for the socket."""
        signal.set_wakeup_fd(-1)
        os.close(self._wake_in)
        os.close(self._wake_out)
        os.setsid()

    def _sweep(self, message: Message) -> None:
        order = message.value()
        runtime = self._runtimes.get(order["runtime"])
        if runtime is None:
            raise DriverMissing(f"no runtime driver {order['runtime']!r} is loaded")
        pid = os.fork()
        if pid == 0:
            # The child answers by itself; the zygote only if it dies before.
            self._leave()
            set_role("sweep")
            code = 1
            try:
                failpoint("runtime.delete")
                runtime.delete(order["id"])
                self._send(Type.OK, message.request, b"{}")
                code = 0
            except BaseException as error:
                what = f"runtime driver {order['runtime']!r}"
                self._send(Type.ERROR, message.request, protocol.fault(error, what))
                code = 0
            finally:
                os._exit(code)
        self._sweeps[pid] = message.request

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            request = self._sweeps.pop(pid, 0)
            if not request:
                payload = b'{"pid":%d,"status":%d}' % (pid, status)
                self._send(Type.SHIM_ENDED, 0, payload)
            elif status:
                error = EngineError("a container's removal was killed", f"status {status}")
                self._send(Type.ERROR, request, protocol.fault(error))

    def _info(self) -> ZygoteInfo:
        return ZygoteInfo(
            pid=os.getpid(),
            prefix=sys.prefix,
            base_prefix=sys.base_prefix,
            executable=os.readlink("/proc/self/exe"),
            modules=sorted(sys.modules),
            threads=len(os.listdir("/proc/self/task")),
            cgroup_warnings=self._warnings,
        )

    def _send(
        self, type: Type, request: int, payload: bytes, descriptors: list[int] | None = None
    ) -> None:
        while True:
            try:
                protocol.send(self._sock, type, request, payload, descriptors)
                return
            except BlockingIOError:  # the daemon is busy; nothing is lost by waiting for it
                select.select([], [self._sock], [])
            except OSError:  # it is gone: the loop sees that next
                return


def _nothing(_number: int, _frame: object) -> None:
    """A handler must exist for the wakeup descriptor to be written, here and in each shim."""


def main() -> None:
    # Whatever else the daemon or its libraries had open without CLOEXEC stays out of the shims.
    syscalls.close_range(SOCKET + 1)
    os.set_inheritable(SOCKET, False)
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    # This and the shims end when the daemon or the container does; who wants that earlier says so
    # over the socket. The runtime gives containers the default dispositions back.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # posix_spawn of the C library leaves its own two signals ignored, execve keeps that, and what
    # a container runs would inherit it.
    for reserved in (32, 33):
        syscalls.default_disposition(reserved)
    set_role("zygote")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    zygote = Zygote(socket.socket(fileno=SOCKET))
    zygote.configure()
    zygote.serve()
    # No interpreter shutdown: nothing here has to be written or closed in order.
    os._exit(0)


if __name__ == "__main__":
    main()
