"""Mount options are sorted, and targets are made inside a foreign root however its links lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyengine.errors import InvalidParameter
from pyengine.linux import capabilities, mounts, syscalls


def test_options_are_sorted() -> None:
    options = mounts.parse_options(["rbind", "ro", "nosuid", "rro", "rslave", "size=1m", "sync"])
    assert options.set == syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
    assert options.tree_set == syscalls.MOUNT_ATTR_RDONLY
    assert options.propagation == ((syscalls.MS_SLAVE, True),)
    assert options.data == (("size", "1m"), ("sync", None))
    assert (options.bind, options.recursive, options.copy_up) == (True, True, False)
    assert mounts.parse_options(["ro", "rw"]).clear == syscalls.MOUNT_ATTR_RDONLY
    assert mounts.parse_options(["ro", "rw"]).set == 0
    assert not options.id_map
    options = mounts.parse_options(["bind", "idmap"])
    assert (options.id_map, options.id_map_tree) == (True, False)
    options = mounts.parse_options(["rbind", "ridmap"])
    assert (options.id_map, options.id_map_tree) == (True, True)
    with pytest.raises(InvalidParameter):
        mounts.parse_options(["remount"])


@pytest.fixture
def root(tmp_path: Path) -> int:
    (tmp_path / "root/a/b").mkdir(parents=True)
    return os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)


def test_targets_stay_in_the_root(root: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "root"
    (inside / "absolute").symlink_to(outside)
    (inside / "up").symlink_to("../" * 30 + "etc")
    (inside / "chain").symlink_to("up/chained")
    (inside / "loop").symlink_to("loop")
    for path, made in (
        ("/new/deep", "new/deep"),
        ("/absolute/x", str(outside)[1:] + "/x"),
        ("/up/y", "etc/y"),
        ("/chain/z", "etc/chained/z"),
        ("/a/../../../w", "w"),
    ):
        fd = mounts.make_target(root, path, directory=True)
        assert os.readlink(f"/proc/self/fd/{fd}") == str(inside / made)
        os.close(fd)
    os.close(mounts.make_target(root, "/new/file", directory=False))
    assert (inside / "new/file").is_file()
    assert list(outside.iterdir()) == []
    with pytest.raises(OSError, match="loop"):
        mounts.make_target(root, "/loop/x", directory=True)
    os.close(root)


def test_links_of_procfs_are_no_paths() -> None:
    host = os.open("/", os.O_PATH)
    with pytest.raises(OSError, match=r"cross-device|symbolic links"):
        mounts.make_target(host, "/proc/self/cwd/nonesuch-of-this-test", directory=True)
    os.close(host)
    assert not os.path.exists("nonesuch-of-this-test")


def test_copy_up_keeps_what_files_are(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    target.mkdir()
    (source / "below/file").write_text("x" * 100000)
    os.chown(source / "below/file", 5, 7)
    (source / "below/file").chmod(0o4751)
    os.setxattr(source / "below/file", "user.kept", b"yes")
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "pipe", 0o600)
    ends = [os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in (source, target)]
    mounts.copy_up(*ends)
    for fd in ends:
        os.close(fd)
    info = (target / "below/file").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (5, 7, 0o4751)
    assert (target / "below/file").read_text() == "x" * 100000
    assert os.getxattr(target / "below/file", "user.kept") == b"yes"
    assert os.readlink(target / "link") == "/nowhere"
    assert (target / "pipe").is_fifo()


def test_refused_options_say_what_the_kernel_said() -> None:
    with pytest.raises(OSError, match="Unknown parameter 'colour'"):
        mounts.new_filesystem("tmpfs", "tmpfs", (("colour", "red"),))


def test_capabilities_by_name() -> None:
    assert capabilities.mask(["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]) == 1 | 1 << 40
    assert capabilities.names(0xA80425FB)[:3] == ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]
    assert len(capabilities.names(0xA80425FB)) == 14
    with pytest.raises(InvalidParameter):
        capabilities.mask(["CAP_FLY"])
    assert capabilities.last() >= 37
