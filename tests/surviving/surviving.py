"""What the tests of this folder share: an engine's processes, and containers that count."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import EngineProcess

#: Writes numbered lines for ever, 500 a second; ends with 7 on SIGTERM, saying how far it came.
COUNTER = (
    "trap 'echo last $i; exit 7' TERM; i=0; "
    "while :; do i=$((i+1)); echo line $i; [ $((i % 5)) -eq 0 ] && usleep 10000; done"
)


def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def zygote_of(engine: EngineProcess) -> int:
    """Pid of the zygote of the engine's living daemon."""
    for pid, command in _children(engine.pid):
        if command.startswith("pyengine-zygote"):
            return pid
    raise AssertionError("the daemon has no zygote")


def shim_of(id: str) -> int:
    """Pid of the shim of the container with this full id."""
    for pid, command in _commands():
        if command.startswith(f"pyengine-shim {id}"):
            return pid
    raise AssertionError(f"no shim of {id[:12]}")


def has_shim(id: str) -> bool:
    return any(command.startswith(f"pyengine-shim {id}") for _, command in _commands())


def kill(*pids: int) -> None:
    """SIGKILL, and wait until they are no more than zombies."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        until(lambda pid=pid: not alive(pid), f"the end of process {pid}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def counted(log: str) -> list[int]:
    """Numbers of the lines that ``COUNTER`` wrote."""
    return [int(number) for number in re.findall(r"^line (\d+)$", log, re.MULTILINE)]


def assert_no_gap(log: str) -> None:
    """Every line is there once and in order, and what the counter said last is true."""
    numbers = counted(log)
    assert numbers == list(range(1, len(numbers) + 1)), _first_gap(numbers)
    last = re.search(r"^last (\d+)$", log, re.MULTILINE)
    if last is not None:
        assert int(last[1]) - len(numbers) in (0, 1)


def _first_gap(numbers: list[int]) -> str:
    for want, number in enumerate(numbers, 1):
        if want != number:
            return f"line {want} is missing: {number} came instead"
    return ""


def _commands() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            yield int(entry.name), command.replace(b"\0", b" ").decode(errors="replace")


def _children(parent: int) -> Iterator[tuple[int, str]]:
    for pid, command in _commands():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            yield pid, command
