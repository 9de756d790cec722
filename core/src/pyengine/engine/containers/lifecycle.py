"""Starting, stopping and ending: what turns a record into a process and back.

Order of a start: lease addresses and ports, write the intent, mount, launch the shim (which makes
the namespaces while the network is wired), attach who waits, run, write the state. Whatever fails
is undone from where it stands, and a daemon killed anywhere leaves a ``phase`` that the next one
undoes. Order of an end: the shim has drained the log and written the exit record; state, waiters
and event come first, then network, cgroup and mounts are put away.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal as signals
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import msgspec

from pyengine import timestamps
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.links import linked
from pyengine.engine.containers.oom import OutOfMemory
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.containers.removal import Removals
from pyengine.engine.containers.sandbox import Sandboxes
from pyengine.engine.events import Events
from pyengine.engine.model import Container, Exec, ExecConfig, State, Status
from pyengine.engine.tracing import past
from pyengine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NotModified,
    StartError,
    Unavailable,
)
from pyengine.hooks.manager import Hooks
from pyengine.supervisor.client import Shim, Supervisor
from pyengine.supervisor.records import ExitRecord, Step

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10

#: How long the removal of a network waits for a container that ended to be off it, in seconds.
SETTLES_WITHIN = 5.0
#: Restart policies: first delay, longest delay, and how long a run must last to start over
#: (seconds; Docker's figures).
BACKOFF_FIRST, BACKOFF_MOST, BACKOFF_RESET = 0.1, 60.0, 10.0


class Lifecycle:
    """Acts on one container at a time, under its lock."""

    def __init__(
        self,
        registry: Registry,
        supervisor: Supervisor,
        bundles: Bundles,
        sandboxes: Sandboxes,
        removals: Removals,
        events: Events,
        hooks: Hooks,
        out_of_memory: OutOfMemory,
    ) -> None:
        self._registry = registry
        self._out_of_memory = out_of_memory
        self._supervisor = supervisor
        self._bundles = bundles
        self._sandboxes = sandboxes
        self._events = events
        self._hooks = hooks
        self._removals = removals
        self._background = removals.background
        #: of containers that name none, in seconds
        self.stop_timeout = STOP_TIMEOUT
        self.closing = False
        #: who wants to know that a container runs, before anybody else is told, and that it ended
        self.running: Callable[[Live], None] = _nobody
        self.ended: Callable[[Live], None] = _nobody
        #: ... that a user paused it, and that it goes on
        self.paused: Callable[[Live], None] = _nobody
        self.resumed: Callable[[Live], None] = _nobody

    # -- verbs ---------------------------------------------------------------------------------

    async def start(self, live: Live) -> None:
        """Run the container's command. ``NotModified`` if it runs; ``StartError`` and others as
        they come, after everything is undone."""
        async with live.lock:
            status = live.record.state.status
            if status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if status is Status.RUNNING:
                raise NotModified(f"container {live.id} is running already")
            if status in (Status.REMOVING, Status.DEAD) or live.removed:
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(live)
            live.record.manually_stopped = False
            live.record.restart_count = 0
            live.backoff = 0.0
            await self._start(live)

    async def stop(self, live: Live, timeout: int | None = None, signal: str = "") -> None:
        """Ask the command to end, then make it. ``NotModified`` if it does not run.

        ``timeout``: seconds until SIGKILL, -1 to wait for ever, None for the container's own.
        """
        record = live.record
        if not record.state.running:
            if record.state.status is Status.RESTARTING:
                await self._stay_ended(live)
                self._emit(live, "stop")
                return
            raise NotModified(f"container {live.id} is not running")
        number = signal_number(signal or record.config.stop_signal or "SIGTERM")
        if timeout is None:
            timeout = record.config.stop_timeout
        if timeout is None:
            timeout = self.stop_timeout
        record.manually_stopped = True
        await self._signal(live, number)
        if not await self._ended(live, None if timeout < 0 else float(timeout)):
            await self._signal(live, signals.SIGKILL)
            if not await self._ended(live, 10.0):
                await self._kill_all(live)
                await self._ended(live, None)
        self._emit(live, "stop")
        await self.settled(live)

    async def restart(self, live: Live, timeout: int | None = None, signal: str = "") -> None:
        if live.record.state.running:
            live.kept = True
            try:
                await self.stop(live, timeout, signal)
            finally:
                live.kept = False
        await self.start(live)
        self._emit(live, "restart")

    async def kill(self, live: Live, signal: str = "") -> None:
        """Send a signal; for SIGKILL, wait until the container has ended."""
        record = live.record
        number = signal_number(signal or "SIGKILL")
        own = record.config.stop_signal
        # As Docker has it: without a stop signal of its own any signal is meant to end it.
        final = not own or number in (signals.SIGKILL, signal_number(own))
        if record.state.status is Status.RESTARTING:
            if final:
                await self._stay_ended(live)
            return
        if not record.state.running:
            raise Conflict(
                f"cannot kill container: {record.name}: container {live.id} is not running"
            )
        if final:
            record.manually_stopped = True
        await self._signal(live, number)
        if number == signals.SIGKILL:
            if not await self._ended(live, 10.0):
                await self._kill_all(live)
                await self._ended(live, None)
            await self.settled(live)

    async def pause(self, live: Live) -> None:
        async with live.lock:
            await self._pause(live, asked=True)

    async def unpause(self, live: Live) -> None:
        async with live.lock:
            await self._unpause(live)

    @asynccontextmanager
    async def still(self, live: Live) -> AsyncIterator[None]:
        """A container that runs is paused within the block, whose caller has its lock. The next
        daemon lets it go on if this one dies meanwhile."""
        if live.shim is None or live.record.state.status is not Status.RUNNING:
            yield
            return
        live.record.phase = "still"
        try:
            await self._registry.save(live)
            try:
                await self._pause(live)
            except (Conflict, Unavailable):
                # It has ended by itself meanwhile, and stands still for good.
                if not live.exited.is_set():
                    raise
            yield
        finally:
            live.record.phase = ""
            if live.shim is not None and live.record.state.paused:
                await asyncio.shield(self._unpause(live))

    async def _pause(self, live: Live, *, asked: bool = False) -> None:
        shim = live.running()
        if live.record.state.paused:
            raise Conflict(f"Container {live.id} is already paused")
        await shim.pause()
        live.record.state.status = Status.PAUSED
        if asked:
            self.paused(live)
        await self._registry.save(live)
        self._emit(live, "pause")
        self._hooks.runtime_state_changed(live.record, "running", "paused")

    async def _unpause(self, live: Live) -> None:
        if not live.record.state.paused:
            raise Conflict(f"Container {live.id} is not paused")
        shim = live.running()
        await shim.resume()
        await self._resumed(live)

    async def _resumed(self, live: Live) -> None:
        if not live.record.state.paused:
            return  # what woke it has ended it already
        live.record.state.status = Status.RUNNING
        self.resumed(live)
        # Before anything that may let its end be told first.
        self._emit(live, "unpause")
        self._hooks.runtime_state_changed(live.record, "paused", "running")
        await self._registry.save(live)

    async def end(self, live: Live) -> None:
        """SIGKILL, whatever its state; returns when it has ended and its network is put away."""
        self._cancel_restart(live)
        live.record.manually_stopped = True
        if live.record.state.running:
            await self._signal(live, signals.SIGKILL)
            if not await self._ended(live, 10.0):
                await self._kill_all(live)
                await self._ended(live, None)
        await self.settled(live)

    async def settled(self, live: Live) -> None:
        """Wait until nothing reaches a container that ended any more, and its ports are free."""
        if live.cleanup is not None and live.cleanup is not asyncio.current_task():
            await asyncio.shield(live.cleanup)

    async def left(self, ids: Iterable[str]) -> None:
        """Wait until those that have ended are off their networks."""
        for live in [self._registry.live(id) for id in ids]:
            if live.exited.is_set():
                await self.settled(live)
                if live.settling is not None:
                    await asyncio.wait({live.settling}, timeout=SETTLES_WITHIN)

    # -- adoption ------------------------------------------------------------------------------

    def adopted(self, live: Live, shim: Shim) -> None:
        """A shim from an earlier daemon was found: its container is ours again."""
        live.shim = shim
        live.exited.clear()
        for known in shim.hello.execs if shim.hello is not None else ():
            config = msgspec.convert(known.about, ExecConfig)
            live.execs[known.exec_id] = Exec(
                id=known.exec_id, container_id=live.id, config=config, pid=known.pid, running=True
            )
        self._listen(live, shim)

    async def ended_before(self, live: Live, record: ExitRecord) -> None:
        """The container ended while no daemon was there."""
        live.exited.clear()
        self._exited(live, record)
        await self.settled(live)

    def schedule_restart(self, live: Live) -> asyncio.Task[None]:
        """For the start of the daemon: a policy says that this one shall run."""
        live.restart = asyncio.create_task(self._restart_later(live, 0.0))
        return live.restart

    # -- a start -------------------------------------------------------------------------------

    async def _start(self, live: Live) -> None:
        began = time.monotonic_ns()
        await self.settled(live)
        if live.settling is not None:
            await asyncio.shield(live.settling)
            live.settling = None
        record = live.record
        live.steps = []
        record.phase = "starting"
        record.sandbox_id = record.sandbox_id or record.id
        shim: Shim | None = None
        try:
            await self._lease(record)
            self._step(live, "lease", began)
            mark = time.monotonic_ns()
            await self._registry.save(live)
            self._step(live, "commit intent", mark)
            mark = time.monotonic_ns()
            launch = await self._bundles.prepare(live, linked(record, self._registry.record))
            self._step(live, "mount and spec", mark)
            mark = time.monotonic_ns()
            shim = await self._supervisor.launch(launch, on_namespaces=self._wiring(live))
            self._step(live, "launch", mark)
            live.exited.clear()
            live.shim = shim
            self._listen(live, shim)
            for pending in live.pending:
                await pending.connect(shim)
            mark = time.monotonic_ns()
            started = await shim.start()
            live.steps += started.steps
            for step in started.steps:
                past(
                    step.name, "runtime", step.start, step.start + step.duration,
                    process=step.process,
                )  # fmt: skip
            self._bundles.launched(record.id)
            self._step(live, "start", mark)
        except BaseException as error:
            await self._failed(live, shim, error)
            raise
        live.pending = []
        state = record.state
        record.phase = ""
        before, state.status = state.status, Status.RUNNING
        state.pid = shim.pid
        state.exit_code = 0
        state.error = ""
        state.oom_killed = False
        state.started_at = timestamps.render(started.at)
        self.running(live)
        self._registry.save_soon(live)
        self._emit(live, "start")
        self._hooks.runtime_state_changed(record, before.value, "running")
        self._step(live, "whole start", began)
        early, live.early_exit = live.early_exit, None
        if early is not None:
            self._exited(live, early)

    async def _lease(self, record: Container) -> None:
        try:
            await self._sandboxes.lease(record)
        except Conflict:
            # What is wanted may belong to a container that is just being put away.
            await self._background.drain(5.0)
            await self._sandboxes.lease(record)

    def _wiring(self, live: Live) -> Callable[[int], Awaitable[None]]:
        async def wire(netns: int) -> None:
            mark = time.monotonic_ns()
            if self._has_sandbox(live.record):
                await self._sandboxes.join(live.record, netns)
                self._bundles.update_links(live.record)
            self._step(live, "network", mark)

        return wire

    def _has_sandbox(self, record: Container) -> bool:
        mode = record.host_config.network_mode
        return mode != "host" and not mode.startswith("container:")

    async def _failed(self, live: Live, shim: Shim | None, error: BaseException) -> None:
        record = live.record
        live.shim = None
        live.early_exit = None
        live.exited.set()
        for pending in live.pending:
            pending.close()
        live.pending = []
        if shim is not None:
            await _quietly(self._shut_down(record, shim))
        await _quietly(self._sandboxes.close(record))
        await _quietly(self._leave(record))
        await _quietly(self._sandboxes.release(record))
        await _quietly(self._bundles.release(record))
        record.phase = ""
        record.state.error = error.message() if isinstance(error, EngineError) else str(error)
        record.state.exit_code = error.exit_code if isinstance(error, StartError) else 128
        if record.state.status is not Status.CREATED:
            record.state.status = Status.EXITED
        await self._registry.save(live)
        # Who waits for the next exit goes on waiting, as with dockerd: there was none.
        if record.host_config.auto_remove:
            await self._removals.remove(live, volumes=True)
        log.info("container %s did not start: %s", live.id[:12], error)

    # -- an end --------------------------------------------------------------------------------

    def _listen(self, live: Live, shim: Shim) -> None:
        shim.on_exit = lambda record: self._exited(live, record)
        shim.on_lost = lambda: self._lost(live)
        shim.on_oom = lambda count: self._ran_out_of_memory(live, count)
        shim.on_exec_exit = lambda exec_id, code: self._exec_exited(live, exec_id, code)

    def _ran_out_of_memory(self, live: Live, count: int) -> None:
        """Some processes of it were killed; the first one may well go on."""
        live.record.state.oom_killed = True
        self._registry.save_soon(live)
        for told in self._out_of_memory.killed(live, self._bundles.cgroup(live.record), count):
            self._emit(live, "oom", told)

    def _exited(self, live: Live, end: ExitRecord) -> None:
        if live.exited.is_set():
            return
        record, state = live.record, live.record.state
        if record.phase == "starting":
            # It ended before we heard that it had begun: first things first.
            live.early_exit = end
            return
        record.phase = "ending"
        self.ended(live)
        note_end(state, end)
        # Decided before anybody hears of the end: who does looks at the state then.
        again = self._shall_restart(live)
        if again:
            state.status = Status.RESTARTING
            record.restart_count += 1
        if end.log_dropped:
            log.warning("container %s: %d bytes of log were lost", live.id[:12], end.log_dropped)
        for exec_record in end.execs:
            self._exec_exited(live, exec_record.exec_id, exec_record.code or 0)
        live.cleanup = asyncio.create_task(self._after_exit(live, again))
        live.exited.set()
        self._registry.save_soon(live)
        attributes = {"exitCode": str(end.code)}
        if end.finished and end.started:
            attributes["execDuration"] = str((end.finished - end.started) // 10**9)
        live.wake("next-exit", end.code)
        live.wake("not-running", end.code)
        self._emit(live, "die", attributes)
        self._hooks.runtime_state_changed(record, "running", "exited")

    def _lost(self, live: Live) -> None:
        """The shim is gone without an exit record: end what is left of the container."""
        if live.exited.is_set() or live.record.phase == "starting":
            return
        log.error("container %s: its shim was killed", live.id[:12])

        async def finish() -> None:
            end = await self._end_lost(live.record)
            self._exited(live, end)

        self._background.run(finish(), f"container {live.id[:12]}")

    async def _shut_down(self, record: Container, shim: Shim) -> None:
        if not await shim.shutdown():
            await self._end_lost(record)

    async def _end_lost(self, record: Container) -> ExitRecord:
        """End what a shim that died left of its container."""
        files = self._bundles.files(record)
        return await self._supervisor.end_lost(
            record.id,
            runtime=record.drivers["runtime"],
            bundle=files.bundle,
            state_dir=files.directory,
        )

    async def _after_exit(self, live: Live, again: bool) -> None:
        """What an exit leaves behind: the network at once, the rest in ``live.settling``.
        ``again``: its policy wants it to run, unless somebody has stopped it meanwhile."""
        record = live.record
        for run in list(live.execs.values()):
            if not run.running and run.exit_code is None:
                del live.execs[run.id]  # made for a run that is over: the next one has none of it
            run.running = False
        shim, live.shim = live.shim, None
        await _quietly(self._sandboxes.close(record))
        what = f"container {live.id[:12]}"
        live.settling = self._background.run(self._settle(live, shim), what)
        record.phase = ""
        again = again and record.state.status is Status.RESTARTING
        if record.host_config.auto_remove and not again and not live.kept:
            await self._removals.remove(live, volumes=True)
            return
        self._registry.save_soon(live)
        if again:
            live.restart = asyncio.create_task(self._restart_later(live, live.backoff))

    async def _settle(self, live: Live, shim: Shim | None) -> None:
        """The slow part: a link goes down, unmounting may write back a whole filesystem."""
        record = live.record
        if shim is not None:
            await _quietly(self._shut_down(record, shim))
        await _quietly(self._leave(record))
        await self._bundles.release(record)
        self._registry.save_soon(live)

    async def _leave(self, record: Container) -> None:
        if self._has_sandbox(record):
            await self._sandboxes.leave(record)

    # -- restart policies ----------------------------------------------------------------------

    def _shall_restart(self, live: Live, *, started: bool = True) -> bool:
        """Decide by the policy, and set ``live.backoff`` to the delay: it grows with each end that
        comes soon, and with each start that fails (``started`` False)."""
        record = live.record
        policy = record.host_config.restart_policy
        if record.manually_stopped or self.closing or live.removed:
            return False
        if policy.name == "on-failure":
            if record.state.exit_code == 0:
                return False
            if policy.maximum_retry_count and record.restart_count >= policy.maximum_retry_count:
                return False
        elif policy.name not in ("always", "unless-stopped"):
            return False
        ran = timestamps.parse(record.state.finished_at) - timestamps.parse(record.state.started_at)
        if (started and ran >= BACKOFF_RESET * 1e9) or not live.backoff:
            live.backoff = BACKOFF_FIRST
        else:
            live.backoff = min(live.backoff * 2, BACKOFF_MOST)
        return True

    async def _restart_later(self, live: Live, delay: float) -> None:
        """Start again after ``delay``; a start that fails counts as a failure and is retried."""
        await asyncio.sleep(delay)
        record = live.record
        async with live.lock:
            if live.removed or self.closing or record.state.status is not Status.RESTARTING:
                return
            live.restart = None
            try:
                await self._start(live)
            except EngineError as error:
                log.warning("container %s: restart failed: %s", live.id[:12], error)
                if self._shall_restart(live, started=False):
                    record.state.status = Status.RESTARTING
                    record.restart_count += 1
                    self._registry.save_soon(live)
                    live.restart = asyncio.create_task(self._restart_later(live, live.backoff))
                else:
                    live.wake("not-running", record.state.exit_code, record.state.error)

    async def _stay_ended(self, live: Live) -> None:
        """One that waits for its next start is stopped for good."""
        self._cancel_restart(live)
        live.record.manually_stopped = True
        live.wake("not-running", live.record.state.exit_code)
        await self._registry.save(live)

    def _cancel_restart(self, live: Live) -> None:
        if live.restart is not None:
            live.restart.cancel()
            live.restart = None
        if live.record.state.status is Status.RESTARTING:
            live.record.state.status = Status.EXITED

    # -- signals and small things --------------------------------------------------------------

    async def _signal(self, live: Live, number: int) -> None:
        shim, state = live.shim, live.record.state
        if shim is None:
            return
        resumed = False
        try:
            await shim.kill(number)
            if state.paused:
                # what is frozen neither dies nor hears of anything
                await shim.resume()
                resumed = number != signals.SIGKILL
        except (Conflict, Unavailable):
            pass  # it has ended by itself meanwhile, or its shim has: we shall hear of it
        self._emit(live, "kill", {"signal": str(int(number))})
        if resumed and state.paused:
            await self._resumed(live)

    async def _kill_all(self, live: Live) -> None:
        if live.shim is not None:
            await _quietly(live.shim.kill(signals.SIGKILL, all=True))

    async def _ended(self, live: Live, timeout: float | None) -> bool:
        try:
            await asyncio.wait_for(live.exited.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _exec_exited(self, live: Live, exec_id: str, code: int) -> None:
        run = live.execs.get(exec_id)
        if run is not None and run.exit_code is None:
            run.running = False
            run.exit_code = code
            waiting = live.exec_ends.pop(exec_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(code)
            self._emit(live, "exec_die", {"execID": exec_id, "exitCode": str(code)})

    def _emit(self, live: Live, action: str, extra: dict[str, str] | None = None) -> None:
        self._events.emit("container", action, live.id, attributes(live.record) | (extra or {}))

    def _step(self, live: Live, name: str, began: int) -> None:
        live.steps.append(Step(name, began, time.monotonic_ns() - began, "daemon"))


def _nobody(live: Live) -> None:
    """Is told."""


def note_end(state: State, end: ExitRecord) -> None:
    """The process has ended, as its exit record has it."""
    state.status = Status.EXITED
    state.pid = 0
    state.exit_code = end.code
    state.error = end.error
    state.oom_killed = end.oom_killed
    state.finished_at = timestamps.render(end.finished)


def attributes(record: Container) -> dict[str, str]:
    """What an event says of a container: its labels, image and name."""
    return {**(record.config.labels or {}), "image": record.config.image, "name": record.name}


def signal_number(signal: str) -> int:
    """``SIGTERM``, ``TERM``, ``term``, ``15``, ``RTMIN+3``: a number, or ``InvalidParameter``."""
    text = signal.strip().upper()
    if text == "0":
        raise InvalidParameter(f"invalid signal: {signal}")
    if re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        if 0 < int(text) <= signals.SIGRTMAX:
            return int(text)
        raise InvalidParameter(f"the linux daemon does not support signal {signal}")
    name = text.removeprefix("SIG")
    if name.startswith("RTMIN+") and name[6:].isdigit():
        return int(signals.SIGRTMIN) + int(name[6:])
    if name.startswith("RTMAX-") and name[6:].isdigit():
        return int(signals.SIGRTMAX) - int(name[6:])
    try:
        return int(signals.Signals[f"SIG{name}"])
    except KeyError:
        raise InvalidParameter(f"invalid signal: {signal}") from None


async def _quietly(work: Awaitable[object]) -> None:
    """For undoing: one step's failure must not keep the next from being done."""
    try:
        await work
    except (EngineError, OSError) as error:
        log.warning("while putting a container away: %s", error)
