"""kill -9 at every step of create, start and remove: the next start leaves nothing behind.

Steps are failpoints (``pyengine.faults``): every driver call, commit, mount, clone, unshare and
netlink request of daemon, zygote, shim and init. Each is killed in turn until the operation gets
past the last one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, leftovers, processes_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

#: Steps that every operation must have gone through, together.
AT_LEAST = 60
_counted: dict[str, int] = {}


class Faults:
    """The directory that failpoints look into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def arm(self, role: str, number: int) -> None:
        self._write(f"{role} {number}")

    def disarm(self) -> None:
        for name in ("kill", "killed"):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()

    @property
    def killed(self) -> bool:
        """True once the armed step was reached."""
        return (self.path / "killed").exists()

    def _write(self, text: str) -> None:
        temporary = self.path / "kill.new"
        temporary.write_text(text)
        temporary.replace(self.path / "kill")


@pytest.fixture(scope="module")
def faulty(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[tuple[EngineProcess, Faults]]:
    """An engine whose processes can be killed at a step."""
    faults = Faults(tmp_path_factory.mktemp("faults"))
    engine = EngineProcess(
        Path(tmp_path_factory.mktemp("engine")),
        docker_binary,
        env={"PYENGINE_FAULTS": str(faults.path)},
    )
    engine.start()
    try:
        engine.docker("import", str(busybox), "busybox:latest")
        yield engine, faults
    finally:
        faults.disarm()
        engine.dispose()


def create(engine: EngineProcess) -> int:
    """A container with a port, a bind, a mounted image, and volumes: a named one, an anonymous one,
    and one that is filled from the image."""
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}, "/bin": {}},
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostPort": "8099"}]},
            "Binds": [f"{engine.root}/bound:/bound", "named:/named"],
            "Mounts": [{"Type": "image", "Source": "busybox", "Target": "/image"}],
        },
    }
    return engine.api("POST", "/v1.51/containers/create?name=victim", body)[0]


def start(engine: EngineProcess) -> int:
    return engine.api("POST", "/v1.45/containers/victim/start")[0]


def remove(engine: EngineProcess) -> int:
    return engine.api("DELETE", "/v1.45/containers/victim?force=1&v=1")[0]


OPERATIONS = {
    "create": ([], create),
    "start": ([create], start),
    "remove": ([create, start], remove),
}


@pytest.mark.parametrize("role", ["daemon", "zygote", "shim", "maker", "init"])
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_nothing_is_left(faulty: tuple[EngineProcess, Faults], operation: str, role: str) -> None:
    engine, faults = faulty
    before, act = OPERATIONS[operation]
    number = 0
    while True:
        number += 1
        for step in before:
            assert step(engine) < 300
        faults.arm(role, number)
        with contextlib.suppress(OSError):
            act(engine)
        reached = _reached(faults, operation)
        faults.disarm()
        if reached and role == "daemon":
            engine.wait()
            engine.start()
        _assert_clean(engine, f"{operation}: {role} killed at step {number}")
        if not reached:
            break
        assert number < 400, "steps without end"
    _counted[f"{operation} {role}"] = number - 1


def test_enough_steps_were_killed() -> None:
    total = sum(_counted.values())
    print(f"\nkilled at {total} steps: {_counted}")
    assert total >= AT_LEAST


def _reached(faults: Faults, operation: str) -> bool:
    """Whether the step was reached. A removal goes on after its answer: let it come to it."""
    deadline = time.monotonic() + (1.0 if operation == "remove" else 0.1)
    while not faults.killed and time.monotonic() < deadline:
        time.sleep(0.01)
    return faults.killed


def _assert_clean(engine: EngineProcess, when: str) -> None:
    """Nothing of the container remains once it is removed, and a new one gets all it had."""
    code, _ = engine.api("DELETE", "/v1.45/containers/victim?force=1&v=1")
    assert code in (204, 404), f"{when}: {engine.tail()}"
    deadline = time.monotonic() + 10
    while left := _left(engine):
        if time.monotonic() > deadline:
            pytest.fail(f"{when}: left behind:\n" + "\n".join(left) + f"\n{engine.tail(12)}")
        time.sleep(0.02)
    network = engine.api("GET", "/v1.45/networks/bridge")[1]
    assert network["Containers"] == {}, when
    volumes = engine.api("GET", "/v1.45/volumes")[1]["Volumes"] or []
    assert [v["Name"] for v in volumes if v["Name"] != "named"] == [], when


def _left(engine: EngineProcess) -> list[str]:
    left = leftovers(engine)
    volumes = (engine.data / "volumes").glob("[!.]*")
    left += [f"volume {path.name}" for path in volumes if path.is_dir() and path.name != "named"]
    for pid in processes_of(engine.root):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            ours = command.startswith("pyengine-zygote") or pid == engine.pid
            if not ours and "supervisor.proxy" not in command and pid != os.getpid():
                left.append(f"process {pid} ({state}) {command}")
    return left
