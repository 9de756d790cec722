"""A supervisor over fake drivers, found through entry points as real ones are."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.supervisor.client import Supervisor
from pyengine.supervisor.records import Launch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """A directory on the import path with the fake drivers and broken ones, installed."""
    site = tmp_path_factory.mktemp("dists")
    shutil.copy(HERE / "fake_drivers.py", site / "supervisor_fakes.py")
    (site / "supervisor_threads.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from supervisor_fakes import FakeRuntime as Threaded\n"
    )
    (site / "supervisor_broken.py").write_text("import nothing_that_exists\n")
    info = site / "supervisor_fakes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: supervisor-fakes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pyengine.runtime]\n"
        "fake = supervisor_fakes:FakeRuntime\n"
        "threaded = supervisor_threads:Threaded\n"
        "broken = supervisor_broken:Runtime\n"
        "other = supervisor_fakes:FakeLog\n"
        "[pyengine.logging]\n"
        "fake = supervisor_fakes:FakeLog\n"
    )
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))


class Bench:
    """A scratch engine: makes launches, and leaves no process behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # A path of a socket has 108 bytes at most, which pytest's directories may exceed.
        self.exec_root = Path(f"/run/pyengine-test-{os.getpid()}-{secrets.token_hex(2)}")
        self.context = DriverContext(
            engine_id="test", prefix="petest", root=root / "driver", run=root / "run"
        )
        self.supervisors: list[Supervisor] = []
        self.pids: set[int] = set()

    def supervisor(self, runtimes=("fake",), loggers=("fake",), shim_cgroup="") -> Supervisor:
        one = Supervisor(
            exec_root=self.exec_root,
            runtimes=dict.fromkeys(runtimes, self.context),
            loggers=dict.fromkeys(loggers, self.context),
            shim_cgroup=shim_cgroup,
        )
        self.supervisors.append(one)
        return one

    def launch(self, *args: str, annotations=None, env=(), **fields) -> Launch:
        id = secrets.token_hex(32)
        state = self.root / id[:12]
        state.mkdir()
        process = {
            "args": list(args),
            "env": ["PATH=/usr/bin:/bin", *env],
            "terminal": fields.get("terminal", False),
        }
        namespaces = [] if fields.pop("host_pids", False) else [{"type": "pid"}]
        return Launch(
            id=id,
            name="test",
            runtime=fields.pop("runtime", "fake"),
            logging="fake",
            spec={
                "process": process,
                "annotations": annotations or {},
                "linux": {"namespaces": namespaces},
            },
            bundle=str(state),
            state_dir=str(state),
            socket=str(self.exec_root / "s" / id[:12]),
            log_path=str(state / "log"),
            **fields,
        )

    def log(self, launch: Launch) -> str:
        return Path(launch.log_path).read_text().replace("[flushed]", "")

    async def close(self) -> None:
        for one in self.supervisors:
            await one.close(keep_shims=False)
        for path in (self.root / "run").glob("*"):
            try:
                os.kill(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.exec_root, ignore_errors=True)


@pytest.fixture
async def bench(tmp_path, distributions):
    one = Bench(tmp_path)
    yield one
    await one.close()


async def until(condition, timeout: float = 5.0):
    """Wait for ``condition()`` to be true, and return what it said."""
    async with asyncio.timeout(timeout):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    return value


@pytest.fixture(name="until")
def _until():
    return until


async def read_all(sock) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while chunk := await loop.sock_recv(sock, 65536):
        data += chunk
    return data


@pytest.fixture(name="read_all")
def _read_all():
    return read_all
