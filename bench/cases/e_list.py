"""Commands that only ask."""

from __future__ import annotations

from collections.abc import Iterator

from bench.case import Sample, case
from bench.engines import Engine, timed


@case("ps-200", at_most=1.0, spaced=True)
def list_many(engine: Engine) -> Iterator[Sample]:
    """docker ps -a with 200 containers"""
    with engine.containers(200, verb=("create",)):
        yield lambda: engine.time("ps", "-a")


@case("version", limit=120, spaced=True)
def version(engine: Engine) -> Iterator[Sample]:
    """the engine's own CLI: pyengine version against docker version"""
    yield lambda: timed(engine.version_command())
