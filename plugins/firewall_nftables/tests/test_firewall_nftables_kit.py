"""The nftables driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.firewall import FirewallDriverSuite
from pyengine_firewall_nftables import NftablesFirewall


class TestNftables(FirewallDriverSuite):
    def factory(self, context: DriverContext) -> NftablesFirewall:
        return NftablesFirewall(context)
