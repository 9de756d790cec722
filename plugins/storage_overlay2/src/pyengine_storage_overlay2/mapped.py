"""Overlays whose layers are shown through maps of ids (user namespaces).

An overlay itself cannot be shown through a map, but its layers can: one mapped view of the
driver's whole directory serves every layer of every container. The overlays keep what they need of
it, so it may go while they are used.
"""

from __future__ import annotations

import hashlib
import os
import threading

from pyengine.linux import idmaps, mounts, syscalls
from pyengine.linux.idmaps import IdMaps
from pyengine_storage_overlay2.mounting import Overlay, mount_overlay

_PLACE = ".mapped"


class MappedLayers:
    """Views of ``root``, the driver's directory, made when they are first wanted."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._views: dict[IdMaps, str] = {}

    def mount_overlay(self, target: str, overlay: Overlay, maps: IdMaps) -> None:
        """As :func:`mounting.mount_overlay`, seen by the user namespace of ``maps``."""
        view = self._view(maps)
        # Overlay makes files as whoever mounts it, who needs a place in the map.
        with idmaps.acting_as_root_of(maps):
            mount_overlay(self._root, target, overlay, layers=view)

    def close(self) -> None:
        with self._lock:
            for view in self._views.values():
                self._take_down(view)
            self._views.clear()

    def _view(self, maps: IdMaps) -> str:
        """Where the view is, relative to the root."""
        with self._lock:
            view = self._views.get(maps)
            if view is None:
                text = idmaps.text(maps.uids) + "/" + idmaps.text(maps.gids)
                view = f"{_PLACE}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"
                self._take_down(view)  # one that a killed engine left
                self._put_up(view, maps)
                self._views[maps] = view
            return view

    def _put_up(self, view: str, maps: IdMaps) -> None:
        os.makedirs(f"{self._root}/{view}", 0o700, exist_ok=True)
        tree = mounts.bind_tree(self._root, False)
        try:
            idmaps.show_through(tree, maps)
            syscalls.mount_setattr(tree, propagation=syscalls.MS_PRIVATE)
            mounts.attach_at(tree, f"{self._root}/{view}")
        finally:
            os.close(tree)

    def _take_down(self, view: str) -> None:
        path = f"{self._root}/{view}"
        try:
            syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError:
            pass  # it is no mount, or not there
        try:
            os.rmdir(path)
        except OSError:
            pass
