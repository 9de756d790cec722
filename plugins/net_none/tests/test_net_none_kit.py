"""The none driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.network import NetworkDriverSuite
from pyengine_net_none import NoneDriver


class TestNone(NetworkDriverSuite):
    def factory(self, context: DriverContext) -> NoneDriver:
        return NoneDriver(context)
