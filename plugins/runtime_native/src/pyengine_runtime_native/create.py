"""Making a container, in the runtime's process: cgroups, clone, and what only the host's root may
do for the child while it sets itself up."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import NoReturn

from pyengine.contracts.runtime import CreateRequest
from pyengine.errors import EngineError
from pyengine.linux import cgroup_devices, cgroup_limits, cgroups, syscalls
from pyengine_runtime_native import channel, hooks, init, process
from pyengine_runtime_native.maker import WHAT, Made, Maker
from pyengine_runtime_native.placement import Placement
from pyengine_runtime_native.plan import InitPlan, plan_init
from pyengine_runtime_native.records import Record, Records, process_state


class Creation:
    """One container being made, in a maker. :meth:`run` makes it, or leaves nothing."""

    def __init__(self, request: CreateRequest, records: Records, maker: Maker) -> None:
        self.request = request
        self.records = records
        self.maker = maker
        self.trace: list[tuple[str, int, int]] = []
        self.pid = 0
        self._since = time.monotonic_ns()
        self._cloned = self._since
        self._parent: channel.Parent | None = None
        self._descriptors: list[int] = []

    def run(self) -> Made:
        request = self.request
        bundle = os.path.abspath(request.bundle)
        plan = plan_init(request.id, request.spec, bundle)
        linux = request.spec.get("linux") or {}
        resources = linux.get("resources") or {}
        location = linux.get("cgroupsPath") or "/pyengine/" + request.id
        self.placement = Placement(location, resources)
        self.cgroup = self.placement.cgroup
        spec_hooks = request.spec.get("hooks") or {}
        self.record = Record(
            id=request.id,
            bundle=bundle,
            cgroup=self.cgroup.path,
            unit=self.placement.unit,
            namespaces=_to_enter(plan),
            oci_version=plan.state["ociVersion"],
            annotations=plan.state["annotations"],
            hooks={k: spec_hooks[k] for k in ("poststart", "poststop") if spec_hooks.get(k)},
        )
        self._trace("plan")
        try:
            self.records.add(self.record)
            self._trace("record")
            self.placement.make()
            rules = cgroup_devices.with_defaults(resources.get("devices") or [])
            cgroup_limits.apply_devices(self.cgroup, rules)
            self._trace("cgroups")
            plan.open(self.cgroup)
            console = self._make_process(plan)
        except BaseException:
            self._undo()
            raise
        finally:
            plan.close()
            for fd in self._descriptors:
                os.close(fd)
        return Made(self.pid, console, self.trace)

    def _trace(self, step: str) -> None:
        now = time.monotonic_ns()
        self.trace.append((step, self._since, now))
        self._since = now

    def _make_process(self, plan: InitPlan) -> int:
        record, request = self.record, self.request
        if plan.process.filter:
            with open(record.filter_file, "wb", buffering=0) as file:
                file.write(plan.process.filter)
        start, result = (_make_pipe(p) for p in (record.start_pipe, record.result_pipe))
        self._descriptors += [start, result]
        tasks = self.cgroup.task_files()
        self._descriptors += tasks
        directory = self.cgroup.directory()
        if directory >= 0:
            self._descriptors.append(directory)
        ours, theirs = channel.pair()
        with ours, theirs:
            stdio = (request.stdio.stdin, request.stdio.stdout, request.stdio.stderr)
            handles = init.Handles(theirs, stdio, tasks, start, result)
            self._trace("open")
            self._cloned = self._since
            wait = self._clone(plan, handles, ours, directory)
            self.placement.settle()
            self._trace("clone")
            theirs.close()
            self._parent = parent = channel.Parent(ours)
            record.pid, record.started = self.pid, process_state(self.pid)[1]
            self.records.save(record)
            self.maker.namespaces_ready(self.pid)
            self._help_child(plan)
            if wait:
                parent.go()
            self._trace("namespaces ready")
            self._follow(parent)
            return parent.console

    def _clone(
        self, plan: InitPlan, handles: init.Handles, ours: socket.socket, directory: int
    ) -> bool:
        """Make the child; True if it waits for us before it goes on."""
        new_user = bool(plan.new & syscalls.CLONE_NEWUSER)
        joined_user = any(flag == syscalls.CLONE_NEWUSER for flag, _ in plan.joins)
        wait = bool(new_user or joined_user or plan.process.raised_limits)
        process.block_signals()
        try:
            if plan.joins:
                self.pid = _clone_joined(
                    plan, handles, ours, -1 if joined_user else directory, wait
                )
            else:
                self.pid = syscalls.clone(plan.at_clone | syscalls.CLONE_PARENT, directory)
                if self.pid == 0:
                    _child(plan, handles, ours, wait)
        finally:
            process.unblock_signals()
        if joined_user:
            self.cgroup.add(self.pid, only_unified=True)
        return wait

    def _help_child(self, plan: InitPlan) -> None:
        if plan.new & syscalls.CLONE_NEWUSER:
            for name, content in (("uid_map", plan.uid_map), ("gid_map", plan.gid_map)):
                _write_map(f"/proc/{self.pid}/{name}", content)
        if plan.user_namespace:
            plan.show_mapped(self.pid)
            stdio = self.request.stdio
            process.lend_stdio(self.pid, (stdio.stdin, stdio.stdout, stdio.stderr))
        process.raise_limits(self.pid, plan.process)
        if plan.process.oom_score_adj is not None:
            process.set_oom_score(self.pid, plan.process.oom_score_adj)

    def _follow(self, parent: channel.Parent) -> None:
        """Until the child is ready to execute the command."""
        while True:
            packet = parent.receive(WHAT)
            if packet[:1] == b"M":
                spec_hooks = self.request.spec.get("hooks") or {}
                state = self.record.oci_state("creating")
                for name in ("prestart", "createRuntime"):
                    hooks.run(list(spec_hooks.get(name) or ()), name, state)
                parent.go()
            elif packet[:1] == b"R":
                began = self._cloned
                for line in packet[1:].decode().splitlines():
                    step, _, micros = line.rpartition(" ")
                    ended = began + int(micros) * 1000
                    self.trace.append(("init: " + step, began, ended))
                    began = ended
                self._trace("init")
                return
            else:
                raise EngineError(f"{WHAT}: it ended before it was ready")

    def _undo(self) -> None:
        """Take everything back; the error that led here is what the caller hears of."""
        if self._parent is not None and self._parent.console >= 0:
            os.close(self._parent.console)
        if self.pid:
            cgroups.signal_process(self.pid, signal.SIGKILL)  # the shim reaps it
        try:
            self.placement.undo()
        except EngineError:
            return  # the record stays, so that delete or sweep can try again
        self.records.remove(self.record)


def _to_enter(plan: InitPlan) -> int:
    flags = plan.new
    for flag, _ in plan.joins:
        flags |= flag
    return flags | (syscalls.CLONE_NEWCGROUP if plan.new_cgroup else 0)


def _make_pipe(path: str) -> int:
    """A named pipe held open for both directions, so that nobody waits for anybody to open it."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        os.unlink(path)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _write_map(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    except OSError as error:
        raise EngineError(
            "identity maps of the user namespace are refused",
            f"{path}: {os.strerror(error.errno or 0)}",
        ) from None
    finally:
        os.close(fd)


