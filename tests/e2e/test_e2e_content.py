"""``pyengine content`` and ``pyengine snapshot``; what the blobs that are kept are good for."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess


class Own:
    """The ``pyengine`` command against one engine."""

    def __init__(self, engine: EngineProcess) -> None:
        self._command = [sys.executable, "-m", "pyengine", "-H", f"unix://{engine.socket}"]

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self._command, *words], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == code, done
        return done

    def out(self, *words: str, code: int = 0) -> str:
        return self(*words, code=code).stdout.decode()


@pytest.fixture(scope="module")
def quiet(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    """An engine of its own: fsck is about all that is in it."""
    process = EngineProcess(Path(tmp_path_factory.mktemp("content")), docker_binary)
    process.start()
    try:
        process.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield process
    finally:
        process.dispose()


@pytest.fixture
def own(quiet: EngineProcess) -> Own:
    return Own(quiet)


def test_the_blobs_of_an_image(quiet: EngineProcess, own: Own, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in own.out("content", "ls", "--no-trunc", "--format",
                                                 "json").splitlines()]  # fmt: skip
    assert {row["UsedBy"] for row in rows} == {"image busybox:latest"}
    kinds = {row["MediaType"].rpartition(".")[2] for row in rows}
    assert kinds == {"v2+json", "v1+json", "gzip"}
    id = quiet.inspect("busybox")["Id"]
    config = own("content", "get", id).stdout
    assert "sha256:" + hashlib.sha256(config).hexdigest() == id
    own("content", "get", "-o", str(tmp_path / "config"), id[7:19])
    assert (tmp_path / "config").read_bytes() == config
    table = own.out("content", "ls").splitlines()
    assert table[0].split() == ["DIGEST", "SIZE", "MEDIA", "TYPE", "USED", "BY"]
    assert len(table) == 4
    assert own.out("content", "ls", "-q", "--no-trunc").split() == sorted(
        row["Digest"] for row in rows
    )


def test_a_blob_in_use_stays(quiet: EngineProcess, own: Own) -> None:
    id = quiet.inspect("busybox")["Id"]
    refused = own("content", "rm", id, code=1).stderr.decode()
    assert f"unable to delete content {id}: it is used by image busybox:latest" in refused
    assert b"no such content" in own("content", "rm", "sha256:" + "0" * 64, code=1).stderr
    assert b"invalid digest" in own("content", "get", "../etc/passwd", code=1).stderr


def test_fsck(quiet: EngineProcess, own: Own) -> None:
    assert own.out("content", "fsck") == "nothing is wrong\n"
    assert own.out("content", "fsck", "--format", "json") == ""
    id = quiet.inspect("busybox")["Id"]
    blob = quiet.data / "content/blobs/sha256" / id[7:]
    good = blob.read_bytes()
    try:
        blob.write_bytes(good[:-1] + b"x")
        assert own.out("content", "fsck", "--quick") == "nothing is wrong\n"
        found = own.out("content", "fsck", "--format", "{{.Kind}} {{.What}}", code=1)
        assert found == f"damaged {id}\n"
        blob.unlink()
        found = own.out("content", "fsck", "--quick", "--format", "{{.Kind}} {{.What}}", code=1)
        assert found == f"missing {id}\n"
    finally:
        blob.write_bytes(good)
    stray = quiet.data / "content/ingest/0123456789abcdef"
    stray.write_bytes(b"half")
    assert "stale ingest" in own.out("content", "fsck", code=1)
    # the next start clears it away
    quiet.stop()
    quiet.start()
    assert not stray.exists()
    assert own.out("content", "fsck") == "nothing is wrong\n"


def test_snapshots_and_a_driver_that_unpacks_on_demand(quiet: EngineProcess, own: Own) -> None:
    quiet.docker("create", "--name", "here", "busybox")
    before = own.out("snapshot", "ls", "--format", "{{.Driver}} {{.Kind}} {{.UsedBy}}")
    assert sorted(before.splitlines()) == [
        "overlay2 committed image busybox:latest",
        "overlay2 writable container here",
    ]
    run = ("run", "--rm", "--network", "none", "--storage-opt", "driver=vfs", "busybox")
    assert quiet.out(*run, "echo", "unpacked") == "unpacked"
    usage = own.out("snapshot", "usage", "--format", "{{.Driver}} {{.Kind}} {{.Count}}")
    assert "vfs committed 1" in usage.splitlines()
    assert own.out("content", "fsck") == "nothing is wrong\n"
    quiet.stop()
    quiet.start()
    assert "vfs committed 1" in own.out(
        "snapshot", "usage", "--format", "{{.Driver}} {{.Kind}} {{.Count}}"
    )
    quiet.docker("rm", "here")
    quiet.docker("rmi", "busybox")
    assert own.out("snapshot", "ls", "-q") == ""
    assert own.out("content", "ls", "-q") == ""
    assert list((quiet.data / "vfs/dir").glob("[!.]*")) == []
