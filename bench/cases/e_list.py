"""Commands that only ask."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import processes
from bench.case import Sample, case
from bench.engines import Engine, timed


@case("ps-200", at_most=1.0, spaced=True)
def list_many(engine: Engine) -> Iterator[Sample]:
    """docker ps -a with 200 containers"""
    with engine.containers(200, verb=("create",)):
        yield lambda: engine.time("ps", "-a")


@case("ps-1000", at_most=0.7, rounds=10)
def list_thousand(engine: Engine) -> Iterator[Sample]:
    """docker ps -a with 1,000 containers"""
    with engine.containers(1000, verb=("create",)):
        yield lambda: engine.time("ps", "-a")


@case("df-1000", limit=100, rounds=10, not_on=("podman",))
def usage_thousand(engine: Engine) -> Iterator[Sample]:
    """docker system df with 1,000 containers"""
    with engine.containers(1000, verb=("create",)):
        yield lambda: engine.time("system", "df")


@case("pss-1000", limit=150, unit="MB", rounds=3, not_on=("podman",))
def memory_thousand(engine: Engine) -> Iterator[Sample]:
    """PSS of the daemon with 1,000 created containers"""
    with engine.containers(1000, verb=("create",)):
        time.sleep(1)
        yield lambda: sum(processes.memory(engine.processes()[:1], "Pss"))


@case("restart-200", limit=1000, rounds=5, not_on=("dockerd", "podman"))
def restart(engine: Engine) -> Iterator[Sample]:
    """from the start of a daemon over 200 running containers to its first answer to ps"""
    with engine.containers(200):
        yield engine.restart


@case("version", limit=120, spaced=True)
def version(engine: Engine) -> Iterator[Sample]:
    """the engine's own CLI: pyengine version against docker version"""
    yield lambda: timed(engine.version_command())
