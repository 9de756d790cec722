"""The overlay2 storage driver. Below its root, as in Docker::

    <id>/diff        what the layer itself has: overlay's upper directory
    <id>/link        the layer's short name (26 characters)
    <id>/lower       l/<short>:l/<short>...: the layers beneath, top first
    <id>/work        overlay's work directory
    <id>/merged      the mount point
    <id>/committed   present in layers of images; holds their bytes and inodes
    l/<short>        symlink to ../<id>/diff

Ours are ``.making``, ``.staged`` and ``.trash`` (see :mod:`pyengine.bases.layerdirs`), ``empty``
(the lowest layer of what has none) and ``<parent>-init``: the mount points of a runtime, one per
parent, where Docker makes one per container. A staged layer has ``diff`` and a file ``staged``.
"""

from __future__ import annotations

import base64
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

import msgspec

from pyengine.archive import Deferred, Whiteouts, measure, pack, settle, unpack
from pyengine.archive.changes import changes
from pyengine.bases.layerdirs import LayerDirectories, check_id, make_mountpoints
from pyengine.bases.layerquotas import LayerQuotas, layer_size
from pyengine.contracts.base import (
    DriverContext,
    Kind,
    Probe,
    Reconciled,
    reject_unknown_options,
)
from pyengine.contracts.storage import (
    Change,
    LayerRecord,
    StorageCapability,
    StorageDriver,
    Usage,
)
from pyengine.errors import Conflict, InvalidParameter, NotFound
from pyengine.faults import failpoint
from pyengine.linux import syscalls
from pyengine.linux.idmaps import IdMaps
from pyengine.linux.mountinfo import filesystem_of, mounts
from pyengine_storage_overlay2.mapped import MappedLayers
from pyengine_storage_overlay2.mounting import (
    Overlay,
    in_user_namespace,
    mapped_layers_supported,
    mount_overlay,
    open_overlay,
    volatile_supported,
)

_EMPTY = "empty"
_INIT = "-init"
_STAGED = "staged"
#: Docker's bound: with 26-character links the options of so many layers fit a page.
_MAX_LOWERS = 128
_OPTIONS = frozenset(("overlay2.override_kernel_check", "overlay2.size"))
_BOOLEANS = frozenset(("1", "t", "true", "0", "f", "false"))
#: Docker's names in ``docker info``.
_FILESYSTEMS = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}


class _Staged(msgspec.Struct):
    """What lies beside ``diff`` in a staged layer."""

    bytes: int
    inodes: int
    deferred: Deferred


