"""Starting a container and what runs in it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from bench.case import Sample, case
from bench.engines import Engine


def _run(engine: Engine, network: str) -> Iterator[Sample]:
    yield lambda: engine.time("run", "--rm", "--network", network, engine.image, "true")


@case("run-none", at_most=0.4, spaced=True)
def run_none(engine: Engine) -> Iterator[Sample]:
    """docker run --rm --network none busybox true"""
    yield from _run(engine, "none")


@case("run-host", at_most=0.4, spaced=True)
def run_host(engine: Engine) -> Iterator[Sample]:
    """docker run --rm --network host busybox true"""
    yield from _run(engine, "host")


@case("run-bridge", at_most=0.4, spaced=True)
def run_bridge(engine: Engine) -> Iterator[Sample]:
    """docker run --rm --network bridge busybox true"""
    yield from _run(engine, "bridge" if engine.name != "podman" else "podman")


@case("run-20x4", at_most=0.35, rounds=5)
def run_parallel(engine: Engine) -> Iterator[Sample]:
    """20 runs without network, 4 at a time, all of them together"""

    def sample() -> float:
        begin = perf_counter()
        with ThreadPoolExecutor(4) as pool:
            runs = [
                pool.submit(engine.time, "run", "--rm", "--network", "none", engine.image, "true")
                for _ in range(20)
            ]
        took = (perf_counter() - begin) * 1000
        for run in runs:
            run.result()
        return took

    yield sample


@case("exec", at_most=0.8, spaced=True)
def exec_true(engine: Engine) -> Iterator[Sample]:
    """docker exec of `true` in a running container"""
    with engine.containers(1) as [name]:
        yield lambda: engine.time("exec", name, "true")
