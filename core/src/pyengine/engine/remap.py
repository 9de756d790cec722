"""``userns-remap``: whose subordinate ids the root of containers becomes.

The values are dockerd's ("Isolate containers with a user namespace" in Docker's documentation):
``user``, ``uid``, ``user:group``, ``uid:gid``, or ``default`` for a user that is made when it is
not there. The ranges are those of subuid(5) and subgid(5), one behind the other from id 0 on.
"""

from __future__ import annotations

import grp
import itertools
import pwd
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pyengine.contracts.storage import StorageCapability, StorageDriver
from pyengine.engine.model import Container, HostConfig
from pyengine.errors import ConfigError, Conflict, InvalidParameter, Unavailable
from pyengine.linux import idmaps
from pyengine.linux.idmaps import IdMapping, IdMaps

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
#: Docker's name of it, so that a host that ran Docker keeps its ranges.
DEFAULT_USER = "dockremap"

_KEY = "userns-remap"
#: Where ranges begin and how long they are made, as in login.defs(5).
_FIRST, _COUNT = 100000, 65536


def resolve(value: str, *, make: bool) -> IdMaps | None:
    """The maps that ``value`` asks for; None for none, and for root, who is no other inside.

    ``make``: make the user of ``default`` with its ranges. ``ConfigError`` for a user or group that
    is not there, or has no ranges.
    """
    if not value:
        return None
    user, colon, group = value.partition(":")
    if value == "default":
        if make:
            _make_default_user()
        user = DEFAULT_USER
    elif not user or ":" in group or (colon and not group):
        raise ConfigError(f"{_KEY}: {value!r} is neither user nor user:group")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if value == "default" and not make:
            return None  # not made yet
        raise ConfigError(
            f"{_KEY}: there is no user {user!r}", help="name one that is, or say default"
        ) from None
    _check_group(group or (user if user.isdigit() else entry.pw_name))
    if entry.pw_uid == 0:
        return None
    if value == "default" and not make and not all(_ids(f, entry) for f in (SUBUID, SUBGID)):
        return None  # it gets them when the daemon starts
    return IdMaps(_ranges(SUBUID, entry), _ranges(SUBGID, entry))


def check_host(maps: IdMaps, data_root: Path, storage: StorageDriver) -> None:
    """``Unavailable`` where the data root or the storage driver cannot be shown through maps."""
    help = f"leave {_KEY} out"
    if StorageCapability.ID_MAPS not in storage.capabilities():
        raise Unavailable(
            f"{_KEY}: storage driver {storage.name} cannot show layers to user namespaces here",
            "it or this kernel is too old for that",
            help,
        )
    if not idmaps.can_show(data_root, maps):
        raise Unavailable(
            f"{_KEY}: the filesystem of {data_root} cannot be shown to user namespaces",
            "id-mapped mounts need Linux 5.12 and ext4, xfs or btrfs",
            help,
        )


def check(host: HostConfig, maps: IdMaps | None) -> None:
    """What cannot be had inside of a user namespace. ``InvalidParameter`` in Docker's words."""
    if maps is None or host.userns_mode == "host":
        return
    help = "run it with --userns=host"
    if host.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in "
            "the host namespace when running privileged mode",
            help=help,
        )
    if host.network_mode == "host":
        raise InvalidParameter(
            "cannot share the host's network namespace when user namespaces are enabled", help=help
        )
    if host.pid_mode == "host":
        raise InvalidParameter(
            "cannot share the host PID namespace when user namespaces are enabled", help=help
        )


def shared_with(container: Container, others: Iterable[Container]) -> Container | None:
    """The one of ``others``, whose namespaces it joins, that lends it its user namespace: a
    namespace belongs to the user namespace it was made in. ``Conflict`` where one has none."""
    lender = None
    for other in others:
        if container.id_maps is None:
            continue
        if other.id_maps is None:
            raise Conflict(
                f"cannot join namespaces of container {other.name}, which has no user namespace",
                help="run both with --userns=host, or neither",
            )
        lender = lender or other
    return lender


def _check_group(group: str) -> None:
    try:
        if group.isdigit():
            grp.getgrgid(int(group))
        else:
            grp.getgrnam(group)
    except (KeyError, OverflowError):
        raise ConfigError(f"{_KEY}: there is no group {group!r}") from None


def _ids(file: Path, user: pwd.struct_passwd) -> list[tuple[int, int]]:
    """(first, how many) of the ranges of ``user``."""
    names = (user.pw_name, str(user.pw_uid))
    return [(start, count) for name, start, count in _entries(file) if name in names and count]


def _ranges(file: Path, user: pwd.struct_passwd) -> tuple[IdMapping, ...]:
    found, inside = [], 0
    for start, count in _ids(file, user):
        found.append(IdMapping(inside, start, count))
        inside += count
    if not found:
        raise ConfigError(
            f"{_KEY}: user {user.pw_name!r} has no ids in {file}",
            help=f"usermod --add-subuids {_FIRST}-{_FIRST + _COUNT - 1} "
            f"--add-subgids {_FIRST}-{_FIRST + _COUNT - 1} {user.pw_name}, with a range that is "
            "nobody else's",
        )
    return tuple(found)


def _entries(file: Path) -> list[tuple[str, int, int]]:
    """(name or uid, first id, how many) of each line; what is no entry is passed over."""
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            found.append((fields[0], int(fields[1]), int(fields[2])))
    return found


def _make_default_user() -> None:
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        shell = "/usr/sbin/nologin"
        _run(
            *("useradd", "--system", "--user-group", "--no-create-home", "--shell", shell),
            DEFAULT_USER,
        )
    user = pwd.getpwnam(DEFAULT_USER)
    for file, flag in ((SUBUID, "--add-subuids"), (SUBGID, "--add-subgids")):
        if not _ids(file, user):
            ends = (start + count for _, start, count in _entries(file))
            first = max(itertools.chain((_FIRST,), ends))
            _run("usermod", flag, f"{first}-{first + _COUNT - 1}", DEFAULT_USER)


def _run(*command: str) -> None:
    help = f"make the user {DEFAULT_USER} with ranges in {SUBUID} and {SUBGID}, or name another"
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{_KEY}: {DEFAULT_USER} cannot be made", str(error), help) from None
    if done.returncode:
        raise ConfigError(f"{_KEY}: {DEFAULT_USER} cannot be made", done.stderr.strip(), help)
