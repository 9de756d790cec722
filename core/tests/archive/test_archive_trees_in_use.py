"""Packing from and unpacking into trees that others change meanwhile, and very deep ones."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyengine.archive import Whiteouts, pack, unpack
from pyengine.archive.changes import changes
from pyengine.contracts.storage import Change, ChangeKind
from pyengine.errors import InvalidParameter
from pyengine.linux import mounts, views
from pyengine.testing.storage import directory, file, hard_link, symlink, tar


def put(root: Path, *members: Any, **options: Any) -> None:
    unpack(io.BytesIO(tar(*members)), root, Whiteouts.PLAIN, **options)


def names(stream: io.BytesIO) -> list[str]:
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        return archive.getnames()


def test_below_a_directory_links_still_see_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "other").mkdir()
    (root / "data/absolute").symlink_to("/other")
    (root / "data/climbing").symlink_to("../../../../other")
    put(
        root,
        file("absolute/a", b"1"),
        file("climbing/b", b"2"),
        file("c", b"3"),
        hard_link("d", "c"),
        base=b"data",
    )
    assert sorted(os.listdir(root / "other")) == ["a", "b"]
    assert (root / "data/c").stat().st_ino == (root / "data/d").stat().st_ino
    assert sorted(os.listdir(root)) == ["data", "other"]
    with pytest.raises(InvalidParameter, match="outside"):
        put(root, file("../up"), base=b"data")


def test_one_owner_for_all(tmp_path: Path) -> None:
    put(tmp_path, directory("d"), file("d/f"), symlink("l", "d"), owner=(12, 34))
    for path in (tmp_path / "d", tmp_path / "d/f", tmp_path / "l"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (12, 34)


def test_kinds_are_kept(tmp_path: Path) -> None:
    (tmp_path / "data/d").mkdir(parents=True)
    (tmp_path / "data/f").write_text("old")
    options: dict[str, Any] = {"base": b"data", "keep_kinds": True}
    message = 'cannot overwrite directory "/data/d" with non-directory "/data"'
    with pytest.raises(InvalidParameter, match=message):
        put(tmp_path, file("d"), **options)
    message = 'cannot overwrite non-directory "/data/f" with directory "/data"'
    with pytest.raises(InvalidParameter, match=message):
        put(tmp_path, directory("f"), **options)
    put(tmp_path, directory("d"), file("f", b"new"), **options)
    assert (tmp_path / "data/f").read_text() == "new"


@pytest.mark.parametrize("member", ["mounted", "above"])
def test_a_mount_point_is_not_replaced(tmp_path: Path, member: str) -> None:
    """Neither itself nor with a directory that it is in; in a namespace that nobody is in the
    kernel would let it go, and the mount with it."""
    root, volume = tmp_path / "root", tmp_path / "volume"
    for path in (root / "above", volume):
        path.mkdir(parents=True)
    (volume / "content").write_text("kept")
    tree, graft = mounts.bind_tree(str(root), False), mounts.bind_tree(str(volume), False)
    place = "/above/mounted"
    try:
        view = views.assemble(tree, [views.Graft(graft, place)])
    finally:
        os.close(tree)
        os.close(graft)
    with view:
        base = b"above" if member == "mounted" else b""
        with pytest.raises(OSError, match="busy"):
            unpack(
                io.BytesIO(tar(file(member))),
                view.root,
                Whiteouts.PLAIN,
                base=base,
                keep_mounts=True,
            )
        fd = mounts.open_in_root(view.root, f"{place}/content", os.O_RDONLY)
        os.close(fd)
    assert (volume / "content").read_text() == "kept"


def test_a_mode_is_never_given_to_what_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is replaced by a link between its making and its chmod."""
    canary = tmp_path / "canary"
    canary.touch(0o600)
    root = tmp_path / "root"
    root.mkdir()
    chown = os.chown

    def swap(path: Any, *arguments: Any, **options: Any) -> None:
        chown(path, *arguments, **options)
        if path == b"fifo":
            os.unlink(root / "fifo")
            os.symlink(canary, root / "fifo")

    monkeypatch.setattr(os, "chown", swap)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("fifo")
        entry.type, entry.mode = tarfile.FIFOTYPE, 0o666
        archive.addfile(entry)
    stream.seek(0)
    with pytest.raises(OSError, match="not supported"):
        unpack(stream, root, Whiteouts.PLAIN)
    assert stat.S_IMODE(canary.stat().st_mode) == 0o600


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """For trees that are too deep for whoever removes temporary directories."""
    path = tmp_path / "root"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def deep(root: Path, depth: int) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("z", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)


def test_a_deep_tree_needs_few_descriptors(root: Path) -> None:
    deep(root, 1500)
    (root / "d/d/z-after").touch()
    out = io.BytesIO()
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    class Out(io.BytesIO):
        def write(self, data: Any, /) -> int:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))
            return out.write(data)

    pack(root, Out())
    found = names(out)
    assert len(found) == 1502
    assert "d/" * 1500 + "z" in found
    assert found[-1] == "d/d/z-after"
    assert most < before + 50


def test_what_no_path_can_name_is_an_error(root: Path) -> None:
    deep(root, 2100)
    with pytest.raises(OSError, match="too long"):
        pack(root, io.BytesIO())


def test_changes_of_a_deep_tree(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "d").mkdir()
    deep(root, 1500)
    descriptors = [os.open(path, os.O_RDONLY) for path in (root, old)]
    try:
        found = changes(*descriptors)
        assert len(found) == 1501
        assert found[0] == Change("/d", ChangeKind.MODIFIED)
        assert found[-1] == Change("/d" * 1500 + "/z", ChangeKind.ADDED)
        subprocess.run(["rm", "-r", str(root / "d")], check=True)
        deep(root, 2100)
        with pytest.raises(OSError, match="too long"):
            changes(*descriptors)
    finally:
        for fd in descriptors:
            os.close(fd)


def test_a_directory_that_moves_while_it_is_packed(tmp_path: Path) -> None:
    """The way back up ends where the directory is another: nothing of elsewhere is packed."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "secret").touch()
    deep(root, 100)
    for level in range(3):
        (root / ("d/" * level) / "zz").touch()
    moved = False

    class Out(io.BytesIO):
        def write(self, data: Any, /) -> int:
            nonlocal moved
            if not moved and b"d/" * 100 + b"z" in bytes(data):
                moved = True
                os.rename(root / "d", tmp_path / "away")
                os.symlink(elsewhere, root / "d")
            return super().write(data)

    out = Out()
    pack(root, out)
    found = names(out)
    assert moved
    assert found[-1] == "zz"
    assert not any("secret" in name for name in found)
    assert "d/zz" not in found
