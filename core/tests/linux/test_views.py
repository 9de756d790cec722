"""Trees of mounts behind descriptors: what is in them, what is not, and what stays afterwards."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyengine.linux import mounts, syscalls, views
from pyengine.linux.views import Graft, View

MOUNTS = Path("/proc/self/mountinfo")


def view_of(root: Path, *grafts: tuple[Path, str], read_only: bool = False) -> View:
    with ExitStack() as stack:
        trees = [mounts.bind_tree(str(path), True) for path in (root, *(g[0] for g in grafts))]
        for tree in trees:
            stack.callback(os.close, tree)
        attached = [Graft(tree, at) for tree, (_, at) in zip(trees[1:], grafts, strict=True)]
        return views.assemble(trees[0], attached, read_only=read_only)


def read(view: View, path: str) -> str:
    fd = mounts.open_in_root(view.root, path, os.O_RDONLY)
    with open(fd) as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root/a", "one", "two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "name").write_text(name)
    return tmp_path / "root"


def test_pieces_are_one_tree_that_nobody_else_sees(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to("/a/b/../b")

    def mounted() -> list[str]:
        """Of ours: others on this host mount what they like meanwhile."""
        return [line for line in MOUNTS.read_text().splitlines() if str(tmp_path) in line]

    before = set(os.listdir("/proc/self/fd"))
    with view_of(
        root,
        (tmp_path / "one", "/a/b"),
        (tmp_path / "two", "/a/b/deeper"),
        (tmp_path / "two/name", "/a/file"),
    ) as view:
        assert mounted() == []
        assert read(view, "/a/name") == "root/a"
        assert read(view, "/link/name") == "one"
        assert read(view, "/link/deeper/name") == "two"
        assert read(view, "/a/file") == "two"
        assert read(view, "/link/deeper/../../../../../a/name") == "root/a"
        with pytest.raises(FileNotFoundError):
            read(view, "/proc/self/status")
    assert (mounted(), set(os.listdir("/proc/self/fd"))) == ([], before)
    # Mount points were made where they were missing, and are empty.
    assert os.listdir(root / "a/b") == []
    assert os.listdir(tmp_path / "one/deeper") == []
    assert (root / "a/file").read_text() == ""


def test_the_root_alone_is_read_only(root: Path, tmp_path: Path) -> None:
    with view_of(root, (tmp_path / "one", "/v"), read_only=True) as view:
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("x", dir_fd=view.root)
        place = mounts.open_in_root(view.root, "/v")
        os.mkdir("x", dir_fd=place)
        os.close(place)
    assert (tmp_path / "one/x").is_dir()
    os.mkdir(root / "x")


def test_nothing_reaches_the_originals(root: Path, tmp_path: Path) -> None:
    """Where the host's mounts are shared, what is attached to a copy would appear in them."""
    syscalls.mount(root, root, None, syscalls.MS_BIND)
    try:
        syscalls.mount(None, root, None, syscalls.MS_SHARED)
        with view_of(root, (tmp_path / "one", "/a")) as view:
            assert read(view, "/a/name") == "one"
            assert (root / "a/name").read_text() == "root/a"
    finally:
        syscalls.umount(root)


def test_other_mounts_are_not_held(root: Path, tmp_path: Path) -> None:
    """A file system that is mounted anywhere keeps its device number; others get the lowest that
    is free, and so, if it was let go, soon this one. Strangers may be quicker, not each time."""
    busy = tmp_path / "busy"
    busy.mkdir()
    places = [tmp_path / f"place{number}" for number in range(64)]
    for place in places:
        place.mkdir()
    for _ in range(5):
        syscalls.mount("tmpfs", busy, "tmpfs")
        device = os.stat(busy).st_dev
        with view_of(root), ExitStack() as stack:
            syscalls.umount(busy)
            for place in places:
                syscalls.mount("tmpfs", place, "tmpfs")
                stack.callback(syscalls.umount, place)
                if os.stat(place).st_dev == device:
                    return
    pytest.fail("its device number is not free")


def test_what_cannot_be_attached_leaves_nothing(root: Path, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(NotADirectoryError):
        view_of(root, (tmp_path / "one", "/a/name/below"))
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def inside(tmp_path: Path) -> Sequence[int]:
    """(pid, parent) of a process in a mount namespace with a tmpfs at /mnt and files in it."""
    script = (
        "mount -t tmpfs tmpfs /mnt && echo inside >/mnt/name && mkdir /mnt/deep && "
        "mount -t proc proc /mnt/deep && echo ready && exec cat"
    )
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 10)[0]
    assert process.stdout.readline() == "ready\n"
    yield process.pid, os.getpid()
    process.communicate()


def test_tmpfs_of_another_namespace(root: Path, inside: Sequence[int]) -> None:
    pid, parent = inside
    before = set(os.listdir("/proc/self/fd"))
    trees = views.borrow_tmpfs(pid, parent, ["/mnt", "/usr", "/mnt/deep", "/nonesuch"])
    assert list(trees) == ["/mnt"]
    tree = mounts.bind_tree(str(root), False)
    with views.assemble(tree, [Graft(trees["/mnt"], "/t")]) as view:
        assert read(view, "/t/name") == "inside\n"
    for fd in (tree, *trees.values()):
        os.close(fd)
    assert views.borrow_tmpfs(pid, parent + 1, ["/mnt"]) == {}
    assert set(os.listdir("/proc/self/fd")) == before


def test_tmpfs_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert views.borrow_tmpfs(process.pid, os.getpid(), ["/mnt"]) == {}
