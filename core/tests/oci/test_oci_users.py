"""Users and groups from the image's own files, whatever the image put there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.errors import InvalidParameter
from pyengine.oci.users import Identity, resolve

PASSWD = """\
# a comment
root:x:0:0:root:/root:/bin/sh

daemon:x:2:2::/sbin:
web:x:1000:1000:Web:/srv/web:/bin/sh
web:x:1001:1001:second:/nowhere:/bin/sh
1005:x:70:70::/numeric:/bin/sh
broken
odd:x:nan:7::/odd:/bin/sh
"""
GROUP = """\
root:x:0:
wheel:x:10:root,web
web:x:1000:
audio:x:29:web,other
prefix:x:30:webmaster
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", Identity(0, 0, (0, 10), "/root")),
        ("root", Identity(0, 0, (0, 10), "/root")),
        ("0", Identity(0, 0, (0, 10), "/root")),
        ("web", Identity(1000, 1000, (1000, 10, 29), "/srv/web")),
        ("1000", Identity(1000, 1000, (1000, 10, 29), "/srv/web")),
        ("web:audio", Identity(1000, 29, (29,), "/srv/web")),
        ("web:77", Identity(1000, 77, (77,), "/srv/web")),
        ("4242", Identity(4242, 0, (0,), "")),
        ("4242:10", Identity(4242, 10, (10,), "")),
        # All digits: a number, though an entry has that name.
        ("1005", Identity(1005, 0, (0,), "")),
        ("daemon:", Identity(2, 2, (2,), "/sbin")),
    ],
)
def test_resolve(root: int, user: str, identity: Identity) -> None:
    assert resolve(root, user) == identity


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("foo", "unable to find user foo: no matching entries in passwd file"),
        ("web:foo", "unable to find group foo: no matching entries in group file"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("0:-5", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_refused(root: int, user: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        resolve(root, user)
    assert error.value.message() == message


def test_added_groups(root: int) -> None:
    assert resolve(root, "daemon", ["audio", "10", "999", "audio"]).groups == (2, 29, 10, 999)
    with pytest.raises(InvalidParameter, match="unable to find group nobody"):
        resolve(root, "", ["nobody"])


def test_an_image_without_files(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "") == Identity()
        assert resolve(fd, "7:8") == Identity(7, 8, (8,), "")
        with pytest.raises(InvalidParameter, match="unable to find user root"):
            resolve(fd, "root")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../../../../../etc/passwd", "/proc/self/root/etc/passwd"]
)
def test_links_stay_inside(tmp_path: Path, target: str) -> None:
    """The host's own file is never read: its users are not the image's."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to(target)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(InvalidParameter, match="unable to find user daemon"):
            resolve(fd, "daemon")
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc/passwd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    else:
        path.mkdir()
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "12") == Identity(12, 0, (0,), "")
    finally:
        os.close(fd)
