"""``docker cp``: files out of containers and into them, whether they run or not.

The tree is put together as the container has it (its layer, its volumes, binds and tmpfs, its
hosts file) in a mount namespace that nobody is in, so that links lead where they lead for the
container and nothing of the host can be reached, whatever the container does meanwhile. Neither
the kernel's own filesystems are in it nor what a process inside has mounted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from isal import igzip

from pyengine.archive import decompress
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.lifecycle import attributes
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.containers.rootview import PathStat, RootView
from pyengine.engine.events import Events
from pyengine.engine.model import Container
from pyengine.engine.threads import on_thread
from pyengine.engine.volumes import Volumes
from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import idmaps, mounts, syscalls, views
from pyengine.linux.views import Graft, View
from pyengine.oci import users
from pyengine.oci.mounts import ResolvedMount


class Copying:
    """Paths are as clients write them. Everything raises ``NotFound`` for an unknown container or
    path, and ``EngineError`` in Docker's words for what cannot be looked up."""

    def __init__(
        self, registry: Registry, bundles: Bundles, volumes: Volumes, events: Events
    ) -> None:
        self._registry = registry
        self._bundles = bundles
        self._volumes = volumes
        self._events = events
        self._numbers = itertools.count(1)

    async def stat(self, ref: str, path: str) -> PathStat:
        live = self._look_up(ref, path)
        async with self._view(live) as view:
            return await on_thread("copy", self._tree(live, view, ref).stat, path)

    async def read(
        self,
        ref: str,
        path: str,
        out: BinaryIO,
        begin: Callable[[PathStat], None],
        *,
        compress: bool = False,
    ) -> None:
        """Write what is at ``path`` to ``out`` as a tar, with ``compress`` in gzip; ``begin`` is
        told what it is before."""
        live = self._look_up(ref, path)

        def pack(tree: RootView) -> None:
            if not compress:
                tree.pack(path, out)
                return
            with igzip.open(out, "wb", compresslevel=1) as packed:  # type: ignore[no-untyped-call]
                tree.pack(path, packed)

        async with self._view(live) as view:
            tree = self._tree(live, view, ref)
            begin(await on_thread("copy", tree.stat, path))
            self._emit(live, "archive-path")
            await on_thread("copy", pack, tree)

    async def write(
        self,
        ref: str,
        path: str,
        stream: BinaryIO,
        *,
        keep_kinds: bool = False,
        own: bool = False,
    ) -> None:
        """Unpack the tar ``stream``, which may be compressed, into the directory ``path``.

        ``keep_kinds``: no directory replaces a file, nor a file a directory. ``own``: everything
        belongs to the container's user, if it has one. What was unpacked before an error stays.
        """
        live = self._look_up(ref, path)
        config, host = live.record.config, live.record.host_config

        def unpack(tree: RootView) -> None:
            owner = None
            if own and config.user:
                identity = users.resolve(tree.root, config.user)
                owner = (identity.uid, identity.gid)
            tree.unpack(
                path,
                decompress(stream),
                owner=owner,
                keep_kinds=keep_kinds,
                read_only=host.readonly_rootfs,
            )

        async with self._view(live) as view:
            await on_thread("copy", unpack, self._tree(live, view, ref))
        self._emit(live, "extract-to-dir")

    def _look_up(self, ref: str, path: str) -> Live:
        if not path:
            raise InvalidParameter("bad parameter: path cannot be empty")
        if "\0" in path:
            raise InvalidParameter("bad parameter: path cannot have a zero byte in it")
        return self._registry.live(ref)

    def _tree(self, live: Live, view: View, ref: str) -> RootView:
        return RootView(view, ref, live.record.id_maps)

    def _emit(self, live: Live, action: str) -> None:
        self._events.emit("container", action, live.id, attributes(live.record))

    @contextlib.asynccontextmanager
    async def _view(self, live: Live) -> AsyncIterator[View]:
        """The container's whole tree for as long as the block runs."""
        container = live.record
        # Volumes count their users: this is one more, beside the container.
        user = f"{live.id}.{next(self._numbers)}"
        async with self._bundles.mounted(live) as rootfs:
            try:
                resolved = await self._bundles.resolve_mounts(container, user)
                shim = live.shim.shim_pid if live.shim is not None else 0
                view = await on_thread("copy", self._assemble, container, shim, rootfs, resolved)
                try:
                    yield view
                finally:
                    await on_thread("copy", view.close)
            finally:
                self._bundles.launched(user)
                for point in container.mounts:
                    if point.type == "volume":
                        with contextlib.suppress(EngineError, OSError):
                            await self._volumes.unmount(point.name, live.id, user)

    def _assemble(
        self, container: Container, shim: int, rootfs: Path, resolved: Sequence[ResolvedMount]
    ) -> View:
        maps = container.id_maps
        root = mounts.bind_tree(str(rootfs), False)
        grafts: list[Graft] = []
        try:
            files = self._bundles.files(container)
            for file, destination in files.mounted():
                if file.exists():
                    grafts.append(Graft(mounts.bind_tree(str(file), False), destination))
                    if maps is not None:
                        idmaps.show_through(grafts[-1].tree, maps)
            for mount in resolved:
                if mount.kind != "tmpfs":
                    grafts.append(
                        Graft(mounts.bind_tree(mount.source, mount.recursive), mount.destination)
                    )
                    if mount.id_mapped and maps is not None:
                        idmaps.show_through(grafts[-1].tree, maps)
                    if not mount.writable:
                        deep = mount.recursive and mount.read_only_recursive
                        syscalls.mount_setattr(
                            grafts[-1].tree, syscalls.MOUNT_ATTR_RDONLY, recursive=deep
                        )
            tmpfs = [mount.destination for mount in resolved if mount.kind == "tmpfs"]
            if tmpfs and container.state.pid and shim:
                borrowed = views.borrow_tmpfs(container.state.pid, shim, tmpfs)
                grafts += [Graft(tree, destination) for destination, tree in borrowed.items()]
            # What lies deeper comes later, and of two in one place the user's own is the upper.
            grafts.sort(key=lambda graft: graft.destination.count("/"))
            with idmaps.acting_as_root_of(maps):
                return views.assemble(root, grafts, read_only=container.host_config.readonly_rootfs)
        finally:
            for fd in (root, *(graft.tree for graft in grafts)):
                os.close(fd)
