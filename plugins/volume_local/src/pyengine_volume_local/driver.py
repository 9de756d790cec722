"""The local volume driver. Below its root, as in Docker::

    <name>/_data       the contents
    <name>/opts.json   the options, if there are any (a size is a project quota on _data)

and below its run directory ``<name>/<user>``, an empty file for each container that has a volume
with options mounted; both the mounts and the run directory are lost at a reboot.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pyengine.archive import measure
from pyengine.bases.layerdirs import LayerDirectories
from pyengine.bases.layerquotas import LayerQuotas
from pyengine.contracts.base import (
    DriverContext,
    Kind,
    Probe,
    Reconciled,
    reject_unknown_options,
)
from pyengine.contracts.volume import VolumeDriver, VolumeRecord
from pyengine.errors import Conflict, EngineError, InvalidParameter, Unsupported
from pyengine.faults import failpoint
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import filesystem_of, mounts
from pyengine_volume_local.apart import may_hang, mount_apart
from pyengine_volume_local.options import (
    check_options,
    mount,
    mount_spec,
    needs_mount,
    size_of,
)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_USER = re.compile(r"[a-zA-Z0-9_.-]+\Z")


class Local(VolumeDriver):
    """Directories, and what type, device and o attach to them."""

    name: ClassVar[str] = "local"
    priority: ClassVar[int] = 100
    directory: ClassVar[str] = "volumes"

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(Kind.VOLUME, self.name, context.options, frozenset())
        self._root = os.path.realpath(context.root)
        self._volumes = LayerDirectories(self._root, self._root)
        self._run = os.path.realpath(context.run)
        self._quotas = LayerQuotas(self.name, self._root)

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        place = os.path.realpath(context.root)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        if not os.access(place, os.W_OK | os.X_OK):
            return Probe(False, f"cannot write to {place}", "run as root, or move the data root")
        return Probe(True)

    def create(self, volume: VolumeRecord) -> None:
        _check_name(volume.name)
        check_options(volume.options)
        size = size_of(volume.options)
        if os.path.isdir(self._data(volume.name)):
            return
        if size and not self._quotas.available():
            raise Unsupported(
                "quota size requested but no quota support",
                f"the volumes are on {filesystem_of(self._root)} without project quotas",
                "mount xfs with pquota or ext4 with prjquota there, or leave the option out",
            )
        os.makedirs(self._root, 0o701, exist_ok=True)
        with self._volumes.make(volume.name) as staging:
            os.chmod(staging, 0o701)
            os.mkdir(f"{staging}/_data")
            os.chmod(f"{staging}/_data", 0o755)
            if size:
                self._quotas.limit(size, f"{staging}/_data")
            if volume.options:
                _write_options(Path(staging, "opts.json"), volume.options, size)

    def remove(self, name: str) -> None:
        _check_name(name)
        self._unmount(name)
        inside = mounts(f"{self._root}/{name}")
        if inside:
            # Deleting would go through it and empty what is mounted there.
            raise Conflict(
                f"volume {name} has something mounted in it", inside[0].target, "unmount it first"
            )
        shutil.rmtree(f"{self._run}/{name}", ignore_errors=True)
        self._quotas.clear(self._data(name))
        if self._volumes.discard(name):
            threading.Thread(target=self._sweep, name="volume-sweep", daemon=True).start()

    def path(self, name: str) -> Path:
        return Path(self._data(name))

    def mount(self, volume: VolumeRecord, user: str) -> Path:
        data = self._data(volume.name)
        self.create(volume)
        if needs_mount(volume.options):
            if not _USER.match(user):
                raise InvalidParameter(f"invalid user of a volume: {user!r}")
            users = f"{self._run}/{volume.name}"
            os.makedirs(users, 0o700, exist_ok=True)
            # The user first: after a crash in between, reconcile mounts or forgets.
            failpoint("volume.use")
            os.close(os.open(f"{users}/{user}", os.O_WRONLY | os.O_CREAT, 0o600))
            if not self._is_mounted(volume.name):
                try:
                    if may_hang(volume.options):
                        mount_apart(volume.options, data)
                    else:
                        mount(mount_spec(volume.options), data)
                except EngineError as error:
                    os.unlink(f"{users}/{user}")
                    brief = f"error while mounting volume '{data}': {error.brief}"
                    raise type(error)(brief, error.detail, error.help) from None
        return Path(data)

    def unmount(self, volume: VolumeRecord, user: str) -> None:
        users = f"{self._run}/{volume.name}"
        try:
            failpoint("volume.unuse")
            os.unlink(f"{users}/{user}")
            left = os.listdir(users)
        except FileNotFoundError:
            left = os.listdir(users) if os.path.isdir(users) else []
        if not left and needs_mount(volume.options):
            self._unmount(volume.name)

    def usage(self, name: str) -> int:
        if _is_elsewhere(Path(self._root, name, "opts.json")):
            return -1  # what is mounted there, and may be on a server, is not ours to walk through
        return measure(self._data(name))[0] if os.path.isdir(self._data(name)) else 0

    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        done = Reconciled()
        os.makedirs(self._root, 0o701, exist_ok=True)
        done.removed += [f"half-made volume {name}" for name in self._volumes.discard_half_made()]
        mounted = {
            os.path.relpath(mount.target, self._root).split("/")[0]
            for mount in mounts(self._root)
            if mount.target.endswith("/_data")
        }
        for name in sorted(mounted):
            if not users.get(name):
                self._unmount(name)
                done.removed.append(f"mount of volume {name}")
        self._forget_users(users)
        for name, record in known.items():
            try:
                if not os.path.isdir(self._data(name)):
                    self.create(record)
                    done.restored.append(f"volume {name}")
                size = size_of(record.options)
                if size and self._quotas.restore(size, self._data(name)):
                    done.restored.append(f"limit of volume {name}")
                if needs_mount(record.options):
                    for user in sorted(users.get(name, ())):
                        if not os.path.exists(f"{self._run}/{name}/{user}") or (
                            not self._is_mounted(name)
                        ):
                            self.mount(record, user)
                            done.restored.append(f"mount of volume {name}")
            except (EngineError, OSError) as error:
                done.failed.append(f"volume {name}: {error}")
        for name in self._volumes.names():
            if name not in known:
                done.failed.append(f"volume {name} is not known and was left alone")
        self._sweep()
        return done

    # -- helpers -----------------------------------------------------------------------------

    def _data(self, name: str) -> str:
        _check_name(name)
        return f"{self._root}/{name}/_data"

    def _is_mounted(self, name: str) -> bool:
        # A bind mount of the same filesystem has the same device number: ask the mount table.
        data = self._data(name)
        return any(mount.target == data for mount in mounts(f"{self._root}/{name}"))

    def _unmount(self, name: str) -> None:
        data = self._data(name)
        try:
            # All at once, with what a recursive bind brought; lazily, where somebody is inside.
            syscalls.umount(data, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise

    def _forget_users(self, users: Mapping[str, set[str]]) -> None:
        if not os.path.isdir(self._run):
            return
        for name in os.listdir(self._run):
            for user in os.listdir(f"{self._run}/{name}"):
                if user not in users.get(name, ()):
                    os.unlink(f"{self._run}/{name}/{user}")

    def _sweep(self) -> None:
        try:
            self._volumes.sweep()
            self._quotas.release()
        except OSError:
            pass  # the next start tries again


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )


def _is_elsewhere(options: Path) -> bool:
    try:
        found = json.loads(options.read_text())
    except FileNotFoundError:
        return False
    return bool(found["MountType"] or found["MountDevice"])


def _write_options(path: Path, options: Mapping[str, str], size: int) -> None:
    path.write_text(
        json.dumps(
            {
                "MountType": options.get("type", ""),
                "MountOpts": options.get("o", ""),
                "MountDevice": options.get("device", ""),
                "Quota": {"Size": size},
            }
        )
    )
    path.chmod(0o600)  # o= may hold a password
