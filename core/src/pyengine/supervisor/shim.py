"""The shim: one process per container, which owns it from create to its exit record.

Forked from the zygote with everything imported; imports nothing more. One thread, one epoll loop.
It serves one daemon at a time (the newest that connects), outlives each of them, and ends when it
is told to, or when its container has ended and nobody is there to be told.

The runtime driver is called here and nowhere else, so its calls for one container never overlap.
While one runs, output waits in its pipes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from pyengine.contracts.logging import LoggingDriver, LogWriter
from pyengine.contracts.runtime import CreateRequest, ExecRequest, RuntimeDriver
from pyengine.errors import (
    Conflict,
    DriverMissing,
    EngineError,
    InvalidParameter,
    NotFound,
    Unsupported,
)
from pyengine.faults import failpoint, set_role
from pyengine.linux import syscalls
from pyengine.logs.several import Several
from pyengine.logs.spool import SpoolWriter
from pyengine.supervisor import protocol
from pyengine.supervisor.link import Link
from pyengine.supervisor.loop import READ, Loop
from pyengine.supervisor.protocol import Message, Type
from pyengine.supervisor.records import (
    PROTOCOL,
    ExecOrder,
    ExecRecord,
    ExitRecord,
    Hello,
    Launch,
    Started,
    Step,
)
from pyengine.supervisor.streams import Streams
from pyengine.supervisor.title import Title

#: How long after a process's end something may still hold its output open, in seconds.
GRACE = 2.0
#: How long the last clients may take to fetch what the container said, in seconds.
LINGER = 10.0
#: How many ended execs are remembered when no daemon takes their exit codes.
EXEC_MEMORY = 1000

_decode_launch = msgspec.json.Decoder(Launch).decode
_decode_order = msgspec.json.Decoder(ExecOrder).decode


class _Exec:
    """A further process in the container."""

    def __init__(self, record: ExecRecord, streams: Streams) -> None:
        self.record = record
        self.streams = streams


class Shim:
    def __init__(
        self,
        launch: Launch,
        control: socket.socket,
        runtime: RuntimeDriver,
        logger: LoggingDriver,
        born: int,
    ) -> None:
        self._launch = launch
        self._runtime = runtime
        self._logger = logger
        self._own_pids = False
        self._steps: list[Step] = []
        self._status = "creating"
        self._pid = 0
        self._started = 0
        self._paused = False
        self._oom_fd = -1
        self._oom_kills = 0
        self._oom_checks = 0
        self._exit: ExitRecord | None = None
        self._wait_status: int | None = None
        self._execs: dict[str, _Exec] = {}
        self._by_pid: dict[int, _Exec] = {}
        self._attachments: dict[int, Streams] = {}
        self._attach_number = 0
        self._streams: Streams | None = None
        self._writer: LogWriter | None = None
        self._deleted = False
        self._ending = False
        self._overdue = False
        self._step("fork", born)
        self._loop = Loop()
        self._wake_in, wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # The handler, which does nothing, is the zygote's.
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        self._loop.watch(self._wake_in, READ, self._reap)
        self._link = Link(self._loop, launch.socket, self._hello, self._message, self._daemon_gone)
        self._link.connect(control)

    # -- life

    def run(self) -> None:
        """From the launch to the end of the process."""
        try:
            self._create()
        except Exception as error:
            self._abandon()
            self._link.send(Type.ERROR, protocol.LAUNCH, protocol.fault(error))
        else:
            self._link.send(Type.OK, protocol.LAUNCH, protocol.encode({"pid": self._pid}))
        while not self._ending or (self._busy() and not self._overdue):
            self._loop.step()
        self._link.unlink()

    def close(self) -> None:
        """Let go of the wake-up pipe. Not for a process that ends."""
        os.close(signal.set_wakeup_fd(-1))
        os.close(self._wake_in)

    def _busy(self) -> bool:
        """Somebody has not yet got all that is meant for him."""
        return self._link.pending or any(n in s.clients for n, s in self._attachments.items())

    def _create(self) -> None:
        launch = self._launch
        began = time.monotonic_ns()
        self._link.listen()
        try:
            os.unlink(os.path.join(launch.state_dir, "exit.json"))
        except FileNotFoundError:
            pass
        failpoint("logging.writer")
        self._writer = self._blame(
            "logging",
            self._logger.writer,
            Path(launch.log_path),
            launch.log_options,
            launch.log_attributes,
        )
        if launch.spools:
            spools = [SpoolWriter(spool.directory, spool.limit) for spool in launch.spools]
            self._writer = Several([self._writer, *spools])
        self._streams = Streams(
            self._loop, self._writer, terminal=launch.terminal, close_stdin=launch.stdin_once
        )
        stdio = self._streams.open(stdin=launch.open_stdin)
        self._step("shim ready", began)
        began = time.monotonic_ns()
        failpoint("runtime.create")
        created = self._blame(
            "runtime",
            self._runtime.create,
            CreateRequest(
                id=launch.id,
                bundle=Path(launch.bundle),
                spec=launch.spec,
                stdio=stdio,
                namespaces_ready=self._namespaces_ready,
                trace=self._trace if launch.trace else None,
            ),
        )
        self._pid = created.pid
        self._streams.started(created.console)
        width, height = launch.console_size
        if width and height:
            self._streams.resize(width, height)
        self._oom_fd = self._runtime_call("oom_descriptor")
        if self._oom_fd >= 0:
            self._loop.watch(self._oom_fd, READ, self._oom)
        namespaces = launch.spec.get("linux", {}).get("namespaces", [])
        self._own_pids = any(n["type"] == "pid" and not n.get("path") for n in namespaces)
        # Its environment holds secrets, and every exec would copy it.
        launch.spec = {}
        self._status = "created"
        self._step("create", began)

    def _abandon(self) -> None:
        """Leave nothing of a container that could not be created or started."""
        self._status = "stopped"
        try:
            self._end()
        except Exception:
            # The error that brought us here says more; the daemon's reconcile gets the rest.
            pass

    def _delete(self, _message: Message | None = None) -> None:
        if self._deleted:
            return
        if self._oom_fd >= 0:
            # Removing a v1 cgroup signals its eventfd as an OOM does.
            self._loop.forget(self._oom_fd)
            os.close(self._oom_fd)
            self._oom_fd = -1
        if self._pid and self._wait_status is None:
            self._put_down()
        self._runtime_call("delete")
        self._deleted = True

    def _put_down(self) -> None:
        """Kill init, and reap it and the execs: as long as one of them is a zombie the kernel keeps
        the pid namespace alive and the cgroup busy."""
        try:
            self._runtime_call("kill", signal.SIGKILL, False)
        except EngineError:  # it has ended meanwhile
            pass
        deadline = time.monotonic() + GRACE
        while self._wait_status is None and time.monotonic() < deadline:
            self._reap(0)
            if self._wait_status is not None or not os.path.exists(f"/proc/{self._pid}"):
                return
            select.select([self._wake_in], [], [], 0.05)

    def _end(self, _message: Message | None = None) -> None:
        """End this process, and what still runs, once what is under way has been sent."""
        if self._ending:
            return
        self._ending = True
        self._loop.later(LINGER, self._give_up)
        try:
            self._delete()
        finally:
            if self._streams is not None:
                self._streams.close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _give_up(self) -> None:
        self._overdue = True

    def _runtime_call(self, verb: str, *arguments: Any) -> Any:
        failpoint(f"runtime.{verb}")
        return self._blame("runtime", getattr(self._runtime, verb), self._launch.id, *arguments)

    def _blame(self, kind: str, function: Any, *arguments: Any) -> Any:
        """Call a driver; what it raises beyond the contract's errors is its fault by name."""
        try:
            return function(*arguments)
        except EngineError:
            raise
        except Exception as error:
            name = self._launch.runtime if kind == "runtime" else self._launch.logging
            what = f"{kind} driver {name!r}: {function.__name__}"
            raise protocol.unfault(protocol.fault(error, what)) from error

    # -- the daemon

    def _hello(self) -> bytes:
        return protocol.encode(
            Hello(
                protocol=PROTOCOL,
                id=self._launch.id,
                shim_pid=os.getpid(),
                pid=self._pid,
                status=self._status,
                execs=[one.record for one in self._execs.values()],
                exit=self._exit,
                paused=self._paused,
                started=self._started,
            )
        )

    def _daemon_gone(self) -> None:
        if self._exit is not None:
            self._end()

    def _message(self, message: Message) -> None:
        try:
            answer = self._verb(message)
        except Exception as error:
            if message.type == Type.START and self._status == "created":
                # The command cannot be run: the container has no other use.
                self._link.send(Type.ENDING, 0, b"")
                self._abandon()
            self._link.send(Type.ERROR, message.request, protocol.fault(error))
        else:
            if message.request:
                self._link.send(Type.OK, message.request, protocol.encode(answer))

    def _verb(self, message: Message) -> Any:
        method = _ALWAYS.get(message.type)
        if method is None:
            method = _WHILE_ALIVE.get(message.type)
            if method is None:
                raise Unsupported(
                    f"this shim knows no message {message.type}", help="the daemon is newer than it"
                )
            if self._wait_status is not None or self._deleted:
                raise Conflict(f"container {self._launch.id[:12]} is not running")
        return method(self, message)

    # -- verbs

    def _kill(self, message: Message) -> None:
        order = message.value()
        self._runtime_call("kill", order["signal"], order["all"])

    def _exec_ack(self, message: Message) -> None:
        self._execs.pop(message.value()["exec_id"], None)

    def _stats(self, _message: Message) -> Any:
        return self._runtime_call("stats")

    def _ps(self, _message: Message) -> Any:
        return self._runtime_call("ps")

    def _update(self, message: Message) -> None:
        self._runtime_call("update", message.value())

    def _pause(self, _message: Message) -> None:
        self._runtime_call("pause")
        self._paused = True

    def _resume(self, _message: Message) -> None:
        self._runtime_call("resume")
        self._paused = False

    def _trace_steps(self, _message: Message) -> list[Step]:
        return self._steps

    def _start(self, _message: Message) -> Started:
        if self._status != "created":
            raise Conflict(f"container {self._launch.id[:12]} is {self._status}")
        began = time.monotonic_ns()
        self._runtime_call("start")
        self._started = time.time_ns()
        self._status = "running"
        self._loop.tidy_later()
        self._step("start", began)
        return Started(self._started, self._steps)

    def _attach(self, message: Message) -> dict[str, int]:
        wants = message.value()
        assert self._streams is not None
        return {"attach": self._attach_to(self._streams, message.descriptors, **wants)}

    def _attach_to(
        self, streams: Streams, descriptors: list[int], stdin: bool, stdout: bool, stderr: bool
    ) -> int:
        if not descriptors:
            raise InvalidParameter("to attach needs a socket")
        self._attach_number += 1
        number = self._attach_number
        sock = socket.socket(fileno=descriptors.pop(0))
        self._attachments = {n: s for n, s in self._attachments.items() if n in s.clients}
        self._attachments[number] = streams
        streams.attach(sock, number, stdin=stdin, stdout=stdout, stderr=stderr)
        return number

    def _stdin_eof(self, message: Message) -> None:
        order = message.value()
        streams = self._attachments.get(order["attach"])
        client = streams.clients.get(order["attach"]) if streams else None
        if client is not None:
            client.end_of_input(order["sent"])

    def _resize(self, message: Message) -> None:
        order = message.value()
        streams = self._streams
        if order["exec_id"]:
            found = self._execs.get(order["exec_id"])
            if found is None:
                raise NotFound(f"no such exec: {order['exec_id'][:12]}")
            streams = found.streams
        if streams is not None:
            streams.resize(order["width"], order["height"])

    def _exec(self, message: Message) -> dict[str, int]:
        order = _decode_order(message.payload)
        if self._status != "running":
            raise Conflict(f"container {self._launch.id[:12]} is not running")
        if order.exec_id in self._execs:
            raise Conflict(f"exec {order.exec_id[:12]} runs already")
        attached = bool(message.descriptors)
        streams = Streams(self._loop, None, terminal=order.terminal, close_stdin=True)
        number = 0
        try:
            stdio = streams.open(stdin=order.stdin and attached, discard=not attached)
            failpoint("runtime.exec")
            executed = self._blame(
                "runtime",
                self._runtime.exec,
                ExecRequest(
                    id=self._launch.id,
                    exec_id=order.exec_id,
                    bundle=Path(self._launch.bundle),
                    process=order.process,
                    stdio=stdio,
                ),
            )
            streams.started(executed.console)
            if attached:
                number = self._attach_to(
                    streams, message.descriptors, order.stdin, order.stdout, order.stderr
                )
        except BaseException:
            streams.close()
            raise
        width, height = order.console_size
        if width and height:
            streams.resize(width, height)
        one = _Exec(ExecRecord(exec_id=order.exec_id, pid=executed.pid, about=order.about), streams)
        self._execs[order.exec_id] = one
        self._by_pid[executed.pid] = one
        self._loop.tidy_later()
        return {"pid": executed.pid, "attach": number}

    # -- what happens to the container

    def _namespaces_ready(self, pid: int) -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # it has ended already, and the runtime is about to say why
        self._link.send(Type.NAMESPACES, 0, protocol.encode({"pid": pid}), [fd])

    def _trace(self, name: str, began: int, ended: int) -> None:
        self._steps.append(Step(name, began, ended - began, "runtime"))

    def _step(self, name: str, began: int) -> None:
        self._steps.append(Step(name, began, time.monotonic_ns() - began, "shim"))

    def _oom(self, _events: int = 0) -> None:
        try:
            os.read(self._oom_fd, 4096)
        except OSError:
            pass
        # On v1 the signal comes before the kill is counted; on v2 also for what is no kill.
        idle, self._oom_checks = self._oom_checks == 0, 20
        if idle:
            self._check_oom()

    def _check_oom(self) -> None:
        if self._oom_fd < 0 or self._exit is not None:
            return
        kills = self._runtime.oom_kills(self._launch.id)
        if kills > self._oom_kills:
            self._tell_oom(kills)
        # Also after a kill, for one signal may stand for several.
        self._oom_checks -= 1
        if self._oom_checks > 0:
            self._loop.later(0.01, self._check_oom)

    def _tell_oom(self, kills: int) -> None:
        new, self._oom_kills = kills - self._oom_kills, kills
        self._link.send(Type.OOM, 0, protocol.encode({"kills": kills, "new": new}))

    def _reap(self, _events: int) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                if self._wait_status is None:
                    self._wait_status = status
                    if not self._ending:
                        self._ended()
            elif pid in self._by_pid:
                self._exec_ended(self._by_pid.pop(pid), status)

    def _exec_ended(self, one: _Exec, status: int) -> None:
        def done() -> None:
            one.record.code = _shell_code(status)
            self._link.send(Type.EXEC_EXIT, 0, protocol.encode(one.record))
            ended = [n for n, e in self._execs.items() if e.record.code is not None]
            for name in ended[:-EXEC_MEMORY]:
                del self._execs[name]

        one.streams.finish(GRACE, done, before_clients=True)

    def _ended(self) -> None:
        """Init is gone. With a pid namespace of its own the kernel has killed all others."""
        assert self._streams is not None
        # Now, while it can be read: systemd takes the cgroup away as soon as nobody is in it.
        with contextlib.suppress(Exception):  # asked again for the record, which has the error
            kills = self._runtime.oom_kills(self._launch.id)
            if kills > self._oom_kills:
                self._tell_oom(kills)
        if not self._own_pids:
            try:
                self._runtime_call("kill", signal.SIGKILL, True)
            except Exception:  # delete will try again, and say so
                pass
        self._streams.finish(GRACE, self._record_exit)

    def _record_exit(self) -> None:
        assert self._wait_status is not None
        assert self._streams is not None
        error = ""
        try:
            kills = max(self._oom_kills, self._runtime.oom_kills(self._launch.id))
        except Exception as failure:
            kills, error = self._oom_kills, f"OOM kills are unknown: {failure}"
        dropped = self._streams.lost
        if self._writer is not None:
            try:
                self._writer.flush()
                dropped += self._writer.dropped()
                self._writer.close()
            except Exception as failure:
                error = f"the end of the log is lost: {failure}"
            self._writer = None
        self._reap(0)
        record = ExitRecord(
            id=self._launch.id,
            code=_shell_code(self._wait_status),
            finished=time.time_ns(),
            started=self._started,
            oom_killed=kills > 0,
            error=error,
            log_dropped=dropped,
            execs=[one.record for one in self._execs.values() if one.record.code is not None],
        )
        try:
            write_exit_record(self._launch.state_dir, record)
        except OSError as failure:
            record.error = record.error or f"exit.json was not written: {failure}"
        self._exit = record
        self._status = "stopped"
        if kills > self._oom_kills:
            # The kill was counted before its signal was looked at.
            self._tell_oom(kills)
        self._link.send(Type.EXIT, 0, protocol.encode(record))
        if not self._link.connected:
            self._end()


