"""Ipvlan networks in L2 mode: containers share the parent link's MAC address."""

from __future__ import annotations

import struct
from typing import ClassVar

from pyengine.bases.stackedlinks import StackedLinks
from pyengine.contracts.network import EndpointRecord
from pyengine.errors import InvalidParameter, Unsupported
from pyengine.linux.netlink import attribute

__all__ = ["IpvlanDriver"]

# Linux: linux/if_link.h, enum ipvlan_mode.
_IFLA_IPVLAN_MODE = 1
_IPVLAN_MODE_L2 = 0


class IpvlanDriver(StackedLinks):
    """Network option ``ipvlan_mode``: ``l2``; the others are those of
    :class:`~pyengine.bases.stackedlinks.StackedLinks`."""

    name = "ipvlan"
    priority = 60
    mode_option: ClassVar[str] = "ipvlan_mode"
    default_mode: ClassVar[str] = "l2"

    def link_data(self, mode: str) -> bytes:
        if mode in ("l3", "l3s"):
            raise Unsupported(f"network driver 'ipvlan' has no mode {mode} yet", help="use l2")
        if mode != "l2":
            raise InvalidParameter(f"invalid value {mode!r} for {self.mode_option}", help="l2")
        return attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", _IPVLAN_MODE_L2))

    def mac(self, endpoint: EndpointRecord) -> str:
        return ""  # the parent's, for all of them