def _child(plan: InitPlan, handles: init.Handles, ours: socket.socket, wait: bool) -> NoReturn:
    try:
        ours.close()
        init.main(plan, handles, wait=wait)
    finally:
        os._exit(1)


def _clone_joined(
    plan: InitPlan, handles: init.Handles, ours: socket.socket, directory: int, wait: bool
) -> int:
    """Clone from a helper that has joined the namespaces of others: they cannot be left again.

    The child is made with CLONE_PARENT, so it is ours, and the shim's when we end.
    """
    reader, writer = os.pipe()
    helper = syscalls.clone(0)
    if helper == 0:
        try:
            # CLONE_PARENT's child must not be traced back into us while it is half inside.
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            try:
                for (flag, _), fd in zip(plan.joins, plan.join_fds, strict=True):
                    syscalls.setns(fd, flag)
                pid = syscalls.clone(plan.at_clone | syscalls.CLONE_PARENT, directory)
            except OSError as error:
                os.write(writer, channel.describe("join namespaces", error))
                os._exit(1)
            if pid == 0:
                _child(plan, handles, ours, wait)
            os.write(writer, b"P%d" % pid)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        answer = os.read(reader, 4096)
    finally:
        os.close(reader)
        os.waitpid(helper, 0)
    if answer[:1] == b"E":
        raise channel.parse_error(answer, WHAT)
    return int(answer[1:])