#: What is answered whatever became of the container, and what needs a living one.
_ALWAYS: dict[int, Callable[[Shim, Message], Any]] = {
    Type.STDIN_EOF: Shim._stdin_eof,
    Type.RESIZE: Shim._resize,
    Type.TRACE: Shim._trace_steps,
    Type.EXEC_ACK: Shim._exec_ack,
    Type.DELETE: Shim._delete,
    Type.SHUTDOWN: Shim._end,
}
_WHILE_ALIVE: dict[int, Callable[[Shim, Message], Any]] = {
    Type.START: Shim._start,
    Type.KILL: Shim._kill,
    Type.PAUSE: Shim._pause,
    Type.RESUME: Shim._resume,
    Type.UPDATE: Shim._update,
    Type.STATS: Shim._stats,
    Type.PS: Shim._ps,
    Type.ATTACH: Shim._attach,
    Type.EXEC: Shim._exec,
}


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def write_exit_record(state_dir: str, record: ExitRecord) -> None:
    """Put ``exit.json`` in place so that it is there whole, or not at all, after a power cut."""
    path = os.path.join(state_dir, "exit.json")
    failpoint("exit-record.write")
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, protocol.encode(record))
        os.fsync(fd)
    finally:
        os.close(fd)
    failpoint("exit-record.rename")
    os.rename(path + ".new", path)
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_launch(fd: int) -> Launch:
    """The launch in a memfd, which is closed."""
    try:
        return _decode_launch(protocol.read_memfd(fd))
    finally:
        os.close(fd)


