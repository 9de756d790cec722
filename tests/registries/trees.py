"""A tree with every kind of file there is, GNU tar to pack it, and what is to be compared of it."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

# cap_net_bind_service=ep, as linux/capability.h lays out revision 2.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

_XATTRS = ["--xattrs", "--xattrs-include=*"]


def every_kind(root: Path) -> Path:
    """Make it, as root: modes, owners, links, devices, xattrs, holes, long and odd names, times."""
    root.mkdir()
    (root / "plain").write_text("plain")
    (root / "empty").touch()
    (root / "directory").mkdir()
    (root / "directory/file").write_text("in it")
    (root / "replaced").mkdir()
    (root / "replaced/old").write_text("old")
    modes = root / "modes"
    modes.mkdir()
    for name, mode in (
        ("setuid", 0o4755), ("setgid", 0o2755), ("none", 0), ("all", 0o777), ("secret", 0o600),
    ):  # fmt: skip
        (modes / name).write_text(name)
        (modes / name).chmod(mode)
    for name, mode in (("sticky", 0o1777), ("setgid-dir", 0o2775), ("private", 0o700)):
        (modes / name).mkdir()
        (modes / name).chmod(mode)
    (root / "owned").write_text("owned")
    os.chown(root / "owned", 100_000, 3_000_000)
    links = root / "links"
    links.mkdir()
    (links / "hard").write_text("one file, three names")
    os.link(links / "hard", links / "hard-too")
    os.link(links / "hard", root / "hard-elsewhere")
    (links / "soft").symlink_to("hard")
    (links / "dangling").symlink_to("/no/such/place")
    (links / "outside").symlink_to("../../../../etc/passwd")
    (links / "long").symlink_to("x" * 300)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    (root / "capable").write_text("#!/bin/sh\n")
    (root / "capable").chmod(0o755)
    os.setxattr(root / "capable", "security.capability", CAPABILITY)
    os.setxattr(root / "capable", "user.note", b"bytes \x00 and = signs\n")
    os.setxattr(root / "directory", "user.note", b"of a directory")
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(20_000_000)
        sparse.write(b"in the middle")
        sparse.truncate(50_000_000)
    (root / "sparse-not").write_bytes(bytes(range(256)) * 1000)
    (root / ("n" * 255)).write_text("long name")
    deep = root
    for letter in "abcdefgh":
        deep /= letter * 60
    deep.mkdir(parents=True)
    (deep / "file").write_text("long path")
    (root / "ünïcødé ☃").write_text("snow")
    (root / " spaces and\ttabs\nand lines ").write_text("odd")
    with open(os.fsencode(root) + b"/not-utf8-\xe9\xff", "wb") as odd:
        odd.write(b"latin")
    (root / "times").write_text("times")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(root / "times", ns=(0, 999_999_999))
    os.utime(root / "empty", ns=(0, 4_102_444_800_000_000_001))
    os.utime(root, ns=(0, 1_500_000_000_000_000_000))
    return root


def pack(tree: Path, archive: Path) -> None:
    """By GNU tar, in POSIX format, with everything it can keep, below the tree's own name."""
    subprocess.run(
        ["tar", "--format=posix", "--sparse", *_XATTRS, "--numeric-owner",
         "-C", tree.parent, "-cf", archive, tree.name],
        check=True,
    )  # fmt: skip


def unpack(archive: Path, target: Path) -> Path:
    """By GNU tar; every warning is an error."""
    target.mkdir()
    done = subprocess.run(
        ["tar", "--warning=no-timestamp", *_XATTRS, "--numeric-owner", "-C", target,
         "-xpf", archive],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return target


def listing(root: Path) -> dict[str, dict[str, Any]]:
    """By path below ``root``: all that a copy must have in common with the original.

    ``links``: the other names of a file.
    """
    found: dict[str, dict[str, Any]] = {}
    inodes: dict[int, list[str]] = {}
    base = os.fsencode(root)
    for directory, folders, files in os.walk(base):
        for name in [b"."] * (directory == base) + folders + files:
            path = os.path.join(directory, name)
            shown = os.path.relpath(path, base).decode(errors="backslashreplace")
            status = os.lstat(path)
            found[shown] = entry = {
                "mode": oct(status.st_mode),
                "owner": (status.st_uid, status.st_gid),
                "mtime": status.st_mtime_ns,
                "xattrs": {
                    name: os.getxattr(path, name, follow_symlinks=False)
                    for name in os.listxattr(path, follow_symlinks=False)
                },
            }
            if stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                inodes.setdefault(status.st_ino, []).append(shown)
                with open(path, "rb") as body:
                    entry["digest"] = hashlib.file_digest(body, "sha256").hexdigest()
                entry["size"] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                entry["device"] = status.st_rdev
    for names in inodes.values():
        for name in names:
            found[name]["links"] = sorted(set(names) - {name})
    return found
