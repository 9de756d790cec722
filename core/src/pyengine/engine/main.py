"""``pyengine daemon``: the process around the engine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyengine import __version__, config, timestamps
from pyengine.config.schema import schema
from pyengine.contracts.frontend import Listener
from pyengine.drivers import Catalog, Places
from pyengine.engine import listening, remap, root
from pyengine.engine.containers import realtime
from pyengine.engine.networks import defaultbridge
from pyengine.errors import ConfigError, EngineError, Unavailable
from pyengine.faults import set_role
from pyengine.linux import heap
from pyengine.oci import facts

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

log = logging.getLogger("pyengine")

#: How long --replace waits for the other daemon to let go, in seconds.
REPLACE_DEADLINE = 20.0
#: Heaps for all threads together. They rarely allocate at the same time: there is one interpreter.
ARENAS = 1
#: How often free memory goes back to the system, in seconds.
TIDY_INTERVAL = 30.0


def main(argv: Sequence[str]) -> int:
    """Run a daemon with these flags until a signal ends it; the exit code.

    SIGTERM and SIGINT end it (containers too, unless ``live-restore``), SIGUSR2 ends it and leaves
    the containers to the next daemon (``--replace`` sends it), SIGHUP reads daemon.json again.
    """
    if "--schema" in argv:
        print(json.dumps(schema(), indent=2))
        return 0
    set_role("daemon")
    heap.limit_arenas(ARENAS)
    catalog = Catalog()
    try:
        loaded = config.load(argv, catalog, _missing)
    except ConfigError as error:
        print(f"pyengine daemon: {error.message()}", file=sys.stderr)
        return error.exit_code
    _set_up_logging(loaded.config)
    for note in loaded.notes:
        log.warning("configuration: %s", note)
    if loaded.check_only:
        print("configuration OK")
        return 0
    if os.geteuid() != 0:
        print("pyengine daemon: it needs root", file=sys.stderr)
        return 1
    try:
        listeners = _take_over(loaded.config) if loaded.replace else {}
        # Not asyncio.run: it would wait for tasks whose drivers are stuck.
        code = asyncio.new_event_loop().run_until_complete(_serve(loaded, listeners, argv, catalog))
    except EngineError as error:
        print(f"pyengine daemon: {error.message()}", file=sys.stderr)
        code = 1
    # Not the interpreter's way out: a driver's thread may be stuck for ever.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(
    loaded: config.Loaded,
    taken: dict[str, socket.socket],
    argv: Sequence[str],
    catalog: Catalog,
) -> int:
    settings = loaded.config
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not ending.done():
            ending.set_result(number)

    for ender in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        loop.add_signal_handler(ender, end, ender)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("SIGHUP: not before it is ready"))
    began = time.monotonic()
    places = root.take(settings)
    addresses = listening.addresses(settings)
    tls = listening.certificates(settings)
    pidfile = Path(settings.pidfile or Path(settings.exec_root) / "pyengine.pid")
    if settings.pidfile:
        _check_pidfile(pidfile)
    # Long before anybody answers: who comes meanwhile waits, instead of being refused.
    listeners = [
        Listener(
            taken.get(address) or listening.listen(address, settings),
            tls if address.startswith("tcp://") else None,
        )
        for address in addresses
    ]
    own = [_inode(address) for address in addresses]
    pidfile.write_text(f"{os.getpid()}\n")
    try:
        engine = await _open(settings, places, loaded.file.absolute().parent, catalog)
        await engine.start(listeners)
        log.info(
            "pyengine %s ready in %.0f ms on %s",
            __version__,
            (time.monotonic() - began) * 1000,
            ", ".join(addresses),
        )
        loop.add_signal_handler(signal.SIGHUP, _reload, engine, argv, tls)
        tidying = asyncio.create_task(_keep_tidy())
        number = await ending
        tidying.cancel()
        log.info("ending: %s", signal.Signals(number).name)
        stop = number != signal.SIGUSR2 and not settings.live_restore
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                engine.close(stop_containers=stop), settings.shutdown_timeout + 15
            )
    finally:
        pidfile.unlink(missing_ok=True)
        for address, inode in zip(addresses, own, strict=True):
            # With --replace the next daemon's socket is there already.
            if inode and _inode(address) == inode:
                Path(address.removeprefix("unix://")).unlink(missing_ok=True)
    return 0


async def _open(
    settings: config.Config, places: Places, directory: Path, catalog: Catalog
) -> Engine:
    # It brings in all the rest, which takes most of the time that a start takes.
    from pyengine.engine.engine import Engine

    engine = Engine(settings, places, directory, catalog)
    await engine.open()
    _set_oom_score(settings.oom_score_adjust)
    return engine


def _missing(settings: config.Config) -> list[str]:
    """What the configuration counts on and this host has not, a line each."""
    found = []
    host = facts.detect()
    for look in (
        lambda: listening.certificates(settings),
        lambda: defaultbridge.request(settings, "own"),
        lambda: remap.resolve(settings.userns_remap, make=False),
        lambda: realtime.check(host, (settings.cpu_rt_period, settings.cpu_rt_runtime)),
    ):
        try:
            look()
        except ConfigError as error:
            found.append(error.message())
    return found


def _reload(engine: Engine, argv: Sequence[str], tls: ssl.SSLContext | None) -> None:
    """Read flags, file and certificates again. A bad file leaves everything as it is."""
    try:
        loaded = config.load(argv, engine.drivers.catalog)
        if tls is not None:
            listening.load_certificates(tls, engine.config)
    except ConfigError as error:
        for line in error.detail.strip().splitlines() or [error.brief]:
            log.error("reload: %s", line.strip())
        log.error("reload: nothing was changed")
        return
    for note in loaded.notes:
        log.warning("configuration: %s", note)
    waiting = engine.reload(loaded.config)
    logging.getLogger().setLevel(_level(engine.config))
    if waiting:
        log.warning("reload: from the next start on: %s", ", ".join(waiting))
    log.info("reloaded %s", loaded.file)


def _check_pidfile(path: Path) -> None:
    """``ConfigError`` if a process that lives has written the operator's pidfile."""
    try:
        holder = path.read_text().strip()
    except OSError:
        return
    if holder.isdigit() and int(holder) != os.getpid() and Path(f"/proc/{holder}").exists():
        raise ConfigError(
            f"process with PID {holder} is still running",
            f"it has written {path}",
            "stop it, or choose another --pidfile",
        )


