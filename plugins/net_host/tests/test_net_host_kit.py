"""The host driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.network import NetworkDriverSuite
from pyengine_net_host import HostDriver


class TestHost(NetworkDriverSuite):
    def factory(self, context: DriverContext) -> HostDriver:
        return HostDriver(context)
