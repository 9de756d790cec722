"""Calling drivers: blocking methods, on threads, with a deadline.

Each driver instance has a small pool of its own, so one that hangs takes nobody with it. A call
that misses its deadline marks the driver *wedged*: its later calls fail at once, by name, until a
probe call has come back in time. Threads are daemons: the process may leave while one is stuck.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pyengine.contracts.base import Driver
from pyengine.engine.timings import Timings
from pyengine.engine.tracing import span
from pyengine.errors import DriverBroken, DriverWedged, EngineError
from pyengine.faults import failpoint

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DEADLINE = 30.0
THREADS = 8
PROBE_FIRST = 1.0
PROBE_MOST = 60.0


class DriverCalls:
    """The one way to call a driver. ``await calls(method, *args)`` runs it on the driver's pool.

    Raises what the method raises from the error tree and ``OSError``; ``DriverBroken`` for anything
    else; ``DriverWedged`` when the deadline passes or passed before.
    """

    def __init__(self, driver: Driver, threads: int = THREADS) -> None:
        self.driver = driver
        self.label = f"{driver.kind.value} driver {driver.name!r}"
        self.wedged_since: float = 0.0
        #: how long its methods take, by name
        self.timings = Timings()
        self._pool = _Pool(f"{driver.kind.value}.{driver.name}", threads)
        self._probing: asyncio.Task[None] | None = None

    async def __call__(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.within(DEADLINE, method, *args, **kwargs)

    async def within(
        self, deadline: float, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As a plain call, with a deadline in seconds of its own."""
        if self.wedged_since:
            raise self._wedged(method)
        failpoint(f"{self.driver.kind.value}.{getattr(method, '__name__', 'call')}")
        future = self._pool.submit(lambda: method(*args, **kwargs))
        began, failed = time.monotonic(), True
        try:
            with span(
                f"{self.driver.kind.value}.{getattr(method, '__name__', 'call')}",
                "driver",
                driver=self.driver.name,
            ):
                result = await asyncio.wait_for(asyncio.shield(future), deadline)
            failed = False
            return result
        except TimeoutError:
            if future.done() and not future.cancelled() and future.exception() is not None:
                raise  # the method itself raised TimeoutError
            self._mark_wedged()
            raise self._wedged(method, f"no answer within {deadline:g} s") from None
        except (EngineError, OSError):
            raise
        except Exception as error:
            log.exception("%s raised", self.label)
            raise DriverBroken(
                f"{self.label} failed in {getattr(method, '__name__', 'a call')}",
                f"{type(error).__name__}: {error}",
                "this is a defect of the driver: see the daemon's log",
            ) from error
        finally:
            name = getattr(method, "__name__", "call")
            self.timings[name].add(time.monotonic() - began, failed)

    def _wedged(self, method: Callable[..., Any], detail: str = "") -> DriverWedged:
        detail = detail or f"it stopped answering {time.monotonic() - self.wedged_since:.0f} s ago"
        return DriverWedged(
            f"{self.label} does not answer",
            f"{getattr(method, '__name__', 'call')}: {detail}",
            "other drivers are not affected; it is tried again by itself",
        )

    def _mark_wedged(self) -> None:
        if not self.wedged_since:
            self.wedged_since = time.monotonic()
            log.error("%s is wedged: a call missed its deadline", self.label)
            self._probing = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        delay = PROBE_FIRST
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, PROBE_MOST)
            with contextlib.suppress(Exception):
                # A thread of its own: the pool may be full of stuck calls.
                pool = _Pool(f"{self.driver.name}.probe", 1)
                probe = pool.submit(lambda: type(self.driver).probe(self.driver.context))
                answer = await asyncio.wait_for(asyncio.shield(probe), 5)
                if answer.available and self._pool.stuck() == 0:
                    log.warning("%s answers again", self.label)
                    self.wedged_since = 0.0
                    return


class _Pool:
    """Threads made as needed, at most ``most``; unlike concurrent.futures' they never hold up the
    interpreter's end, and a hand-over costs one lock."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Condition(threading.Lock())
        self._jobs: deque[tuple[Callable[[], Any], asyncio.AbstractEventLoop, Any]] = deque()
        self._threads = 0
        self._idle = 0
        self._busy = 0

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            self._jobs.append((job, loop, future))
            if self._idle >= len(self._jobs):
                self._lock.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(
                    target=self._work, name=f"{self._name}-{self._threads}", daemon=True
                ).start()
        return future

    def stuck(self) -> int:
        """How many jobs are being worked on."""
        return self._busy

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._jobs:
                    self._lock.wait()
                self._idle -= 1
                job, loop, future = self._jobs.popleft()
                self._busy += 1
            try:
                result, error = job(), None
            except BaseException as raised:
                result, error = None, raised
            with self._lock:
                self._busy -= 1
            # RuntimeError: the loop has closed meanwhile; nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the driver raised StopIteration"))
    else:
        future.set_exception(error)
        future.exception()
