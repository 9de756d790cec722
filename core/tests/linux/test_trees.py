"""Trees that others filled are deleted whole, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyengine.archive import measure
from pyengine.linux import inodeflags, syscalls
from pyengine.linux.mountinfo import filesystem_of
from pyengine.linux.trees import directories, remove_tree


def test_a_tree_goes_and_what_its_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    tree = tmp_path / "tree"
    for inside in ("a/b/c", "a/d", "e"):
        (tree / inside).mkdir(parents=True)
        (tree / inside / "file").write_text("x")
        (tree / inside / "out").symlink_to(tmp_path / "kept")
        os.mkfifo(tree / inside / "fifo")
    (tree / os.fsdecode(b"\xff")).mkdir()
    remove_tree(None, tree)
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_deeper_than_a_path_or_a_stack(tmp_path: Path) -> None:
    start = os.open(tmp_path, os.O_RDONLY)
    fd = os.dup(start)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    count = 0
    for fd, inside in directories(start):
        count += 1
        inside += os.listdir(fd)
    assert count == 5001
    assert measure(tmp_path) == (0, 5000)
    remove_tree(start, "d")
    assert os.listdir(start) == []
    os.close(start)


def test_a_tree_that_changes_while_it_is_walked(tmp_path: Path) -> None:
    for path in ("a/b/c", "gone", "file"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    root = os.open(tmp_path, os.O_RDONLY)
    seen = []
    for fd, inside in directories(root):
        seen.append(sorted(os.listdir(fd)))
        if len(seen) == 1:
            inside += ["a", "gone", "file"]
            (tmp_path / "gone").rmdir()
            (tmp_path / "file").rmdir()
            (tmp_path / "file").symlink_to("elsewhere")
        else:
            inside += os.listdir(fd)
    assert seen[1:] == [["b"], ["c"], []]

    def walk() -> None:
        for fd, inside in directories(root):
            names = os.listdir(fd)
            inside += [name for name in names if name in "abc"]
            if names == []:
                (tmp_path / "a/b/c").rename(tmp_path / "elsewhere/c")

    with pytest.raises(OSError, match="moved"):
        walk()
    os.close(root)


def test_a_mount_in_the_tree_is_left_alone(tmp_path: Path) -> None:
    inside = tmp_path / "tree/a/mounted"
    inside.mkdir(parents=True)
    syscalls.mount("tmpfs", inside, "tmpfs")
    try:
        (inside / "file").write_text("x")
        with pytest.raises(OSError, match="busy"):
            remove_tree(None, tmp_path / "tree")
        assert (inside / "file").exists()
    finally:
        syscalls.umount(inside)
    remove_tree(None, tmp_path / "tree")


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            remove_tree(None, tmp_path / name)
    with pytest.raises(FileNotFoundError):
        remove_tree(None, tmp_path / "missing")


def test_inode_flags(tmp_path: Path) -> None:
    if filesystem_of(tmp_path) != "ext4":
        pytest.skip("other filesystems have other flags")
    before = inodeflags.get(tmp_path)
    inodeflags.add(tmp_path, inodeflags.TOPDIR)
    assert inodeflags.get(tmp_path) == before | inodeflags.TOPDIR
