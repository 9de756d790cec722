"""Unpacking layers in processes of their own: several at once, and none of it in the daemon.

A worker (``unpackworker.py``) is started when there is work and none is idle, takes one layer at a
time, and ends a while after the last. One that is killed, by a cancelled call or by anybody, leaves
nothing behind: what its driver had half made is cleared away here.

A worker needs 0.1 s to come to life. A layer that takes less than that is unpacked in the daemon if
none is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from pyengine import errors
from pyengine.archive.compression import DiffIdMismatch, LayerStream, sniff
from pyengine.contracts.storage import StorageCapability, StorageDriver, Usage
from pyengine.engine.calls import DriverCalls
from pyengine.engine.images import unpackworker
from pyengine.engine.images.unpackworker import Done, Failed, Job, Progress, Setup
from pyengine.errors import EngineError, Unavailable, Unsupported

__all__ = ["DiffIdMismatch", "Unpacked", "Unpackers"]

log = logging.getLogger(__name__)

#: Seconds that a worker without work waits for more.
IDLE = 5.0
#: Seconds for clearing away what a killed worker left.
CLEARING = 1800.0
#: Layers of so many bytes, compressed, are small. The bytes of a gzip stream become at most a
#: thousand times as many; those of others may become a hundred thousand.
SMALL = 32 * 1024
_SMALL_KINDS = ("", "gzip")
_MOST = 8
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Unpacked(NamedTuple):
    """``size``: bytes of the uncompressed tar. ``usage``: None for a layer that is only staged."""

    diff_id: str
    size: int
    usage: Usage | None


class Unpackers:
    """Workers for one storage driver; at most ``limit`` at once (default: one per processor)."""

    def __init__(self, driver: StorageDriver, calls: DriverCalls, limit: int | None = None) -> None:
        self._driver = driver
        self._calls = calls
        self._stages = StorageCapability.STAGED_LAYERS in driver.capabilities()
        self._limit = limit or min(len(os.sched_getaffinity(0)), _MOST)
        self._slots = asyncio.Semaphore(self._limit)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False

    async def stage(
        self,
        id: str,
        source: int,
        *,
        diff_id: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        """``StorageDriver.stage`` of the layer in descriptor ``source``, in a worker.

        The layer may be compressed (gzip, zstd, bzip2, xz). ``source`` is a file, which is read
        from its beginning whatever its offset, or a pipe or socket, which is read to its end; it
        stays the caller's, who may close it at once when the call is over.

        With ``diff_id``, a layer that has another digest when uncompressed is ``DiffIdMismatch``
        (an ``InvalidParameter``). ``progress`` is called on the event loop, at most some ten times
        a second, with the number of bytes taken from ``source``.

        Raises what the driver raises, ``OSError`` (ENOSPC) among it. After any exception, and
        when the call is cancelled, nothing of the layer is left, and no process works on it.
        """
        if not self._stages:
            raise Unsupported(
                f"storage driver {self._driver.name} cannot unpack layers ahead of their parents"
            )
        return await self._unpack(Job(id, diff_id=diff_id), source, progress)

    async def apply(
        self,
        id: str,
        parent: str | None,
        source: int,
        *,
        diff_id: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        """As :meth:`stage`, but the layer is complete afterwards (not yet durable: see
        ``StorageDriver.sync``). Works with every driver."""
        unpacked = await self._unpack(Job(id, parent, diff_id), source, progress)
        if self._stages:
            finishing = asyncio.ensure_future(self._calls(self._driver.finish, id, parent))
            try:
                unpacked = unpacked._replace(usage=await asyncio.shield(finishing))
            except asyncio.CancelledError:
                await self._shielded(self._take_back(finishing, id))
                raise
        return unpacked

    def warm(self) -> None:
        """There will be work soon: start a worker if none is there."""
        if not self._workers:
            worker = self._start()
            self._release(worker)

    async def close(self) -> None:
        """End all workers; calls under way fail with ``Unavailable``, and so do later ones."""
        self._closing = True
        for worker in list(self._workers):
            worker.kill()
        for worker in list(self._workers):
            await worker.gone.wait()
        await asyncio.gather(*self._background, return_exceptions=True)

    # -- one layer ---------------------------------------------------------------------------

    async def _unpack(
        self, job: Job, source: int, progress: Callable[[int], None] | None
    ) -> Unpacked:
        # A wedged driver says so here. Below there is no deadline: a pipe's pace is its writer's.
        await self._calls(self._driver.exists, job.id)
        source = os.dup(source)
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                # It may take as long as a client likes, so nobody shall wait for it.
                return await self._attempt(job, source, progress)
            if not self._idle and _is_small(source):
                return await self._here(job, source, progress)
            async with self._slots:
                try:
                    return await self._attempt(job, source, progress)
                except _Killed as error:
                    log.warning("layer %s is unpacked once more: %s", job.id, error)
                    return await self._attempt(job, source, progress)
        finally:
            os.close(source)

    async def _here(
        self, job: Job, source: int, progress: Callable[[int], None] | None
    ) -> Unpacked:
        """Unpack on a thread of this process."""

        def unpack() -> Unpacked:
            with contextlib.closing(LayerStream(source, job.diff_id)) as layer:
                done = unpackworker.unpack(self._driver, job, layer, self._stages)
            return Unpacked(done.diff_id, done.size, done.usage)

        task = asyncio.ensure_future(self._calls.within(CLEARING, unpack))
        try:
            unpacked = await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._shielded(self._take_back(task, job.id))
            raise
        if progress is not None:
            progress(os.fstat(source).st_size)
        return unpacked

    async def _attempt(
        self, job: Job, source: int, progress: Callable[[int], None] | None
    ) -> Unpacked:
        if self._closing:
            raise Unavailable("the engine is shutting down")
        worker = self._idle.pop() if self._idle else self._start()
        try:
            done = await worker.work(job, source, progress)
        except BaseException as error:
            worker.kill()
            await self._shielded(self._clear(worker, job.id))
            if isinstance(error, _Killed):
                if self._closing:
                    raise Unavailable("the engine is shutting down") from None
                raise _Killed(
                    "the process that unpacked a layer was killed",
                    worker.end,
                    "is memory short? see the kernel's log",
                ) from None
            raise
        self._release(worker)
        return Unpacked(done.diff_id, done.size, done.usage)

    async def _shielded(self, work: Coroutine[None, None, None]) -> None:
        """Wait for ``work``, which goes on to its end even if this is cancelled."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        await asyncio.shield(task)

    async def _take_back(self, making: asyncio.Future[Any], id: str) -> None:
        """Remove what is being made, when it is."""
        await asyncio.wait([making])
        await self._remove(id)

    async def _clear(self, worker: _Worker, id: str) -> None:
        await worker.gone.wait()
        await self._remove(id)

    async def _remove(self, id: str) -> None:
        try:
            await self._calls(self._driver.remove, id)
            # Deleting may take long: the next start has the time.
            if not self._closing:
                await self._calls.within(CLEARING, self._driver.sweep)
        except (EngineError, OSError) as error:
            # The next start's reconcile takes it away.
            log.warning("half-made layer %s could not be removed: %s", id, error)

    # -- workers -----------------------------------------------------------------------------

    def _start(self) -> _Worker:
        kind = type(self._driver)
        setup = Setup(
            path=[os.path.abspath(entry) for entry in sys.path if os.path.exists(entry)],
            driver=self._driver.name,
            target=f"{kind.__module__}:{kind.__qualname__}",
            context=self._driver.context,
            stages=self._stages,
        )
        worker = _Worker(setup, self._forget)
        self._workers.add(worker)
        return worker

    def _release(self, worker: _Worker) -> None:
        self._idle.append(worker)
        worker.rest()

    def _forget(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)


