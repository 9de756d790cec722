"""The engine's way to its firewall driver: with one, without one, or with none on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyengine.contracts.base import Kind
from pyengine.contracts.firewall import (
    Change,
    FirewallDriver,
    FirewallEndpoint,
    FirewallNetwork,
)
from pyengine.drivers import Drivers
from pyengine.engine.calls import DriverCalls
from pyengine.errors import Unsupported


class Firewall:
    """An engine composed without a firewall driver makes no network that needs one. One whose
    operator does without (``iptables`` false) makes them, without rules."""

    def __init__(self, drivers: Drivers, calls: Callable[[Kind, str], DriverCalls]) -> None:
        self._drivers = drivers
        self._calls = calls
        #: what :meth:`look` found when it last looked
        self.obstacles: Sequence[str] = []

    async def apply(self, change: Change) -> None:
        """``DriverUnavailable`` if no driver is installed."""
        if not self._drivers.waived(Kind.FIREWALL):
            driver, calls = self._driver()
            await calls(driver.apply, change)

    async def rebuild(
        self, networks: Sequence[FirewallNetwork], endpoints: Sequence[FirewallEndpoint]
    ) -> list[str]:
        """Make all rules again. What was done, a sentence each."""
        if not self._drivers.has(Kind.FIREWALL):
            return []
        driver, calls = self._driver()
        result = await calls(driver.reconcile, networks, endpoints)
        return result.removed + result.restored + result.failed

    async def intact(self) -> bool:
        """False if somebody removed our rules."""
        if not self._drivers.has(Kind.FIREWALL):
            return True
        driver, calls = self._driver()
        return await calls(driver.intact)

    async def look(self) -> Sequence[str]:
        """What gets into the way of published ports."""
        if self._drivers.waived(Kind.FIREWALL):
            self.obstacles = ["iptables is false in the configuration: no port is published"]
        elif self._drivers.has(Kind.FIREWALL):
            driver, calls = self._driver()
            self.obstacles = await calls(driver.warnings)
        return self.obstacles

    async def redirect(self, netns: int, address: str, port: int, to: int) -> bool:
        """Have what goes to ``address``:``port`` in that namespace arrive at port ``to``; False if
        that cannot be done here."""
        if not self._drivers.has(Kind.FIREWALL):
            return False
        driver, calls = self._driver()
        try:
            await calls(driver.redirect, netns, address, port, to)
        except Unsupported:
            return False
        return True

    async def remove_all(self) -> None:
        """Leave no rule."""
        if self._drivers.has(Kind.FIREWALL):
            driver, calls = self._driver()
            await calls(driver.remove_all)

    def _driver(self) -> tuple[FirewallDriver, DriverCalls]:
        driver = self._drivers.get(Kind.FIREWALL)
        assert isinstance(driver, FirewallDriver)
        return driver, self._calls(Kind.FIREWALL, driver.name)
