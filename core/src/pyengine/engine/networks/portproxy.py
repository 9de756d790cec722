"""Keeps the port proxy's desired state: what running containers publish where only it can serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.engine.model import Container
from pyengine.supervisor.proxy import Forward, PortProxy, forwards

log = logging.getLogger(__name__)


class PublishedProxy:
    """``containers``: all records; those with published ports count. ``translated_v6``: whether
    the firewall sees to IPv6, as far as it can."""

    def __init__(
        self,
        exec_root: Path,
        containers: Callable[[], Sequence[Container]],
        translated_v6: bool = True,
    ) -> None:
        self._proxy = PortProxy(exec_root / "s" / "proxy")
        self._containers = containers
        self._translated_v6 = translated_v6
        self._lock = asyncio.Lock()

    async def update(self) -> None:
        """Make the proxy listen on exactly what is published now."""
        async with self._lock:
            wanted: list[Forward] = []
            for container in self._containers():
                if container.published:
                    endpoints = container.networks
                    endpoint = endpoints.get(container.published_on) or next(
                        (one for one in endpoints.values() if one.ip_address), None
                    )
                    if endpoint is not None:
                        ipv6 = endpoint.global_ipv6_address if self._translated_v6 else ""
                        wanted += forwards(container.published, endpoint.ip_address, ipv6)
            try:
                for problem in await self._proxy.apply(wanted):
                    log.warning("port proxy: %s", problem)
            except OSError as error:
                log.error("port proxy: %s", error)

    def inodes(self) -> set[int]:
        """Of the sockets that the proxy holds: these ports are ours, not somebody else's."""
        return self._proxy.inodes()

    async def close(self) -> None:
        """Nothing is published any more: the proxy ends."""
        await self._proxy.apply([])
