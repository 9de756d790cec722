"""Runtime drivers: an OCI runtime spec in, processes out.

A runtime runs inside a shim: one container, one thread, forked from the zygote. Its module is
imported in the zygote, before any fork, so it must import only what it needs, start nothing, and
import nothing later. The verbs are those of the OCI runtime specification; a driver may be a
program's front (runc) or do the work itself (native).

Order of one container's life::

    create(request) -> Created     init exists, everything is set up, the command is not run
    start(id)                      the command runs
    exec(request) -> Executed      any number of further processes
    kill / pause / resume / update / ps / stats
    delete(id)                     after init has ended: cgroups and state are gone

Who reaps: the shim. Processes made by ``create`` and ``exec`` are its children (it is a child
subreaper), and their pids are host pids.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind

Spec = dict[str, Any]
"""A runtime-spec ``config.json`` as parsed JSON (opencontainers/runtime-spec 1.2)."""


class Stdio(msgspec.Struct, frozen=True):
    """Descriptors of the shim for the process's 0, 1, 2. The runtime duplicates, never closes them.

    With ``terminal`` in the process spec all are -1 and the driver returns a pty master instead.
    """

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


class CreateRequest(msgspec.Struct):
    """``bundle`` is a directory for the runtime's own files about this container.

    ``namespaces_ready(pid)``: called once, as soon as init's namespaces exist (and before
    mounting is done, so that the caller can work on the network meanwhile). May block shortly.
    ``trace(step, began, ended)``: called for each step worth a line in ``run --trace``, monotonic
    ns; they need not come in order.
    """

    id: str
    bundle: Path
    spec: Spec
    stdio: Stdio
    namespaces_ready: Callable[[int], None] | None = None
    trace: Callable[[str, int, int], None] | None = None


class Created(msgspec.Struct, frozen=True):
    """``pid`` of init as the host sees it; ``console``: descriptor of the pty master, or -1."""

    pid: int
    console: int = -1


class ExecRequest(msgspec.Struct):
    """``process`` is the ``process`` object of a runtime spec; security fields included."""

    id: str
    exec_id: str
    bundle: Path
    process: dict[str, Any]
    stdio: Stdio


class Executed(msgspec.Struct, frozen=True):
    """A further process: its host pid, and the pty's master (-1: none), which the caller owns."""

    pid: int
    console: int = -1


class RuntimeState(msgspec.Struct, frozen=True):
    """As the OCI ``state`` command: creating, created, running, paused, stopped."""

    id: str
    status: str
    pid: int = 0


class RuntimeStats(msgspec.Struct):
    """Raw counters of the container's cgroup, units of the kernel made uniform.

    CPU times in ns, memory in bytes; -1: this host does not count it. ``memory_limit`` 0: none.
    ``blkio``: rows of (major, minor, operation, value) for bytes and for operations.
    """

    cpu_total: int = -1
    cpu_user: int = -1
    cpu_system: int = -1
    cpu_percpu: list[int] = []
    throttled_periods: int = 0
    throttled_count: int = 0
    throttled_time: int = 0
    memory_usage: int = -1
    memory_max_usage: int = -1
    memory_limit: int = 0
    memory_failcnt: int = 0
    memory: dict[str, int] = {}
    pids: int = -1
    pids_limit: int = 0
    blkio_bytes: list[tuple[int, int, str, int]] = []
    blkio_operations: list[tuple[int, int, str, int]] = []
    oom_kills: int = 0


class RuntimeDriver(Driver):
    """All methods raise ``StartError`` (126/127) for a command that cannot be run, ``NotFound``
    for an unknown id, ``Conflict`` for a verb in the wrong state, ``EngineError`` otherwise.
    Errors name the step that failed and the errno's text. After a failed ``create`` nothing is
    left: no process, mount or cgroup."""

    kind: ClassVar[Kind] = Kind.RUNTIME

    @abstractmethod
    def create(self, request: CreateRequest) -> Created:
        """Make cgroups, namespaces and mounts, and an init that waits to execute the command.

        Tells ``request.namespaces_ready`` as soon as the namespaces exist."""

    @abstractmethod
    def start(self, id: str) -> None:
        """Let init execute the command; returns when execve has succeeded or raises why not."""

    @abstractmethod
    def kill(self, id: str, signal: int, all: bool = False) -> None:
        """Signal init, or with ``all`` every process of the container's cgroup (SIGKILL of all
        returns only when the cgroup is empty, at most 10 s). A container that has ended:
        ``Conflict``, but with ``all`` nothing happens."""

    @abstractmethod
    def delete(self, id: str) -> None:
        """Remove cgroups and state; kills what is left in the cgroup. Idempotent. Also called for
        a container that another instance (a shim that died) created: it needs only ``bundle``
        state on disk or the cgroup path given to ``create``."""

    @abstractmethod
    def state(self, id: str) -> RuntimeState:
        """What the runtime specification calls state: status and pid, as the kernel has them."""

    @abstractmethod
    def exec(self, request: ExecRequest) -> Executed:
        """Run one more process in the container's namespaces and cgroup; returns after execve."""

    @abstractmethod
    def ps(self, id: str) -> list[int]:
        """Host pids of all processes in the container."""

    @abstractmethod
    def pause(self, id: str) -> None:
        """Freeze all processes; returns when they are frozen."""

    @abstractmethod
    def resume(self, id: str) -> None:
        """Let the processes go on after :meth:`pause`."""

    @abstractmethod
    def update(self, id: str, resources: dict[str, Any]) -> None:
        """Change limits; ``resources`` is ``linux.resources`` of a runtime spec."""

    @abstractmethod
    def stats(self, id: str) -> RuntimeStats:
        """Counters of the container's cgroup, as they are now."""

    @abstractmethod
    def oom_descriptor(self, id: str) -> int:
        """A descriptor that becomes readable when the kernel OOM-kills in this container (cgroup
        v1: eventfd; v2: inotify on memory.events); -1 if the host cannot tell."""

    @abstractmethod
    def oom_kills(self, id: str) -> int:
        """How many processes the OOM killer took in this container so far."""

    @classmethod
    @abstractmethod
    def sweep(cls, context: Any, prefix: str, known: set[str]) -> list[str]:
        """In the daemon, at start: end and remove what this driver left of containers not in
        ``known`` whose cgroup parent is ``prefix`` (``slice:name:`` for scopes of systemd that
        begin with that name). Returns a sentence per thing removed."""
