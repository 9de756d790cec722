"""Storage driver overlay2."""

from pyengine_storage_overlay2.driver import Overlay2

__all__ = ["Overlay2"]
