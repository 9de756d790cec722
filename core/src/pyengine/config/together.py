"""Keys that are right alone and wrong together."""

from __future__ import annotations

import ipaddress

from pyengine.config.keys import Config
from pyengine.errors import InvalidParameter
from pyengine.linux import systemd


def contradictions(config: Config) -> list[str]:
    """A line for each; the values themselves have been checked (:mod:`~pyengine.config.checks`)."""
    found = []
    for key, value in (("bip", config.bip), ("bip6", config.bip6)):
        if config.bridge and value:
            found.append(
                f"bridge is {config.bridge!r} and {key} is {value!r}: a bridge of yours has its "
                "own addresses, keep one of the two keys"
            )
    for rules, there in (("iptables", True), ("ip6tables", config.ipv6)):
        if there and not config.icc and not getattr(config, rules):
            found.append(
                f"icc is false and {rules} is false: rules are what keeps containers apart, set "
                "one of them to true"
            )
    found += _outside("bip", config.bip, "fixed-cidr", config.fixed_cidr)
    found += _outside("bip6", config.bip6, "fixed-cidr-v6", config.fixed_cidr_v6)
    found += _outside("bip", config.bip, "default-gateway", config.default_gateway)
    found += _outside("bip6", config.bip6, "default-gateway-v6", config.default_gateway_v6)
    if config.host_gateway_ip and config.host_gateway_ips:
        found.append("host-gateway-ip and host-gateway-ips say the same: keep one of them")
    if config.cpu_rt_runtime > (config.cpu_rt_period or 1_000_000):
        found.append(
            f"cpu-rt-runtime is {config.cpu_rt_runtime}, which is more than the period of "
            f"{config.cpu_rt_period or 1_000_000} that it is a part of (cpu-rt-period)"
        )
    if config.systemd_cgroups() and config.cgroup_parent:
        try:
            systemd.slice_path(config.cgroup_parent)
        except InvalidParameter as error:
            found.append(f"cgroup-parent: {error}")
    if bool(config.tlscert) != bool(config.tlskey):
        found.append("tlscert and tlskey belong together: set both")
    return found


def _outside(key: str, bip: str, other: str, value: str) -> list[str]:
    """What has to be within the network of the bridge's address."""
    if not bip or not value:
        return []
    network, part = ipaddress.ip_interface(bip).network, ipaddress.ip_network(value, strict=False)
    low, high = part.network_address, part.broadcast_address
    if low in network and high in network:
        return []
    return [f"{other} is {value!r}, which is not within {network}, the network of {key} {bip!r}"]
