"""Servers of tests: an event loop on a thread in the network namespace of the engine under test."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from pyengine.linux.syscalls import setns

T = TypeVar("T")

CLONE_NEWNET = 0x40000000


class NamespaceLoop:
    """An event loop on a thread that lives in the named network namespace (of ``ip netns``)."""

    def __init__(self, namespace: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(namespace,), daemon=True)
        self._runners: list[web.AppRunner] = []
        self._thread.start()

    def _run(self, namespace: str) -> None:
        fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        setns(fd, CLONE_NEWNET)
        os.close(fd)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        """Run to the end on that thread, and hand back what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def time(self) -> float:
        """The loop's clock, in seconds."""
        return self._loop.time()

    def serve(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> int:
        """Answer every request with ``handler`` until ``close``: the port."""

        async def start() -> int:
            app = web.Application(client_max_size=1 << 30, handler_args={"auto_decompress": False})
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, host, port)
            await site.start()
            self._runners.append(runner)
            found: int = runner.addresses[0][1]
            return found

        return self.run(start())

    def close(self) -> None:
        """Stop the servers, then the thread."""

        async def stop() -> None:
            for runner in self._runners:
                await runner.cleanup()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