class Overlay2(StorageDriver):
    """Layers as directories that the kernel's overlay filesystem stacks."""

    name: ClassVar[str] = "overlay2"
    priority: ClassVar[int] = 100
    directory: ClassVar[str] = "overlay2"

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(Kind.STORAGE, self.name, context.options, _OPTIONS)
        check = context.options.get("overlay2.override_kernel_check", "false")
        if check.lower() not in _BOOLEANS:
            raise InvalidParameter(
                f"invalid value {check!r} for overlay2.override_kernel_check", help="true or false"
            )
        self._root = os.path.realpath(context.root)
        self._layers = LayerDirectories(self._root, self._root)
        self._mapped = MappedLayers(self._root)
        size = layer_size(context.options.get("overlay2.size", "0"))
        self._quotas = LayerQuotas(self.name, self._root, default=size)
        self._init_lock = threading.Lock()

    # -- this host ---------------------------------------------------------------------------

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        place = os.path.realpath(context.root)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        backing = _backing(place)
        size = layer_size(context.options.get("overlay2.size", "0"))
        if size and not LayerQuotas(cls.name, place).available():
            return Probe(
                False,
                f"option overlay2.size needs project quotas, which {backing} at {place} has not",
                "leave overlay2.size out, or mount xfs with pquota or ext4 with prjquota",
            )
        try:
            scratch = tempfile.mkdtemp(prefix=".overlay2-probe-", dir=place)
        except OSError as error:
            return Probe(False, f"cannot write to {place}: {error.strerror}", "run as root")
        try:
            if not _has_entry_types(scratch):
                return Probe(
                    False,
                    f"{backing} at {place} does not report the types of directory entries (d_type)",
                    "xfs needs to be made with ftype=1",
                )
            for name in ("lower", "diff", "work", "merged"):
                os.mkdir(f"{scratch}/{name}")
            fd = open_overlay(scratch, "merged", Overlay(("lower",), "diff", "work"))
            os.close(fd)
        except OSError as error:
            reason = f"overlay cannot be mounted on {backing} at {place}: {error.strerror}"
            help = {
                errno.EPERM: "run as root, or with CAP_SYS_ADMIN in a user namespace",
                errno.ENODEV: "load the kernel's overlay module",
                errno.EINVAL: f"put the data root on a filesystem other than {backing}",
            }
            return Probe(False, reason, help.get(error.errno or 0, ""))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Probe(True, details={"Backing Filesystem": backing})

    def capabilities(self) -> frozenset[StorageCapability]:
        found = {StorageCapability.COPY_ON_WRITE, StorageCapability.STAGED_LAYERS}
        if volatile_supported():
            found.add(StorageCapability.VOLATILE)
        if self._quotas.available():
            found.add(StorageCapability.QUOTA)
        if mapped_layers_supported():
            found.add(StorageCapability.ID_MAPS)
        return frozenset(found)

    def close(self) -> None:
        self._mapped.close()

    def status(self) -> list[tuple[str, str]]:
        return [
            ("Backing Filesystem", _backing(self._root)),
            ("Supports d_type", "true"),  # or probe would have refused
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", str(in_user_namespace()).lower()),
        ]

    # -- making ------------------------------------------------------------------------------

    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        check_id(id)
        if not self.exists(id):
            self._lower_of_layer(parent)
        self.stage(id, stream)
        return self.finish(id, parent)

    def stage(self, id: str, stream: BinaryIO) -> None:
        check_id(id)
        if self.exists(id) or self._layers.staged(id):
            while stream.read(1 << 20):
                pass
            return
        with self._layers.stage(id) as staging:
            _mkdir(f"{staging}/diff", 0o755)
            failpoint("storage.unpack")
            deferred = unpack(stream, f"{staging}/diff", self._whiteouts())
            staged = _Staged(*measure(f"{staging}/diff"), deferred)
            Path(staging, _STAGED).write_bytes(msgspec.msgpack.encode(staged))

    def finish(self, id: str, parent: str | None) -> Usage:
        check_id(id)
        if self.exists(id):
            return self.usage(id)
        staging = self._layers.staged(id)
        if staging is None:
            raise NotFound(f"no such staged layer: {id}")
        try:
            lower = self._lower_of_layer(parent)
            staged = msgspec.msgpack.decode(Path(staging, _STAGED).read_bytes(), type=_Staged)
            lowers = [f"{self._root}/{link}" for link in lower.split(":") if link]
            failpoint("storage.settle")
            deleted = settle(f"{staging}/diff", staged.deferred, self._whiteouts(), lowers)
            usage = Usage(bytes=staged.bytes, inodes=staged.inodes - deleted)
            self._furnish(staging, id, lower)
            _write(f"{staging}/committed", f"{usage.bytes} {usage.inodes}\n", 0o600)
            os.unlink(f"{staging}/{_STAGED}")
            self._layers.publish(id)
        except BaseException:
            self._layers.discard_half_made(id)
            raise
        return usage

    def sync(self) -> None:
        self._layers.ensure()
        syscalls.syncfs(self._root)

    def _lower_of_layer(self, parent: str | None) -> str:
        """Content of the ``lower`` file of a committed layer on ``parent``."""
        lower = "" if parent is None else self._lower_of_child(self._committed(parent))
        _check_depth(lower)
        return lower

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
        base = self._empty() if parent is None else self._committed(parent)
        if mountpoints:
            base = self._init_layer(base)
        with self._make(id, self._lower_of_child(base)) as staging:
            if size:
                # What bears the project is within, so that the layer can be renamed anywhere.
                self._quotas.limit(size, f"{staging}/diff", f"{staging}/work")

    @contextmanager
    def _make(self, name: str, lower: str) -> Iterator[str]:
        """A new layer with all its files; becomes visible when the block ends."""
        _check_depth(lower)
        with self._layers.make(name) as staging:
            _mkdir(f"{staging}/diff", 0o755)
            self._furnish(staging, name, lower)
            yield staging

    def _furnish(self, staging: str, name: str, lower: str) -> None:
        """Everything of a layer but ``diff``, for what ``staging`` will be called ``name``."""
        link = _new_link()
        _write(f"{staging}/link", link)
        if lower:
            os.mkdir(f"{staging}/work", 0o700)
            os.mkdir(f"{staging}/merged", 0o700)
            _write(f"{staging}/lower", lower)
        os.makedirs(f"{self._root}/l", 0o700, exist_ok=True)
        failpoint("storage.link")
        os.symlink(f"../{name}/diff", f"{self._root}/l/{link}")

    def _init_layer(self, base: str) -> str:
        """The layer of mount points on ``base``, made when the first container wants it."""
        name = base + _INIT
        if self.exists(name):
            return name
        with self._init_lock:
            if self.exists(name):
                return name
            lower = self._lower_of_child(base)
            with self._make(name, lower) as staging:
                inside = os.path.relpath(staging, self._root)
                # Volatile: closing the descriptor shall not write back the whole filesystem.
                overlay = Overlay(
                    lower.split(":"), f"{inside}/diff", f"{inside}/work", volatile=True
                )
                fd = open_overlay(self._root, f"{inside}/merged", overlay)
                try:
                    make_mountpoints(fd)
                finally:
                    os.close(fd)
                shutil.rmtree(f"{staging}/work")
                os.mkdir(f"{staging}/work", 0o700)
                _write(f"{staging}/committed", "0 0\n", 0o600)
        return name

    def _empty(self) -> str:
        if not self.exists(_EMPTY):
            with self._make(_EMPTY, "") as staging:
                _write(f"{staging}/committed", "0 0\n", 0o600)
        return _EMPTY

    # -- mounting ----------------------------------------------------------------------------

    def mount(
        self,
        id: str,
        *,
        label: str = "",
        volatile: bool = False,
        id_maps: IdMaps | None = None,
    ) -> Path:
        self._existing(id)
        merged = f"{self._root}/{id}/merged"
        if self._is_mounted(id):
            return Path(merged)
        # Its mode is that of nobody's business: a mount hides it.
        os.makedirs(merged, 0o700, exist_ok=True)
        overlay = self._overlay(id, label, volatile)
        if id_maps is None:
            mount_overlay(self._root, f"{id}/merged", overlay)
        else:
            self._mapped.mount_overlay(f"{id}/merged", overlay, id_maps)
        return Path(merged)

    def unmount(self, id: str) -> None:
        check_id(id)
        self._unmount(f"{self._root}/{id}/merged")

    def _unmount(self, merged: str) -> None:
        try:
            syscalls.umount(merged, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        # Removing the mount point takes the mount from other namespaces that have a copy of it.
        try:
            os.rmdir(merged)
        except OSError:
            pass

    def _overlay(self, name: str, label: str = "", volatile: bool = False) -> Overlay:
        """A writable layer over its lowers; a committed one is itself the topmost lower."""
        lowers = [lower for lower in self._read(name, "lower").split(":") if lower]
        if not self._is_committed(name):
            return Overlay(lowers, f"{name}/diff", f"{name}/work", label, volatile)
        if not lowers:
            # Without an upper layer overlay wants two.
            lowers = ["l/" + self._read(self._empty(), "link")]
        return Overlay((f"{name}/diff", *lowers), label=label)

    def _is_mounted(self, id: str) -> bool:
        try:
            merged = os.lstat(f"{self._root}/{id}/merged")
        except FileNotFoundError:
            return False
        return merged.st_dev != os.lstat(f"{self._root}/{id}").st_dev

    # -- removing ----------------------------------------------------------------------------

    def remove(self, id: str) -> None:
        check_id(id)
        self._layers.discard_half_made(id)
        if not self.exists(id):
            return
        if self._is_committed(id):
            for child in self._children(id):
                if child != id + _INIT or self._children(child):
                    raise Conflict(f"layer {id[:12]} is the parent of layer {child[:12]}")
            self._discard(id + _INIT)
        self._discard(id)

    def _discard(self, name: str) -> None:
        if not self.exists(name):
            return
        link = self._read(name, "link")
        if os.path.isdir(f"{self._root}/{name}/merged"):
            self._unmount(f"{self._root}/{name}/merged")
        self._quotas.clear(f"{self._root}/{name}/diff")
        self._layers.discard(name)
        if link:
            failpoint("storage.unlink")
            try:
                os.unlink(f"{self._root}/l/{link}")
            except FileNotFoundError:
                pass

    def _children(self, name: str) -> list[str]:
        direct = "l/" + self._read(name, "link")
        found = []
        for other in self._layers.names():
            if self._read(other, "lower").split(":", 1)[0] == direct:
                found.append(other)
        return found

    def sweep(self) -> None:
        self._layers.sweep()
        self._quotas.release()

    # -- looking -----------------------------------------------------------------------------

    def exists(self, id: str) -> bool:
        return self._layers.exists(id)

    def diff(self, id: str, out: BinaryIO) -> None:
        pack(f"{self._existing(id)}/diff", out, self._whiteouts())

    def changes(self, id: str) -> list[Change]:
        upper = os.open(f"{self._existing(id)}/diff", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with self._lower_view(id) as lower:
                return changes(upper, lower, self._whiteouts())
        finally:
            os.close(upper)

    @contextmanager
    def _lower_view(self, id: str) -> Iterator[int | None]:
        """A directory descriptor of what layer ``id`` lies upon, or None for nothing."""
        lowers = [lower for lower in self._read(id, "lower").split(":") if lower]
        if not lowers:
            yield None
            return
        if len(lowers) == 1:
            fd = os.open(f"{self._root}/{lowers[0]}", os.O_RDONLY | os.O_DIRECTORY)
        else:
            self._layers.ensure()
            place = tempfile.mkdtemp(dir=f"{self._root}/.making")
            try:
                fd = open_overlay(self._root, os.path.relpath(place, self._root), Overlay(lowers))
            finally:
                os.rmdir(place)
        try:
            yield fd
        finally:
            os.close(fd)

    def usage(self, id: str) -> Usage:
        directory = self._existing(id)
        if self._is_committed(id):
            size, _, inodes = self._read(id, "committed").partition(" ")
            return Usage(bytes=int(size), inodes=int(inodes))
        return Usage(*measure(f"{directory}/diff"))

    def metadata(self, id: str) -> dict[str, str]:
        directory = self._existing(id)
        data = {
            "MergedDir": f"{directory}/merged",
            "UpperDir": f"{directory}/diff",
            "WorkDir": f"{directory}/work",
        }
        lower = self._read(id, "lower")
        if lower:
            data["LowerDir"] = ":".join(
                os.path.normpath(f"{self._root}/l/{os.readlink(f'{self._root}/{link}')}")
                for link in lower.split(":")
            )
        return data

    # -- after a crash -----------------------------------------------------------------------

    def reconcile(self, known: Mapping[str, LayerRecord]) -> Reconciled:
        done = Reconciled()
        self._layers.ensure()
        os.makedirs(f"{self._root}/l", 0o700, exist_ok=True)
        for mount in reversed(mounts(self._root)):
            id = os.path.relpath(mount.target, self._root).split("/")[0]
            record = known.get(id)
            if record is None or not record.mounted:
                self._unmount(mount.target)
                done.removed.append(f"mount {mount.target}")
        for name in self._layers.discard_half_made():
            done.removed.append(f"half-made layer {name}")
        present = set(self._layers.names()) - {"l"}
        needed = self._ancestors(known)
        for name in sorted(present):
            base = name.removesuffix(_INIT)
            if not _is_ours(base) or base in known or base == _EMPTY:
                continue
            if name in needed:
                done.failed.append(f"layer {name} is not known, but known layers stand on it")
                continue
            self._discard(name)
            done.removed.append(f"layer {name}")
        self._repair_shared(done)
        for id, record in known.items():
            if id not in present:
                done.failed.append(f"layer {id} is missing")
                continue
            try:
                self._repair(record, done)
            except Exception as error:
                done.failed.append(f"layer {id}: {error}")
        self._drop_dangling_links(done)
        released = self._quotas.release()
        if released:
            done.removed.append(f"size limits of {released} layers")
        return done

    def _ancestors(self, known: Mapping[str, LayerRecord]) -> set[str]:
        found: set[str] = set()
        for id in known:
            for link in filter(None, self._read(id, "lower").split(":")):
                try:
                    found.add(os.readlink(f"{self._root}/{link}").split("/")[1])
                except OSError:
                    continue  # what is lost is found out when it is needed
        return found

    # Nothing here calls fsync but ``sync``: after a power failure the newest small files may be
    # empty. Directories and symlinks are as they were, and say enough to write the files again.

    def _repair_shared(self, done: Reconciled) -> None:
        for name in self._layers.names():
            if name == _EMPTY or name.endswith(_INIT):
                self._repair_link(name, done)
        for name in self._layers.names():
            if name.endswith(_INIT) and not self._read(name, "lower"):
                lower = self._lower_of_child(name.removesuffix(_INIT))
                _write(f"{self._root}/{name}/lower", lower)
                done.restored.append(f"lower layers of {name}")

    def _repair(self, record: LayerRecord, done: Reconciled) -> None:
        id = record.id
        self._repair_link(id, done)
        if record.writable and not self._read(id, "lower"):
            base = self._empty() if record.parent is None else record.parent
            init = base + _INIT
            base = init if self.exists(init) else base
            _write(f"{self._root}/{id}/lower", self._lower_of_child(base))
            done.restored.append(f"lower layers of {id}")
        size = layer_size(record.options.get("size", "0"))
        if size and self._quotas.restore(size, f"{self._root}/{id}/diff"):
            done.restored.append(f"size limit of {id}")
        if record.mounted and record.writable and not self._is_mounted(id):
            self.mount(id, label=record.label, volatile=record.volatile, id_maps=record.id_maps)
            done.restored.append(f"mount of {id}")

    def _repair_link(self, name: str, done: Reconciled) -> None:
        link = self._read(name, "link")
        if link and os.path.islink(f"{self._root}/l/{link}"):
            return
        target = f"../{name}/diff"
        for found in os.listdir(f"{self._root}/l"):
            if os.readlink(f"{self._root}/l/{found}") == target:
                link = found
                break
        else:
            link = link or _new_link()
            os.symlink(target, f"{self._root}/l/{link}")
        _write(f"{self._root}/{name}/link", link)
        done.restored.append(f"link of {name}")

    def _drop_dangling_links(self, done: Reconciled) -> None:
        for link in os.listdir(f"{self._root}/l"):
            path = f"{self._root}/l/{link}"
            if os.path.islink(path) and not os.path.exists(path):
                os.unlink(path)
                done.removed.append(f"link {link}")

    # -- helpers -----------------------------------------------------------------------------

    def _whiteouts(self) -> Whiteouts:
        return Whiteouts.OVERLAY_USER if in_user_namespace() else Whiteouts.OVERLAY

    def _existing(self, id: str) -> str:
        check_id(id)
        if not self.exists(id):
            raise NotFound(f"no such layer: {id}")
        return self._layers.path(id)

    def _committed(self, id: str) -> str:
        self._existing(id)
        if not self._is_committed(id):
            raise InvalidParameter(f"layer {id[:12]} is writable and cannot be a parent")
        return id

    def _is_committed(self, name: str) -> bool:
        return os.path.exists(f"{self._root}/{name}/committed")

    def _lower_of_child(self, name: str) -> str:
        """Content of the ``lower`` file of a layer on top of ``name``."""
        own = "l/" + self._read(name, "link")
        rest = self._read(name, "lower")
        return f"{own}:{rest}" if rest else own

    def _read(self, name: str, file: str) -> str:
        try:
            fd = os.open(f"{self._root}/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            return os.read(fd, 8192).decode()
        finally:
            os.close(fd)


def _check_depth(lower: str) -> None:
    if lower.count(":") >= _MAX_LOWERS:
        raise InvalidParameter(f"an image has at most {_MAX_LOWERS} layers")


def _mkdir(path: str, mode: int) -> None:
    os.mkdir(path, mode)
    os.chmod(path, mode)  # whatever the umask


def _write(path: str, text: str, mode: int = 0o644) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _new_link() -> str:
    return base64.b32encode(os.urandom(17))[:26].decode()


def _is_ours(name: str) -> bool:
    try:
        check_id(name)
    except InvalidParameter:
        return False
    return True


def _backing(path: str) -> str:
    fstype = filesystem_of(path)
    return _FILESYSTEMS.get(fstype, fstype)


def _has_entry_types(directory: str) -> bool:
    """scandir answers without a look at the file exactly where the filesystem gave the type."""
    path = f"{directory}/type"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    with os.scandir(directory) as entries:
        entry = next(entries)
    os.unlink(path)
    return entry.is_file(follow_symlinks=False)
