"""The default ipam driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.ipam import IpamDriverSuite
from pyengine_ipam_default import DefaultIpam


class TestDefault(IpamDriverSuite):
    def factory(self, context: DriverContext) -> DefaultIpam:
        return DefaultIpam(context)
