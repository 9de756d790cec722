"""What an ``oom`` event says: which process the kernel killed, and which limit had been reached."""

from __future__ import annotations

import logging
import time

from pyengine.engine.containers.registry import Live
from pyengine.linux import oom
from pyengine.linux.cgroups import Cgroup
from pyengine.linux.oom import Exhausted, KernelLog, Kill

log = logging.getLogger(__name__)

#: How long a kill in the log waits for the shim that tells of it, in seconds.
_KEPT = 10.0


class OutOfMemory:
    """Kills in containers, as the kernel's log has them, or else as the counters of cgroups do."""

    def __init__(self) -> None:
        self._kills: list[tuple[float, Kill]] = []
        self._log: KernelLog | None = None
        try:
            self._log = KernelLog()
        except OSError as error:
            log.info("OOM kills will not name the process, /dev/kmsg: %s", error.strerror)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def killed(self, live: Live, path: str, count: int) -> list[dict[str, str]]:
        """Attributes for an event of each of ``count`` new kills in the container, whose cgroup is
        ``path``. Those that the log does not name have one event, and only if none is named."""
        self._read()
        mine = [entry for entry in self._kills if _is_of(entry[1], live, path)][:count]
        self._kills = [entry for entry in self._kills if entry not in mine]
        return [self._told(live, path, kill) for _, kill in mine] or [self._told(live, path)]

    def _read(self) -> None:
        now = time.monotonic()
        self._kills = [(read, kill) for read, kill in self._kills if read > now - _KEPT]
        if self._log is not None:
            try:
                self._kills += [(now, kill) for kill in self._log.kills()]
            except OSError as error:
                log.warning("OOM kills will not name the process, /dev/kmsg: %s", error.strerror)
                self.close()

    def _told(self, live: Live, path: str, kill: Kill | None = None) -> dict[str, str]:
        """The event's attributes; the log has the same for people."""
        told: dict[str, str] = {}
        own = live.record.host_config.memory
        if own > 0:
            told["memoryLimit"] = str(own)
        who, why = "a process", "memory"
        if kill is not None:
            told |= {"oomPid": str(kill.pid), "oomProcess": kill.name}
            inside = _inner_pid(kill, live)
            if inside:
                told["oomContainerPid"] = str(inside)
            runs = [run.id for run in live.execs.values() if run.pid == kill.pid]
            if runs:
                told["execID"] = runs[0]
            main = "its main process " if kill.pid == _main(live) else ""
            who = f"{main}{kill.name!r} (pid {kill.pid})"
        exhausted = (kill and kill.exhausted) or oom.counted(Cgroup(path))
        if exhausted is not None:
            told["oomLimit"] = exhausted.what
            if exhausted.limit:
                told["oomLimitBytes"] = str(exhausted.limit)
            # The ids of containers are in their paths: this is the own one, however it is mounted.
            own_group = exhausted.cgroup.endswith(path)
            if exhausted.cgroup and not own_group:
                told["oomCgroup"] = exhausted.cgroup
            why = _sentence(exhausted, own_group)
        log.warning("container %s: out of %s, the kernel killed %s", live.id[:12], why, who)
        return told


def _sentence(exhausted: Exhausted, own: bool) -> str:
    if not exhausted.cgroup:
        return f"memory of the {exhausted.what}"
    size = f" of {exhausted.limit} bytes" if exhausted.limit else ""
    whose = "the container" if own else f"cgroup {exhausted.cgroup}"
    return f"memory at the {exhausted.what} limit{size} of {whose}"


def _is_of(kill: Kill, live: Live, path: str) -> bool:
    if kill.cgroup:
        return f"{path}/" in f"{kill.cgroup}/"
    return kill.pid == _main(live) or any(kill.pid == run.pid for run in live.execs.values())


def _main(live: Live) -> int:
    """The host pid of its first process; 0 if it has none."""
    return live.record.state.pid or (live.shim.pid if live.shim else 0)


def _inner_pid(kill: Kill, live: Live) -> int:
    """The pid in the container, 0 if it is not known: most are gone before somebody can look."""
    mode = live.record.host_config.pid_mode
    if mode == "host":
        return kill.pid
    if kill.pid == _main(live) and mode in ("", "private"):
        return 1
    return oom.inner_pid(kill.pid, kill.name)
