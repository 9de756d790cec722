"""Filesystems in a file, for tests that need one of a certain kind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyengine.linux import syscalls

#: kind -> how to make it so that it can limit projects, and the option that makes it do so,
#: and what the kernel must be built with
QUOTAS = {
    "ext4": (
        ("mkfs.ext4", "-q", "-m", "0", "-O", "project,quota", "-E", "quotatype=prjquota"),
        "prjquota",
        "CONFIG_QFMT_V2",
    ),
    "xfs": (("mkfs.xfs", "-q"), "pquota", "CONFIG_XFS_QUOTA"),
}
_SIZE = 320 << 20  # below 300 MB mkfs.xfs refuses


@contextmanager
def with_project_quotas(kind: str, place: Path) -> Iterator[Path]:
    """A fresh filesystem of ``kind`` with limits for projects, mounted in directory ``place``.

    Skips the test where the kernel mounts the filesystem, but not with quotas.
    """
    make, option, lacks = QUOTAS[kind]
    with _image(make, place) as image:
        target = place / "mounted"
        target.mkdir()
        problem = _mount(image, target, option)
        if problem:
            if kind not in Path("/proc/filesystems").read_text().split():
                pytest.skip(f"this kernel has no {kind}")
            # Without changes it can be mounted where quotas are what is lacking.
            assert not _mount(image, target, "ro"), problem
            syscalls.umount(target)
            pytest.skip(f"this kernel has no project quotas for {kind}: it lacks {lacks}")
        try:
            yield target
        finally:
            syscalls.umount(target, syscalls.MNT_DETACH)


@contextmanager
def _image(make: tuple[str, ...], place: Path) -> Iterator[Path]:
    image = place / "image"
    with image.open("wb") as file:
        os.truncate(file.fileno(), _SIZE)
    try:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        subprocess.run([*make, str(image)], check=True, env={**os.environ, "PATH": path})
        yield image
    finally:
        image.unlink()


def _mount(image: Path, target: Path, option: str) -> str:
    """What mount(8) complains of, if it does. The loop device goes with the mount."""
    command = ["mount", "-o", f"loop,{option}", str(image), str(target)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr
