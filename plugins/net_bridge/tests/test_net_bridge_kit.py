"""The bridge driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.network import NetworkDriverSuite
from pyengine_net_bridge import BridgeDriver


class TestBridge(NetworkDriverSuite):
    def factory(self, context: DriverContext) -> BridgeDriver:
        return BridgeDriver(context)
