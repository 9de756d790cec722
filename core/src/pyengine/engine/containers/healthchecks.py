"""Runs health checks: a command in the container now and then.

The command is an exec like any other, so it needs no thread and no process of the engine's. Each
container that has a check has one task here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from pyengine import durations, timestamps
from pyengine.engine.containers.execs import Execs
from pyengine.engine.containers.health import (
    NOTHING,
    STOP,
    command,
    judge,
    on_unhealthy,
)
from pyengine.engine.containers.lifecycle import attributes
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.events import Events
from pyengine.engine.frames import Payloads
from pyengine.engine.model import (
    ExecConfig,
    Health,
    HealthConfig,
    HealthResult,
    HealthStatus,
    Status,
)
from pyengine.engine.timings import HEALTH_CHECKS
from pyengine.errors import EngineError

log = logging.getLogger(__name__)

#: What holds where a configuration says 0, in seconds.
INTERVAL, TIMEOUT, START_INTERVAL = 30.0, 30.0, 5.0
#: So many bytes of a probe's output are kept.
MOST_OUTPUT = 4096
#: The exit code of a probe that did not end in time or could not be run.
NO_ANSWER = -1
#: How long the end of a probe's output is waited for when the probe has ended, in seconds: what it
#: left running may hold it open.
DRAIN = 0.2

#: Before an unhealthy container is started anew, in seconds; doubled each time that it did not
#: become healthy in between.
BACKOFF_FIRST, BACKOFF_MOST = 1.0, 300.0


class HealthChecks:
    """Watches the containers that run and have a check."""

    def __init__(
        self,
        registry: Registry,
        execs: Execs,
        events: Events,
        restart: Callable[[Live], Awaitable[None]],
        stop: Callable[[Live], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._execs = execs
        self._events = events
        self._restart = restart
        self._stop = stop
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._remedies: set[asyncio.Task[None]] = set()
        #: how often in a row each was started anew for being unhealthy
        self._tries: dict[str, int] = {}

    def begin(self, live: Live) -> None:
        """The container starts: before anybody is told so, its health is "starting"."""
        self.end(live)
        if command(live.record.config) is None:
            live.record.state.health = None
            return
        health = live.record.state.health or Health()
        health.status, health.failing_streak = HealthStatus.STARTING, 0
        live.record.state.health = health
        self.watch(live)

    def watch(self, live: Live) -> None:
        """Go on watching one that runs, as after a restart of the daemon."""
        if command(live.record.config) is not None:
            live.record.state.health = live.record.state.health or Health()
            self._watches[live.id] = asyncio.create_task(self._watch(live))

    def resume(self, live: Live) -> None:
        """The container goes on; how it is, its next answer tells."""
        if live.id not in self._watches:
            self.watch(live)

    def end(self, live: Live) -> None:
        """The container has ended or is paused, or is to be watched anew."""
        task = self._watches.pop(live.id, None)
        if task is not None:
            task.cancel()
            if live.record.state.health is not None:
                # As Docker has it: nobody answers any more. It is no event, and nothing is done.
                live.record.state.health.status = HealthStatus.UNHEALTHY

    def close(self) -> None:
        for task in (*self._watches.values(), *self._remedies):
            task.cancel()

    async def _watch(self, live: Live) -> None:
        config = live.record.config.healthcheck
        words = command(live.record.config)
        assert config is not None
        assert words is not None
        while True:
            await asyncio.sleep(_pause(live, config))
            if live.record.state.status is not Status.RUNNING:
                continue  # paused for a moment, or by a user before this daemon started
            began = time.time_ns()
            try:
                result = await self._probe(live, words, config, began)
            except EngineError as error:
                if live.record.state.status is not Status.RUNNING:
                    continue  # it ended meanwhile, which is not a matter of health
                result = _result(began, NO_ANSWER, error.message())
            HEALTH_CHECKS.failures += result.exit_code != 0
            self._enter(live, result, config, _age(live, began))

    async def _probe(
        self, live: Live, words: Sequence[str], config: HealthConfig, began: int
    ) -> HealthResult:
        timeout = config.timeout / 1e9 or TIMEOUT
        run = await self._execs.create(
            live.id, ExecConfig(cmd=[*words], attach_stdout=True, attach_stderr=True)
        )
        attachment = await self._execs.start(run)
        assert attachment is not None
        HEALTH_CHECKS.add((time.time_ns() - began) / 1e9)
        pidfd = -1
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self._execs.get(run).pid)
        output = bytearray()
        reading = asyncio.create_task(_read(attachment.sock, output))
        try:
            code = await asyncio.wait_for(self._execs.ended(run), timeout)
            await asyncio.wait((reading,), timeout=DRAIN)
            return _result(began, code, _shown(output))
        except TimeoutError:
            _end_group(pidfd, self._execs.get(run).pid)
            text = f"Health check exceeded timeout ({durations.render(int(timeout * 1e9))})"
            return _result(began, NO_ANSWER, f"{text}: {_shown(output)}" if output else text)
        finally:
            reading.cancel()
            attachment.close()
            if pidfd >= 0:
                # Sent to one that has ended it does nothing.
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)

    def _enter(self, live: Live, result: HealthResult, config: HealthConfig, age: float) -> None:
        health = live.record.state.health
        if health is None or live.removed:
            return
        if not judge(health, result, config, age):
            return
        self._registry.save_soon(live)
        self._events.emit(
            "container", f"health_status: {health.status}", live.id, attributes(live.record)
        )
        if health.status is HealthStatus.HEALTHY:
            self._tries.pop(live.id, None)
        elif health.status is HealthStatus.UNHEALTHY:
            remedy = asyncio.create_task(self._remedy(live))
            self._remedies.add(remedy)
            remedy.add_done_callback(self._remedies.discard)

    async def _remedy(self, live: Live) -> None:
        """Do to an unhealthy container what it asks for."""
        wanted = on_unhealthy(live.record)
        if wanted == NOTHING:
            return
        try:
            if wanted == STOP:
                log.warning("container %s is unhealthy and is stopped", live.id[:12])
                await self._stop(live)
                return
            tries = self._tries.get(live.id, 0)
            self._tries[live.id] = tries + 1
            began = live.record.state.started_at
            await asyncio.sleep(min(BACKOFF_FIRST * 2**tries, BACKOFF_MOST))
            health = live.record.state.health
            again = live.record.state.started_at != began
            if again or health is None or health.status is not HealthStatus.UNHEALTHY:
                return
            log.warning("container %s is unhealthy and is started anew", live.id[:12])
            count = live.record.restart_count
            await self._restart(live)
            live.record.restart_count = count + 1
            self._registry.save_soon(live)
        except EngineError as error:
            log.warning("container %s is unhealthy: %s", live.id[:12], error)


def _end_group(pidfd: int, pid: int) -> None:
    """End a probe and what its shell has started: an exec leads a process group of its own."""
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, 0)  # the number is still that process's
        os.killpg(pid, signal.SIGKILL)


def _pause(live: Live, config: HealthConfig) -> float:
    """Seconds until the next probe: they are closer to each other in the start period."""
    health = live.record.state.health
    starting = health is not None and health.status is HealthStatus.STARTING
    if starting and _age(live, time.time_ns()) < config.start_period / 1e9:
        return config.start_interval / 1e9 or START_INTERVAL
    return config.interval / 1e9 or INTERVAL


def _age(live: Live, at: int) -> float:
    return (at - timestamps.parse(live.record.state.started_at)) / 1e9


def _result(began: int, code: int, output: str) -> HealthResult:
    return HealthResult(
        start=timestamps.render(began),
        end=timestamps.render(time.time_ns()),
        exit_code=code,
        output=output,
    )


async def _read(sock: object, output: bytearray) -> None:
    """Gather the payload; what is too much is read, so that its writer can go on, and dropped."""
    loop = asyncio.get_running_loop()
    payloads = Payloads()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(sock, 65536):  # type: ignore[arg-type]
            room = MOST_OUTPUT + 1 - len(output)
            output += payloads.feed(data)[: max(room, 0)]


def _shown(output: bytearray) -> str:
    text = bytes(output[:MOST_OUTPUT]).decode(errors="replace")
    return f"{text}..." if len(output) > MOST_OUTPUT else text
