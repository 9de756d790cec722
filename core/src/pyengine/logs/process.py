"""The process of one sink driver: a feed, on a thread, for each container that uses it.

``python -m pyengine.logs.process`` is started by the daemon, which speaks to it in lines of JSON:
first a :class:`ProcessConfig`, then ``{"feed": directory}`` for a feed that is to run, and to look
again if it runs already. It answers on its standard output with the news of feeds (see
:class:`~pyengine.logs.feed.Feed`), each with its ``directory``. It ends when its input does, at
once: what was not noted as delivered is delivered by the next one.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logsink import LogSinkDriver
from pyengine.linux.inotify import Watches
from pyengine.logs.feed import Feed

#: Bytes; a thread's default of 8 MiB of address space adds up.
STACK = 1024 * 1024

Redact = Callable[[dict[str, Any], bytes], bytes]


class ProcessConfig(msgspec.Struct, kw_only=True):
    """``path``: the daemon's import path, so that both find the same modules. ``target``:
    ``module:Class``. ``redact``: hooks redact logs, so they are needed here."""

    path: list[str]
    target: str
    context: DriverContext
    redact: bool


encode_config = msgspec.json.Encoder(enc_hook=str).encode
_decode_config = msgspec.json.Decoder(ProcessConfig, dec_hook=lambda kind, text: kind(text)).decode


class Process:
    def __init__(self, driver: LogSinkDriver, redact: Redact | None, output: int) -> None:
        self._driver = driver
        self._redact = redact
        self._output = output
        self._speaking = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self._watched: dict[int, str] = {}
        self._watches = Watches()
        self._lock = threading.Lock()

    def run(self, orders: int, begun: bytes) -> None:
        """Take orders until there are no more. ``begun``: what was read of them already."""
        poll = select.poll()
        poll.register(orders, select.POLLIN)
        poll.register(self._watches, select.POLLIN)
        while True:
            *lines, begun = begun.split(b"\n")
            for line in lines:
                self._feed(json.loads(line)["feed"])
            ready = {fd for fd, _ in poll.poll()}
            if self._watches.fileno() in ready:
                self._look()
            if orders in ready:
                data = os.read(orders, 65536)
                if not data:
                    return
                begun += data

    def _feed(self, directory: str) -> None:
        with self._lock:
            feed = self._feeds.get(directory)
            if feed is None:
                try:
                    self._watched[self._watches.add(Path(directory) / "spool")] = directory
                except FileNotFoundError:  # it was done before it was asked for again
                    self._tell(directory, {"finished": True})
                    return
                feed = self._feeds[directory] = Feed(
                    Path(directory), self._driver, lambda news: self._tell(directory, news),
                    self._redact,
                )  # fmt: skip
                name = f"feed-{Path(directory).name[:12]}"
                threading.Thread(
                    target=self._run, args=(directory, feed), name=name, daemon=True
                ).start()
        feed.wake()

    def _run(self, directory: str, feed: Feed) -> None:
        try:
            feed.run()
        except Exception:
            # What this process cannot go on with another one may; it is started again, and again.
            logging.getLogger(__name__).exception("feed %s", directory)
            os._exit(1)

    def _look(self) -> None:
        for number, there in self._watches.read().items():
            with self._lock:
                directory = self._watched.get(number, "")
                feed = self._feeds.get(directory)
                if not there:
                    self._watched.pop(number, None)
            if feed is not None:
                feed.wake()

    def _tell(self, directory: str, news: dict[str, Any]) -> None:
        if news.get("finished"):
            self._feeds.pop(directory, None)
        line = json.dumps({"directory": directory, **news}).encode() + b"\n"
        with self._speaking:
            while line:
                line = line[os.write(self._output, line) :]


def _redactor() -> Redact:
    from pyengine.drivers import Catalog, load_hooks
    from pyengine.engine.model import Container
    from pyengine.hooks.manager import Hooks

    hooks = Hooks()
    for name, plugin in load_hooks(Catalog()):
        hooks.register(plugin, name)
    containers: dict[str, tuple[dict[str, Any], Container]] = {}

    def redact(record: dict[str, Any], line: bytes) -> bytes:
        known, container = containers.get(record["id"], ({}, None))
        if container is None or known is not record:
            # Once for each start of a container, not for each line.
            container = msgspec.convert(record, Container)
            containers[record["id"]] = record, container
        return hooks.logging_redact(container, line)

    return redact


def main() -> None:
    # What a driver prints is no news.
    output = os.dup(1)
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="pyengine log sink: %(message)s")
    begun = b""
    while b"\n" not in begun:
        data = os.read(0, 65536)
        if not data:
            return
        begun += data
    first, _, rest = begun.partition(b"\n")
    config = _decode_config(first)
    sys.path[:] = config.path
    module, _, name = config.target.partition(":")
    driver = getattr(importlib.import_module(module), name)(config.context)
    threading.stack_size(STACK)
    Process(driver, _redactor() if config.redact else None, output).run(0, rest)
    os._exit(0)


if __name__ == "__main__":
    main()
