"""Who a container's process is: the image's own /etc/passwd and /etc/group, read by us.

The engine never asks NSS: that would load what the host configures, or, inside the container, what
the image brings. The files are opened below a descriptor of the container's root with
openat2(RESOLVE_IN_ROOT), so a link in the image leads nowhere else. Rules and messages follow
Docker's (moby ``sys/user``): a name that is all digits is a number, the first match wins, damaged
lines are passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from pyengine.errors import InvalidParameter
from pyengine.linux import syscalls

_MAX_ID = (1 << 31) - 1
#: More than any sane passwd; an image must not make the engine read without end.
_MAX_SIZE = 16 << 20


class Identity(msgspec.Struct, frozen=True):
    """``groups``: the supplementary ones, beginning with ``gid``. ``home``: "" if not known."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)
    home: str = ""

    def as_oci(self) -> dict[str, object]:
        return {"uid": self.uid, "gid": self.gid, "additionalGids": list(self.groups)}


def resolve(root: int, user: str, group_add: Sequence[str] = ()) -> Identity:
    """The identity ``user`` (``name|uid[:group|gid]``, "" for root) has below ``root``.

    ``root``: descriptor of the container's root directory (O_PATH will do). Missing files count as
    empty. Raises ``InvalidParameter`` with Docker's text for an unknown name or an id out of range.
    """
    passwd = _read(root, "etc/passwd")
    group = _read(root, "etc/group")
    wanted, _, wanted_group = user.partition(":")
    uid_number = _number(wanted)
    gid_number = _number(wanted_group)
    uid, gid, home, name = 0, 0, "", ""
    for fields in _records(passwd, 7):
        entry_uid, entry_gid = _field(fields[2]), _field(fields[3])
        if not wanted:
            match = entry_uid == 0
        elif uid_number is not None:
            match = entry_uid == uid_number
        else:
            match = fields[0] == wanted
        if match:
            name, uid, gid, home = fields[0], entry_uid, entry_gid, fields[5]
            break
    else:
        if wanted and uid_number is None:
            raise InvalidParameter(
                f"unable to find user {wanted}", "no matching entries in passwd file"
            )
        uid = uid_number or 0
    extra: list[int] = []
    if wanted_group:
        gid = _group(group, wanted_group, gid_number)
    elif name:
        extra = [_field(fields[2]) for fields in _records(group, 4) if name in fields[3].split(",")]
    if not (0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID):
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}")
    added = [_group(group, item, _number(item)) for item in group_add]
    return Identity(uid, gid, tuple(dict.fromkeys([gid, *extra, *added])), home)


def _group(text: str, wanted: str, number: int | None) -> int:
    for fields in _records(text, 4):
        if fields[0] == wanted if number is None else _field(fields[2]) == number:
            return _field(fields[2])
    if number is None:
        raise InvalidParameter(
            f"unable to find group {wanted}", "no matching entries in group file"
        )
    return number


def _number(text: str) -> int | None:
    """``text`` as an id, None if it is a name. What is a number but no id is refused."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text)
    if not 0 <= value <= _MAX_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}")
    return value


def _field(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _records(text: str, width: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        line = line.strip()
        if line and line[0] != "#":
            fields = line.split(":")
            yield fields + [""] * (width - len(fields))


def _read(root: int, path: str) -> str:
    try:
        found = syscalls.openat2(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise
    try:
        # A device or a fifo must not even be opened.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        with open(f"/proc/self/fd/{found}", "rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "surrogateescape")
    finally:
        os.close(found)
