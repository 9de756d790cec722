"""kill -9 at every step of load, commit and rmi: the image is there or it is not, and the next
start finds nothing wrong and leaves nothing over."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.faults.test_kill_steps import Faults

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

#: Steps that all operations must have gone through, together.
AT_LEAST = 100
_counted: dict[str, int] = {}


@pytest.fixture(scope="module")
def faulty(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[tuple[EngineProcess, Faults]]:
    faults = Faults(tmp_path_factory.mktemp("faults"))
    engine = EngineProcess(
        Path(tmp_path_factory.mktemp("engine")),
        docker_binary,
        env={"PYENGINE_FAULTS": str(faults.path)},
    )
    engine.start()
    try:
        engine.docker("import", str(busybox), "busybox:latest")
        change = "echo 1 > /one; rm /bin/ls; exec sleep 10000"
        engine.docker("run", "-d", "--name", "changed", "busybox", "sh", "-c", change)
        engine.docker("commit", "changed", "two:1")
        engine.docker("save", "two:1", "-o", str(engine.root / "two.tar"))
        engine.docker("rmi", "two:1")
        yield engine, faults
    finally:
        faults.disarm()
        engine.dispose()


def load(engine: EngineProcess) -> None:
    connection = engine.connect()
    try:
        archive = (engine.root / "two.tar").read_bytes()
        headers = {"Content-Type": "application/x-tar"}
        connection.request("POST", "/v1.45/images/load", archive, headers)
        connection.getresponse().read()
    finally:
        connection.close()


def commit(engine: EngineProcess) -> None:
    """Of a container that runs, and stands still meanwhile."""
    engine.api("POST", "/v1.45/commit?container=changed&repo=two&tag=1")


def remove(engine: EngineProcess) -> None:
    engine.api("DELETE", "/v1.45/images/two:1")


Act = Callable[[EngineProcess], None]
OPERATIONS: dict[str, tuple[list[Act], Act]] = {
    "load": ([], load),
    "commit": ([], commit),
    "rmi": ([load], remove),
}


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_whole_or_not_at_all(faulty: tuple[EngineProcess, Faults], operation: str) -> None:
    engine, faults = faulty
    before, act = OPERATIONS[operation]
    number = 0
    while True:
        number += 1
        for step in before:
            step(engine)
        faults.arm("daemon", number)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            act(engine)
        reached = faults.killed
        faults.disarm()
        if reached:
            engine.wait()
            engine.start()
        _check(engine, f"{operation}: killed at step {number}")
        if not reached:
            break
        assert number < 200, "steps without end"
    _counted[operation] = number - 1


def test_enough_steps_were_killed() -> None:
    total = sum(_counted.values())
    print(f"\nkilled at {total} steps: {_counted}")
    assert total >= AT_LEAST


def _check(engine: EngineProcess, when: str) -> None:
    """What is there is whole; without the image nothing of it is there."""
    assert engine.inspect("changed")["State"]["Status"] == "running", when
    code, problems = engine.api("GET", "/pyengine/content/fsck")
    assert (code, problems) == (200, []), when
    if engine.api("GET", "/v1.45/images/two:1/json")[0] == 200:
        assert engine.api("GET", "/v1.45/images/two:1/history")[0] == 200, when
        assert engine.api("DELETE", "/v1.45/images/two:1")[0] == 200, when
    _, blobs = engine.api("GET", "/pyengine/content")
    assert {user for blob in blobs for user in blob["UsedBy"]} == {"image busybox:latest"}, when
    assert len(blobs) == 3, when
    _, snapshots = engine.api("GET", "/pyengine/snapshots")
    known = {one["ID"] for one in snapshots}
    assert len(known) == 2, when
    on_disk = {
        path.name.removesuffix("-init")
        for path in (engine.data / "overlay2").iterdir()
        if path.name != "l" and not path.name.startswith(".")
    }
    assert on_disk <= known, f"{when}: {on_disk - known}"
    assert list((engine.data / "content/ingest").iterdir()) == [], when
