"""Mounting overlay filesystems (overlayfs.rst in the kernel's documentation)."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from pyengine.linux import syscalls

_PARAMETERS = "/sys/module/overlay/parameters"
_CLONE_FS = 0x200
_PAGE = resource.getpagesize()


class Overlay(NamedTuple):
    """What to mount. Paths are relative to the driver's root; ``lowers`` top layer first."""

    lowers: Sequence[str]
    upper: str = ""
    work: str = ""
    label: str = ""
    volatile: bool = False


def mount_overlay(root: str, target: str, overlay: Overlay, layers: str = "") -> None:
    """Mount ``overlay`` at ``target`` (relative to ``root``, too).

    ``layers``: another directory that shows what is in ``root``, from which the layers are taken;
    relative to it.

    The options must fit a page. Where absolute paths do not, or where the root's own name has a
    character that overlay gives a meaning, a short-lived thread with a working directory of its own
    mounts by relative names, which with the ``l/`` links always fit for 128 layers.
    """
    # A path in the options is taken apart at commas and colons.
    awkward = any(character in root for character in ",:\\")
    layers = layers and layers + "/"
    data = _data(overlay, layers if awkward else f"{root}/{layers}")
    flags = 0 if overlay.upper else syscalls.MS_RDONLY
    if not awkward and len(data) < _PAGE:
        _mount(f"{root}/{target}", flags, data, overlay, f"{root}/{layers}{overlay.work}")
        return
    data = _data(overlay, layers)
    if len(data) >= _PAGE:
        raise OSError(errno.ENAMETOOLONG, "overlay mount options exceed a page", target)

    problem: list[OSError] = []

    def mount_from_root() -> None:
        try:
            syscalls.unshare(_CLONE_FS)
            os.chdir(root)
            _mount(target, flags, data, overlay, layers + overlay.work)
        except OSError as error:
            problem.append(error)

    thread = threading.Thread(target=mount_from_root, name="overlay-mount")
    thread.start()
    thread.join()
    if problem:
        raise problem[0]


def open_overlay(root: str, mountpoint: str, overlay: Overlay) -> int:
    """A directory descriptor of ``overlay`` that is mounted nowhere; closing it unmounts it.

    ``mountpoint`` is an empty directory (relative to ``root``) used for a moment.
    """
    mount_overlay(root, mountpoint, overlay)
    path = f"{root}/{mountpoint}"
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


def _mount(target: str, flags: int, data: bytes, overlay: Overlay, work: str) -> None:
    try:
        syscalls.mount("overlay", target, "overlay", flags, data)
    except OSError:
        # A volatile mount leaves a mark that forbids the next one, for the case that the host
        # crashed and the layer is in pieces. The contract has such layers thrown away, so a mark
        # that is met here is from this boot, and the page cache has everything.
        mark = f"{work}/work/incompat/volatile"
        if not overlay.work or not os.path.isdir(mark):
            raise
        shutil.rmtree(mark)
        syscalls.mount("overlay", target, "overlay", flags, data)


def _data(overlay: Overlay, prefix: str) -> bytes:
    options = list(_fixed_options())
    options.append("lowerdir=" + ":".join(prefix + lower for lower in overlay.lowers))
    if overlay.upper:
        options.append(f"upperdir={prefix}{overlay.upper}")
        options.append(f"workdir={prefix}{overlay.work}")
        if overlay.volatile and volatile_supported():
            options.append("volatile")
    if overlay.label:
        options.append(f'context="{overlay.label}"')
    return os.fsencode(",".join(options))


@cache
def _fixed_options() -> tuple[str, ...]:
    """Features that would keep the truth about a layer outside of its upper directory: all off."""
    if in_user_namespace():
        return ("userxattr",)  # which turns the others off by itself
    return tuple(
        f"{name}=off"
        for name in ("index", "redirect_dir", "metacopy")
        if os.path.exists(f"{_PARAMETERS}/{name}")
    )


@cache
def in_user_namespace() -> bool:
    """True if user id 0 here is not user id 0 of the host."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


@cache
def volatile_supported() -> bool:
    """Linux 5.10 brought the option."""
    return _kernel() >= (5, 10)


@cache
def mapped_layers_supported() -> bool:
    """Linux 5.19 made overlays of layers that are shown through a map of ids."""
    return _kernel() >= (5, 19)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)
