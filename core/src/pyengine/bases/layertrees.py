"""Storage drivers that give every layer a whole tree of its own, by copying or by cloning: their
base. Below the driver's root::

    dir/<id>      the tree: of the layer and of all beneath it
    meta/<id>     its parent, and what it occupies itself
    mnt/<id>      a layer that is mounted: a committed one read-only, or one with maps of ids

A driver adds how a tree is copied. What a layer changed is found by comparing it with its parent.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from pyengine.archive import Packer, Whiteouts, measure, unpack
from pyengine.archive.changes import changes
from pyengine.bases.layerdirs import LayerDirectories, check_id, make_mountpoints
from pyengine.bases.layerquotas import LayerQuotas, layer_size
from pyengine.contracts.base import DriverContext, Reconciled
from pyengine.contracts.storage import (
    Change,
    ChangeKind,
    LayerRecord,
    StorageCapability,
    StorageDriver,
    Usage,
)
from pyengine.errors import Conflict, InvalidParameter, NotFound
from pyengine.faults import failpoint
from pyengine.linux import idmaps, syscalls
from pyengine.linux.idmaps import IdMaps
from pyengine.linux.mountinfo import mounts
from pyengine.linux.mounts import attach_at, bind_tree

_INIT = "-init"
_EMPTY = "empty"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Meta(msgspec.Struct):
    parent: str = ""
    committed: bool = False
    bytes: int = 0
    inodes: int = 0


class LayerTrees(StorageDriver):
    """See the module."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._root = os.path.realpath(context.root)
        self._layers = LayerDirectories(self._root, f"{self._root}/dir")
        size = layer_size(context.options.get("size", "0"))
        self._quotas = LayerQuotas(self.name, self._root, default=size, whole=True)
        self._init_lock = threading.Lock()

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Make the empty directory ``target`` equal to ``source`` in everything a layer keeps."""

    def capabilities(self) -> frozenset[StorageCapability]:
        found = {StorageCapability.ID_MAPS}
        if self._quotas.available():
            found.add(StorageCapability.QUOTA)
        return frozenset(found)

    def status(self) -> list[tuple[str, str]]:
        return []

    def metadata(self, id: str) -> dict[str, str]:
        self._existing(id)
        return {}

    # -- making ------------------------------------------------------------------------------

    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        check_id(id)
        if self.exists(id):
            while stream.read(1 << 20):
                pass
            return self.usage(id)
        base = "" if parent is None else self._committed(parent)
        with self._layers.unpack(id) as staging:
            os.chmod(staging, 0o755)
            self._copy(base, staging)
            failpoint("storage.unpack")
            unpack(stream, staging, Whiteouts.APPLY)
            usage = self._own(staging, base)
            self._record(id, _Meta(base, True, usage.bytes, usage.inodes))
        return usage

    def sync(self) -> None:
        self._layers.ensure()
        syscalls.syncfs(self._root)

    def prepare(
        self,
        id: str,
        parent: str | None,
        options: Mapping[str, str],
        *,
        mountpoints: bool = False,
    ) -> None:
        check_id(id)
        size = self._quotas.wanted(options)
        if self.exists(id):
            return
        base = "" if parent is None else self._committed(parent)
        if mountpoints:
            base = self._init_layer(base)
        with self._layers.make(id) as staging:
            os.chmod(staging, 0o755)
            if size:
                self._quotas.limit(size, staging)
            self._copy(base, staging)
            self._record(id, _Meta(base))

    def _init_layer(self, base: str) -> str:
        name = (base or _EMPTY) + _INIT
        with self._init_lock:
            if not self.exists(name):
                with self._layers.make(name) as staging:
                    os.chmod(staging, 0o755)
                    self._copy(base, staging)
                    fd = os.open(staging, _DIRECTORY_FLAGS)
                    try:
                        make_mountpoints(fd)
                    finally:
                        os.close(fd)
                    self._record(name, _Meta(base, True))
        return name

    def _copy(self, base: str, target: str) -> None:
        if base:
            failpoint("storage.copy")
            self.copy(self._layers.path(base), target)

    # -- mounting ----------------------------------------------------------------------------

    def mount(
        self,
        id: str,
        *,
        label: str = "",
        volatile: bool = False,
        id_maps: IdMaps | None = None,
    ) -> Path:
        tree = self._existing(id)
        committed = self._meta(id).committed
        target = f"{self._root}/mnt/{id}"
        if not committed and id_maps is None and not os.path.isdir(target):
            return Path(tree)  # as it lies on disk
        os.makedirs(target, 0o700, exist_ok=True)
        if os.lstat(target).st_ino != os.lstat(tree).st_ino:
            self._show(tree, target, read_only=committed, id_maps=id_maps)
        return Path(target)

    def _show(self, tree: str, target: str, *, read_only: bool, id_maps: IdMaps | None) -> None:
        view = bind_tree(tree, False)
        try:
            syscalls.mount_setattr(view, propagation=syscalls.MS_PRIVATE)
            if read_only:
                syscalls.mount_setattr(view, syscalls.MOUNT_ATTR_RDONLY)
            if id_maps is not None:
                idmaps.show_through(view, id_maps)
            attach_at(view, target)
        finally:
            os.close(view)

    def unmount(self, id: str) -> None:
        check_id(id)
        self._unmount(f"{self._root}/mnt/{id}")

    def _unmount(self, target: str) -> None:
        try:
            syscalls.umount(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        try:
            os.rmdir(target)
        except OSError:
            pass

    # -- removing ----------------------------------------------------------------------------

    def remove(self, id: str) -> None:
        check_id(id)
        self._layers.discard_half_made(id)
        if not self.exists(id):
            self._forget(id)
            return
        if self._meta(id).committed:
            for child in self._children(id):
                if child != id + _INIT or self._children(child):
                    raise Conflict(f"layer {id[:12]} is the parent of layer {child[:12]}")
            self._discard(id + _INIT)
        self._unmount(f"{self._root}/mnt/{id}")
        self._discard(id)

    def _discard(self, name: str) -> None:
        self._quotas.clear(self._layers.path(name))
        if self._layers.discard(name):
            failpoint("storage.unlink")
            self._forget(name)

    def _children(self, name: str) -> list[str]:
        return [other for other in self._layers.names() if self._meta(other).parent == name]

    def sweep(self) -> None:
        self._layers.sweep()
        self._quotas.release()

    # -- looking -----------------------------------------------------------------------------

    def exists(self, id: str) -> bool:
        return self._layers.exists(id)

    def changes(self, id: str) -> list[Change]:
        return self._changes(self._existing(id), self._meta(id).parent)

    def _changes(self, tree: str, base: str) -> list[Change]:
        new = os.open(tree, _DIRECTORY_FLAGS)
        try:
            if not base:
                return changes(new, None)
            old = os.open(self._layers.path(base), _DIRECTORY_FLAGS)
            try:
                return changes(new, old)
            finally:
                os.close(old)
        finally:
            os.close(new)

    def diff(self, id: str, out: BinaryIO) -> None:
        tree = self._existing(id)
        found = self._changes(tree, self._meta(id).parent)
        root = os.open(tree, _DIRECTORY_FLAGS)
        try:
            self._pack(root, found, out)
        finally:
            os.close(root)

    def _pack(self, root: int, found: list[Change], out: BinaryIO) -> None:
        packer = Packer(out)
        for change in sorted(found, key=lambda change: change.path.split("/")):
            path = os.fsencode(change.path[1:])
            if change.kind is ChangeKind.DELETED:
                packer.whiteout(path)
                continue
            above, _, name = path.rpartition(b"/")
            try:
                parent = syscalls.openat2(
                    root, above or b".", _DIRECTORY_FLAGS, 0, syscalls.RESOLVE_NO_SYMLINKS
                )
            except OSError:
                continue  # the container removed it meanwhile, or put something else there
            try:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                packer.add(parent, name, path, info)
            except FileNotFoundError:
                continue
            finally:
                os.close(parent)
        packer.close()

    def usage(self, id: str) -> Usage:
        tree = self._existing(id)
        meta = self._meta(id)
        if meta.committed:
            return Usage(bytes=meta.bytes, inodes=meta.inodes)
        return self._own(tree, meta.parent)

    def _own(self, tree: str, base: str) -> Usage:
        if not base:
            return Usage(*measure(tree))
        size = 0
        inodes: set[int] = set()
        for change in self._changes(tree, base):
            if change.kind is ChangeKind.DELETED:
                continue
            try:
                info = os.lstat(tree + change.path)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(info.st_mode) and info.st_ino not in inodes:
                size += info.st_size
            inodes.add(info.st_ino)
        return Usage(bytes=size, inodes=len(inodes))

    # -- after a crash -----------------------------------------------------------------------

    def reconcile(self, known: Mapping[str, LayerRecord]) -> Reconciled:
        done = Reconciled()
        self._layers.ensure()
        for mount in reversed(mounts(f"{self._root}/mnt")):
            record = known.get(os.path.basename(mount.target))
            if record is None or not record.mounted:
                self._unmount(mount.target)
                done.removed.append(f"mount {mount.target}")
        for name in self._layers.discard_half_made():
            done.removed.append(f"half-made layer {name}")
        present = set(self._layers.names())
        needed = {self._meta(id).parent for id in known}
        needed |= {self._meta(name).parent for name in needed if name.endswith(_INIT)}
        for name in sorted(present):
            base = name.removesuffix(_INIT)
            if base in known or base == _EMPTY or not _is_id(base):
                continue
            if name in needed:
                # The tree is whole without it, but not what changed in it.
                done.failed.append(f"layer {name} is not known, but known layers stand on it")
                continue
            self._discard(name)
            done.removed.append(f"layer {name}")
        done.failed += [f"layer {id} is missing" for id in known if id not in present]
        meta = Path(self._root, "meta")
        if meta.is_dir():
            present = set(self._layers.names())
            for path in meta.iterdir():
                if path.name not in present:
                    path.unlink()
        for id, record in known.items():
            # Without fsync, a power failure may leave the file empty.
            if id in present and self._meta(id) == _Meta() and record.writable and record.parent:
                init = record.parent + _INIT
                parent = init if init in present else record.parent
                self._record(id, _Meta(parent))
                done.restored.append(f"parent of {id}")
            size = layer_size(record.options.get("size", "0"))
            if id in present and size and self._quotas.restore(size, self._layers.path(id)):
                done.restored.append(f"size limit of {id}")
        released = self._quotas.release()
        if released:
            done.removed.append(f"size limits of {released} layers")
        return done

    # -- helpers -----------------------------------------------------------------------------

    def _existing(self, id: str) -> str:
        check_id(id)
        if not self.exists(id):
            raise NotFound(f"no such layer: {id}")
        return self._layers.path(id)

    def _committed(self, id: str) -> str:
        self._existing(id)
        if not self._meta(id).committed:
            raise InvalidParameter(f"layer {id[:12]} is writable and cannot be a parent")
        return id

    def _record(self, name: str, meta: _Meta) -> None:
        directory = f"{self._root}/meta"
        os.makedirs(directory, 0o700, exist_ok=True)
        failpoint("storage.record")
        Path(directory, name).write_bytes(msgspec.json.encode(meta))

    def _forget(self, name: str) -> None:
        Path(self._root, "meta", name).unlink(missing_ok=True)

    def _meta(self, name: str) -> _Meta:
        try:
            return msgspec.json.decode(Path(self._root, "meta", name).read_bytes(), type=_Meta)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Meta()


def _is_id(name: str) -> bool:
    try:
        check_id(name)
    except InvalidParameter:
        return False
    return True
