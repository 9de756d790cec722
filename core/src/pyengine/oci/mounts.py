"""The mounts of a spec: the defaults, less what the user's own replace, then the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pyengine.errors import InvalidParameter

#: Destinations that a read-only root leaves writable.
_ALWAYS_WRITABLE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})
_SHARED = frozenset({"shared", "rshared"})
_SLAVE = frozenset({"slave", "rslave"})
_PROPAGATIONS = _SHARED | _SLAVE | {"private", "rprivate", "unbindable", "runbindable"}

#: Options of mount(8) that exclude one another, by what they decide.
_FLAGS = {
    **dict.fromkeys(("ro", "rw"), "write"),
    **dict.fromkeys(("suid", "nosuid"), "suid"),
    **dict.fromkeys(("dev", "nodev"), "dev"),
    **dict.fromkeys(("exec", "noexec"), "exec"),
    **dict.fromkeys(("sync", "async"), "sync"),
    "dirsync": "dirsync",
    "remount": "remount",
    **dict.fromkeys(("mand", "nomand"), "mand"),
    **dict.fromkeys(("atime", "noatime"), "atime"),
    **dict.fromkeys(("diratime", "nodiratime"), "diratime"),
    **dict.fromkeys(("relatime", "norelatime"), "relatime"),
    **dict.fromkeys(("strictatime", "nostrictatime"), "strictatime"),
    **dict.fromkeys(_PROPAGATIONS | {"bind", "rbind"}, "propagation"),
}
_TMPFS_DATA = frozenset({"", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


class ResolvedMount(msgspec.Struct, kw_only=True):
    """One of the container's mounts after volumes were found and sources checked.

    ``kind``: bind, volume or tmpfs. ``source``: a path of the host (not for tmpfs). ``options``: of
    a tmpfs, as the user wrote them (``size=64m``, ``mode=1770``). ``propagation``: "" for the
    default, rprivate. ``recursive``: bring along what is mounted below ``source``;
    ``read_only_recursive``: make that read-only as well (what Docker does by default).
    ``propagation_asked``: by the user, so that a source that cannot have it is an error.
    ``id_mapped``: shown through the map of the container's user namespace.
    """

    kind: str
    destination: str
    source: str = ""
    writable: bool = True
    propagation: str = ""
    propagation_asked: bool = True
    recursive: bool = True
    read_only_recursive: bool = True
    options: list[str] = []
    id_mapped: bool = False


def tmpfs_options(given: Iterable[str], writable: bool = True) -> list[str]:
    """The defaults (noexec, nosuid, nodev, rprivate) overlaid with ``given``: the last one wins.

    Raises ``InvalidParameter`` for an option that is none of tmpfs's.
    """
    wanted = ["noexec", "nosuid", "nodev", "rprivate", *(item for item in given if item)]
    if not writable:
        wanted.append("ro")
    decided: dict[str, str] = {}
    for option in reversed(wanted):
        if option == "defaults":
            continue
        key = _FLAGS.get(option)
        if key is None:
            key, equals, _ = option.partition("=")
            if not equals or key not in _TMPFS_DATA:
                raise InvalidParameter(f'invalid tmpfs option "{key}"')
        decided.setdefault(key, option)
    return list(reversed(decided.values()))


def assemble(
    spec: dict[str, Any],
    mounts: Sequence[ResolvedMount],
    shm_source: str,
    shm_size: int,
    ipc_mode: str,
) -> None:
    """Put ``mounts`` into ``spec`` after the defaults, parents before children.

    ``shm_source``: directory of the host that is the container's /dev/shm; "": a tmpfs of its own.
    """
    own = {mount.destination for mount in mounts}
    kept = []
    for default in spec["mounts"]:
        destination = default["destination"]
        if destination in own or ("/dev" in own and destination.startswith("/dev/")):
            continue
        if destination == "/dev/shm":
            if ipc_mode == "none":
                continue
            if shm_source:
                default["type"], default["source"] = "bind", shm_source
                default["options"] = ["rbind", "rprivate"]
            else:
                default["options"].append(f"size={shm_size}")
        kept.append(default)
    # As Docker sorts them: by depth only, so that the user's order holds among equals.
    kept += sort_by_depth([_entry(mount, spec["linux"]) for mount in mounts])
    spec["mounts"] = kept
    if spec["root"]["readonly"]:
        spared = own | _ALWAYS_WRITABLE
        for entry in kept:
            if entry["destination"] not in spared and "ro" not in entry["options"]:
                entry["options"].append("ro")


def sort_by_depth(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mounts of a spec, parents before children, otherwise in the order given."""
    return sorted(entries, key=lambda entry: entry["destination"].rstrip("/").count("/"))


def _entry(mount: ResolvedMount, linux: dict[str, Any]) -> dict[str, Any]:
    if mount.kind == "tmpfs":
        return {
            "destination": mount.destination,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": tmpfs_options(mount.options, mount.writable),
        }
    options = ["rbind" if mount.recursive else "bind"]
    if not mount.writable:
        options.append("rro" if mount.read_only_recursive and mount.recursive else "ro")
    propagation = mount.propagation or "rprivate"
    if propagation not in _PROPAGATIONS:
        raise InvalidParameter(f"invalid mount config: unknown propagation {propagation!r}")
    try:
        _raise_root_propagation(linux, mount.source, propagation)
    except InvalidParameter:
        if mount.propagation_asked:
            raise
        propagation = "rprivate"
    options.append(propagation)
    if mount.id_mapped:
        options.append("idmap")
    return {
        "destination": mount.destination,
        "type": "bind",
        "source": mount.source,
        "options": options,
    }


def _raise_root_propagation(linux: dict[str, Any], source: str, propagation: str) -> None:
    """A shared or slave mount needs a root that lets events through, and a source that has them."""
    if propagation not in _SHARED and propagation not in _SLAVE:
        return
    point, optional = _mount_of(source)
    shared = "shared:" in optional
    if propagation in _SHARED:
        if not shared:
            raise InvalidParameter(
                f"path {source} is mounted on {point} but it is not a shared mount",
                help=f"mount --make-shared {point}",
            )
        linux["rootfsPropagation"] = "shared"
        return
    if not shared and "master:" not in optional:
        raise InvalidParameter(
            f"path {source} is mounted on {point} but it is not a shared or slave mount",
            help=f"mount --make-shared {point}",
        )
    linux.setdefault("rootfsPropagation", "rslave")


def _mount_of(path: str) -> tuple[str, str]:
    """Mount point that ``path`` lies on, and its optional fields (proc_pid_mountinfo(5))."""
    real = os.path.realpath(path)
    best, optional = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" - ", 1)[0].split()
            point = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, optional = point, " ".join(fields[6:])
    return best, optional
