"""Devices: ``--device``, ``--device-cgroup-rule``, and all of the host's for ``--privileged``."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from pyengine.errors import InvalidParameter

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", re.ASCII)
_TYPES = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}
#: File systems of the host under /dev; a container has its own.
_SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


def from_path(
    on_host: str, in_container: str, permissions: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Devices and cgroup rules for one ``--device``; a directory gives all below it.

    Raises ``InvalidParameter`` if nothing there is a device.
    """
    real = os.path.realpath(on_host)
    reason = "not a device node"
    found: list[dict[str, Any]] = []
    try:
        mode = os.lstat(real).st_mode
    except OSError as error:
        reason = (error.strerror or "").lower()
    else:
        if stat.S_ISDIR(mode):
            for folder, _, names in os.walk(real):
                for name in sorted(names):
                    path = f"{folder}/{name}"
                    device = _device(path, in_container + path[len(real) :])
                    if device:
                        found.append(device)
        elif device := _device(real, in_container):
            found.append(device)
    if not found:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{on_host}"', reason
        )
    return found, [allowing(device, permissions) for device in found]


def of_host() -> list[dict[str, Any]]:
    """Every device below the host's /dev."""
    found = []
    for folder, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in _SKIPPED]
        for name in names:
            path = f"{folder}/{name}"
            device = None if name == "console" else _device(path, path)
            if device and device["type"] != "p":
                found.append(device)
    return found


def parse_rule(text: str) -> dict[str, Any]:
    """``c 13:* rwm`` -> a rule of the devices cgroup; ``InvalidParameter`` otherwise."""
    match = _RULE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    return {
        "allow": True,
        "type": kind,
        "major": -1 if major == "*" else int(major),
        "minor": -1 if minor == "*" else int(minor),
        "access": access,
    }


def at(path: str) -> dict[str, Any]:
    """The node at ``path``, as the spec has devices; ``OSError`` if it is none."""
    os.lstat(path)
    device = _device(path, path)
    if device is None:
        raise OSError("not a device node")
    return device


def allowing(device: dict[str, Any], permissions: str) -> dict[str, Any]:
    """A rule of the devices cgroup for ``device``; ``permissions`` empty: all."""
    return {
        "allow": True,
        "type": device["type"],
        "major": device["major"],
        "minor": device["minor"],
        "access": permissions or "rwm",
    }


def _device(path: str, in_container: str) -> dict[str, Any] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if not kind:
        return None
    return {
        "type": kind,
        "path": in_container,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
