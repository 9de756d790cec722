"""Keys that are right alone and wrong together."""

from __future__ import annotations

import ipaddress

from pyengine.config.keys import Config


def contradictions(config: Config) -> list[str]:
    """A line for each; the values themselves have been checked (:mod:`~pyengine.config.checks`)."""
    found = []
    if config.bridge and config.bip:
        found.append(
            f"bridge is {config.bridge!r} and bip is {config.bip!r}: a bridge of yours has its own "
            "addresses, keep one of the two keys"
        )
    if not config.icc and not config.iptables:
        found.append(
            "icc is false and iptables is false: rules are what keeps containers apart, set one of "
            "them to true"
        )
    if config.bip and config.fixed_cidr:
        network = ipaddress.IPv4Interface(config.bip).network
        part = ipaddress.IPv4Network(config.fixed_cidr, strict=False)
        if not part.subnet_of(network):
            found.append(
                f"fixed-cidr is {config.fixed_cidr!r}, which is not within {network}, the network "
                f"of bip {config.bip!r}"
            )
    if bool(config.tlscert) != bool(config.tlskey):
        found.append("tlscert and tlskey belong together: set both")
    return found
