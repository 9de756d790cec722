"""Log sinks as the daemon sees them: their feeds on disk, and a process per driver.

A feed is a directory (see :mod:`pyengine.logs.feed`). It is made when its container starts, and
goes when that was removed and all is delivered; so lines outlive their container, a daemon, and a
sink's process. Processes are started when a feed needs them, and again when they die.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

import pyengine
from pyengine.contracts.base import Kind
from pyengine.contracts.logging import record_attributes
from pyengine.contracts.logsink import LogSinkDriver, LogSource
from pyengine.drivers import Drivers
from pyengine.engine.containers.logchoice import buffer_limit
from pyengine.engine.model import Container
from pyengine.errors import EngineError
from pyengine.hooks.manager import Hooks
from pyengine.logs import cursor as cursors
from pyengine.logs import spool
from pyengine.logs.feed import FeedFile
from pyengine.logs.process import ProcessConfig, encode_config
from pyengine.supervisor.records import SpoolOrder

log = logging.getLogger(__name__)

#: Seconds until a process that died is started again: the first time, and at most.
RESTART_FIRST, RESTART_MOST = 0.2, 10.0

#: Container id, driver, and what a feed told.
News = Callable[[str, str, dict[str, Any]], None]


class SinkStatus(msgspec.Struct, rename="pascal", kw_only=True):
    """One of ``LogSinks`` in inspect. ``waiting``: bytes in the spool, with the framing. ``error``:
    why the collector takes nothing at present."""

    driver: str
    delivered: int
    dropped_records: int
    dropped_bytes: int
    waiting: int
    error: str = ""


class LogSinks:
    """``root``: where feeds are. ``news`` is called when a feed has some."""

    def __init__(self, root: Path, drivers: Drivers, hooks: Hooks, news: News) -> None:
        self._root = root
        self._drivers = drivers
        self._hooks = hooks
        self._news = news
        self._processes: dict[str, _SinkProcess] = {}
        self._errors: dict[Path, str] = {}

    def restore(self, known: Collection[str]) -> None:
        """Go on with what earlier daemons left undelivered. ``known``: the containers there are;
        one of another's was about to be told that it is gone."""
        for directory in self._feeds():
            if directory.name not in known:
                (directory / "removed").touch()
            self._feed(directory)

    def open(self, container: Container) -> list[SpoolOrder]:
        """Make the feeds of a container that is about to start; what its shim shall write."""
        orders = []
        for choice in container.log_sinks:
            options = dict(choice.options)
            self._hooks.logging_opened(container, choice.driver, options)
            directory = self._directory(container, choice.driver)
            (directory / "spool").mkdir(mode=0o700, parents=True, exist_ok=True)
            file = FeedFile(
                source=_source(container, options),
                options=options,
                container=msgspec.to_builtins(container) if self._hooks.has_redaction() else None,
            )
            new = directory / "feed.json.new"
            new.write_bytes(msgspec.json.encode(file))
            new.rename(directory / "feed.json")
            orders.append(SpoolOrder(str(directory / "spool"), buffer_limit(options)))
            self._feed(directory)
        return orders

    def removed(self, container: Container) -> None:
        """The container is gone: its feeds end when all is delivered."""
        for choice in container.log_sinks:
            directory = self._directory(container, choice.driver)
            if directory.exists():
                (directory / "removed").touch()
                self._feed(directory)

    def status(self, container: Container) -> list[SinkStatus]:
        """How far the sinks have got; reads a small file each."""
        found = []
        for choice in container.log_sinks:
            directory = self._directory(container, choice.driver)
            cursor = cursors.load(directory / "cursor")
            found.append(
                SinkStatus(
                    driver=choice.driver,
                    delivered=cursor.delivered,
                    dropped_records=cursor.dropped_records,
                    dropped_bytes=cursor.dropped_bytes,
                    waiting=spool.waiting(str(directory / "spool"), cursor.place),
                    error=self._errors.get(directory, ""),
                )
            )
        return found

    async def close(self) -> None:
        """End the processes; feeds go on with the next daemon."""
        await asyncio.gather(*(process.close() for process in self._processes.values()))

    def _directory(self, container: Container, driver: str) -> Path:
        return self._root / driver / container.id

    def _feeds(self) -> Iterator[Path]:
        for driver in sorted(self._root.iterdir()) if self._root.exists() else ():
            for directory in sorted(driver.iterdir()):
                if (directory / "feed.json").exists():
                    yield directory

    def _feed(self, directory: Path) -> None:
        name = directory.parent.name
        process = self._processes.get(name)
        if process is None:
            try:
                config = self._config(name)
            except EngineError as error:
                log.error("log driver %s, with lines to deliver: %s", name, error)
                return
            process = self._processes[name] = _SinkProcess(name, config, self._heard)
        process.feed(directory)

    def _config(self, name: str) -> ProcessConfig:
        driver = self._drivers.get(Kind.LOGGING, name)
        assert isinstance(driver, LogSinkDriver)
        return ProcessConfig(
            path=sys.path,
            target=self._drivers.catalog.find(Kind.LOGGING, name).target,
            context=driver.context,
            redact=self._hooks.has_redaction(),
        )

    def _heard(self, directory: Path, news: dict[str, Any]) -> None:
        if "error" in news:
            if news["error"]:
                self._errors[directory] = news["error"]
            else:
                self._errors.pop(directory, None)
        if news.get("finished"):
            self._errors.pop(directory, None)
        self._news(directory.name, directory.parent.name, news)


class _SinkProcess:
    """The process of one driver, and the feeds that it has or will have."""

    def __init__(
        self, name: str, config: ProcessConfig, heard: Callable[[Path, dict[str, Any]], None]
    ) -> None:
        self._name = name
        self._config = config
        self._heard = heard
        self._feeds: set[Path] = set()
        self._process: Process | None = None
        self._task = asyncio.create_task(self._run())

    def feed(self, directory: Path) -> None:
        self._feeds.add(directory)
        self._order(directory)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def _order(self, directory: Path) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps({"feed": str(directory)}).encode() + b"\n")

    async def _run(self) -> None:
        pause = RESTART_FIRST
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._once()
            except Exception:
                log.exception("log driver %s", self._name)
            if asyncio.get_running_loop().time() - began > RESTART_MOST:
                pause = RESTART_FIRST
            log.error("the process of log driver %s ended; there will be a new one", self._name)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_MOST)

    async def _once(self) -> None:
        """Start the process, and listen to it until it ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pyengine.logs.process",
            stdin=PIPE, stdout=PIPE, start_new_session=True, cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(pyengine.__file__).parent.parent)},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(encode_config(self._config) + b"\n")
            self._process = process
            for directory in self._feeds:
                self._order(directory)
            async for line in process.stdout:
                self._listen(json.loads(line))
        finally:
            self._process = None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 2)
            except TimeoutError:
                process.kill()

    def _listen(self, news: dict[str, Any]) -> None:
        directory = Path(news.pop("directory"))
        if news.get("finished"):
            self._feeds.discard(directory)
        self._heard(directory, news)


def _source(container: Container, options: dict[str, str]) -> LogSource:
    attributes = record_attributes(container, {**options, "tag": options.get("tag") or "{{.ID}}"})
    return LogSource(
        id=container.id,
        name=container.name,
        image=container.image_name or container.config.image,
        image_id=container.image,
        command=" ".join([container.path, *container.args]),
        created=container.created,
        host=os.uname().nodename,
        tag=attributes.pop("tag"),
        attributes=attributes,
    )
