"""What the prunes remove, with which filters; ``system prune`` does them all."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import quote

from harness import EngineProcess

from tests.e2e.conftest import Docker


def prune(engine: EngineProcess, kind: str, **filters: list[str]) -> tuple[int, Any]:
    named = {name.replace("unlabelled", "label!"): values for name, values in filters.items()}
    return engine.api("POST", f"/{kind}/prune?filters={quote(json.dumps(named))}")


def test_containers_by_age_and_label(engine: EngineProcess, docker: Docker) -> None:
    names = [docker.name() for _ in range(4)]
    plain, marked, other, up = names
    docker("run", "--name", plain, "busybox", "sh", "-c", "echo 123 > /x")
    docker("run", "--name", marked, "-l", "keep=1", "busybox", "true")
    docker("run", "--name", other, "-l", "keep=2", "busybox", "true")
    docker.up("busybox", "sleep", "1000", name=up)
    ids = dict(zip(names, (engine.inspect(name)["Id"] for name in names), strict=True))

    assert prune(engine, "containers", until=["1h"])[1]["ContainersDeleted"] is None
    _, gone = prune(engine, "containers", label=["keep=1"])
    assert gone["ContainersDeleted"] == [ids[marked]]
    _, gone = prune(engine, "containers", unlabelled=["keep"], until=["0s"])
    assert gone["ContainersDeleted"] == [ids[plain]]
    # what it wrote a moment ago has been counted
    assert gone["SpaceReclaimed"] == 4
    _, gone = prune(engine, "containers")
    assert gone["ContainersDeleted"] == [ids[other]]
    assert docker.state(up) == "running"


def test_volumes_by_label(engine: EngineProcess) -> None:
    for name in ("prune-a", "prune-b"):
        engine.docker("volume", "create", "--label", f"name={name}", name)
    _, gone = prune(engine, "volumes", all=["1"], label=["name=prune-a"])
    assert gone == {"VolumesDeleted": ["prune-a"], "SpaceReclaimed": 0}
    _, gone = prune(engine, "volumes", all=["true"], unlabelled=["name=prune-b"])
    assert "prune-b" not in gone["VolumesDeleted"]
    engine.docker("volume", "rm", "prune-b")


def test_networks_by_age_and_label(engine: EngineProcess) -> None:
    for name in ("prune-a", "prune-b"):
        engine.docker("network", "create", "--label", f"name={name}", name)
    assert prune(engine, "networks", until=["1h"])[1]["NetworksDeleted"] is None
    assert prune(engine, "networks", label=["name=prune-a"])[1]["NetworksDeleted"] == ["prune-a"]
    assert prune(engine, "networks", unlabelled=["x"])[1]["NetworksDeleted"] == ["prune-b"]


def test_the_build_cache_is_empty(engine: EngineProcess) -> None:
    done = engine.docker("builder", "prune", "--force", "--filter", "until=24h")
    assert done.stdout.strip() == "Total reclaimed space: 0B"
    path = "/v1.51/build/prune?all=1&"
    assert engine.api("POST", f"{path}reserved-space=5&max-used-space=0") == (
        200, {"CachesDeleted": None, "SpaceReclaimed": 0},
    )  # fmt: skip
    assert engine.api("POST", f"{path}min-free-space=5G")[1]["message"] == (
        "min-free-space is in bytes and expects an integer, got 5G: "
        'strconv.Atoi: parsing "5G": invalid syntax'
    )
    # it came with 1.48
    assert engine.api("POST", "/v1.47/build/prune?min-free-space=5G")[0] == 200


def test_the_whole_system(engine: EngineProcess, docker: Docker) -> None:
    start = time.time()
    name = docker.name()
    docker("create", "--name", name, "-l", "whole=1", "busybox")
    network = engine.out("network", "create", "--label", "whole=1", "prune-whole")
    id = engine.inspect(name)["Id"]
    done = engine.docker("system", "prune", "--force", "--filter", "label=whole")
    assert done.stdout.splitlines() == [
        "Deleted Containers:", id, "", "Deleted Networks:", "prune-whole", "",
        "Total reclaimed space: 0B",
    ]  # fmt: skip
    assert network not in engine.out("network", "ls", "-q", "--no-trunc")
    told = engine.lines(
        "events", "--since", f"{start:.6f}", "--until", f"{time.time():.6f}",
        "--filter", "event=prune", "--format", "{{.Type}} {{.Actor.Attributes.reclaimed}}",
    )  # fmt: skip
    assert sorted(told) == ["builder 0", "container 0", "image 0", "network 0"]


def test_filters_that_do_not_exist(engine: EngineProcess) -> None:
    for kind, filters, message in (
        ("containers", {"nonsense": ["x"]}, "invalid filter 'nonsense'"),
        ("containers", {"until": ["x"]}, 'failed to parse value as time or duration: "x"'),
        ("networks", {"until": ["1h", "2h"]}, "more than one until filter specified"),
        ("volumes", {"until": ["1h"]}, "invalid filter 'until'"),
        (
            "build",
            {"nonsense": ["x"]},
            "failed to prune build cache: invalid filter 'nonsense'",
        ),
        ("volumes", {"all": ["x"]}, "invalid filter 'all=[x]'"),
    ):
        assert prune(engine, kind, **filters) == (400, {"message": message})


def test_one_prune_at_a_time(engine: EngineProcess, docker: Docker) -> None:
    names = [docker.name() for _ in range(20)]
    for name in names:
        docker("create", "--name", name, "busybox")
    answers: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(prune(engine, "containers")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [body["message"] for status, body in answers if status == 409]
    assert set(refused) <= {"a prune operation is already running"}
    deleted = [id for status, body in answers if status == 200
               for id in body["ContainersDeleted"] or ()]  # fmt: skip
    assert len(deleted) == len(set(deleted)) == 20
