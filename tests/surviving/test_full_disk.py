"""A full disk: the error is told, and nothing half made stays."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, leftovers
from surviving import until


@pytest.fixture
def small(tmp_path: Path, docker_binary: str, busybox: Path) -> Iterator[EngineProcess]:
    """An engine whose data root is an ext4 of 24 MB."""
    image, data = tmp_path / "disk", tmp_path / "root" / "data"
    data.mkdir(parents=True)
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(data)], check=True)
    engine = EngineProcess(tmp_path / "root", docker_binary)
    try:
        engine.start()
        engine.docker("import", str(busybox), "busybox")
        yield engine
    finally:
        (data / "ballast").unlink(missing_ok=True)
        engine.dispose()
        subprocess.run(["umount", "-l", str(data)], check=False, capture_output=True)


def left(engine: EngineProcess) -> list[str]:
    """What is left of containers; the disk itself is no leftover."""
    return [line for line in leftovers(engine) if line != f"mount {engine.data}"]


def fill(directory: Path) -> None:
    """Take every block."""
    with open(directory / "ballast", "ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
        os.fsync(file.fileno())
    assert os.statvfs(directory).f_bavail == 0


def files_of(engine: EngineProcess) -> set[str]:
    """Every path that a container could have left, without what databases and sweeps keep."""
    found = set()
    for base, names, files in os.walk(engine.data):
        found |= {os.path.join(base, name) for name in (*names, *files)}
    return {path for path in found if "/engine.db" not in path and "ballast" not in path}


def test_nothing_is_left_of_a_container_that_found_no_room(small: EngineProcess) -> None:
    small.docker("run", "--rm", "busybox", "true")
    until(lambda: not left(small), "an empty host")
    before = files_of(small)
    fill(small.data)
    failed = small.docker(
        "run", "-d", "-v", "/anonymous", "-v", "named:/named", "-p", "18088:80",
        "busybox", "sleep", "600", check=False,
    )  # fmt: skip
    assert failed.returncode == 125
    assert "No space left on device" in failed.stderr or "full" in failed.stderr, failed.stderr
    # Reading and stopping need no room.
    assert small.lines("ps", "-aq") == []
    assert small.out("images", "-q") != ""
    imported = small.docker("import", "-", "more", check=False, input="x" * 4096)
    assert imported.returncode == 1
    assert "No space left on device" in imported.stderr
    assert "Traceback" not in small.log.read_text(), small.tail()
    until(lambda: files_of(small) == before, "the same files as before")
    assert left(small) == []
    assert small.lines("volume", "ls", "-q") == []
    # With room again all is well, and the engine that was there still serves.
    (small.data / "ballast").unlink()
    assert small.out("run", "--rm", "-p", "18088:80", "busybox", "echo", "room") == "room"


def test_a_running_container_survives_and_its_end_is_known(small: EngineProcess) -> None:
    id = small.out(
        "run", "-d", "busybox", "sh", "-c", "trap 'exit 6' TERM; while :; do usleep 50000; done"
    )
    fill(small.data)
    small.docker("stop", id, check=False)
    until(lambda: not small.inspect(id)["State"]["Running"], "its end")
    assert small.inspect(id)["State"]["ExitCode"] == 6
    assert small.out("wait", id) == "6"
    (small.data / "ballast").unlink()
    small.docker("rm", id)
    until(lambda: not left(small), "an empty host")
