"""Project quotas: a limit on what all files that bear one number may occupy together.

A directory marked with a project and ``PROJINHERIT`` passes both on to what is made in it. xfs
keeps projects always, ext4 with its feature ``project``; limits hold where the filesystem is
mounted with ``prjquota`` (``pquota`` is xfs's other name). Sources: ioctl_xfs_fsgetxattr(2),
quotactl(2), xfs(5), ext4(5), and the kernel's headers linux/fs.h, linux/dqblk_xfs.h, linux/quota.h.
The commands are those that xfs brought; ext4 answers them, too.

All functions take a directory descriptor, by quotactl_fd (Linux 5.14), so no device node is needed.
Every failure is an ``OSError``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from typing import NamedTuple

from pyengine.faults import failpoint
from pyengine.linux.syscalls import quotactl_fd

#: The unit of limits and usage in ``struct fs_disk_quota``.
BASIC_BLOCK = 512
#: ext4 stores limits in units of as much; a smaller one would be another after a restart.
GRANULE = 1024

_PRJQUOTA = 2
_Q_XGETQUOTA = 0x5803
_Q_XSETQLIM = 0x5804
_Q_XGETQSTAT = 0x5805
_Q_XGETNEXTQUOTA = 0x5809
_ACCOUNTED_AND_ENFORCED = 1 << 4 | 1 << 5  # FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD
_STATE = struct.Struct("=bxH76x")  # struct fs_quota_stat: version, flags; figures of quota files
# struct fs_disk_quota: version, flags, fieldmask, id, block limits (hard, soft), inode limits,
# blocks and inodes in use; timers, warnings and the realtime section.
_QUOTA = struct.Struct("=bbHI6Q56x")
_VERSION = 1
_PROJECT = 2
_BLOCK_LIMITS = 1 << 2 | 1 << 3  # FS_DQ_BSOFT, FS_DQ_BHARD

_FSGETXATTR = 0x801C581F
_FSSETXATTR = 0x401C5820
_FSXATTR = struct.Struct("=5I8x")  # xflags, extent size hint, extents, project, CoW hint
_PROJINHERIT = 0x200


class ProjectQuota(NamedTuple):
    """One project on one filesystem; ``limit`` (0: none) and ``used`` in bytes."""

    project: int
    limit: int
    used: int
    inodes: int


def enforced(fd: int) -> bool:
    """True if limits of projects hold on this filesystem, and the caller may set them.

    Setting them takes CAP_SYS_ADMIN in the first user namespace.
    """
    state = ctypes.create_string_buffer(_STATE.size)
    try:
        quotactl_fd(fd, _command(_Q_XGETQSTAT), 0, state)
        following(fd, 0)
    except OSError:
        return False
    _, flags = _STATE.unpack(state)
    return bool(flags & _ACCOUNTED_AND_ENFORCED == _ACCOUNTED_AND_ENFORCED)


def quota(fd: int, project: int) -> ProjectQuota:
    """Limit and usage of ``project``; zeros for one that nobody has."""
    return _ask(fd, _Q_XGETQUOTA, project) or ProjectQuota(project, 0, 0, 0)


def following(fd: int, project: int) -> ProjectQuota | None:
    """The first project from ``project`` on that has a limit or files, or had them of late."""
    return _ask(fd, _Q_XGETNEXTQUOTA, project)


def set_limit(fd: int, project: int, size: int) -> None:
    """Let the files of ``project`` occupy ``size`` bytes; 0: no limit.

    Rounded up to :data:`GRANULE`, and by xfs to its blocks.
    """
    failpoint("quota.limit")
    blocks = -(-size // GRANULE) * (GRANULE // BASIC_BLOCK)
    wanted = _QUOTA.pack(
        _VERSION, _PROJECT, _BLOCK_LIMITS, project, blocks, blocks, 0, 0, 0, 0
    )  # fmt: skip
    quotactl_fd(
        fd, _command(_Q_XSETQLIM), project, ctypes.create_string_buffer(wanted, len(wanted))
    )


def project_of(fd: int) -> int:
    """The project of the directory behind ``fd``."""
    return int(_attributes(fd)[3])


def inherits(fd: int) -> bool:
    """Whether the directory behind ``fd`` passes its project on."""
    return bool(_attributes(fd)[0] & _PROJINHERIT)


def set_project(fd: int, project: int) -> None:
    """Mark the directory behind ``fd`` with ``project``, for all that will be made in it."""
    failpoint("quota.project")
    flags, extent, extents, _, cow = _attributes(fd)
    wanted = _FSXATTR.pack(flags | _PROJINHERIT, extent, extents, project, cow)
    fcntl.ioctl(fd, _FSSETXATTR, wanted)


def _attributes(fd: int) -> tuple[int, ...]:
    return _FSXATTR.unpack(fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size)))


def _command(command: int) -> int:
    return command << 8 | _PRJQUOTA


def _ask(fd: int, command: int, project: int) -> ProjectQuota | None:
    answer = ctypes.create_string_buffer(_QUOTA.size)
    try:
        quotactl_fd(fd, _command(command), project, answer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    _, _, _, found, hard, _, _, _, blocks, inodes = _QUOTA.unpack(answer)
    return ProjectQuota(found, hard * BASIC_BLOCK, blocks * BASIC_BLOCK, inodes)