def main(
    launch_fd: int,
    control_fd: int,
    title: Title,
    runtimes: dict[str, RuntimeDriver],
    loggers: dict[str, LoggingDriver],
    born: int,
) -> NoReturn:
    """The whole life of a shim, in a fresh fork of the zygote. Does not return."""
    set_role("shim")
    state_dir = "/"
    try:
        launch = read_launch(launch_fd)
        state_dir = launch.state_dir
        title.set("pyengine-shim", f"pyengine-shim {launch.id}")
        _settle(launch.oom_score_adj)
        control = socket.socket(fileno=control_fd)
        runtime = _preloaded("runtime", runtimes, launch.runtime, control)
        logger = _preloaded("logging", loggers, launch.logging, control)
        Shim(launch, control, runtime, logger, born).run()
        os._exit(0)
    except BaseException:
        # Standard error is /dev/null: whoever looks for a lost container finds this in its place.
        with open(os.path.join(state_dir, "shim-crash.log"), "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        os._exit(1)


def _settle(oom_score_adj: int) -> None:
    """Become a process of its own: descriptors, orphans, memory. The session is new already."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % oom_score_adj)
    except OSError:  # lowering it takes CAP_SYS_RESOURCE
        pass
    finally:
        os.close(fd)
    # The zygote's objects are frozen; what is collected from here on is this shim's alone.
    gc.enable()


def _preloaded(kind: str, drivers: dict[str, Any], name: str, control: socket.socket) -> Any:
    driver = drivers.get(name)
    if driver is None:
        known = ", ".join(sorted(drivers)) or "none"
        error = DriverMissing(f"{kind} driver {name!r} is not loaded", help=f"loaded: {known}")
        protocol.send(control, Type.ERROR, protocol.LAUNCH, protocol.fault(error))
        os._exit(0)
    return driver
