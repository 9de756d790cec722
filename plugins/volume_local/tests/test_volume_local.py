"""The local volume driver, on the real kernel."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.volume import VolumeRecord
from pyengine.errors import Conflict, EngineError, InvalidParameter, Unsupported
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts
from pyengine_volume_local import Local
from pyengine_volume_local.options import mount_spec


def make(root: Path) -> Local:
    return Local(DriverContext("kit", "pe000000", root / "volumes", root / "run"))


def volume(name: str, **options: str) -> VolumeRecord:
    return VolumeRecord(name=name, driver="local", options=options)


TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,noexec"}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for mount in reversed(mounts(os.path.realpath(tmp_path))):
        syscalls.umount(mount.target, syscalls.MNT_DETACH)


def wait_until_swept(root: Path) -> None:
    deadline = time.monotonic() + 5
    while os.listdir(root / "volumes" / ".trash") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(root / "volumes" / ".trash") == []


def test_a_directory(root: Path) -> None:
    driver = make(root)
    plain = volume("data")
    driver.create(plain)
    path = driver.mount(plain, "c1")
    assert path == driver.path("data") == root / "volumes/data/_data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o701
    (path / "file").write_bytes(b"x" * 1000)
    driver.create(plain)
    driver.unmount(plain, "c1")
    assert make(root).usage("data") == 1000
    assert not (path.parent / "opts.json").exists()
    driver.remove("data")
    driver.remove("data")
    assert not path.parent.exists()
    assert driver.usage("data") == 0
    wait_until_swept(root)


def test_tmpfs_lives_from_the_first_user_to_the_last(root: Path) -> None:
    driver = make(root)
    memory = volume("memory", **TMPFS)
    driver.create(memory)
    options = root / "volumes/memory/opts.json"
    assert json.loads(options.read_text())["MountOpts"] == TMPFS["o"]
    assert mounts(str(root)) == []
    path = driver.mount(memory, "c1")
    driver.mount(memory, "c1")
    (path / "file").write_text("x")
    (mount,) = mounts(str(root))
    assert (mount.fstype, mount.target) == ("tmpfs", str(path))
    assert "noexec" in mount.options
    assert path.stat().st_uid == 1000
    second = make(root)
    second.mount(memory, "c2")
    driver.unmount(memory, "c1")
    assert (path / "file").read_text() == "x"
    second.unmount(memory, "c2")
    second.unmount(memory, "c2")
    assert mounts(str(root)) == []
    assert os.listdir(path) == []


def test_bind(root: Path) -> None:
    there = root / "there"
    there.mkdir()
    (there / "file").write_text("x")
    driver = make(root)
    bound = volume("bound", type="none", device=str(there), o="bind,ro")
    path = driver.mount(bound, "c1")
    assert (path / "file").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (path / "new").write_text("x")
    driver.remove("bound")
    assert mounts(str(root)) == []
    assert (there / "file").read_text() == "x"


def test_what_is_mounted_inside_is_not_emptied(root: Path) -> None:
    driver = make(root)
    path = driver.mount(volume("data"), "c1")
    (path / "sub").mkdir()
    precious = root / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    syscalls.mount(precious, path / "sub", None, syscalls.MS_BIND)
    with pytest.raises(Conflict, match="sub"):
        driver.remove("data")
    assert (precious / "file").read_text() == "x"


def test_a_mount_that_fails(root: Path) -> None:
    driver = make(root)
    missing = volume("missing", type="none", device="/does/not/exist", o="bind,password=secret")
    with pytest.raises(EngineError) as caught:
        driver.mount(missing, "c1")
    path = driver.path("missing")
    assert caught.value.message() == (
        f"error while mounting volume '{path}': failed to mount local volume: "
        f"mount /does/not/exist:{path}, flags: 0x1000, data: password=********: "
        "no such file or directory"
    )
    assert os.listdir(root / "run" / "missing") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, 'invalid option: "colour"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"o": "ro"}, 'missing required option: "device"'),
        ({"type": "cifs", "device": "//host:445/share"}, "port not allowed in CIFS"),
    ],
)
def test_bad_options(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        make(root).create(volume("data", **options))
    assert not (root / "volumes" / "data").exists()


def test_size_is_refused(root: Path) -> None:
    with pytest.raises(Unsupported, match="no quota support"):
        make(root).create(volume("data", size="10m"))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\n"])
def test_bad_names(root: Path, name: str) -> None:
    driver = make(root)
    for call in (driver.remove, driver.usage, driver.path):
        with pytest.raises(InvalidParameter):
            call(name)


def test_mount_options_become_flags_and_data() -> None:
    nfs = mount_spec({"type": "nfs", "device": ":/x", "o": "addr=localhost,ro,nosuid,vers=4,suid"})
    assert nfs.flags == syscalls.MS_RDONLY
    assert nfs.data in ("addr=127.0.0.1,vers=4", "addr=::1,vers=4")
    assert (
        mount_spec({"type": "nfs", "device": ":/x", "o": "addr=10.1.2.3"}).data == "addr=10.1.2.3"
    )
    bind = mount_spec({"type": "none", "device": "/x", "o": "rbind,rslave,rw"})
    assert bind.flags == syscalls.MS_BIND | syscalls.MS_REC
    assert bind.propagation == syscalls.MS_SLAVE | syscalls.MS_REC
    assert bind.data == ""


def test_reconcile(root: Path) -> None:
    driver = make(root)
    used, idle = volume("used", **TMPFS), volume("idle", **TMPFS)
    path = driver.mount(used, "c1")
    (path / "file").write_text("x")
    driver.mount(used, "gone")
    driver.mount(idle, "gone")
    driver.create(volume("stray"))
    (root / "volumes/.making/half.1").mkdir()
    fresh = volume("fresh")
    known = {"used": used, "idle": idle, "fresh": fresh}
    done = make(root).reconcile(known, {"used": {"c1"}, "idle": set()})
    assert [mount.target for mount in mounts(str(root))] == [str(path)]
    assert (path / "file").read_text() == "x"
    assert (root / "volumes/fresh/_data").is_dir()
    assert (root / "volumes/stray/_data").is_dir()
    assert "stray" in str(done.failed)
    assert "idle" in str(done.removed)
    assert os.listdir(root / "run/used") == ["c1"]
    known["stray"] = volume("stray")
    settled = make(root).reconcile(known, {"used": {"c1"}})
    assert (settled.removed, settled.restored, settled.failed) == ([], [], [])
    driver.unmount(used, "c1")
    assert mounts(str(root)) == []


def test_reconcile_mounts_again_what_a_reboot_took(root: Path) -> None:
    driver = make(root)
    memory = volume("memory", **TMPFS)
    driver.create(memory)
    done = driver.reconcile({"memory": memory}, {"memory": {"c1", "c2"}})
    assert len(mounts(str(root))) == 1
    assert done.failed == []
    driver.unmount(memory, "c1")
    assert len(mounts(str(root))) == 1
    driver.unmount(memory, "c2")
    assert mounts(str(root)) == []


def test_probe(root: Path) -> None:
    assert Local.probe(DriverContext("kit", "pe000000", root / "volumes", root / "run")).available
    assert list(root.iterdir()) == []
