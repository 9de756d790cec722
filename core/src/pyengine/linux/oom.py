"""What the kernel tells of its OOM kills: which process went, and which limit had been reached.

The kernel's log says both, where it may be read (CAP_SYSLOG, or kernel.dmesg_restrict 0). Each kill
is a report of some hundred lines, of which these count (mm/oom_kill.c, mm/memcontrol.c,
mm/memcontrol-v1.c of the kernel)::

    tail invoked oom-killer: gfp_mask=..., order=0, oom_score_adj=0
    memory: usage 16384kB, limit 16384kB, failcnt 151
    memory+swap: usage 16384kB, limit 9007199254740988kB, failcnt 0       (version 1)
    swap: usage 0kB, limit 16384kB, failcnt 0                             (version 2)
    oom-kill:constraint=CONSTRAINT_MEMCG,...,oom_memcg=/a,task_memcg=/a/b,task=tail,pid=9,uid=0
    Memory cgroup out of memory: Killed process 9 (tail) total-vm:19076kB, ...

More than ten kills in five seconds lack all but the last line. The counters of the cgroups say
less, but to everybody: :func:`counted`.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from pyengine.linux.cgroups import Cgroup, read

MEMORY, WITH_SWAP, HOST = "memory", "memory+swap", "host"
#: Of CONSTRAINT_NONE, _CPUSET and _MEMORY_POLICY: what lacked memory when no cgroup's limit did.
_PLACES = {"NONE": HOST, "CPUSET": "cpuset", "MEMORY_POLICY": "memory policy"}
#: Version 1 has a limit always; from here on it is none (bytes).
_NO_LIMIT = 1 << 62

_AMOUNT = re.compile(r"(memory|memory\+swap|swap): usage (\d+)kB, limit (\d+)kB, failcnt \d+")
_VICTIM = re.compile(
    r"oom-kill:constraint=CONSTRAINT_(\w+),.*?,(?:oom_memcg=(.*?)|global_oom),"
    r"task_memcg=(.*?),task=(.*),pid=(\d+),uid=\d+"
)
_KILLED = re.compile(r"(?:Memory cgroup o|O)ut of memory.*?: Killed process (\d+) \((.*)\) total-")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class Exhausted(NamedTuple):
    """``what``: ``memory`` or ``memory+swap`` of a cgroup, or ``host``, ``cpuset`` or ``memory
    policy``, which have neither ``cgroup`` nor ``limit`` (bytes, 0: not known)."""

    what: str
    cgroup: str = ""
    limit: int = 0


class Kill(NamedTuple):
    """A process that went: its host pid, its name (15 bytes of it), its cgroup as the root of the
    hierarchy sees it (empty: not known), and what was exhausted, if that was told."""

    pid: int
    name: str
    cgroup: str
    exhausted: Exhausted | None


class Reports:
    """Kills, from the lines of the kernel's log one after another."""

    def __init__(self) -> None:
        self._amounts: dict[str, tuple[int, int]] = {}
        self._last = 0

    def feed(self, line: str) -> Kill | None:
        """The kill that is complete with this line."""
        if " invoked oom-killer: " in line:
            self._amounts.clear()
        elif amount := _AMOUNT.fullmatch(line):
            self._amounts[amount[1]] = int(amount[2]) << 10, int(amount[3]) << 10
        elif victim := _VICTIM.fullmatch(line):
            constraint, group, cgroup, name, pid = victim.groups()
            self._last = int(pid)
            if group is None:
                exhausted = Exhausted(_PLACES.get(constraint, HOST))
            else:
                exhausted = self._reached(group)
            return Kill(int(pid), name, cgroup, exhausted)
        elif killed := _KILLED.match(line):
            if int(killed[1]) != self._last:
                return Kill(int(killed[1]), killed[2], _cgroup_of(int(killed[1])), None)
            self._last = 0
        return None

    def _reached(self, group: str) -> Exhausted:
        """Version 1 counts memory, and memory with swap; version 2 memory, and swap, which is the
        less to blame as long as some of it is left."""
        used, limit = self._amounts.get("memory", (0, 0))
        room = limit - used
        if "memory+swap" in self._amounts:
            used, both = self._amounts["memory+swap"]
            if both - used <= room:
                return Exhausted(WITH_SWAP, group, both)
        elif "swap" in self._amounts:
            used, swap = self._amounts["swap"]
            if (swap - used) * 100 <= swap < _NO_LIMIT:
                return Exhausted(WITH_SWAP, group, limit + swap)
        return Exhausted(MEMORY, group, limit)


