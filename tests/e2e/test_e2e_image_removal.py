"""``docker rmi`` by force while containers still stand on the image's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker, eventually


def layers_size(engine: EngineProcess) -> int:
    _, body = engine.api("GET", "/system/df?type=image")
    return int(body["LayersSize"])


def layers(engine: EngineProcess) -> set[str]:
    """Directories of overlay2's layers, without those that hold mount points only."""
    return {
        path.name
        for path in Path(engine.data, "overlay2").iterdir()
        if len(path.name) == 64 and path.is_dir()
    }


@pytest.fixture
def orphan(engine: EngineProcess, docker: Docker) -> dict[str, Any]:
    """A container that has ended, whose image of two layers was removed by force."""
    maker = docker.name()
    docker("run", "--name", maker, "busybox", "sh", "-c", "head -c 1000000 /dev/urandom > /big")
    before, size = layers(engine), layers_size(engine)
    docker("commit", maker, "orphan:1")
    name = docker.name()
    docker("run", "--name", name, "orphan:1", "sh", "-c", "wc -c < /big")
    rows = engine.api("DELETE", "/images/orphan:1?force=1")[1]
    return {"name": name, "rows": rows, "layers": before, "size": size}


def test_layers_stay_for_the_container(
    engine: EngineProcess, docker: Docker, orphan: dict[str, Any]
) -> None:
    assert [list(row) for row in orphan["rows"]] == [["Untagged"], ["Deleted"]]
    assert layers_size(engine) == orphan["size"] + 1_000_000
    assert docker.out("start", "-a", orphan["name"]) == "1000000"
    engine.kill()
    engine.start()
    assert "reconciled: layer" not in engine.tail()
    assert docker.out("start", "-a", orphan["name"]) == "1000000"


def test_layers_go_with_the_container(
    engine: EngineProcess, docker: Docker, orphan: dict[str, Any]
) -> None:
    docker("rm", orphan["name"])
    assert eventually(lambda: layers_size(engine) == orphan["size"])
    assert eventually(lambda: layers(engine) <= orphan["layers"])
