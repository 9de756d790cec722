"""Images that come in and go out: pull, import, save and load."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import images, processes
from bench.case import Sample, case
from bench.engines import Engine
from bench.registry import IMAGE, registry


@contextmanager
def _offered(engine: Engine) -> Iterator[str]:
    """The name of the image of eight layers in a registry; what was pulled of it is removed."""
    with registry(engine.peer) as address:
        name = f"{address}/{IMAGE}"
        try:
            yield name
        finally:
            _remove(engine, name)


def _remove(engine: Engine, name: str) -> None:
    """Untimed, and quiet if it is not there."""
    if name in engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        engine.run("rmi", name)


@case("pull", at_most=0.5, rounds=3, not_on=("podman",))
def pull(engine: Engine) -> Iterator[Sample]:
    """docker pull of eight layers, 27,000 files, 280 MB unpacked, from a registry on loopback"""
    with _offered(engine) as name:

        def sample() -> float:
            _remove(engine, name)
            return engine.time("pull", "-q", name)

        yield sample


@case("pull-again", at_most=1.0, not_on=("podman",))
def pull_again(engine: Engine) -> Iterator[Sample]:
    """the same when there is nothing new"""
    with _offered(engine) as name:
        engine.run("pull", "-q", name)
        yield lambda: engine.time("pull", "-q", name)


@case("pull-memory", limit=150, unit="MB", rounds=3, not_on=("podman",))
def pull_memory(engine: Engine) -> Iterator[Sample]:
    """what PSS of all the engine's processes grows by at most during such a pull"""
    with _offered(engine) as name:
        idle = _pss(engine)

        def sample() -> float:
            _remove(engine, name)
            with _highest(engine) as seen:
                engine.run("pull", "-q", name)
            return max(seen) - idle

        yield sample


def _pss(engine: Engine) -> float:
    return sum(processes.memory(engine.processes(), "Pss"))


@contextmanager
def _highest(engine: Engine) -> Iterator[list[float]]:
    """Looks at the memory all the while, ten times a second; the list grows within the block."""
    seen = [_pss(engine)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.append(_pss(engine))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@case("import", at_most=0.6, rounds=3, not_on=("podman",))
def import_tree(engine: Engine) -> Iterator[Sample]:
    """docker import of 15,000 files, 150 MB"""
    name = f"bench-import-{os.getpid()}:1"
    with tempfile.NamedTemporaryFile(dir=engine.directory(), suffix=".tar") as file:
        images.tree_tar(file)
        file.flush()

        def sample() -> float:
            took = engine.time("import", file.name, name)
            engine.run("rmi", name)
            return took

        yield sample


@case("save-load", at_most=0.6, rounds=3, not_on=("podman",))
def save_and_load(engine: Engine) -> Iterator[Sample]:
    """docker save of the image of eight layers to a file, docker rmi, docker load"""
    with _offered(engine) as name, tempfile.TemporaryDirectory(dir=engine.directory()) as place:
        engine.run("pull", "-q", name)
        archive = str(Path(place, "image.tar"))

        def sample() -> float:
            begin = time.perf_counter()
            engine.run("save", "-o", archive, name)
            engine.run("rmi", name)
            engine.run("load", "-q", "-i", archive)
            return (time.perf_counter() - begin) * 1000

        yield sample
