"""What is known of a container on disk, so that another instance can end and remove it.

``bundle/state.json`` is the record; ``<run>/<id>`` is a link to the bundle, by which it is found.
Both exist before the first cgroup or process does. While ``bundle/start`` exists the container is
created and not yet started.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from pyengine.errors import NotFound
from pyengine.faults import failpoint


class Record(msgspec.Struct, kw_only=True):
    """``started``: field 22 of /proc/PID/stat, which tells a pid from its later reuse.
    ``namespaces``: CLONE_NEW* flags that an exec has to enter. ``hooks``: those still to run.
    ``unit``: systemd's that has the cgroup, if it is one of systemd's."""

    id: str
    bundle: str
    cgroup: str
    version: int = 1
    pid: int = 0
    started: int = 0
    unit: str = ""
    namespaces: int = 0
    filter: str = ""
    oci_version: str = "1.2.0"
    annotations: dict[str, str] = {}
    hooks: dict[str, list[dict[str, Any]]] = {}

    @property
    def start_pipe(self) -> str:
        return self.bundle + "/start"

    @property
    def result_pipe(self) -> str:
        return self.bundle + "/result"

    @property
    def filter_file(self) -> str:
        return self.bundle + "/seccomp.bpf"

    def oci_state(self, status: str) -> dict[str, Any]:
        return {
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": self.pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        }


class Records:
    """The records below one driver's run directory."""

    def __init__(self, run: Path) -> None:
        self._run = os.fspath(run)

    def save(self, record: Record) -> None:
        failpoint("runtime.record")
        path = record.bundle + "/state.json"
        with open(path + ".new", "wb", buffering=0) as file:
            file.write(msgspec.json.encode(record))
        os.rename(path + ".new", path)

    def add(self, record: Record) -> None:
        """A new record, after the link by which it, or half of it, is found."""
        os.makedirs(record.bundle, mode=0o700, exist_ok=True)
        os.makedirs(self._run, mode=0o700, exist_ok=True)
        failpoint("runtime.record")
        link = self._link(record.id)
        try:
            os.symlink(record.bundle, link)
        except FileExistsError:
            os.unlink(link)
            os.symlink(record.bundle, link)
        self.save(record)

    def load(self, id: str) -> Record:
        """Raises ``NotFound``."""
        try:
            with open(self._link(id) + "/state.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            raise NotFound(f"container {id} is not known to the native runtime") from None

    def remove(self, record: Record) -> None:
        """Forget a container."""
        for path in (record.start_pipe, record.result_pipe, record.filter_file):
            failpoint("runtime.forget")
            _unlink(path)
        self.forget(record.id)

    def forget(self, id: str) -> None:
        """Remove what stands for ``id``; the link goes last, so that the rest is found again."""
        link = self._link(id)
        for path in (link + "/state.json", link + "/state.json.new", link):
            failpoint("runtime.forget")
            _unlink(path)

    def ids(self) -> list[str]:
        try:
            return sorted(os.listdir(self._run))
        except FileNotFoundError:
            return []

    def _link(self, id: str) -> str:
        if not id or "/" in id or id in (".", ".."):
            raise NotFound(f"{id!r} is not a container's id")
        return self._run + "/" + id


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def process_state(pid: int) -> tuple[str, int]:
    """State letter and start time of a process (proc_pid_stat(5)); ``("", 0)`` if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "", 0
    try:
        # The command's name stands in parentheses and may hold any of them.
        fields = os.read(fd, 4096).rpartition(b") ")[2].split()
    except ProcessLookupError:
        return "", 0
    finally:
        os.close(fd)
    return fields[0].decode(), int(fields[19])


def is_alive(record: Record) -> bool:
    if not record.pid:
        return False
    state, started = process_state(record.pid)
    return state not in ("", "Z", "X") and started == record.started
