"""Macvlan networks: each container is a station of its own on the parent link's wire."""

from __future__ import annotations

import struct
from typing import ClassVar

from pyengine.bases.stackedlinks import StackedLinks
from pyengine.contracts.network import EndpointRecord
from pyengine.errors import InvalidParameter
from pyengine.linux.interfaces import mac_for
from pyengine.linux.netlink import attribute

__all__ = ["MacvlanDriver"]

# Linux: linux/if_link.h, enum macvlan_mode.
_IFLA_MACVLAN_MODE = 1
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


class MacvlanDriver(StackedLinks):
    """Network option ``macvlan_mode``: ``bridge``, ``private``, ``vepa`` or ``passthru``; the
    others are those of :class:`~pyengine.bases.stackedlinks.StackedLinks`."""

    name = "macvlan"
    priority = 60
    mode_option: ClassVar[str] = "macvlan_mode"
    default_mode: ClassVar[str] = "bridge"

    def link_data(self, mode: str) -> bytes:
        if mode not in _MODES:
            raise InvalidParameter(
                f"invalid value {mode!r} for {self.mode_option}", help=", ".join(_MODES)
            )
        return attribute(_IFLA_MACVLAN_MODE, struct.pack("=I", _MODES[mode]))

    def mac(self, endpoint: EndpointRecord) -> str:
        return endpoint.mac or mac_for(endpoint.addresses)