def _set_oom_score(value: int) -> None:
    """The daemon's own (proc(5)); zygote and shims have theirs already."""
    if value:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(value))
        except OSError as error:
            log.warning("oom-score-adjust %d: %s", value, error.strerror)


def _inode(address: str) -> int:
    """Which socket is at the path of a unix address; 0 for none, and for other addresses."""
    try:
        return os.stat(address.removeprefix("unix://")).st_ino if "unix://" in address else 0
    except FileNotFoundError:
        return 0


async def _keep_tidy() -> None:
    """Give back what the start took, and later what images and bursts of requests did."""
    # What is alive now stays: no collection shall walk it again.
    gc.collect()
    gc.freeze()
    gc.enable()
    loop = asyncio.get_running_loop()
    while True:
        await loop.run_in_executor(None, heap.trim)
        await asyncio.sleep(TIDY_INTERVAL)


def _take_over(settings: config.Config) -> dict[str, socket.socket]:
    """Ask the daemon on this root to leave its containers to us, and wait until it is gone.

    Returns listening sockets by address. They are in place before the other is asked, so that
    clients wait in their backlog instead of being refused.
    """
    data_root = Path(settings.data_root)
    try:
        lock = os.open(data_root / root.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    listeners: dict[str, socket.socket] = {}
    deadline = time.monotonic() + REPLACE_DEADLINE
    asked = False
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return listeners
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
            if not asked and holder.isdigit():
                asked = True
                log.info("taking over from the daemon %s", holder)
                for address in listening.addresses(settings):
                    if address.startswith("unix://"):
                        path = Path(address.removeprefix("unix://"))
                        listeners[address] = listening.listen_unix(
                            path, settings.group, replace=True
                        )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(holder), signal.SIGUSR2)
            if time.monotonic() > deadline:
                raise Unavailable(f"the daemon {holder} on {data_root} does not let go")
            time.sleep(0.005)
    finally:
        os.close(lock)


class _JsonLines(logging.Formatter):
    """``log-format`` json: an object a line, with dockerd's keys (level, msg, time)."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        when = timestamps.render(int(record.created * 10**9))
        return json.dumps({"level": record.levelname.lower(), "msg": text, "time": when})


def _set_up_logging(settings: config.Config) -> None:
    logging.basicConfig(
        level=_level(settings),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_JsonLines("%(name)s: %(message)s"))


def _level(settings: config.Config) -> str:
    level = "DEBUG" if settings.debug else settings.log_level.upper()
    names = {"FATAL": "CRITICAL", "PANIC": "CRITICAL", "WARN": "WARNING", "TRACE": "DEBUG"}
    return names.get(level, level)
