"""Control groups: version 1, version 2, and both at once (the hybrid layout).

A :class:`Cgroup` is one path that exists in every hierarchy of the host. Hierarchies are found in
/proc/self/mountinfo, as a directory listing would also show links and foreign directories.

Joining is the dear part. Writing another process's pid to ``cgroup.procs`` takes a lock that waits
for an RCU grace period (5 to 20 ms on an idle machine), whichever hierarchy comes first. Neither a
process that writes ``0`` to the ``tasks`` file of a v1 hierarchy nor one that is cloned into a v2
directory needs that lock. So a new process is made with ``clone(flags, cgroup.directory())`` and
writes ``0`` into each of ``cgroup.task_files()`` itself. Sources: cgroups(7),
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from pyengine.errors import Conflict, EngineError, Unsupported
from pyengine.faults import failpoint


class Hierarchy(NamedTuple):
    """``controllers``: of version 1 as in the mount options (``("cpu", "cpuacct")``,
    ``("name=systemd",)``), of version 2 those that its root offers."""

    mount: str
    controllers: tuple[str, ...]
    v2: bool

    @property
    def label(self) -> str:
        """The directory's usual name below /sys/fs/cgroup (``cpu,cpuacct``, ``systemd``)."""
        return ",".join(self.controllers).removeprefix("name=")


class Layout(NamedTuple):
    hierarchies: tuple[Hierarchy, ...]

    @property
    def unified(self) -> Hierarchy | None:
        """The version 2 hierarchy, with or without controllers."""
        return next((h for h in self.hierarchies if h.v2), None)

    @property
    def v2(self) -> bool:
        """True where version 2 is all there is."""
        return all(h.v2 for h in self.hierarchies)

    def find(self, controller: str) -> Hierarchy | None:
        return next((h for h in self.hierarchies if controller in h.controllers), None)


_layout: Layout | None = None


def layout() -> Layout:
    """The host's hierarchies; read once in a process.

    Raises ``Unsupported`` where no cgroup file system is mounted.
    """
    global _layout
    if _layout is None:
        _layout = Layout(tuple(_read_hierarchies()))
        if not _layout.hierarchies:
            raise Unsupported(
                "no cgroup file system is mounted",
                help="mount cgroup2 on /sys/fs/cgroup",
            )
    return _layout


def _read_hierarchies() -> Iterator[Hierarchy]:
    seen: set[tuple[str, ...]] = set()
    for line in read("/proc/self/mountinfo").splitlines():
        head, separator, tail = line.partition(" - cgroup")
        if not separator:
            continue
        mount = head.split(" ")[4]
        fields = tail.split(" ")
        if fields[0] == "2":
            controllers = tuple(read(mount + "/cgroup.controllers").split())
            key: tuple[str, ...] = ("2",)
        else:
            options = fields[2].split(",")
            controllers = key = tuple(
                o for o in options if o not in _V1_OPTIONS and not o.startswith("release_agent=")
            )
        if key not in seen:
            seen.add(key)
            yield Hierarchy(mount, controllers, fields[0] == "2")


_V1_OPTIONS = frozenset({"rw", "ro", "xattr", "noprefix", "clone_children", "favordynmods"})


