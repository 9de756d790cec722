"""Address management in memory; core keeps the leases."""

from pyengine_ipam_default.driver import DefaultIpam

__all__ = ["DefaultIpam"]
