"""Devices by the files of the Container Device Interface, and ``--gpus``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, Failed

FUSE = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/device",
    "containerEdits": {"env": ["SHARED=yes"]},
    "devices": [
        {
            "name": "fuse",
            "containerEdits": {
                "env": ["FUSE=yes"],
                "deviceNodes": [{"path": "/dev/fuse"}],
                "mounts": [{"hostPath": "HERE", "containerPath": "/described"}],
            },
        }
    ],
}
GPU = """
cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, hostPath: /dev/null}
"""


@pytest.fixture(scope="module")
def described(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[tuple[EngineProcess, Path]]:
    """An engine that reads descriptions of devices from a directory, and that directory."""
    root = Path(tmp_path_factory.mktemp("cdi"))
    directory = root / "descriptions"
    directory.mkdir()
    engine = EngineProcess(root / "engine", docker_binary, "--cdi-spec-dir", str(directory))
    try:
        (root / "engine").mkdir(exist_ok=True)
        engine.start()
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield engine, directory
    finally:
        engine.dispose()


def run(engine: EngineProcess, *words: str) -> str:
    return engine.out("run", "--rm", "--network", "none", *words)


def test_a_device_of_a_vendor(described: tuple[EngineProcess, Path]) -> None:
    engine, directory = described
    wanted = ("--device", "vendor.com/device=fuse", "busybox", "sh", "-c")
    with pytest.raises(Failed, match="unresolvable CDI devices vendor"):
        run(engine, *wanted, "true")
    (directory / "fuse.json").write_text(json.dumps(FUSE).replace("HERE", str(directory)))
    script = "stat -c '%F %t:%T' /dev/fuse; echo $SHARED $FUSE; ls /described; : <>/dev/fuse"
    assert run(engine, *wanted, script).splitlines() == [
        "character special file a:e5",
        "yes yes",
        "fuse.json",
    ]
    with pytest.raises(Failed, match="Operation not permitted"):
        run(engine, "busybox", "sh", "-c", "mknod /f c 10 229; : <>/f")
    _, info = engine.api("GET", "/v1.51/info")
    assert info["CDISpecDirs"] == [str(directory)]
    assert info["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vendor.com/device=fuse"}]


def test_graphics_cards(described: tuple[EngineProcess, Path]) -> None:
    pytest.importorskip("yaml")
    engine, directory = described
    with pytest.raises(Failed, match=r'driver "" with capabilities: \[\[gpu\]\]'):
        run(engine, "--gpus", "all", "busybox", "true")
    (directory / "gpu.yaml").write_text(GPU)
    out = run(engine, "--gpus", "all", "busybox", "stat", "-c", "%t:%T", "/dev/nvidia0")
    assert out == "1:3"
    with pytest.raises(Failed, match="unresolvable CDI devices nvidia"):
        run(engine, "--gpus", "1", "busybox", "true")


def test_a_file_that_is_wrong_is_told(described: tuple[EngineProcess, Path]) -> None:
    engine, directory = described
    (directory / "bad.json").write_text("{}")
    try:
        warnings = json.loads(engine.out("info", "--format", "{{json .Warnings}}"))
        assert any(
            f"CDI: Error associated with spec file {directory}/bad.json" in one for one in warnings
        )
        with pytest.raises(Failed, match=r"bad\.json"):
            run(engine, "--device", "vendor.com/device=none", "busybox", "true")
    finally:
        (directory / "bad.json").unlink()
