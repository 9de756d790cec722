"""The frontend: one address, one path."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web

from pyengine.contracts.frontend import Frontend, Listener
from pyengine.errors import ConfigError

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

log = logging.getLogger(__name__)


class MetricsFrontend(Frontend):
    """Serves ``/metrics`` at ``metrics-addr``; does nothing without that key."""

    name: ClassVar[str] = "metrics"
    protocol: ClassVar[str] = ""
    keys: ClassVar[frozenset[str]] = frozenset({"metrics-addr"})

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._address = engine.config.metrics_addr
        self._runner: web.ServerRunner | None = None
        self._turn = asyncio.Lock()
        if self._address:
            # Most engines serve no metrics, and start a good while sooner without this.
            from prometheus_client import CollectorRegistry
            from prometheus_client.exposition import choose_encoder

            from pyengine_api_metrics.collector import Collector

            self._choose_encoder = choose_encoder
            self._registry = CollectorRegistry()
            self._collector = Collector(engine)
            self._registry.register(self._collector)

    async def start(self, listeners: list[Listener]) -> None:
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None))
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]") or None, int(port)).start()
        except OSError as error:
            raise ConfigError(f"metrics-addr {self._address}: {error}") from error
        log.info("metrics on http://%s/metrics", self._address)

    async def stop(self, timeout: float) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics":
            return web.Response(status=404, text="the metrics are at /metrics\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        encode, kind = self._choose_encoder(request.headers.get("Accept", ""))
        # one at a time: impatient collectors shall not pile up threads
        async with self._turn:
            self._collector.look()
            body = await asyncio.to_thread(encode, self._registry)
        return web.Response(body=body, headers={"Content-Type": kind})
