"""Mounts that may never come back are made in a process of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.volume import VolumeRecord
from pyengine.errors import EngineError, Unavailable
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts
from pyengine_volume_local import Local
from pyengine_volume_local.apart import may_hang, mount_apart

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for mount in reversed(mounts(os.path.realpath(tmp_path))):
        syscalls.umount(mount.target, syscalls.MNT_DETACH)


@pytest.fixture
def local(root: Path) -> Local:
    return Local(DriverContext("kit", "pe000000", root / "volumes", root / "run"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1"}, True),
        ({"type": "cifs", "device": "//h/x"}, True),
        ({"type": "ext4", "device": "/dev/loop7"}, True),
        ({"type": "btrfs", "device": "/dev/sdb"}, True),
        ({"type": "tmpfs", "device": "tmpfs"}, False),
        ({"type": "none", "device": "/a", "o": "ro,bind"}, False),
        ({"type": "ext4", "device": "/a", "o": "rbind"}, False),
    ],
)
def test_what_may_hang(options: dict[str, str], expected: bool) -> None:
    assert may_hang(options) is expected


def test_one_that_does_not_answer_is_killed(root: Path) -> None:
    pid = root / "pid"
    stuck = (sys.executable, "-c", f"import os, time\nopen('{pid}', 'w').write(str(os.getpid()))\n"
             "time.sleep(600)")  # fmt: skip
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r":/share:.*: no answer within 0\.5 s"):
        mount_apart({"type": "nfs", "device": ":/share"}, str(root), 0.5, stuck)
    assert time.monotonic() - began < 60
    deadline = time.monotonic() + 10
    while _runs(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_what_the_kernel_says_comes_back(local: Local) -> None:
    record = VolumeRecord(
        "data", "local", {"type": "ext4", "device": "/dev/nonesuch", "o": "password=secret"}
    )
    local.create(record)
    with pytest.raises(EngineError) as raised:
        local.mount(record, "c1")
    message = raised.value.message()
    assert message.startswith(
        f"error while mounting volume '{local.path('data')}': failed to mount local volume: "
        "mount /dev/nonesuch:"
    )
    assert "password=********" in message
    assert message.endswith("invalid argument")
    with pytest.raises(EngineError, match="no such file or directory"):
        mount_apart({"type": "ext4", "device": "/dev/nonesuch"}, str(local.path("data")))
    assert mounts(str(local.context.root)) == []


def test_a_name_that_nobody_knows(local: Local) -> None:
    record = VolumeRecord("data", "local", {"type": "nfs", "device": ":/x", "o": "addr=a.invalid"})
    with pytest.raises(EngineError, match="error resolving passed in network volume address"):
        local.mount(record, "c1")


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_filesystem_on_a_device(local: Local, root: Path, kind: str) -> None:
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    image = root / "image"
    with image.open("wb") as file:
        os.truncate(file.fileno(), 128 << 20)
    made = _run(f"mkfs.{kind}", "-q", str(image))
    if made is None:
        pytest.skip(f"there is no mkfs.{kind}")
    device = _run("losetup", "--find", "--show", str(image))
    assert device is not None
    try:
        record = VolumeRecord("disk", "local", {"type": kind, "device": device, "o": "noatime"})
        path = local.mount(record, "c1")
        (mount,) = mounts(str(root))
        assert (mount.fstype, mount.source) == (kind, device)
        assert "noatime" in mount.options
        (path / "file").write_text("on the device")
        local.unmount(record, "c1")
        assert os.listdir(path) == []
        assert (local.mount(record, "c2") / "file").read_text() == "on the device"
        assert local.usage("disk") == -1
        local.remove("disk")
        assert mounts(str(root)) == []
    finally:
        _run("losetup", "--detach", device)


def _run(*command: str) -> str | None:
    """What a program prints; None if it is not installed."""
    try:
        return subprocess.run(
            command, env={**os.environ, "PATH": PATH}, check=True, capture_output=True, text=True
        ).stdout.strip()
    except FileNotFoundError:
        return None


def test_an_nfs_server_that_is_silent(local: Local) -> None:
    """On kernels that know nfs: a server that takes connections and says nothing."""
    if "nfs4" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("this kernel has no nfs")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        options = {"type": "nfs4", "device": ":/", "o": f"addr=127.0.0.1,port={port}"}
        with pytest.raises(Unavailable, match="no answer within"):
            mount_apart(options, str(local.context.root.parent), 3)
    assert mounts(str(local.context.root.parent)) == []
