"""--mount type=image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, mounts_below

from tests.e2e.conftest import Docker, eventually


@pytest.fixture
def library(docker: Docker) -> Iterator[str]:
    """An image with /lib/book and /lib/out, a link to /etc."""
    name = docker.name()
    docker("run", "--name", name, "busybox", "sh", "-c",
           "mkdir /lib; echo text >/lib/book; ln -s /etc /lib/out")  # fmt: skip
    docker("commit", name, "library")
    docker("rm", name)
    yield "library"
    docker("rmi", "-f", "library", check=False)


def test_an_image_is_seen_and_cannot_be_written(
    docker: Docker, engine: EngineProcess, library: str
) -> None:
    mount = f"type=image,src={library},dst=/books"
    script = "cat /books/lib/book; touch /books/x; grep -c ' /books ' /proc/mounts"
    found = docker("run", "--rm", "--mount", mount, "busybox", "sh", "-c", script)
    assert found.stdout.split() == ["text", "1"]
    assert "Read-only file system" in found.stderr
    assert docker.sh("cat /books/book", "--mount", mount + ",image-subpath=lib") == "text"
    docker.fails(
        *("run", "--rm", "--mount", mount + ",image-subpath=lib/out", "busybox", "true"),
        code=125,
        says="path concatenation escapes the base directory",
    )
    assert eventually(lambda: not mounts_below(engine.data))


def test_it_is_held_by_who_mounts_it(docker: Docker, library: str) -> None:
    mount = f"type=image,src={library},dst=/books"
    name = docker.up("--mount", mount, "busybox", "sleep", "60")
    (shown,) = json.loads(docker.state(name, "{{json .Mounts}}"))
    assert (shown["Type"], shown["Name"], shown["RW"]) == ("image", library, False)
    asked = json.loads(docker.state(name, "{{json .HostConfig.Mounts}}"))
    assert asked == [{"Type": "image", "Source": library, "Target": "/books"}]
    docker.fails("rmi", library, code=1, says="is using its referenced image")
    second = docker.up("--volumes-from", name, "busybox", "sleep", "60")
    docker("rm", "-f", name)
    docker("rmi", "-f", library)
    assert docker.exec(second, "cat", "/books/lib/book") == "text"
    docker("stop", "-t", "0", second)
    docker("start", second)
    assert docker.exec(second, "cat", "/books/lib/book") == "text"


def test_copying_out_of_it(docker: Docker, library: str, tmp_path: Path) -> None:
    name = docker.name()
    docker("create", "--name", name, "--mount", f"type=image,src={library},dst=/books", "busybox")
    docker("cp", f"{name}:/books/lib/book", str(tmp_path / "book"))
    assert (tmp_path / "book").read_text() == "text\n"


def test_an_image_that_is_not_here(docker: Docker) -> None:
    docker.fails("create", "--mount", "type=image,src=nonesuch,dst=/x", "busybox",
                 code=1, says="No such image: nonesuch")  # fmt: skip


def test_it_outlives_the_daemon(new_engine: EngineProcess) -> None:
    docker = new_engine
    docker.docker("tag", "busybox", "other")
    docker.docker("run", "-d", "--name", "reader", "--mount", "type=image,src=other,dst=/o",
                  "busybox", "sleep", "600")  # fmt: skip
    docker.docker("create", "--name", "later", "--mount", "type=image,src=other,dst=/o",
                  "busybox", "ls", "/o/bin/busybox")  # fmt: skip
    docker.kill()
    docker.start()
    assert docker.out("exec", "reader", "ls", "/o/bin/busybox") == "/o/bin/busybox"
    docker.docker("restart", "-t", "0", "reader")
    assert docker.out("exec", "reader", "ls", "/o/bin/busybox") == "/o/bin/busybox"
    assert docker.out("start", "-a", "later") == "/o/bin/busybox"
    docker.docker("rm", "-f", "reader", "later")
    assert eventually(lambda: not mounts_below(docker.data))
