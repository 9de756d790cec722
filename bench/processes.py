"""Which processes belong to an engine, and what memory they hold (proc(5), smaps_rollup)."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def tree(root: int) -> list[int]:
    """`root` and its descendants, without those in a pid namespace of their own: containers'."""
    children: dict[int, list[int]] = defaultdict(list)
    for pid in _all():
        parent = _parent(pid)
        if parent is not None:
            children[parent].append(pid)
    home = _namespace(root, "pid")
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if home is not None and _namespace(pid, "pid") == home:
            found.append(pid)
            waiting += children[pid]
    return found


def in_mount_namespace_of(root: int) -> list[int]:
    """Every process that shares the mount namespace of `root`, whoever is its parent by now."""
    home = _namespace(root, "mnt")
    return [pid for pid in _all() if home is not None and _namespace(pid, "mnt") == home]


def title(pid: int) -> str:
    """The command line as `ps` shows it, empty when the process is gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def memory(pids: Iterable[int], field: str) -> list[float]:
    """A field of smaps_rollup (Pss, Private_Dirty) of each that still lives, in MB (10^6 bytes)."""
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        kilobytes = [
            int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")
        ]
        found += [k * 1024 / 1e6 for k in kilobytes]
    return found


def mounts_below(directory: Path) -> list[str]:
    prefix = f"{directory}/"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(prefix)]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        # The name in parentheses may itself hold spaces and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _namespace(pid: int, kind: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None
