"""One more process in a running container (``exec``)."""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import NoReturn

from pyengine.contracts.runtime import ExecRequest
from pyengine.errors import EngineError
from pyengine.faults import failpoint, set_role
from pyengine.linux import border, cgroups, syscalls
from pyengine_runtime_native import channel, init, process
from pyengine_runtime_native.maker import WHAT, Made, Maker
from pyengine_runtime_native.process import ProcessPlan, plan_process
from pyengine_runtime_native.records import Record


def execute(request: ExecRequest, record: Record, cgroup: cgroups.Cgroup, maker: Maker) -> Made:
    """In a maker: returns when execve has succeeded; raises what went wrong, and ends it then."""
    code = b""
    if os.path.exists(record.filter_file):
        with open(record.filter_file, "rb") as file:
            code = file.read()
    plan = plan_process(
        request.process,
        id=record.id,
        filter=code,
        new_user_namespace=bool(record.namespaces & syscalls.CLONE_NEWUSER),
    )
    with_descriptors: list[int] = []
    try:
        target = syscalls.pidfd_open(record.pid)
        with_descriptors.append(target)
        tasks = cgroup.task_files()
        with_descriptors += tasks
        directory = cgroup.directory()
        if directory >= 0:
            with_descriptors.append(directory)
        return _fork(request, record, plan, target, tasks, directory, maker)
    finally:
        for fd in with_descriptors:
            os.close(fd)


def _fork(
    request: ExecRequest,
    record: Record,
    plan: ProcessPlan,
    target: int,
    tasks: list[int],
    directory: int,
    maker: Maker,
) -> Made:
    ours, theirs = channel.pair()
    wait = bool(plan.raised_limits or record.namespaces & syscalls.CLONE_NEWUSER)
    with ours, theirs:
        process.block_signals()
        try:
            pid = _clone(record, target, directory)
            if pid == 0:
                _child(request, record, plan, target, tasks, ours, theirs, wait)
        finally:
            process.unblock_signals()
        theirs.close()
        parent = channel.Parent(ours)
        try:
            maker.namespaces_ready(pid)  # tells the shim whom to reap if this fails
            process.raise_limits(pid, plan)
            if record.namespaces & syscalls.CLONE_NEWUSER:
                stdio = request.stdio
                process.lend_stdio(record.pid, (stdio.stdin, stdio.stdout, stdio.stderr))
            if plan.oom_score_adj is not None:
                process.set_oom_score(pid, plan.oom_score_adj)
            if wait:
                parent.go()
            ready = False
            while packet := parent.receive(WHAT):
                ready = ready or packet[:1] == b"R"
            if not ready:
                raise EngineError(f"{WHAT}: it ended before it was ready")
        except BaseException:
            if parent.console >= 0:
                os.close(parent.console)
            cgroups.signal_process(pid, signal.SIGKILL)
            raise
        return Made(pid, parent.console)


def _clone(record: Record, target: int, directory: int) -> int:
    """Like fork, but the child is the shim's, and born into the container's pid namespace."""
    failpoint("runtime.exec")
    if record.namespaces & syscalls.CLONE_NEWPID:
        syscalls.setns(target, syscalls.CLONE_NEWPID)
    try:
        return syscalls.clone(syscalls.CLONE_PARENT, directory)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP) or directory < 0:
            raise
    # The container made groups of its own and handed controllers down to them, and then its own
    # group may hold no process (the "no internal processes" rule): we go where init is.
    directory = _cgroup_of(record.pid)
    try:
        return syscalls.clone(syscalls.CLONE_PARENT, directory)
    finally:
        os.close(directory)


def _cgroup_of(pid: int) -> int:
    unified = cgroups.layout().unified
    lines = cgroups.read(f"/proc/{pid}/cgroup").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    if unified is None or not path:
        raise EngineError(f"{WHAT}: its cgroup is not known")
    return os.open(unified.mount + path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _child(
    request: ExecRequest,
    record: Record,
    plan: ProcessPlan,
    target: int,
    tasks: list[int],
    ours: socket.socket,
    theirs: socket.socket,
    wait: bool,
) -> NoReturn:
    report = channel.Child(theirs)
    try:
        ours.close()
        _enter(request, record, plan, target, tasks, report, wait)
    except BaseException as error:
        report.fail(error)
    finally:
        os._exit(1)


def _enter(
    request: ExecRequest,
    record: Record,
    plan: ProcessPlan,
    target: int,
    tasks: list[int],
    report: channel.Child,
    wait: bool,
) -> None:
    set_role("init")
    # Before anything of the container's can see us: ptrace and /proc/PID/exe are closed.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    stdio = (request.stdio.stdin, request.stdio.stdout, request.stdio.stderr)
    process.isolate([target, report.sock.fileno(), *tasks], stdio)
    report.enter("cgroup join")
    cgroups.join(tasks)
    if wait:
        report.wait()
    os.setsid()
    process.join_keyring(plan)
    apparmor = init.open_apparmor() if plan.apparmor else -1
    report.enter("setns")
    border.enter_foreign_root()
    syscalls.setns(target, record.namespaces & ~syscalls.CLONE_NEWPID)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if record.namespaces & syscalls.CLONE_NEWUSER:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if plan.terminal:
        report.enter("console")
        _take_pty(plan, report)
    report.enter("identity")
    process.become_user(plan)
    report.enter("command")
    program = process.find_program(plan)
    report.ready()
    report.step = "execve"
    process.execute(plan, program, apparmor)


def _take_pty(plan: ProcessPlan, report: channel.Child) -> None:
    # The container may have put anything at this path: no links, no waiting on a named pipe, and
    # what was opened must be of devpts.
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
    ptmx = syscalls.openat2(-100, "/dev/pts/ptmx", flags, 0, syscalls.RESOLVE_NO_SYMLINKS)
    if syscalls.filesystem_type(ptmx) != syscalls.DEVPTS_SUPER_MAGIC:
        raise EngineError("a terminal needs a devpts file system on /dev/pts")
    os.set_blocking(ptmx, True)
    master, slave = process.open_pty(ptmx)
    report.send_descriptor(master)
    os.close(master)
    process.take_terminal(plan, slave)
    os.close(slave)
