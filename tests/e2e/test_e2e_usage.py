"""``system df``, ``ps -s``, ``inspect -s``: right two seconds after a write, and never a walk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker, eventually

#: What is promised: within this many seconds of a write, within one percent.
SETTLED = 2.0
EXACT = 0.01

FILL = (
    "head -c 50000000 /dev/urandom > {0}/big; mkdir {0}/small; cd {0}/small; "
    "i=0; while [ $i -lt 3000 ]; do echo $i-------------------- > $i; i=$((i+1)); done; "
    "ln {0}/big {0}/again; ln -s big {0}/link"
)


def settle() -> None:
    """Wait as long as is promised; longer where the processors have other work waiting."""
    crowded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    time.sleep(SETTLED * (5 if crowded else 1))


def measured(path: Path) -> int:
    """Apparent bytes of files below ``path``, hard links once, as du counts them without
    directories."""
    seen = {}
    for directory, _, names in os.walk(path):
        for name in names:
            found = os.lstat(os.path.join(directory, name))
            seen[found.st_ino] = found.st_size
    return sum(seen.values())


def usage(engine: EngineProcess, query: str = "") -> dict[str, Any]:
    status, body = engine.api("GET", f"/v1.45/system/df{query}")
    assert status == 200, body
    assert isinstance(body, dict)
    return body


def written(engine: EngineProcess, name: str) -> int:
    """``SizeRw`` in the answer of ``system df``."""
    rows = usage(engine, "?type=container")["Containers"]
    [size] = [row.get("SizeRw", 0) for row in rows if f"/{name}" in row["Names"]]
    return int(size)


def volume(engine: EngineProcess, name: str) -> dict[str, int]:
    rows = usage(engine, "?type=volume")["Volumes"]
    [data] = [row["UsageData"] for row in rows if row["Name"] == name]
    return dict(data)


def upper(engine: EngineProcess, name: str) -> Path:
    return Path(engine.inspect(name)["GraphDriver"]["Data"]["UpperDir"])


@pytest.fixture
def kept(engine: EngineProcess) -> Iterator[str]:
    """A volume."""
    name = engine.out("volume", "create")
    yield name
    engine.docker("volume", "rm", "-f", name)


def close_to(size: int, true: int) -> bool:
    return abs(size - true) <= EXACT * true


def test_managed_plugins(docker: Docker) -> None:
    """There are none, and none can be had: drivers are packages."""
    assert docker.out("plugin", "ls", "-q") == ""
    docker.fails("plugin", "install", "x/y", code=1, says="managed plugins are not in this version")
    docker.fails("plugin", "inspect", "x", code=1, says='plugin "x" not found')
    docker.fails("plugin", "rm", "x", code=1, says='plugin "x" not found')
    docker.fails("plugin", "enable", "x", code=1, says='plugin "x" not found')


def test_what_a_container_writes(engine: EngineProcess, kept: str, docker: Docker) -> None:
    name = docker.up("-v", f"{kept}:/data", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", f"{FILL.format('/root')}; {FILL.format('/data')}")
    settle()
    layer, contents = (
        measured(upper(engine, name)),
        measured(Path(engine.inspect(kept)["Mountpoint"])),
    )
    assert layer > 50_000_000
    assert contents > 50_000_000
    assert close_to(written(engine, name), layer)
    assert volume(engine, kept)["RefCount"] == 1
    assert close_to(volume(engine, kept)["Size"], contents)
    assert engine.out("ps", "-s", "--filter", f"name={name}", "--format", "{{.Size}}").startswith(
        "50.1MB (virtual "
    )
    _, inspected = engine.api("GET", f"/containers/{name}/json?size=1")
    assert inspected["SizeRw"] == written(engine, name)
    docker.exec(name, "sh", "-c", "rm -r /root/* /data/*; echo left > /root/x")
    settle()
    assert written(engine, name) == 5
    assert volume(engine, kept)["Size"] == 0


def test_what_is_left_when_it_ends(engine: EngineProcess, kept: str, docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, "-v", f"{kept}:/data", "busybox", "sh", "-c",
           "echo 1234567 > /x; echo 123 > /data/y")  # fmt: skip
    settle()
    assert written(engine, name) == 8
    assert volume(engine, kept) == {"RefCount": 1, "Size": 4}


def test_what_the_host_writes_is_seen_when_asked_again(engine: EngineProcess, kept: str) -> None:
    Path(engine.inspect(kept)["Mountpoint"], "file").write_bytes(bytes(1000))
    usage(engine)
    assert eventually(lambda: volume(engine, kept) == {"RefCount": 0, "Size": 1000})


def test_a_volume_with_options_is_not_walked_through(engine: EngineProcess) -> None:
    name = engine.out(
        "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m"
    )
    try:
        assert name not in [row["Name"] for row in usage(engine)["Volumes"]]
    finally:
        engine.docker("volume", "rm", name)


def test_the_next_daemon_knows_the_sizes(engine: EngineProcess, kept: str, docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, "-v", f"{kept}:/data", "busybox", "sh", "-c",
           "echo 1234567 > /x; echo 123 > /data/y")  # fmt: skip
    settle()
    (upper(engine, name) / "unseen").write_bytes(b"12345")
    engine.kill()
    engine.start()
    first = written(engine, name)
    assert first in (8, 13)
    assert volume(engine, kept)["Size"] == 4
    # and it looks for itself
    assert eventually(lambda: written(engine, name) == 13)


def test_chosen_kinds(engine: EngineProcess) -> None:
    everything = usage(engine)
    assert list(everything) == ["LayersSize", "Images", "Containers", "Volumes", "BuildCache"]
    assert everything["LayersSize"] > 0
    volumes = usage(engine, "?type=volume&type=build-cache")
    assert volumes["LayersSize"] == 0
    assert volumes["Images"] is None
    assert volumes["Containers"] is None
    assert isinstance(volumes["Volumes"], list)
    assert volumes["BuildCache"] == []
    assert engine.api("GET", "/v1.45/system/df?type=foo") == (
        400,
        {"message": "unknown object type: foo"},
    )
    assert engine.api("GET", "/v1.41/system/df?type=foo")[0] == 200
    assert "VirtualSize" in engine.api("GET", "/v1.43/system/df")[1]["Images"][0]
    assert "VirtualSize" not in everything["Images"][0]


def test_the_command_line(engine: EngineProcess, docker: Docker) -> None:
    docker.up("busybox", "sleep", "1000")
    assert [line.split()[0] for line in engine.lines("system", "df")] == [
        "TYPE", "Images", "Containers", "Local", "Build",
    ]  # fmt: skip
    assert "Containers space usage:" in engine.out("system", "df", "-v")


def test_a_thousand_containers(engine: EngineProcess) -> None:
    names = []
    try:
        for number in range(1000):
            name = f"many{number}"
            status, body = engine.api(
                "POST", f"/containers/create?name={name}", {"Image": "busybox"}
            )
            assert status == 201, body
            names.append(name)
        took = []
        for _ in range(5):
            began = time.monotonic()
            assert len(usage(engine)["Containers"]) >= 1000
            took.append(time.monotonic() - began)
        assert min(took) < 0.1
    finally:
        for name in names:
            engine.api("DELETE", f"/containers/{name}")
