"""One engine for all end-to-end tests: what one of them leaves behind, another trips over."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import EngineProcess, Failed, leftovers

from pyengine.config.schema import schema
from pyengine.linux.cgroups import Cgroup

if TYPE_CHECKING:
    from tests.registries.lab import Lab

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


@pytest.fixture
def engine_with(tmp_path: Path, docker_binary: str, busybox: Path) -> Iterator[Any]:
    """Makes an engine whose daemon.json has these keys, written with underscores.

    Forwarding is off in its network namespace, so that what switches it on is seen.
    """
    made: list[EngineProcess] = []
    parents: list[Path] = []

    def make(**values: Any) -> EngineProcess:
        import jsonschema  # the guest of the VM tier has none

        if "cgroup_parent" in values:
            parents.append(Path(values["cgroup_parent"]))
        place, file = tmp_path / f"e{len(made)}", tmp_path / "daemon.json"
        plain = {key.replace("_", "-"): value for key, value in values.items()}
        jsonschema.validate(plain, schema())
        file.write_text(json.dumps(plain))
        place.mkdir()
        engine = EngineProcess(place, docker_binary, "--config-file", str(file))
        made.append(engine)
        engine.in_namespace("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
        if {"hosts", "data-root", "exec-root"} <= plain.keys():
            engine.placed = False
        engine.start()
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        return engine

    yield make
    for engine in made:
        engine.dispose()
    for parent in parents:  # the operator's, which engines leave alone
        for group in (parent, *parent.parents[:-1]):
            Cgroup(str(group)).remove_empty()


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


class Site:
    """An engine of its own for a module, with registries around it and a CLI beside it.

    The CLI runs in the engine's network namespace, since it talks to registries itself, with a
    configuration of its own (``config``, as DOCKER_CONFIG).
    """

    def __init__(self, root: Path, docker: str, busybox: Path) -> None:
        self.root = root
        self.busybox = busybox
        self.config = root / "client"
        self.daemon_json = root / "daemon.json"
        (root / "engine").mkdir()
        self.daemon_json.write_text("{}")
        self.engine = EngineProcess(
            root / "engine", docker, "--config-file", str(self.daemon_json), "--debug"
        )
        from tests.registries.lab import Lab  # needs more than the guest of the VM tier has

        self.lab: Lab = Lab(self.engine.namespace, root / "lab")

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 60, config: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI; ``Failed`` on an exit code but 0 if ``check``."""
        done = self.lab.sh(
            *self.engine.command(*words),
            check=False,
            timeout=timeout,
            env={"DOCKER_CONFIG": str(config or self.config)},
        )
        if check and done.returncode:
            raise Failed(f"{words}\n{done.stdout}{done.stderr}\n--- daemon\n{self.engine.tail(12)}")
        return done

    def out(self, *words: str) -> str:
        return self(*words).stdout.strip()

    def fails(self, *words: str, says: str, config: Path | None = None) -> str:
        """What a command that must fail says, of which ``says`` must be a part."""
        done = self(*words, check=False, config=config)
        assert done.returncode, (words, done.stdout)
        assert says in done.stderr, (words, done.stderr)
        return done.stderr

    def api(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """(status, JSON) of one request to the engine."""
        found = self.lab.sh(
            "curl", "-s", "--unix-socket", str(self.engine.socket), "-X", method,
            "-w", "\n%{http_code}",
            *(word for key, value in (headers or {}).items() for word in ("-H", f"{key}: {value}")),
            f"http://docker{path}",
        ).stdout  # fmt: skip
        body, _, status = found.rpartition("\n")
        return int(status), json.loads(body)

    def make(self, name: str) -> str:
        """A small image that shares nothing with others, with busybox in it: its id."""
        tar = self.root / "unique.tar"
        shutil.copy(self.busybox, tar)
        with tarfile.open(tar, "a") as more:
            entry = tarfile.TarInfo(f"unique-{next(_numbers)}")
            more.addfile(entry)
        return self.out("import", "-c", 'CMD ["sh"]', str(tar), name)

    def inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out("image", "inspect", image))[0]
        return found

    def fsck(self) -> list[str]:
        """What is wrong with blobs and layers."""
        status, found = self.engine.api("GET", "/pyengine/content/fsck")
        assert status == 200, found
        return [" ".join(problem.values()) for problem in found]

    def images(self) -> list[tuple[str, ...]]:
        """Ids, tags and digests."""
        found = self.engine.api("GET", "/images/json?all=1")[1]
        return sorted((one["Id"], *one["RepoTags"], *one["RepoDigests"]) for one in found)

    def files(self) -> list[str]:
        """Paths below the data root without the database; ids of directories are left out."""
        found = []
        for directory, _, names in os.walk(self.engine.data):
            place = os.path.relpath(directory, self.engine.data)
            place = re.sub(r"^overlay2/([0-9a-f]{64}|l/\w+)", "overlay2/*", place)
            found += [f"{place}/{name}" for name in names if not name.startswith("engine.db")]
        return sorted(found)

    def everything(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """What bad input must not change."""
        return self.images(), self.files()

    def reload(self, **keys: object) -> None:
        """Write daemon.json, send SIGHUP, and wait until the daemon has taken it in."""
        self.daemon_json.write_text(json.dumps({k.replace("_", "-"): v for k, v in keys.items()}))
        since = f"--since={time.time()}"
        self.hangup()
        command = self.engine.command("events", since, "--filter", "event=reload")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
            assert events.stdout is not None
            assert select.select([events.stdout], [], [], 10)[0], self.engine.tail()
            events.kill()

    def hangup(self) -> None:
        os.kill(self.engine.pid, signal.SIGHUP)

    def dispose(self) -> None:
        self.lab.close()
        self.engine.dispose()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[Site]:
    made = Site(Path(tmp_path_factory.mktemp("site")), docker_binary, busybox)
    try:
        made.engine.start()
        yield made
    finally:
        made.dispose()


@pytest.fixture(scope="module")
def tidied(engine: EngineProcess) -> Iterator[None]:
    """What the tests of a module make under names of their own goes after the last of them."""

    def found() -> list[set[str]]:
        return [set(engine.lines(*words)) for words in listings]

    listings = (
        ("ps", "-aq", "--no-trunc"),
        ("network", "ls", "-q", "--no-trunc"),
        ("images", "--format", "{{.Repository}}:{{.Tag}}"),
    )
    before = found()
    yield
    removals = (("rm", "-f", "-v"), ("network", "rm"), ("rmi",))
    for removal, old, new in zip(removals, before, found(), strict=True):
        if new - old:
            engine.docker(*removal, *(new - old))


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