class Cgroup:
    """The cgroup ``path`` (absolute, as the hierarchies' roots see it) in all hierarchies."""

    def __init__(self, path: str, layout_: Layout | None = None) -> None:
        parts = path.split("/")
        if not path.startswith("/") or path.strip("/") == "" or ".." in parts:
            raise Unsupported(
                f"cgroup path {path!r} is not an absolute path below the root",
                help="cgroup paths look like /pyengine/<id>",
            )
        self.path = "/" + "/".join(p for p in parts if p not in ("", "."))
        self.layout = layout_ or layout()

    def directory_in(self, hierarchy: Hierarchy) -> str:
        return hierarchy.mount + self.path

    def file(self, controller: str, name: str) -> str:
        """Path of a controller's file; raises ``Unsupported`` where the host lacks it."""
        hierarchy = self.layout.find(controller)
        if hierarchy is None:
            raise Unsupported(
                f"this host has no cgroup controller {controller!r}",
                help="it has " + (", ".join(controllers(self.layout)) or "none"),
            )
        return self.directory_in(hierarchy) + "/" + name

    def exists(self) -> bool:
        return any(os.path.isdir(self.directory_in(h)) for h in self.layout.hierarchies)

    def create(self) -> None:
        """Make the directories, with parents. Raises ``Conflict`` if processes live there."""
        for hierarchy in self.layout.hierarchies:
            directory = self.directory_in(hierarchy)
            failpoint("cgroup.mkdir")
            try:
                os.mkdir(directory)
            except FileNotFoundError:
                self._make_parents(hierarchy)
                os.mkdir(directory)
            except FileExistsError:
                if read(directory + "/cgroup.procs").strip():
                    raise Conflict(f"cgroup {directory} already has processes in it") from None
            # Who has made a parent a moment ago may not have come to this yet.
            if hierarchy.v2:
                self.enable_controllers()
            elif "cpuset" in hierarchy.controllers:
                _inherit_cpuset(directory)

    def _make_parents(self, hierarchy: Hierarchy) -> None:
        names = self.path.split("/")[1:-1]
        directory = hierarchy.mount
        for name in names:
            directory += "/" + name
            with_existing = os.path.isdir(directory)
            if not with_existing:
                failpoint("cgroup.mkdir")
                try:
                    os.mkdir(directory)
                except FileExistsError:
                    with_existing = True
            if not hierarchy.v2 and "cpuset" in hierarchy.controllers:
                _inherit_cpuset(directory)
                # Children begin with their parent's processors, so that making one is one mkdir.
                if not with_existing:
                    write(directory + "/cgroup.clone_children", "1")

    def enable_controllers(self) -> None:
        """Have here what the root has, in a cgroup of version 2, whoever has made it."""
        unified = self.layout.unified
        if unified is not None:
            directory = unified.mount
            for name in self.path.split("/")[1:]:
                enable_controllers(directory)
                directory += "/" + name

    def directory(self) -> int:
        """A descriptor for ``clone(flags, cgroup)``, or -1 where there is no version 2."""
        unified = self.layout.unified
        if unified is None:
            return -1
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return os.open(self.directory_in(unified), flags)

    def task_files(self) -> list[int]:
        """Descriptors of the v1 files to which a single-threaded process writes ``0`` to join."""
        files: list[int] = []
        try:
            for hierarchy in self.layout.hierarchies:
                if not hierarchy.v2:
                    path = self.directory_in(hierarchy) + "/tasks"
                    files.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            for fd in files:
                os.close(fd)
            raise
        return files

    def add(self, pid: int, *, only_unified: bool = False) -> None:
        """Move a process here, the slow way (see the module's text)."""
        for hierarchy in self.layout.hierarchies:
            if hierarchy.v2 or not only_unified:
                failpoint("cgroup.join")
                write(self.directory_in(hierarchy) + "/cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """All processes here and in groups below, as this process's pid namespace numbers them."""
        found: set[int] = set()
        for hierarchy in self._listing():
            for directory in _tree(self.directory_in(hierarchy)):
                found.update(int(p) for p in read(directory + "/cgroup.procs").split())
        found.discard(0)
        return sorted(found)

    def _listing(self) -> list[Hierarchy]:
        unified = self.layout.unified
        if unified is not None:
            return [unified]
        return list(self.layout.hierarchies[:1])

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL everything here and below; returns when nothing is left.

        Raises ``EngineError`` with the pids that outlived ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        unified = self.layout.unified
        pause = 0.0005
        while self._occupied():
            failpoint("cgroup.kill")
            if unified is not None and self._kill_file(unified):
                self._set_v1_freezer("THAWED")
            else:
                self._kill_each()
            if time.monotonic() > deadline:
                raise EngineError(
                    f"processes of cgroup {self.path} do not end",
                    "pids " + " ".join(map(str, self.pids())),
                    "they probably wait for a device or a network file system",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _occupied(self) -> bool:
        # In every hierarchy: one whose join was cut short by a crash is in some and not in others.
        return any(
            read(directory + "/cgroup.procs").strip()
            for hierarchy in self.layout.hierarchies
            for directory in _tree(self.directory_in(hierarchy))
        )

    def _kill_file(self, unified: Hierarchy) -> bool:
        directory = self.directory_in(unified)
        if not read(directory + "/cgroup.procs").strip() and not _tree_has_children(directory):
            return False
        try:
            write(directory + "/cgroup.kill", "1")
        except OSError:
            return False  # before Linux 5.14
        return True

    def _kill_each(self) -> None:
        """Signal all processes; frozen meanwhile, so that none forks away from the list."""
        frozen = self._set_v1_freezer("FROZEN")
        try:
            for hierarchy in self.layout.hierarchies:
                for directory in _tree(self.directory_in(hierarchy)):
                    for pid in read(directory + "/cgroup.procs").split():
                        if pid != "0":
                            signal_process(int(pid), signal.SIGKILL)
        finally:
            if frozen:
                self._set_v1_freezer("THAWED")

    def signal_all(self, number: int) -> None:
        for pid in self.pids():
            signal_process(pid, number)

    def _set_v1_freezer(self, state: str) -> bool:
        hierarchy = self.layout.find("freezer")
        if hierarchy is None or hierarchy.v2:
            return False
        try:
            write(self.directory_in(hierarchy) + "/freezer.state", state)
        except OSError:
            return False
        return True

    def freeze(self, timeout: float = 10.0) -> None:
        """Stop all processes; returns when all have stopped, else thaws and raises."""
        self._freezer(True)
        deadline = time.monotonic() + timeout
        pause = 0.0002
        while not self.frozen():
            if time.monotonic() > deadline:
                self._freezer(False)
                raise EngineError(f"processes of cgroup {self.path} cannot be frozen")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
            self._freezer(True)

    def thaw(self) -> None:
        self._freezer(False)
        self._set_v1_freezer("THAWED")

    def _freezer(self, on: bool) -> None:
        unified = self.layout.unified
        failpoint("cgroup.freeze")
        if unified is not None:
            write(self.directory_in(unified) + "/cgroup.freeze", "1" if on else "0")
        elif not self._set_v1_freezer("FROZEN" if on else "THAWED"):
            raise Unsupported("this host can freeze no processes", help="mount cgroup2 or freezer")

    def frozen(self) -> bool:
        """True when all processes have stopped (of an outside freezer too)."""
        unified = self.layout.unified
        if unified is not None:
            events = read(self.directory_in(unified) + "/cgroup.events")
            if "frozen 1" in events:
                return True
        hierarchy = self.layout.find("freezer")
        if hierarchy is None or hierarchy.v2:
            return False
        return read(self.directory_in(hierarchy) + "/freezer.state").strip() == "FROZEN"

    def remove(self, timeout: float = 2.0) -> None:
        """Remove the directories and those below; those that are gone already do not matter.

        The kernel answers EBUSY for a moment after the last process ended.
        """
        deadline = time.monotonic() + timeout
        for hierarchy in self.layout.hierarchies:
            for directory in reversed(list(_tree(self.directory_in(hierarchy)))):
                _rmdir(directory, deadline)

    def remove_empty(self) -> None:
        """Remove the directories where nothing lives in or below them."""
        for hierarchy in self.layout.hierarchies:
            failpoint("cgroup.rmdir")
            try:
                os.rmdir(self.directory_in(hierarchy))
            except OSError:  # somebody uses it, or it was never made
                pass


def controllers(of: Layout | None = None) -> list[str]:
    """Names of all controllers of the host, without the named v1 hierarchies."""
    found = {c for h in (of or layout()).hierarchies for c in h.controllers}
    return sorted(c for c in found if not c.startswith("name="))


def enable_controllers(directory: str) -> None:
    """Let the children of a v2 ``directory`` have all controllers that it has itself."""
    offered = set(read(directory + "/cgroup.controllers").split())
    missing = offered - set(read(directory + "/cgroup.subtree_control").split())
    for controller in sorted(missing):
        try:
            write(directory + "/cgroup.subtree_control", "+" + controller)
        except OSError as error:
            # A controller that cannot be had here (cpu beside realtime tasks) is missed where a
            # limit needs it; a directory that has processes cannot have any.
            if error.errno not in (errno.EINVAL, errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP):
                raise


def signal_process(pid: int, number: int) -> None:
    """kill(2); a process that is gone does not matter."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def write(path: str, value: str) -> None:
    """One write(2) to a control file, which the kernel takes as one request."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = path
        raise


def join(task_files: list[int]) -> None:
    """Move the calling process, which has one thread, to where ``task_files`` lead."""
    for fd in task_files:
        os.write(fd, b"0")


def _inherit_cpuset(directory: str) -> None:
    """Have the parent's processors and memory nodes where there are none, which nobody can join."""
    for name in ("/cpuset.cpus", "/cpuset.mems"):
        if not read(directory + name).strip():
            parent = directory.rpartition("/")[0]
            _inherit_cpuset(parent)
            write(directory + name, read(parent + name).strip())


def _tree(directory: str) -> Iterator[str]:
    """``directory`` and all below it, parents first; nothing if it does not exist."""
    try:
        with os.scandir(directory) as entries:
            children = [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield directory
    for child in children:
        yield from _tree(child)


def _tree_has_children(directory: str) -> bool:
    return sum(1 for _ in _tree(directory)) > 1


def _rmdir(directory: str, deadline: float) -> None:
    pause = 0.0005
    failpoint("cgroup.rmdir")
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise EngineError(
                    f"cgroup {directory} cannot be removed", os.strerror(error.errno or 0)
                ) from None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def read(path: str) -> str:
    """A control file's text; empty if it is not there (any more)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed while it was open
            return ""
        raise
    finally:
        os.close(fd)
