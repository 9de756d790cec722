"""Volume driver local."""

from pyengine_volume_local.driver import Local

__all__ = ["Local"]
