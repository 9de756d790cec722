"""The daemon's side of the supervisor: start shims, find them again, talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.base import DriverContext, Kind
from pyengine.drivers import Catalog
from pyengine.errors import DriverBroken, EngineError, Unavailable
from pyengine.linux import syscalls
from pyengine.supervisor import interpreter, protocol, shimgroup
from pyengine.supervisor.channel import Channel
from pyengine.supervisor.handle import Attachment, Shim
from pyengine.supervisor.protocol import Message, Type
from pyengine.supervisor.records import ExitRecord, Launch, Plugin, ZygoteConfig, ZygoteInfo

__all__ = ["Attachment", "Shim", "Supervisor"]

log = logging.getLogger(__name__)

#: How long a zygote may take to import its drivers, in seconds.
ZYGOTE_DEADLINE = 30.0
#: How long a shim may take to greet; a driver's longest call (kill) is allowed 10 seconds.
SHIM_DEADLINE = 30.0
_BACKOFF = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY = 10.0

_encode_config = msgspec.json.Encoder(enc_hook=str).encode
_decode_info = msgspec.json.Decoder(ZygoteInfo).decode
_decode_exit = msgspec.json.Decoder(ExitRecord).decode


class _Zygote:
    """One zygote process and the connection with it."""

    def __init__(self, pid: int, sock: socket.socket, on_close: Callable[[_Zygote], None]) -> None:
        self.pid = pid
        self.since = time.monotonic()
        self.loading = ""
        self.channel = Channel(sock, "the zygote", self._event, lambda: on_close(self))
        self._pidfd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._died)
        self.ended = asyncio.Event()

    def _event(self, message: Message) -> None:
        if message.type == Type.LOADING:
            self.loading = message.value()["plugin"]
        elif message.type == Type.SHIM_ENDED:
            log.debug("a child of the zygote ended: %s", message.value())
        message.close()

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self.ended.set()
        os.close(self._pidfd)
        self.channel.drain()

    def kill(self) -> None:
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class _NoShim(Exception):
    """The zygote died before it had forked."""


class Supervisor:
    """Makes this process a child subreaper, runs the zygote, and hands out shims.

    ``runtimes`` and ``loggers``: the drivers to preload, by name. ``shim_cgroup``: where zygote and
    shims live, from the root of each hierarchy; "" leaves them with the daemon.
    ``on_zygote_restart``: called after a zygote that died was replaced. ``catalog``: what is
    installed, for the first zygote; later ones get what is installed then.
    """

    def __init__(
        self,
        *,
        exec_root: Path,
        runtimes: dict[str, DriverContext],
        loggers: dict[str, DriverContext],
        shim_cgroup: str,
        on_zygote_restart: Callable[[], None] | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self._exec_root = exec_root
        self._runtimes = runtimes
        self._loggers = loggers
        self._shim_cgroup = shim_cgroup
        self._on_zygote_restart = on_zygote_restart
        self._zygote: _Zygote | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._failures = 0
        self._closing = False
        self._catalog = catalog
        self._installed: tuple[tuple[str, int], ...] = ()
        self._shims: weakref.WeakSet[Shim] = weakref.WeakSet()
        self._orphanage: asyncio.Task[None] | None = None

    # -- the zygote

    async def start(self) -> None:
        """Start the zygote, which inherits nothing that is open here.

        Raises ``DriverMissing``, ``DriverDuplicate`` or ``DriverBroken`` naming the driver.
        """
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        (self._exec_root / "s").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._zygote = await self._new_zygote()

    async def _new_zygote(self) -> _Zygote:
        self._installed = _installed()
        catalog, self._catalog = self._catalog or Catalog(), None
        config = ZygoteConfig(
            path=[os.path.abspath(entry) for entry in sys.path if os.path.exists(entry)],
            label=str(self._exec_root),
            shim_cgroup=self._shim_cgroup,
            runtimes=_plugins(Kind.RUNTIME, self._runtimes, catalog),
            loggers=_plugins(Kind.LOGGING, self._loggers, catalog),
            rehearsal_dir=str(self._exec_root / "rehearsal"),
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # The last argument does nothing but make room for a shim's title.
            arguments = ["-m", "pyengine.supervisor.zygote", "-" * 64]
            pid = interpreter.spawn(arguments, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        zygote = _Zygote(pid, ours, self._zygote_closed)
        try:
            await asyncio.wait_for(
                zygote.channel.request(Type.CONFIGURE, _encode_config(config)), ZYGOTE_DEADLINE
            )
        except TimeoutError:
            zygote.channel.close()
            zygote.kill()
            raise DriverBroken(
                f"{zygote.loading or 'the zygote'} does not load",
                f"no answer within {ZYGOTE_DEADLINE:.0f} s",
                "choose another driver",
            )
        except Unavailable:
            raise DriverBroken(
                "the zygote died while it started",
                f"while loading {zygote.loading}" if zygote.loading else "",
            )
        except BaseException:
            zygote.channel.close()
            raise
        return zygote

    def _zygote_closed(self, zygote: _Zygote) -> None:
        zygote.kill()
        if zygote is self._zygote and not self._closing:
            self._zygote = None
            steady = time.monotonic() - zygote.since > _STEADY
            self._failures = 0 if steady else self._failures + 1
            self._restarting = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        while not self._closing:
            await asyncio.sleep(_BACKOFF[min(self._failures, len(_BACKOFF) - 1)])
            try:
                self._zygote = await self._new_zygote()
                break
            except (EngineError, OSError) as error:
                log.error("the zygote does not start again: %s", error)
                self._failures += 1
        # From here on shims of the old zygote are our children, and so are their orphans.
        if self._orphanage is None:
            self._orphanage = asyncio.create_task(self._reap_orphans())
        if self._on_zygote_restart is not None:
            self._on_zygote_restart()

    async def restart_zygote(self) -> None:
        """Replace the zygote by one that imports what is installed now; shims are not touched."""
        new = await self._new_zygote()
        old, self._zygote = self._zygote, new
        if old is not None:
            old.channel.close()
        if self._orphanage is None:
            self._orphanage = asyncio.create_task(self._reap_orphans())

    async def _living_zygote(self) -> _Zygote:
        if self._closing:
            raise Unavailable("the engine is shutting down")
        if self._zygote is not None and self._installed != _installed():
            try:
                await self.restart_zygote()
            except EngineError as error:
                log.warning("kept the zygote, a new one does not start: %s", error)
        if self._zygote is None and self._restarting is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._restarting), ZYGOTE_DEADLINE)
            except TimeoutError:
                pass
        if self._zygote is None:
            raise Unavailable("the zygote is not running", help="see the daemon's log")
        return self._zygote

    async def info(self) -> ZygoteInfo:
        """What the zygote is at the moment."""
        return _decode_info((await self._ask(Type.INFO)).payload)

    async def _ask(self, type: Type, payload: bytes = b"") -> Message:
        """A request that does no harm when a dying zygote has heard it, too."""
        zygote = await self._living_zygote()
        try:
            return await zygote.channel.request(type, payload)
        except Unavailable:
            if zygote is self._zygote:
                raise
        zygote = await self._living_zygote()
        return await zygote.channel.request(type, payload)

    # -- shims

    async def launch(
        self, launch: Launch, *, on_namespaces: Callable[[int], Awaitable[None]] | None = None
    ) -> Shim:
        """Fork a shim and create the container. Returns when it is created and not started.

        ``on_namespaces`` runs beside the creation, as soon as there is a network namespace; it gets
        a descriptor of it, which is closed when it returns. ``launch`` waits for both. If either
        fails, or this call is cancelled, nothing is left: the container is deleted and the shim
        gone before the error is raised.
        """
        for last in (False, True):
            try:
                return await self._launch(launch, on_namespaces)
            except _NoShim:
                if last:
                    raise Unavailable("the zygote died twice while it forked a shim")
        raise AssertionError

    async def _launch(
        self, launch: Launch, on_namespaces: Callable[[int], Awaitable[None]] | None
    ) -> Shim:
        zygote = await self._living_zygote()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shim = Shim(launch.id, ours)
        created = shim.channel.expect(protocol.LAUNCH)
        network: asyncio.Task[None] | None = None

        def namespaces(fd: int) -> None:
            nonlocal network
            network = asyncio.create_task(_with_descriptor(on_namespaces, fd))

        shim.namespaces = namespaces
        fd = protocol.memfd("launch", protocol.encode(launch))
        spawned = zygote.channel.submit(Type.SPAWN, b"", [fd, theirs.detach()])
        try:
            await self._greet(shim, spawned)
            shim.pid = (await created).value()["pid"]
            if network is not None:
                await network
        except _NoShim:
            shim.unfollow()
            raise
        except BaseException as error:
            crashed = isinstance(error, Unavailable) and shim.channel.closed
            await asyncio.shield(asyncio.create_task(self._undo(shim, launch, network, crashed)))
            if crashed:
                raise EngineError(
                    f"the shim of {launch.id[:12]} died while it created the container"
                ) from error
            raise
        self._shims.add(shim)
        return shim

    async def _greet(self, shim: Shim, spawned: asyncio.Future[Message]) -> None:
        """Wait for the shim's hello; a zygote that dies meanwhile may have forked it or not."""
        try:
            message = await spawned
        except Unavailable:
            try:
                hello = await shim.greeted
            except Unavailable:
                raise _NoShim
            shim.follow_pid(hello.shim_pid)
            return
        shim.shim_pid = message.value()["pid"]
        shim.follow(message.descriptors.pop())
        # The hello is on its way, or an error instead of it; both come on the shim's own channel.

    async def _undo(
        self, shim: Shim, launch: Launch, network: asyncio.Task[None] | None, crashed: bool
    ) -> None:
        if network is not None and not network.done():
            network.cancel()
        if network is not None:
            with contextlib.suppress(BaseException):
                await network
        await shim.shutdown()
        ended = not shim.shim_pid or await shim.gone()
        if crashed or not ended:
            with contextlib.suppress(EngineError):
                await self._sweep(launch.id, launch.runtime, launch.bundle)
        shim.unfollow()

    async def adopt(self, id: str, socket_path: Path) -> Shim | None:
        """Connect with the living shim of container ``id``; None if nobody listens there.

        What happened while no daemon was connected is told as events as soon as the callbacks are
        set: the exit, and exit codes of execs. A shim that does not answer within half a minute is
        stuck for good; it is killed, which makes its container a lost one.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(str(socket_path))
        except OSError:
            sock.close()
            return None
        pid = _peer_pid(sock)
        shim = Shim(id, sock)
        shim.follow_pid(pid)
        try:
            hello = await asyncio.wait_for(shim.greeted, SHIM_DEADLINE)
        except Unavailable:
            shim.unfollow()
            return None
        except TimeoutError:
            log.error("the shim of %s does not answer; it is killed", id[:12])
            shim.terminate()
            await shim.gone()
            return None
        shim.recall(hello)
        self._shims.add(shim)
        return shim

    async def end_lost(
        self, id: str, *, runtime: str, bundle: str | Path, state_dir: str | Path
    ) -> ExitRecord:
        """End the container of a shim that died: kill what is left through its runtime driver, in a
        process of its own. Returns the record that the shim had time to write, else one with 137.
        """
        await self._sweep(id, runtime, str(bundle))
        path = Path(state_dir) / "exit.json"
        try:
            return _decode_exit(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            return ExitRecord(
                id=id,
                code=137,
                finished=time.time_ns(),
                error="the container's shim was killed, so the container was ended",
            )

    async def _sweep(self, id: str, runtime: str, bundle: str) -> None:
        order = protocol.encode({"id": id, "runtime": runtime, "bundle": bundle})
        await self._ask(Type.SWEEP, order)

    async def close(self, *, keep_shims: bool = True) -> None:
        """Let the zygote end. With ``keep_shims`` the shims go on, and containers with them."""
        self._closing = True
        for task in (self._restarting, self._orphanage):
            if task is not None:
                task.cancel()
        shims = list(self._shims)
        if not keep_shims:
            await asyncio.gather(*(shim.shutdown() for shim in shims if not shim.ended.is_set()))
            await asyncio.gather(*(shim.gone() for shim in shims))
        for shim in shims:
            shim.unfollow()
        if self._zygote is not None:
            self._zygote.channel.close()
            try:
                await asyncio.wait_for(self._zygote.ended.wait(), 5)
            except TimeoutError:
                self._zygote.kill()
        shimgroup.remove(self._shim_cgroup)

    async def _reap_orphans(self) -> None:
        """Reap processes of containers that became ours when their shim and zygote had died.

        Only what is a zombie of a foreign session on two looks in a row: whoever starts programs in
        this daemon has reaped its own by then.
        """
        seen: set[int] = set()
        while True:
            await asyncio.sleep(2)
            zombies = _foreign_zombies()
            for pid in zombies & seen:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            seen = zombies - seen


async def _with_descriptor(call: Callable[[int], Awaitable[None]] | None, fd: int) -> None:
    try:
        if call is not None:
            await call(fd)
    finally:
        os.close(fd)


def _plugins(kind: Kind, contexts: Mapping[str, DriverContext], catalog: Catalog) -> list[Plugin]:
    return [
        Plugin(name=name, target=found.target, distribution=found.package, context=context)
        for name, context in contexts.items()
        for found in [catalog.find(kind, name)]
    ]


def _installed() -> tuple[tuple[str, int], ...]:
    """What changes when a distribution is installed or removed: the times of the directories."""
    times = []
    for entry in sys.path:
        if entry.endswith(("site-packages", "dist-packages")):
            with contextlib.suppress(OSError):
                times.append((entry, os.stat(entry).st_mtime_ns))
    return tuple(times)


def _peer_pid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


def _foreign_zombies() -> set[int]:
    session = str(os.getsid(0))
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                children = file.read().split()
        except OSError:
            continue
        for pid in children:
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields: list[Any] = file.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            if fields[0] == b"Z" and fields[3].decode() != session:
                found.add(int(pid))
    return found
