"""``volume create -o type= -o device= -o o=``: what mount(2) makes of them."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from pyengine.bases.layerquotas import layer_size
from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import syscalls

KNOWN = ("type", "o", "device", "size")
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}

#: Words of mount(8) that are flags of mount(2): (bits, whether the word sets them).
_FLAGS: dict[str, tuple[int, bool]] = {
    "defaults": (0, True),
    "ro": (syscalls.MS_RDONLY, True),
    "rw": (syscalls.MS_RDONLY, False),
    "nosuid": (syscalls.MS_NOSUID, True),
    "suid": (syscalls.MS_NOSUID, False),
    "nodev": (syscalls.MS_NODEV, True),
    "dev": (syscalls.MS_NODEV, False),
    "noexec": (syscalls.MS_NOEXEC, True),
    "exec": (syscalls.MS_NOEXEC, False),
    "sync": (syscalls.MS_SYNCHRONOUS, True),
    "async": (syscalls.MS_SYNCHRONOUS, False),
    "dirsync": (syscalls.MS_DIRSYNC, True),
    "noatime": (syscalls.MS_NOATIME, True),
    "atime": (syscalls.MS_NOATIME, False),
    "nodiratime": (syscalls.MS_NODIRATIME, True),
    "diratime": (syscalls.MS_NODIRATIME, False),
    "relatime": (syscalls.MS_RELATIME, True),
    "norelatime": (syscalls.MS_RELATIME, False),
    "strictatime": (syscalls.MS_STRICTATIME, True),
    "nostrictatime": (syscalls.MS_STRICTATIME, False),
    "remount": (syscalls.MS_REMOUNT, True),
    "bind": (syscalls.MS_BIND, True),
    "rbind": (syscalls.MS_BIND | syscalls.MS_REC, True),
}
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "shared": syscalls.MS_SHARED,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "slave": syscalls.MS_SLAVE,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "unbindable": syscalls.MS_UNBINDABLE,
    "runbindable": syscalls.MS_UNBINDABLE | syscalls.MS_REC,
}
_BIND_KEEPS = ~(syscalls.MS_BIND | syscalls.MS_REC)


class MountSpec(NamedTuple):
    """Arguments of mount(2)."""

    device: str
    type: str
    flags: int
    propagation: int
    data: str


def check_options(options: Mapping[str, str]) -> None:
    """``InvalidParameter`` in Docker's words for options that cannot be meant."""
    for key in options:
        if key not in KNOWN:
            raise InvalidParameter(f'invalid option: "{key}"')
    for key, needed in _NEEDS.items():
        for other in needed:
            if key in options and other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')
    if options.get("type") == "cifs" and _has_port(options.get("device", "")):
        raise InvalidParameter("port not allowed in CIFS device URL, include 'port' in 'o='")


def size_of(options: Mapping[str, str]) -> int:
    """Bytes that a volume may occupy; 0: as much as there is. ``InvalidParameter`` for what is no
    size, or for the size of something that is mounted."""
    size = layer_size(options.get("size", "0"))
    if size and needs_mount(options):
        raise InvalidParameter(
            "size limits a volume that is a directory of this host, and this one is mounted",
            help="for a tmpfs say o=size=100m",
        )
    return size


def needs_mount(options: Mapping[str, str]) -> bool:
    """True if the volume is more than a directory."""
    return bool(options.get("device") or options.get("type"))


def mount_spec(options: Mapping[str, str]) -> MountSpec:
    """Parse ``o``; host names of network filesystems are looked up, as the kernel does not."""
    device, type, text = options["device"], options["type"], options.get("o", "")
    if type in ("nfs", "nfs4", "cifs"):
        device, text = _with_addresses(device, type, text)
    flags = propagation = 0
    data = []
    for word in filter(None, text.split(",")):
        if word in _PROPAGATION:
            propagation |= _PROPAGATION[word]
        elif word in _FLAGS:
            bits, sets = _FLAGS[word]
            flags = flags | bits if sets else flags & ~bits
        else:
            data.append(word)
    return MountSpec(device, type, flags, propagation, ",".join(data))


def mount(spec: MountSpec, target: str) -> None:
    """Mount it; ``EngineError`` in Docker's words, without the password that may be in it."""
    try:
        syscalls.mount(spec.device, target, spec.type, spec.flags, spec.data or None)
        if spec.flags & syscalls.MS_BIND and spec.flags & _BIND_KEEPS:
            # The kernel looks at these only when a bind mount is mounted again.
            again = spec.flags | syscalls.MS_REMOUNT
            syscalls.mount(None, target, None, again & ~syscalls.MS_REC, None)
        if spec.propagation:
            syscalls.mount(None, target, None, spec.propagation)
    except OSError as error:
        data = re.sub(r"(password|pass)=[^,]*", r"\1=********", spec.data)
        raise EngineError(
            f"failed to mount local volume: mount {spec.device}:{target}"
            + (f", flags: {spec.flags:#x}" if spec.flags else "")
            + (f", data: {data}" if data else "")
            + f": {(error.strerror or '').lower()}"
        ) from None


def _with_addresses(device: str, type: str, text: str) -> tuple[str, str]:
    words = text.split(",")
    for number, word in enumerate(words):
        if word.startswith("addr="):
            words[number] = "addr=" + _address(word[5:])
            return device, ",".join(words)
    if type == "cifs":
        host = urlsplit(device).hostname or ""
        if host:
            device = device.replace(host, _address(host), 1)
    return device, text


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EngineError(
            f"error resolving passed in network volume address: lookup {host}", str(error)
        ) from None
    return str(found[0][4][0])


def _has_port(device: str) -> bool:
    try:
        return urlsplit(device).port is not None
    except ValueError as error:
        raise InvalidParameter("error parsing mount device url", str(error)) from None
