"""Removing running containers, on a quiet disk and on a busy one.

Not on podman: its `rm -f` is patient, with ten seconds between SIGTERM and SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.case import Sample, case
from bench.engines import Engine


def _remove(engine: Engine) -> float:
    with engine.containers(10) as names:
        # Each has written something, as containers do: an empty upper directory unmounts for free.
        for name in names:
            engine.run("exec", name, "dd", "if=/dev/zero", "of=/written", "bs=64k", "count=16")
        return engine.time("rm", "-f", *names)


@case("rm-10", at_most=0.5, rounds=5, not_on=("podman",))
def remove_quiet(engine: Engine) -> Iterator[Sample]:
    """docker rm -f of 10 running containers"""
    yield lambda: _remove(engine)


@case("rm-10-busy", at_most=0.5, rounds=5, not_on=("podman",))
def remove_busy(engine: Engine) -> Iterator[Sample]:
    """the same beside a process that keeps dirtying the disk that holds the engine's data"""

    def sample() -> float:
        with _dirtying(engine.directory()):
            return _remove(engine)

    yield sample


@contextmanager
def _dirtying(directory: Path) -> Iterator[None]:
    """A process that writes the same 256 MB over and over, so that there is always dirty data."""
    target = directory / "dirty"
    loop = 'while :; do dd if=/dev/zero of="$0" bs=1M count=256 conv=notrunc; done'
    writer = subprocess.Popen(
        ["sh", "-c", loop, str(target)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        time.sleep(0.5)
        yield
    finally:
        os.killpg(writer.pid, signal.SIGKILL)
        writer.wait()
        target.unlink(missing_ok=True)