class _Killed(EngineError):
    """A worker ended without an answer."""


class _Worker:
    """One process, from its start to its end. ``gone`` is set when it has been reaped."""

    def __init__(self, setup: Setup, on_end: Callable[[_Worker], None]) -> None:
        self.gone = asyncio.Event()
        self.end = ""
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Done] | None = None
        self._progress: Callable[[int], None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._pid = _spawn(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self._pidfd = os.pidfd_open(self._pid)
        ours.setblocking(False)
        self._loop.add_reader(ours, self._readable)
        self._loop.add_reader(self._pidfd, self._died)
        self._send(unpackworker.encode(setup))

    async def work(self, job: Job, source: int, progress: Callable[[int], None] | None) -> Done:
        """Do one job; ``_Killed`` if the process ends over it."""
        if self._resting is not None:
            self._resting.cancel()
        self._answer = self._loop.create_future()
        self._progress = progress
        if self.gone.is_set():
            raise _Killed("a worker ended", self.end)
        try:
            self._send(unpackworker.encode(job), source)
            return await self._answer
        finally:
            self._answer = self._progress = None

    def rest(self) -> None:
        """End after a while without work."""
        self._resting = self._loop.call_later(IDLE, self._retire)

    def kill(self) -> None:
        if not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _retire(self) -> None:
        self._on_end(self)
        self.kill()

    def _send(self, message: bytes, descriptor: int = -1) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
        with contextlib.suppress(ConnectionError):  # its end is noticed where it is waited for
            self._sock.sendmsg([message], rights if descriptor >= 0 else [], socket.MSG_NOSIGNAL)

    def _readable(self) -> None:
        while True:
            try:
                data = self._sock.recv(unpackworker.MESSAGE)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._loop.remove_reader(self._sock)
                return
            report = unpackworker.decode_report(data)
            if isinstance(report, Progress):
                if self._progress is not None:
                    self._progress(report.consumed)
            elif self._answer is not None and not self._answer.done():
                if isinstance(report, Done):
                    self._answer.set_result(report)
                else:
                    self._answer.set_exception(_error(report))

    def _died(self) -> None:
        self._readable()
        self._loop.remove_reader(self._sock)
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            if found is not None:
                killed = found.si_code != os.CLD_EXITED
                self.end = f"signal {found.si_status}" if killed else f"exit {found.si_status}"
        os.close(self._pidfd)
        self._sock.close()
        self.gone.set()
        self._on_end(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Killed("a worker ended", self.end))


def _is_small(source: int) -> bool:
    return os.fstat(source).st_size <= SMALL and sniff(os.pread(source, 6, 0)) in _SMALL_KINDS


def _spawn(socket_fd: int) -> int:
    environment = dict(_ENVIRONMENT)
    if "PYENGINE_FAULTS" in os.environ:
        environment["PYENGINE_FAULTS"] = os.environ["PYENGINE_FAULTS"]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-X", "utf8", "-m", "pyengine.engine.images.unpackworker"],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, socket_fd, unpackworker.SOCKET),
        ],
        setsigmask=[],
        setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
    )


def _error(failed: Failed) -> Exception:
    """The error that a worker reported, as the class it was."""
    if failed.kind == OSError.__name__:
        return OSError(failed.errno, *failed.texts)
    if failed.kind == DiffIdMismatch.__name__:
        return DiffIdMismatch(*failed.texts)
    kind = getattr(errors, failed.kind, EngineError)
    error: EngineError = kind(*failed.texts)
    return error
