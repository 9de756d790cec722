"""What a container gets when nobody says otherwise: Docker's values.

Sources: moby ``daemon/pkg/oci/defaults.go`` and the runtime specification's ``config-linux.md``.
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import Any

import msgspec

from pyengine.errors import Unavailable

OCI_VERSION = "1.2.0"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 << 20
#: Where the init of ``--init`` appears in the container.
INIT_TARGET = "/sbin/docker-init"

#: Paths hidden from an unprivileged container; what the host lacks is skipped by the runtime.
MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    # Its counters tell of other tenants' work by their timing, as the throttle below does
    # (GHSA-6fw5-f8r9-fgfm).
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    *(
        f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        for cpu in range(os.cpu_count() or 1)
        if os.path.exists(f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")
    ),
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }


def _rule(allow: bool, major: int, minor: int) -> dict[str, Any]:
    return {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}


_SPEC: dict[str, Any] = {
    "ociVersion": OCI_VERSION,
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": [],
        "env": [],
        "cwd": "/",
        "capabilities": {},
        "noNewPrivileges": False,
        "oomScoreAdj": 0,
    },
    "root": {"path": "", "readonly": False},
    "hostname": "",
    "mounts": [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777"),
    ],
    "linux": {
        "sysctl": {},
        "cgroupsPath": "",
        "namespaces": [],
        "devices": [],
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                _rule(True, 1, 5),  # zero
                _rule(True, 1, 3),  # null
                _rule(True, 1, 9),  # urandom
                _rule(True, 1, 8),  # random
                _rule(True, 5, 0),  # tty
                _rule(True, 5, 1),  # console
                _rule(False, 10, 229),  # fuse
            ]
        },
        "maskedPaths": MASKED_PATHS,
        "readonlyPaths": READONLY_PATHS,
    },
}
_ENCODED = msgspec.json.encode(_SPEC)
_decoder = msgspec.json.Decoder(dict[str, Any])


def default_spec() -> dict[str, Any]:
    """A fresh spec that shares nothing with any other, so that hooks may change it in place.

    Decoding prepared JSON is the fastest deep copy there is here: some ten microseconds.
    """
    return _decoder.decode(_ENCODED)


def default_sysctls(user_namespace: bool) -> dict[str, str]:
    """For a network namespace of the container's own, as far as this kernel has them."""
    found = {}
    if not user_namespace and os.path.exists("/proc/sys/net/ipv4/ping_group_range"):
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    if os.path.exists("/proc/sys/net/ipv4/ip_unprivileged_port_start"):
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
    return found


#: Limits that a process has, by Docker's names (setrlimit(2), in small letters without RLIMIT_).
RLIMITS = frozenset(
    (
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile"),
        *("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)

_INIT_DIRECTORIES = ("/usr/local/libexec/docker", "/usr/libexec/docker", "/usr/local/lib/docker")
_INIT_NAMES = ("docker-init", "tini-static", "catatonit", "tini")


def find_init(configured: str = "") -> str:
    """Path of an init for ``--init`` on this host; "" if there is none.

    It is mounted into images with any or no C library, so it must be linked statically.
    """
    names = (configured,) if configured else _INIT_NAMES
    for name in names:
        candidates = [f"{directory}/{name}" for directory in _INIT_DIRECTORIES]
        candidates.append(shutil.which(name) or "")
        if configured.startswith("/"):
            candidates = [configured]
        for path in candidates:
            if path and os.access(path, os.X_OK) and (configured or _is_static(path)):
                return os.path.realpath(path)
    return ""


def missing_init(configured: str = "") -> Unavailable:
    return Unavailable(
        f'exec: "{configured or "docker-init"}": executable file not found in $PATH',
        help="install tini (it holds tini-static) or set init-path in daemon.json",
    )


def _is_static(path: str) -> bool:
    """True for an ELF64 program that asks for no interpreter (elf(5), PT_INTERP)."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:5] != b"\x7fELF\x02":
                return False
            (offset,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(offset)
            table = file.read(size * count)
    except OSError:
        return False
    kinds = [struct.unpack_from("<I", table, index * size)[0] for index in range(count)]
    return 3 not in kinds
