"""Containers whose lines go to collectors of other protocols than Fluentd's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine_log_gelf.testing import GelfTcp, GelfUdp
from pyengine_log_journald.testing import Journal
from tests.e2e.conftest import Docker, eventually


@pytest.fixture(params=[GelfUdp, GelfTcp])
def gelf(docker: Docker, request: pytest.FixtureRequest) -> Iterator[GelfUdp | GelfTcp]:
    with request.param(namespace=docker.engine.namespace) as server:
        yield server


def test_gelf(docker: Docker, gelf: GelfUdp | GelfTcp) -> None:
    name = docker.up(
        "--log-driver", "gelf", "--log-opt", f"gelf-address={gelf.options['gelf-address']}",
        "--log-opt", "tag={{.Name}}", "--log-opt", "labels=color", "--label", "color=red",
        "busybox", "sh", "-c", "echo out; echo; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x",
    )  # fmt: skip
    assert eventually(lambda: len(gelf.messages) == 4)
    assert gelf.lines(level=3) == ["err"]
    assert gelf.lines(level=6) == ["out", "x" * 16384, "x" * (20000 - 16384)]
    message = gelf.messages[0]
    assert abs(message["timestamp"] - time.time()) < 20
    image = docker.state(name, "{{.Image}}")
    assert {field: value for field, value in message.items() if field.startswith("_")} == {
        "_container_id": docker.state(name, "{{.Id}}"),
        "_container_name": name,
        "_image_id": image,
        "_image_name": "busybox",
        "_command": "sh -c echo out; echo; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x",
        "_tag": name,
        "_created": docker.state(name, "{{.Created}}"),
        "_color": "red",
    }
    assert docker("logs", name).stdout == "out\n\n" + "x" * 20000
    assert docker.state(name, "{{.HostConfig.LogConfig.Type}}") == "gelf"


def test_gelf_without_an_address(docker: Docker) -> None:
    says = "gelf-address is a required parameter"
    docker.fails("create", "--log-driver", "gelf", "busybox", code=1, says=says)


def test_journald(docker: Docker, tmp_path: Path) -> None:
    with Journal(tmp_path / "socket") as journal:
        option = f"journald-socket={journal.address}"
        name = docker.up(
            "--log-driver", "journald", "--log-opt", option, "--log-opt", "env=SHOP_ID",
            "-e", "SHOP_ID=7", "busybox", "sh", "-c", "echo out; echo err >&2",
        )  # fmt: skip
        assert eventually(lambda: len(journal.entries) == 2)
        assert journal.lines("6") == ["out"]
        assert journal.lines("3") == ["err"]
        assert journal.entries[0]["CONTAINER_NAME"].decode() == name
        assert journal.entries[0]["SHOP_ID"] == b"7"
        assert docker("logs", name).stdout == "out\n"


def test_a_journal_that_is_not_there(docker: Docker, tmp_path: Path) -> None:
    """No container is made for one; but those there are start, and what they write waits."""
    words = ("--log-driver", "journald", "--log-opt", f"journald-socket={tmp_path}/socket")
    says = "journald is not enabled on this host"
    docker.fails("create", *words, "busybox", code=1, says=says)
    name = docker.name()
    with Journal(tmp_path / "socket"):
        docker("create", "--name", name, *words, "busybox", "echo", "later")
    docker("start", "-a", name)

    def error() -> str:
        return str(json.loads(docker.out("inspect", name))[0]["LogSinks"][0]["Error"])

    assert eventually(lambda: "No such file" in error())
    with Journal(tmp_path / "socket") as journal:
        assert eventually(lambda: journal.lines() == ["later"])
        assert eventually(lambda: error() == "")
