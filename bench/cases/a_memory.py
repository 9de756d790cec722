"""Memory of the engine's own processes. First in the run: later cases leave larger heaps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from bench import processes
from bench.case import Sample, case
from bench.engines import Engine


def _pss(engine: Engine, containers: int) -> Iterator[Sample]:
    with engine.containers(containers):
        time.sleep(1)
        yield lambda: sum(processes.memory(engine.processes(), "Pss"))


@case("pss-0", limit=80, unit="MB", rounds=3, not_on=("podman",))
def pss_idle(engine: Engine) -> Iterator[Sample]:
    """PSS of all processes of an idle engine"""
    yield from _pss(engine, 0)


@case("pss-1", unit="MB", rounds=3, not_on=("podman",))
def pss_one(engine: Engine) -> Iterator[Sample]:
    """the same with 1 container running"""
    yield from _pss(engine, 1)


@case("pss-20", at_most=0.3, unit="MB", rounds=3, not_on=("podman",))
def pss_twenty(engine: Engine) -> Iterator[Sample]:
    """the same with 20 containers running"""
    yield from _pss(engine, 20)


@case("shim-dirty", limit=3, unit="MB", rounds=3, not_on=("podman",))
def shim_dirty(engine: Engine) -> Iterator[Sample]:
    """Private_Dirty of a shim (median of 5) after 10,000 writes to the log and 10 execs"""
    writes = "i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done; exec sleep 86400"
    with engine.containers(5, process=("sh", "-c", writes)) as names:
        time.sleep(1)
        for name in names:
            for _ in range(10):
                engine.run("exec", name, "true")
        yield lambda: median(processes.memory(engine.shims(), "Private_Dirty"))
