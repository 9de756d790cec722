"""The local volume driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.volume import VolumeDriverSuite
from pyengine_volume_local import Local


class TestLocal(VolumeDriverSuite):
    mounted = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}

    def factory(self, context: DriverContext) -> Local:
        return Local(context)
