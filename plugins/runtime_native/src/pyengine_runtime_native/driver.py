"""The driver: OCI verbs over records, cgroups and the two ways to make a process."""

from __future__ import annotations

import contextlib
import os
import signal as signals
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.runtime import (
    Created,
    CreateRequest,
    ExecRequest,
    Executed,
    RuntimeDriver,
    RuntimeState,
    RuntimeStats,
)
from pyengine.errors import Conflict, EngineError, NotFound
from pyengine.faults import failpoint
from pyengine.linux import cgroup_stats, cgroups, syscalls
from pyengine_runtime_native import channel, enter, hooks, maker, placement
from pyengine_runtime_native.create import Creation
from pyengine_runtime_native.maker import WHAT
from pyengine_runtime_native.records import Record, Records, is_alive, process_state


class NativeRuntime(RuntimeDriver):
    """Containers by clone3, the mount API and execve, without a program in between."""

    name: ClassVar[str] = "native"
    priority: ClassVar[int] = 100

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())
        self._records = Records(context.run)

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        if os.geteuid() != 0:
            return Probe(False, "it needs root", "run the engine as root")
        release = os.uname().release
        version = tuple(int(p) for p in release.split("-")[0].split(".")[:2] if p.isdigit())
        if version < (5, 12):
            return Probe(
                False,
                f"it needs Linux 5.12 for its mounts, this is {release}",
                "use a newer kernel, or the driver oci with runc",
            )
        missing = [
            n
            for n in ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup")
            if not os.path.exists(f"/proc/self/ns/{n}")
        ]
        if missing:
            return Probe(False, f"the kernel lacks namespaces: {', '.join(missing)}")
        try:
            layout = cgroups.layout()
        except EngineError as error:
            return Probe(False, error.brief, error.help)
        return Probe(
            True,
            details={
                "Cgroup Version": "2" if layout.v2 else "1",
                "Cgroup Controllers": " ".join(cgroups.controllers(layout)),
            },
        )

    def create(self, request: CreateRequest) -> Created:
        try:
            record = self._records.load(request.id)
        except NotFound:
            pass
        else:
            raise Conflict(f"container {request.id} exists already", f"bundle {record.bundle}")
        try:
            made = maker.make(
                lambda mine: Creation(request, self._records, mine).run(), request.namespaces_ready
            )
        except BaseException:
            # Nothing is left to delete, unless the maker was killed.
            self.delete(request.id)
            raise
        if request.trace is not None:
            for step in made.trace:
                request.trace(*step)
        return Created(made.pid, made.console)

    def start(self, id: str) -> None:
        record = self._records.load(id)
        status = self._status(record)
        if status != "created":
            raise Conflict(f"container {id} is {status}, not created")
        result = os.open(record.result_pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.set_blocking(result, True)
            start = os.open(record.start_pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            failpoint("runtime.start")
            os.write(start, b"0")
            os.close(start)
            # The writer's end closes by execve, or with the process.
            packet = os.read(result, 4096)
        finally:
            os.close(result)
        for path in (record.start_pipe, record.result_pipe):
            os.unlink(path)
        if packet:
            raise channel.parse_error(packet, WHAT)
        hooks.run(record.hooks.get("poststart", []), "poststart", record.oci_state("running"))

    def kill(self, id: str, signal: int, all: bool = False) -> None:
        record = self._records.load(id)
        cgroup = cgroups.Cgroup(record.cgroup)
        if all:
            if signal == signals.SIGKILL:
                cgroup.kill()
            else:
                cgroup.signal_all(signal)
            return
        if not is_alive(record):
            raise Conflict(f"container {id} is not running")
        fd = syscalls.pidfd_open(record.pid)
        try:
            if not is_alive(record):
                raise Conflict(f"container {id} is not running")
            signals.pidfd_send_signal(fd, signal)
        finally:
            os.close(fd)
        if signal == signals.SIGKILL and cgroup.frozen():
            cgroup.thaw()

    def delete(self, id: str) -> None:
        try:
            record = self._records.load(id)
        except NotFound:
            self._records.forget(id)
            return
        if is_alive(record):
            # It may not have joined its cgroup when its maker was killed.
            self.kill(id, signals.SIGKILL)
        placement.remove(cgroups.Cgroup(record.cgroup), record.unit)
        self._records.remove(record)
        hooks.run(record.hooks.get("poststop", []), "poststop", record.oci_state("stopped"))

    def state(self, id: str) -> RuntimeState:
        record = self._records.load(id)
        status = self._status(record)
        return RuntimeState(id, status, record.pid if status != "stopped" else 0)

    def _status(self, record: Record) -> str:
        if not record.pid:
            return "creating"
        if not is_alive(record):
            return "stopped"
        if os.path.exists(record.start_pipe):
            return "created"
        return "paused" if cgroups.Cgroup(record.cgroup).frozen() else "running"

    def _running(self, id: str, verb: str) -> tuple[Record, cgroups.Cgroup]:
        record = self._records.load(id)
        status = self._status(record)
        if status not in ("running", "created"):
            raise Conflict(f"cannot {verb} container {id}: it is {status}")
        return record, cgroups.Cgroup(record.cgroup)

    def exec(self, request: ExecRequest) -> Executed:
        record, cgroup = self._running(request.id, "exec in")
        made = maker.make(lambda mine: enter.execute(request, record, cgroup, mine))
        return Executed(made.pid, made.console)

    def ps(self, id: str) -> list[int]:
        return cgroups.Cgroup(self._records.load(id).cgroup).pids()

    def pause(self, id: str) -> None:
        self._running(id, "pause")[1].freeze()

    def resume(self, id: str) -> None:
        record = self._records.load(id)
        status = self._status(record)
        if status != "paused":
            raise Conflict(f"cannot resume container {id}: it is {status}")
        cgroups.Cgroup(record.cgroup).thaw()

    def update(self, id: str, resources: dict[str, Any]) -> None:
        placement.update(self._records.load(id), resources)

    def stats(self, id: str) -> RuntimeStats:
        return cgroup_stats.read_stats(cgroups.Cgroup(self._records.load(id).cgroup))

    def oom_descriptor(self, id: str) -> int:
        return cgroup_stats.oom_descriptor(cgroups.Cgroup(self._records.load(id).cgroup))

    def oom_kills(self, id: str) -> int:
        return cgroup_stats.oom_kills(cgroups.Cgroup(self._records.load(id).cgroup))

    def rehearse(self, directory: Path) -> None:
        # A container whose init is this process; its cgroup does not exist.
        pid = os.getpid()
        stage = NativeRuntime(msgspec.structs.replace(self.context, run=directory / "run"))
        record = Record(
            id="0" * 64,
            bundle=str(directory / "bundle"),
            cgroup="/pyengine-rehearsal",
            pid=pid,
            started=process_state(pid)[1],
        )
        stage._records.add(record)
        maker.decode_made(msgspec.json.encode(maker.Made(pid, trace=[("step", 1, 2)])))
        os.mkfifo(record.start_pipe)
        # Nobody writes to this one: it ends at once, as by an execve.
        os.mkfifo(record.result_pipe)
        start = os.open(record.start_pipe, os.O_RDWR | os.O_CLOEXEC)
        try:
            stage.start(record.id)
        finally:
            os.close(start)
        for verb in (stage.oom_descriptor, stage.oom_kills, stage.stats):
            with contextlib.suppress(EngineError, OSError):
                verb(record.id)
        stage._records.remove(record)

    @classmethod
    def sweep(cls, context: Any, prefix: str, known: set[str]) -> list[str]:
        driver = cls(context)
        done: list[str] = []
        for id in driver._records.ids():
            if id not in known:
                driver.delete(id)
                done.append(f"container {id} of the native runtime, which nobody knows, is removed")
        return done + placement.sweep(prefix, known)
