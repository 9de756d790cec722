"""A runtime without namespaces and a log that is a plain file, for tests of the supervisor.

The runtime keeps the contract: init exists after ``create`` and waits, ``start`` tells whether
execve worked, ``delete`` works from another process with what is on disk. It forks as the real one
does, but isolates nothing.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import time
from pathlib import Path

from pyengine.contracts.base import Probe
from pyengine.contracts.logging import LoggingDriver, LogWriter
from pyengine.contracts.runtime import (
    Created,
    Executed,
    RuntimeDriver,
    RuntimeState,
    RuntimeStats,
)
from pyengine.errors import EngineError, StartError

imported_later: list[str] = []


def _note_imports(event, arguments):
    if event == "import":
        imported_later.append(arguments[0])


class FakeRuntime(RuntimeDriver):
    name = "fake"

    def __init__(self, context):
        super().__init__(context)
        self.init = 0
        self.go = -1
        self.result = -1
        self.pids = []
        self.paused = False
        self.oom = -1

    @classmethod
    def probe(cls, context):
        return Probe(True)

    def _fork(self, process, stdio, gate=-1):
        """Returns (pid, descriptor that tells the errno of a failed execve, console)."""
        master = slave = -1
        if process.get("terminal"):
            master, slave = pty.openpty()
            stdio = type(stdio)(slave, slave, slave)
        told, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                    signal.signal(number, signal.SIG_DFL)
                os.setsid()
                if slave >= 0:
                    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                for number, fd in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
                    os.dup2(fd, number)
                if gate >= 0:
                    os.read(gate, 1)
                environment = dict(v.split("=", 1) for v in process.get("env", []))
                os.execvpe(process["args"][0], process["args"], environment)
            except OSError as error:
                os.write(tell, struct.pack("i", error.errno))
            finally:
                os._exit(127)
        os.close(tell)
        if slave >= 0:
            os.close(slave)
        return pid, told, master

    def create(self, request):
        sys.addaudithook(_note_imports)
        os.makedirs(self.context.run, exist_ok=True)
        annotations = request.spec.get("annotations", {})
        if "fail-create" in annotations:
            if annotations["fail-create"] == "bug":
                raise KeyError("nobody foresaw this")
            raise EngineError("create failed", "as asked", "do not ask")
        if "die-in-create" in annotations:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic_ns()
        gate, self.go = os.pipe2(os.O_CLOEXEC)
        self.init, self.result, console = self._fork(request.spec["process"], request.stdio, gate)
        os.close(gate)
        (self.context.run / request.id).write_text(str(self.init))
        self.pids.append(self.init)
        if "oom" in annotations:
            self.oom, self.oom_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.ooms = 0
        self.ooms_since = 0.0
        if request.namespaces_ready:
            request.namespaces_ready(self.init)
        time.sleep(float(annotations.get("slow-create", "0")))
        if request.trace:
            request.trace("fake fork", began, time.monotonic_ns())
        return Created(self.init, console)

    def start(self, id):
        os.write(self.go, b"x")
        os.close(self.go)
        answer = os.read(self.result, 4)
        os.close(self.result)
        if answer:
            text = os.strerror(struct.unpack("i", answer)[0])
            raise StartError("cannot execute", text, exit_code=127)

    def kill(self, id, signal, all=False):
        for pid in self.pids if all else [self.init]:
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                if not all:
                    raise
        if self.oom >= 0 and signal == 9 and not all:
            self.ooms = 1
            os.write(self.oom_write, b"x")
        elif self.oom >= 0 and signal == 23:  # SIGURG: one signal, then three kills
            self.ooms_since = time.monotonic()
            os.write(self.oom_write, b"x")

    def delete(self, id):
        path = self.context.run / id
        try:
            pid = int(path.read_text())
        except FileNotFoundError:
            return
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        path.unlink(missing_ok=True)

    def state(self, id):
        return RuntimeState(id, "running", self.init)

    def exec(self, request):
        pid, told, console = self._fork(request.process, request.stdio)
        answer = os.read(told, 4)
        os.close(told)
        if answer:
            os.waitpid(pid, 0)
            raise StartError("cannot execute", os.strerror(struct.unpack("i", answer)[0]))
        self.pids.append(pid)
        return Executed(pid, console)

    def ps(self, id):
        return [p for p in self.pids if os.path.exists(f"/proc/{p}")]

    def pause(self, id):
        os.kill(self.init, signal.SIGSTOP)

    def resume(self, id):
        os.kill(self.init, signal.SIGCONT)

    def update(self, id, resources):
        self.limit = resources["memory"]["limit"]

    def stats(self, id):
        return RuntimeStats(
            cpu_total=7,
            memory_limit=getattr(self, "limit", 0),
            memory=dict.fromkeys(imported_later, 1),
            blkio_bytes=[(8, 0, "Read", 512)],
        )

    def oom_descriptor(self, id):
        return self.oom

    def oom_kills(self, id):
        if self.ooms_since:
            self.ooms = min(3, int((time.monotonic() - self.ooms_since) / 0.04))
        return self.ooms

    @classmethod
    def sweep(cls, context, prefix, known):
        return []


class _FileWriter(LogWriter):
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, stream, chunk, time):
        os.write(self.fd, chunk)

    def flush(self):
        os.write(self.fd, b"[flushed]")

    def close(self):
        os.close(self.fd)


class FakeLog(LoggingDriver):
    name = "fake"

    @classmethod
    def probe(cls, context):
        return Probe(True)

    def validate(self, options):
        pass

    def writer(self, path, options, attributes):
        return _FileWriter(path)

    def reader(self, path, options, query):
        raise NotImplementedError

    def remove(self, path):
        Path(path).unlink()
