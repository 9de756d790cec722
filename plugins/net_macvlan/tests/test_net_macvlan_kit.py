"""The macvlan driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.netlab import Station, bridge
from pyengine.testing.network import NetworkDriverSuite
from pyengine_net_macvlan import MacvlanDriver


class TestMacvlan(NetworkDriverSuite):
    def factory(self, context: DriverContext) -> MacvlanDriver:
        return MacvlanDriver(context)

    def prepare(self, host: Station) -> dict[str, str]:
        bridge(host, "wire0", "198.51.100.1/24")
        return {"parent": "wire0"}
