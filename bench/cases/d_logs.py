"""71 MB of log lines, written by a container and read back."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator

from bench import images
from bench.case import Sample, case
from bench.engines import CommandFailed, Engine

# Rotation must not drop what is to be read back, on either side.
_LOG = ("--log-driver", "json-file", "--log-opt", "max-size=2g")


def _image(engine: Engine, kind: str, lines: Callable[[], Iterator[bytes]]) -> str:
    prefix = "localhost/" if engine.name == "podman" else ""
    name = f"{prefix}bench-lines-{kind}:latest"
    engine.load(name, images.logs_tar(lines))
    return name


def _write(engine: Engine, image: str) -> tuple[str, float]:
    name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    detached = ("run", "-d", "--name", name, "--network", "none", *_LOG)
    begin = time.perf_counter()
    engine.run(*detached, image, "cat", "/lines")
    engine.run("wait", name)
    return name, (time.perf_counter() - begin) * 1000


def _writing(engine: Engine, kind: str, lines: Callable[[], Iterator[bytes]]) -> Iterator[Sample]:
    image = _image(engine, kind, lines)

    def sample() -> float:
        name, took = _write(engine, image)
        engine.remove([name])
        return took

    yield sample


def _reading(engine: Engine, kind: str, lines: Callable[[], Iterator[bytes]]) -> Iterator[Sample]:
    name, _ = _write(engine, _image(engine, kind, lines))
    try:
        _complete(engine, name, sum(map(len, lines())))
        yield lambda: engine.time("logs", name)
    finally:
        engine.remove([name])


def _complete(engine: Engine, name: str, expected: int) -> None:
    """Reading fast what is not all there would be no feat."""
    with subprocess.Popen(engine.command("logs", name), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        got = 0
        while chunk := reader.stdout.read(1 << 20):
            got += len(chunk)
    if got != expected:
        raise CommandFailed(f"{engine.name}: logs gave {got} bytes of {expected}")


@case("logs-plain-write", at_most=0.3, rounds=5)
def write_plain(engine: Engine) -> Iterator[Sample]:
    """71 MB of short plain lines: docker run -d, docker wait"""
    yield from _writing(engine, "plain", images.plain_lines)


@case("logs-json-write", at_most=0.4, rounds=5)
def write_json(engine: Engine) -> Iterator[Sample]:
    """71 MB of JSON lines with colour and UTF-8: docker run -d, docker wait"""
    yield from _writing(engine, "json", images.json_lines)


@case("logs-plain-read", at_most=0.3, rounds=5)
def read_plain(engine: Engine) -> Iterator[Sample]:
    """docker logs of the plain lines"""
    yield from _reading(engine, "plain", images.plain_lines)


@case("logs-json-read", at_most=0.3, rounds=5)
def read_json(engine: Engine) -> Iterator[Sample]:
    """docker logs of the JSON lines"""
    yield from _reading(engine, "json", images.json_lines)
