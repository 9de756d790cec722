"""The bridge network driver."""

from pyengine_net_bridge.driver import BridgeDriver

__all__ = ["BridgeDriver"]
