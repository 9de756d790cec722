"""Drivers of third parties that hang, raise or start threads, beside a working engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess
from surviving import until

STUCK = 40

#: A volume driver that makes volumes and never mounts one.
HANGS_WHEN_USED = """
import threading
from pathlib import Path
from pyengine.contracts.base import Probe, Reconciled
from pyengine.contracts.volume import VolumeDriver

class Bad(VolumeDriver):
    name = "bad"
    priority = 1
    @classmethod
    def probe(cls, context): return Probe(True)
    def create(self, volume): self._never(volume.name)
    def remove(self, name): pass
    def path(self, name): return Path("/nowhere") / name
    def mount(self, volume, user): self._never("never")
    def unmount(self, volume, user): self._never("never")
    def usage(self, name): return 0
    def reconcile(self, known, users): return Reconciled()
    def _never(self, name):
        if name.startswith("never"):
            threading.Event().wait()
"""
RAISES = "raise RuntimeError('made for raising')\n"
HANGS = "import time\nwhile True: time.sleep(1)\n"
STARTS_A_THREAD = (
    "import threading\n"
    "threading.Thread(target=threading.Event().wait, name='stowaway', daemon=True).start()\n"
    + HANGS_WHEN_USED
)

KINDS = ("volume", "storage", "runtime", "logging")

Install = Callable[..., dict[str, str]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Puts a module and its entry point where a daemon finds it; the environment for that."""

    def install(kind: str, source: str) -> dict[str, str]:
        module = f"bad_{kind}_driver"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-9.9.dist-info"
        info.mkdir()
        name = f"bad-{kind}-driver"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        (info / "entry_points.txt").write_text(f"[pyengine.{kind}]\nbad = {module}:Bad\n")
        rest = os.environ.get("PYTHONPATH")
        return {"PYTHONPATH": f"{tmp_path}:{rest}" if rest else str(tmp_path)}

    return install


@pytest.fixture
def make(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[Callable[[dict[str, str]], EngineProcess]]:
    made: list[EngineProcess] = []

    def make(env: dict[str, str]) -> EngineProcess:
        root = Path(tmp_path_factory.mktemp("engine"))
        made.append(EngineProcess(root, docker_binary, env=env))
        return made[-1]

    yield make
    for engine in made:
        engine.env.pop("PYTHONPATH", None)
        engine.dispose()


def test_calls_that_are_stuck_hold_up_nobody_else(
    install: Install, make: Callable[[dict[str, str]], EngineProcess], busybox: Path
) -> None:
    engine = make(install("volume", HANGS_WHEN_USED))
    engine.start()
    engine.docker("import", str(busybox), "busybox")
    engine.docker("run", "--rm", "busybox", "true")
    # Half of them are stuck in creating a volume, half in the start of a container.
    engine.docker("volume", "create", "-d", "bad", "fine")
    runs = [("volume", "create", "-d", "bad", f"never{n}") for n in range(STUCK // 2)]
    runs += [("run", "-v", "fine:/fine", "busybox", "true")] * (STUCK // 2)
    clients = [
        subprocess.Popen(engine.command(*run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for run in runs
    ]
    try:
        until(lambda: len(engine.lines("ps", "-aq")) == STUCK // 2, "all containers made", 20)
        time.sleep(0.5)
        times = {
            "ps": _timed(lambda: engine.docker("ps", "-a")),
            "run": _timed(lambda: engine.docker("run", "--rm", "busybox", "echo", "here")),
            "volume": _timed(lambda: engine.docker("run", "--rm", "-v", "/v", "busybox", "true")),
            "inspect": _timed(lambda: engine.docker("inspect", "-s", engine.lines("ps", "-aq")[0])),
        }
        times["SIGTERM"] = _timed(engine.stop)
        print(f"\nwith {STUCK} stuck calls, in seconds: {times}")
        assert all(client.wait(10) != 0 for client in clients)
        assert {name: t for name, t in times.items() if t > 1.0} == {}
    finally:
        for client in clients:
            client.kill()
            client.wait()


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return round(time.monotonic() - began, 2)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (RAISES, "RuntimeError: made for raising"),
        (STARTS_A_THREAD, "starts a thread"),
    ],
    ids=["raises", "thread"],
)
def test_one_that_is_broken_is_an_error_only_where_it_is_chosen(
    install: Install,
    make: Callable[[dict[str, str]], EngineProcess],
    busybox: Path,
    source: str,
    says: str,
) -> None:
    for kind in KINDS:
        env = install(kind, source)
    lines = _lines(env)
    for kind in KINDS:
        assert says in lines[kind]["reason"]
        engine = make(env)
        engine.start("--driver", f"{kind}=bad", wait=False)
        assert engine.wait(10) == 1
        _one_error(engine, f"{kind} driver 'bad'", says)
    engine.start()
    engine.docker("import", str(busybox), "busybox")
    assert engine.out("run", "--rm", "-v", "/v", "busybox", "echo", "fine") == "fine"


def test_one_that_hangs_is_an_error_only_where_it_is_chosen(
    install: Install, make: Callable[[dict[str, str]], EngineProcess], busybox: Path
) -> None:
    env = install("volume", HANGS)
    lines: list[dict[str, str]] = []
    asking = threading.Thread(target=lambda: lines.append(_lines(env)["volume"]))
    asking.start()
    chosen, engine = make(env), make(env)
    chosen.start("--driver", "volume=bad", wait=False)
    began = time.monotonic()
    engine.start("--driver", "volume=local")
    assert time.monotonic() - began < 8
    engine.docker("import", str(busybox), "busybox")
    # Asked for at last, it hangs, and nobody else does.
    with subprocess.Popen(
        engine.command("volume", "create", "-d", "bad", "mine"), stderr=subprocess.PIPE, text=True
    ) as client:
        time.sleep(0.2)
        assert _timed(lambda: engine.docker("ps")) < 1
        assert engine.out("run", "--rm", "-v", "/v", "busybox", "echo", "fine") == "fine"
        _, error = client.communicate(timeout=20)
        assert client.returncode == 1
        assert "volume driver 'bad' hangs while it is imported" in error
    assert chosen.wait(20) == 1
    _one_error(chosen, "volume driver 'bad'", "hangs while it is imported")
    asking.join()
    assert "hangs while it is imported" in lines[0]["reason"]


def _lines(env: dict[str, str]) -> dict[str, dict[str, str]]:
    """What ``pyengine drivers`` says of the bad drivers, by kind."""
    done = subprocess.run(
        [sys.executable, "-m", "pyengine", "drivers", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **env},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    bad = {row["kind"]: row for row in rows or json.loads(done.stdout) if row["name"] == "bad"}
    for kind, row in bad.items():
        assert row["available"] is False
        assert row["package"] == f"bad-{kind}-driver"
    return bad


def _one_error(engine: EngineProcess, *parts: str) -> None:
    log = engine.log.read_text()
    errors = log.split("pyengine daemon:")[1:]
    assert len(errors) == 1, log
    for part in parts:
        assert part in errors[0]
    assert "Traceback" not in log
