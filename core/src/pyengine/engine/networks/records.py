"""What is known of a network: its record, what was asked for, and a container's line in it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pyengine.contracts.ipam import Pool
from pyengine.contracts.network import NetworkRecord, Subnet
from pyengine.engine.model import EndpointSettings
from pyengine.errors import InvalidParameter

#: Options that say what ``EnableIPv4`` and ``EnableIPv6`` say, where those are not given.
ENABLE_V4, ENABLE_V6 = "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"

#: Auxiliary addresses of these names are where containers send what goes elsewhere; without them
#: it is the bridge.
GATEWAY_V4, GATEWAY_V6 = "DefaultGatewayIPv4", "DefaultGatewayIPv6"


class Network(msgspec.Struct, kw_only=True):
    """A network's record. ``asked``: what the default bridge was made from (a text to compare)."""

    id: str
    name: str
    driver: str
    created: str
    ipam_driver: str = ""
    ipam_options: dict[str, str] | None = None
    pools: list[Pool] = []
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    predefined: bool = False
    asked: str = ""

    def record(self) -> NetworkRecord:
        """The part that a network driver is told."""
        return NetworkRecord(
            id=self.id,
            name=self.name,
            driver=self.driver,
            subnets=[Subnet(pool.subnet, pool.gateway) for pool in self.pools],
            internal=self.internal,
            ipv6=self.ipv6,
            predefined=self.predefined,
            options={k: v for k, v in self.options.items() if k not in (ENABLE_V4, ENABLE_V6)},
        )


class IpamConfig(msgspec.Struct, rename="pascal", kw_only=True):
    """An entry of ``IPAM.Config`` of ``POST /networks/create``."""

    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class NetworkRequest(msgspec.Struct, kw_only=True):
    """What a new network shall be. ``ipv4``, ``ipv6``: None where ``options`` may say it.
    ``interface``: a bridge of the host that is this network's already, with its addresses."""

    name: str
    driver: str = ""
    internal: bool = False
    attachable: bool = False
    ipv4: bool | None = None
    ipv6: bool | None = None
    ipam_driver: str = ""
    ipam_options: dict[str, str] | None = None
    ipam: list[IpamConfig] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    interface: str = ""


def choose_families(
    request: NetworkRequest, defaults: Mapping[str, str]
) -> tuple[bool, bool, dict[str, str]]:
    """Whether the network has IPv4, whether IPv6, and its options: ``defaults`` are among them
    unless the request says something else. ``InvalidParameter``: neither, or a word that is none.
    """
    options = {**defaults, **request.options}
    families = []
    for key, given, default in (
        (ENABLE_V4, request.ipv4, True),
        (ENABLE_V6, request.ipv6, False),
    ):
        if given is not None and key not in request.options:
            options.pop(key, None)
        word = options.get(key, "")
        if word.lower() not in ("", "1", "t", "true", "0", "f", "false"):
            raise InvalidParameter(f"invalid value {word!r} for {key}", help="true or false")
        families.append(
            (word.lower() in ("1", "t", "true") if word else default) if given is None else given
        )
    v4, v6 = families
    if not (v4 or v6):
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    return v4, v6, options


class EndpointView(msgspec.Struct):
    """A container's line in ``docker network inspect``."""

    name: str
    endpoint_id: str
    mac: str
    ipv4: str
    ipv6: str


def clear(settings: EndpointSettings) -> None:
    """Forget an endpoint: what was asked for stays (aliases, addresses wished for)."""
    settings.endpoint_id = ""
    settings.gateway = settings.ipv6_gateway = ""
    settings.ip_address = settings.global_ipv6_address = ""
    settings.ip_prefix_len = settings.global_ipv6_prefix_len = 0
    settings.mac_address = ""
    settings.dns_names = None


def keep_wishes(settings: EndpointSettings) -> EndpointSettings:
    """``settings`` of a request with nothing but what can be asked for: clients that make a
    container as another one is send all that inspect says of it."""
    mac = settings.mac_address
    clear(settings)
    settings.network_id, settings.mac_address = "", mac
    return settings
