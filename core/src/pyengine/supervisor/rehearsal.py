"""A shim's life played through in the zygote, so that what it leaves in memory is shared.

CPython writes to what it runs: it rewrites a function's instructions for the types it meets
(PEP 659), and fills caches and dictionaries at the first use. Done before the first fork, those
pages are the same in every shim; done in the shims, each has its own copy.

The play has no container: runtime and log are dummies, the daemon is this function, and everything
happens in one temporary directory. Drivers rehearse by themselves (``Driver.rehearse``).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from pyengine.contracts.base import Driver
from pyengine.contracts.logging import LoggingDriver
from pyengine.contracts.runtime import (
    Created,
    CreateRequest,
    ExecRequest,
    Executed,
    RuntimeDriver,
    RuntimeStats,
)
from pyengine.faults import set_role
from pyengine.supervisor import protocol
from pyengine.supervisor.protocol import Type
from pyengine.supervisor.records import ExecOrder, Launch
from pyengine.supervisor.shim import Shim, read_launch

#: A function's instructions are adapted after 8 calls.
ROUNDS = 10

#: Objects that fill the gaps between others, for as long as the process lives.
_fillers: list[object] = []


class _Dummy:
    """A runtime and a log that do nothing; what runs says a line on each stream."""

    def create(self, request: CreateRequest) -> Created:
        os.write(request.stdio.stdout, b"out\n")
        os.write(request.stdio.stderr, b"err\n")
        return Created(0)

    def exec(self, request: ExecRequest) -> Executed:
        os.write(request.stdio.stdout, b"out\n")
        return Executed(0)

    def start(self, id: str) -> None: ...

    def kill(self, id: str, signal: int, all: bool = False) -> None: ...

    def delete(self, id: str) -> None: ...

    def stats(self, id: str) -> RuntimeStats:
        return RuntimeStats()

    def ps(self, id: str) -> list[int]:
        return []

    def oom_descriptor(self, id: str) -> int:
        return -1

    def writer(self, *_: object) -> _Dummy:
        return self

    def write(self, stream: int, chunk: bytes, time: int) -> None: ...

    def close(self) -> None: ...


def rehearse(drivers: Iterable[Driver], directory: str) -> None:
    """Play some shims and let each driver rehearse, below ``directory``, which is made for this and
    removed. Nothing stays open, and a failure costs nothing but memory."""
    set_role("rehearsal")
    try:
        for driver in (None, *drivers):
            _remove(directory)
            try:
                os.makedirs(directory, mode=0o700)
                for _ in range(ROUNDS):
                    if driver is None:
                        play(directory)
                    else:
                        driver.rehearse(Path(directory))
            except Exception:
                continue
    finally:
        _remove(directory)
        set_role("zygote")


def play(directory: str) -> None:
    """One shim, from its launch to its end, in ``directory``."""
    launch = Launch(
        id="0" * 64,
        name="rehearsal",
        runtime="dummy",
        logging="dummy",
        spec={"linux": {"namespaces": [{"type": "pid"}]}, "process": {"args": ["true"]}},
        bundle=directory,
        state_dir=directory,
        socket=directory + "/socket",
        log_path=directory + "/log",
        open_stdin=True,
    )
    dummy = _Dummy()
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client, attached = socket.socketpair()
    gone, executed = socket.socketpair()
    gone.close()  # or the shim would wait for this client when it ends
    with daemon, control, client, attached, executed:
        shim = Shim(
            read_launch(protocol.memfd("launch", protocol.encode(launch))),
            control,
            cast(RuntimeDriver, dummy),
            cast(LoggingDriver, dummy),
            time.monotonic_ns(),
        )
        client.send(b"in\n")
        wants = protocol.encode({"stdin": True, "stdout": True, "stderr": True})
        order = protocol.encode(ExecOrder(exec_id="e", process={}))
        script: list[tuple[Type, bytes, list[int]]] = [
            (Type.ATTACH, wants, [attached.fileno()]),
            (Type.START, b"", []),
            (Type.STATS, b"", []),
            (Type.EXEC, order, [executed.fileno()]),
            (Type.PS, b"", []),
            (Type.KILL, protocol.encode({"signal": 0, "all": False}), []),
            (Type.SHUTDOWN, b"", []),
        ]
        for number, (verb, payload, descriptors) in enumerate(script, start=2):
            protocol.send(daemon, verb, number, payload, descriptors)
        try:
            shim.run()
        finally:
            shim.close()


def _remove(path: str) -> None:
    """Remove a directory and what is in it, if it is there. (shutil would cost the zygote more.)"""
    try:
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass


def fill_gaps() -> None:
    """Use up what is free between living objects, so that a shim's own objects lie together.

    Otherwise each new object takes the place of an old one somewhere among the shared pages, and
    makes its page private. The interpreter's allocator tells what is free, by sizes, only as the
    text of ``sys._debugmallocstats``; where there is no such text nothing is done.
    """
    stats = getattr(sys, "_debugmallocstats", None)
    if stats is None:
        return
    saved = os.dup(2)
    with open(os.memfd_create("stats"), "w+b") as file:
        os.dup2(file.fileno(), 2)
        try:
            stats()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        lines = file.read().splitlines()
    for line in lines:
        # class, size, pools, blocks in use, blocks free
        row = line.split()
        if len(row) == 5 and all(cell.isdigit() for cell in row):
            _fillers.extend(_filler(int(row[1])) for _ in range(int(row[4])))


def _filler(size: int) -> object:
    """An object of ``size`` bytes."""
    empty = sys.getsizeof(b"")
    return bytes(size - empty) if size > empty else object()