class KernelLog:
    """What the kernel writes to its log from now on (Documentation/ABI/testing/dev-kmsg).

    Nobody is woken by it: who has heard of a kill asks. ``OSError`` if it may not be read."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._reports = Reports()

    def kills(self) -> list[Kill]:
        """Those that were written since the last call, as far as the kernel still has them."""
        found: list[Kill] = []
        while True:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:  # some were overwritten; the next are those that are left
                continue
            head, _, text = record.partition(b";")
            # 8 and above: written by a program, which may claim anything.
            if int(head.partition(b",")[0]) < 8:
                kill = self._reports.feed(_line(text))
                if kill is not None:
                    found.append(kill)

    def close(self) -> None:
        os.close(self._fd)


def _line(text: bytes) -> str:
    """A record's first line (dictionary lines may follow) without its escapes."""
    line = text.partition(b"\n")[0]
    if b"\\x" in line:
        line = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), line)
    return line.decode(errors="replace")


def _cgroup_of(pid: int) -> str:
    """The memory cgroup of a process, which may be gone: then nothing."""
    unified = ""
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return path
        if not controllers:
            unified = path
    return unified


def inner_pid(pid: int, name: str) -> int:
    """The pid of process ``pid`` in the innermost of its pid namespaces; 0 if it is gone, or has
    another ``name`` now."""
    fields = dict(line.split(":\t", 1) for line in _lines(f"/proc/{pid}/status") if ":\t" in line)
    if fields.get("Name") != name:
        return 0
    return int(fields.get("NSpid", "0").split()[-1])


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def counted(cgroup: Cgroup) -> Exhausted | None:
    """What was exhausted when a process of ``cgroup`` was killed, as far as counters can tell.

    They count since a cgroup was made, and version 1 counts each time that a limit was met, whether
    or not somebody was killed. So only this is sure: where a single cgroup from this one up to the
    root has ever met its limit it was that one, where none has it was the host.
    """
    hierarchy = cgroup.layout.find("memory")
    if hierarchy is None:
        return None
    look = _counted_v2 if hierarchy.v2 else _counted_v1
    path = cgroup.path
    found: list[Exhausted] = []
    while True:
        what, limit = look(hierarchy.mount + path)
        if what:
            found.append(Exhausted(what, path or "/", limit))
        if not path:
            break
        path = path.rpartition("/")[0]
    if not found:
        return Exhausted(HOST)
    return found[0] if len(found) == 1 else None


def _counted_v1(directory: str) -> tuple[str, int]:
    """What has run out here, and its limit; empty if nothing has. Not every kernel counts failures
    of memory with swap (6.18 does not), but the most that was used is kept."""
    for what, prefix in ((WITH_SWAP, "memory.memsw."), (MEMORY, "memory.")):
        most, failures, limit = (
            int(read(f"{directory}/{prefix}{name}") or 0)
            for name in ("max_usage_in_bytes", "failcnt", "limit_in_bytes")
        )
        if limit and (failures or most >= limit):
            return what, limit if limit < _NO_LIMIT else 0
    return "", 0


def _counted_v2(directory: str) -> tuple[str, int]:
    if not _count(directory + "/memory.events.local", "oom"):
        return "", 0
    memory = read(directory + "/memory.max").strip()
    swap = read(directory + "/memory.swap.max").strip()
    limit = int(memory) if memory.isdigit() else 0
    if swap == "0" or (swap.isdigit() and _count(directory + "/memory.swap.events", "max")):
        return WITH_SWAP, limit + int(swap)
    return MEMORY, limit


def _count(path: str, name: str) -> int:
    for line in read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
