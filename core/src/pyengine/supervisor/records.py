"""What the daemon and a shim tell each other about a container, as values.

``protocol`` frames them. They are JSON objects on the wire and in files, so that a shim and a
daemon of different versions understand each other: fields may be added, never removed or changed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pyengine.contracts.base import DriverContext

PROTOCOL = 1


class Plugin(msgspec.Struct, kw_only=True):
    """A driver that the zygote preloads: ``module:Class``, resolved by the daemon."""

    name: str
    target: str
    distribution: str
    context: DriverContext


class ZygoteConfig(msgspec.Struct, kw_only=True):
    """``path``: the daemon's import path, so that both find the same modules. ``label``: what
    tells this engine's zygote from another's in ``ps``. ``rehearsal_dir``: made and removed while
    the zygote starts."""

    path: list[str]
    label: str
    shim_cgroup: str
    runtimes: list[Plugin]
    loggers: list[Plugin]
    rehearsal_dir: str


class ZygoteInfo(msgspec.Struct, kw_only=True):
    """What the zygote is, for ``pyengine info`` and for tests."""

    pid: int
    prefix: str
    base_prefix: str
    executable: str
    modules: list[str]
    threads: int
    cgroup_warnings: list[str] = []


class SpoolOrder(msgspec.Struct, frozen=True):
    """Lines also go to a spool in ``directory``; see :mod:`pyengine.logs.spool`. ``limit``: bytes
    that may wait there, 0 for no limit."""

    directory: str
    limit: int = 0


class Launch(msgspec.Struct, kw_only=True):
    """Everything a shim needs to own a container; travels as a sealed memfd.

    ``runtime`` and ``logging`` name drivers that the zygote has preloaded. ``spec`` is the OCI
    runtime spec. ``bundle``: the runtime's directory under the exec root. ``state_dir``: the
    container's directory in the data root, where the exit record goes (``exit.json``).
    ``open_stdin``: keep the container's stdin open until a client closes it; otherwise /dev/null.
    ``stdin_once``: close stdin when the first attached client that gave input ends.
    ``shim_cgroup`` is for the record: the zygote is in it, and its forks are born there.
    """

    id: str
    name: str
    runtime: str
    logging: str
    spec: dict[str, Any]
    bundle: str
    state_dir: str
    socket: str
    log_path: str
    log_options: dict[str, str] = {}
    log_attributes: dict[str, str] = {}
    spools: list[SpoolOrder] = []
    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    console_size: tuple[int, int] = (0, 0)
    shim_cgroup: str = ""
    oom_score_adj: int = -500
    trace: bool = True


class Step(msgspec.Struct, frozen=True):
    """One line of ``run --trace``: monotonic ns since boot, so processes compare."""

    name: str
    start: int
    duration: int
    process: str


class Started(msgspec.Struct, frozen=True):
    """The command runs. ``at``: when it began, ns since the epoch by the clock that will time its
    end. ``steps``: what shim and runtime did for it so far."""

    at: int
    steps: list[Step]


class ExecRecord(msgspec.Struct, kw_only=True):
    """An exec as the shim knows it; ``code`` is None while it runs. ``about``: what the daemon that
    asked for it wants the next one to know."""

    exec_id: str
    pid: int
    code: int | None = None
    about: dict[str, Any] = {}


class ExitRecord(msgspec.Struct, kw_only=True):
    """``exit.json``, written (rename, fsync) after the log is drained, before the event is sent.

    ``code``: as a shell has it (128 + signal). Times: ns since the epoch. ``error``: set when it
    did not end by itself (shim killed, runtime failed). ``execs``: exit codes that no daemon had
    taken by then.
    """

    id: str
    code: int
    finished: int
    started: int = 0
    oom_killed: bool = False
    error: str = ""
    log_dropped: int = 0
    execs: list[ExecRecord] = []


class ExecOrder(msgspec.Struct, kw_only=True):
    """``process``: the ``process`` object of a runtime spec. ``stdin``: it gets the client's input,
    otherwise /dev/null. ``stdout``, ``stderr``: what the client wants to see. ``about``: kept for
    the next daemon."""

    exec_id: str
    process: dict[str, Any]
    about: dict[str, Any] = {}
    terminal: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    console_size: tuple[int, int] = (0, 0)


class Hello(msgspec.Struct, kw_only=True):
    """A shim's first words on every connection."""

    protocol: int
    id: str
    shim_pid: int
    pid: int
    status: str
    execs: list[ExecRecord] = []
    exit: ExitRecord | None = None
    paused: bool = False
    started: int = 0
