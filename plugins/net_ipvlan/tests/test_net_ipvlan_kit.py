"""The ipvlan driver passes the kit of its kind."""

from pyengine.contracts.base import DriverContext
from pyengine.testing.netlab import Station, bridge
from pyengine.testing.network import NetworkDriverSuite
from pyengine_net_ipvlan import IpvlanDriver


class TestIpvlan(NetworkDriverSuite):
    def factory(self, context: DriverContext) -> IpvlanDriver:
        return IpvlanDriver(context)

    def prepare(self, host: Station) -> dict[str, str]:
        bridge(host, "wire0", "198.51.100.1/24")
        return {"parent": "wire0"}
