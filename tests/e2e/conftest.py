"""One engine for all end-to-end tests: what one of them leaves behind, another trips over."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, leftovers

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def engine(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    """An engine on a unix socket and on TCP (loopback of its namespace), with busybox:latest."""
    process = EngineProcess(
        Path(tmp_path_factory.mktemp("e2e")), docker_binary, "-H", "tcp://127.0.0.1:2375"
    )
    process.start()
    try:
        process.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield process
        for id in process.lines("ps", "-aq"):
            process.docker("rm", "-f", "-v", id)
        eventually(lambda: not leftovers(process))
        assert leftovers(process) == []
    finally:
        process.dispose()


class Docker:
    """The docker CLI against the engine; containers made here are removed after the test."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self._names: list[str] = []

    def name(self) -> str:
        """A new container name that is cleaned up."""
        name = f"t{next(_numbers)}"
        self._names.append(name)
        return name

    def __call__(
        self, *words: str, check: bool = True, input: str | bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return self.engine.docker(*words, check=check, input=input, timeout=timeout)

    def out(self, *words: str) -> str:
        return self.engine.out(*words)

    def sh(self, script: str, *flags: str) -> str:
        """Output of a shell script in a container of its own, stripped."""
        return self.out("run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", script)

    def up(self, *words: str, name: str = "") -> str:
        """A container in the background: its name."""
        name = name or self.name()
        self("run", "-d", "--name", name, *words)
        return name

    def fails(self, *words: str, code: int, says: str) -> str:
        """A command that ends with ``code`` and has ``says`` on stderr, which is returned."""
        done = self(*words, check=False)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert says in done.stderr, (words, done.stderr)
        return done.stderr

    def exec(self, name: str, *words: str) -> str:
        return self.out("exec", name, *words)

    def state(self, name: str, template: str = "{{.State.Status}}") -> str:
        return self.out("inspect", "-f", template, name)

    def clean(self) -> None:
        if self._names:
            self("rm", "-f", "-v", *self._names, check=False)


@pytest.fixture
def docker(engine: EngineProcess) -> Iterator[Docker]:
    found = Docker(engine)
    try:
        yield found
    finally:
        found.clean()


def eventually(holds: Callable[[], object], within: float = 10.0) -> bool:
    """Ask until it holds; False if it never does."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def pid_of(name: str, docker: Docker) -> int:
    return int(docker.state(name, "{{.State.Pid}}"))


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")
