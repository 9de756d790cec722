"""Storage driver vfs."""

from pyengine_storage_vfs.driver import Vfs

__all__ = ["Vfs"]
