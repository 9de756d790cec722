"""The firewall driver on nftables."""

from pyengine_firewall_nftables.driver import NftablesFirewall

__all__ = ["NftablesFirewall"]
