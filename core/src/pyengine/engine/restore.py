"""The start of a daemon: from the records of an earlier one to a host that agrees with them.

Containers whose shim lives are adopted. Those that ended meanwhile get their exit code from the
exit record. What was being made when the earlier daemon died is undone, what was being removed is
removed. Then every driver sweeps what no record owns.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Mapping

import msgspec

from pyengine import timestamps
from pyengine.contracts.base import Kind
from pyengine.contracts.runtime import RuntimeDriver
from pyengine.contracts.storage import LayerRecord, StorageDriver
from pyengine.drivers import Drivers, Places
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.lifecycle import Lifecycle, note_end
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.containers.removal import Removals
from pyengine.engine.containers.sandbox import Sandboxes
from pyengine.engine.images.content import Content
from pyengine.engine.images.layers import Layers
from pyengine.engine.model import Status
from pyengine.engine.networks.service import Networks
from pyengine.engine.volumes import Volumes
from pyengine.errors import EngineError
from pyengine.supervisor.client import Shim, Supervisor
from pyengine.supervisor.records import ExitRecord

log = logging.getLogger(__name__)

#: How long the start of the daemon waits for those of containers that their policy wants to run.
STARTS_WITHIN = 10.0


class Restore:
    """Runs once: :meth:`adopt` before the API listens, :meth:`reconcile` before it changes any."""

    def __init__(
        self,
        places: Places,
        registry: Registry,
        supervisor: Supervisor,
        lifecycle: Lifecycle,
        removals: Removals,
        bundles: Bundles,
        sandboxes: Sandboxes,
        networks: Networks,
        volumes: Volumes,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        content: Content,
        layers: Callable[[], Mapping[str, Layers]],
        cgroup_parent: str,
    ) -> None:
        self._places = places
        self._registry = registry
        self._supervisor = supervisor
        self._lifecycle = lifecycle
        self._removals = removals
        self._bundles = bundles
        self._sandboxes = sandboxes
        self._networks = networks
        self._volumes = volumes
        self._drivers = drivers
        self._calls = calls
        self._content = content
        self._layers = layers
        self._cgroup_parent = cgroup_parent
        self._starts: list[asyncio.Task[None]] = []

    async def adopt(self) -> None:
        """Find the containers that live, and what became of those that do not."""
        began = time.monotonic()
        self._removing = self._removals.pending()
        #: those that ended while no daemon was there
        self._ended: list[tuple[Live, ExitRecord]] = []
        await asyncio.gather(*(self._adopt(live) for live in self._registry if _may_live(live)))
        log.debug("adopting took %d ms", (time.monotonic() - began) * 1000)

    async def reconcile(self) -> None:
        """Do the rest. A part that fails is logged and does not keep the others from being done."""
        for part in (
            self._runtimes,
            self._network,
            self._storage,
            self._volume,
            self._directories,
        ):
            began = time.monotonic()
            name = part.__name__.strip("_")
            try:
                for line in await part():
                    log.warning("reconciled: %s", line)
            except (EngineError, OSError) as error:
                log.error("while reconciling (%s): %s", name, error)
            log.debug("reconciling (%s) took %d ms", name, (time.monotonic() - began) * 1000)
        for live, record in self._ended:
            await self._lifecycle.ended_before(live, record)
        for removal in self._removing.values():
            self._removals.background.run(
                self._removals.finish(removal), f"removing container {removal.container.id[:12]}"
            )
        for live in self._registry:
            await self._after(live)
        # Who is answered from now on finds them running, as with dockerd.
        if self._starts:
            await asyncio.wait(self._starts, timeout=STARTS_WITHIN)

    async def _adopt(self, live: Live) -> None:
        record = live.record
        files = self._bundles.files(record)
        shim = await self._supervisor.adopt(live.id, files.socket)
        if record.phase == "starting" and (began := self._began(live, shim)):
            # The earlier daemon may have answered: only its last commit is missing.
            record.phase = ""
            record.state.status = Status.RUNNING
            record.state.started_at = timestamps.render(began)
            record.state.exit_code, record.state.error = 0, ""
            record.state.oom_killed = False
            await self._registry.save(live)
        if record.phase in ("starting", "creating"):
            # Nobody was told that it runs, so it does not.
            if shim is not None:
                await shim.shutdown()
                await shim.gone()
            return
        if shim is not None and record.state.running:
            record.state.pid = shim.pid
            paused = shim.hello is not None and shim.hello.paused
            record.state.status = Status.PAUSED if paused else Status.RUNNING
            self._lifecycle.adopted(live, shim)
            return
        if shim is not None:
            await shim.shutdown()
        elif record.state.running:
            end = self._exit_record(live)
            note_end(record.state, end)
            self._ended.append((live, end))

    def _began(self, live: Live, shim: Shim | None) -> int:
        """When the command of a start that was under way began to run, in ns; 0: it did not."""
        if shim is not None:
            return shim.hello.started if shim.hello is not None else 0
        end = self._written(live)
        earlier = timestamps.parse(live.record.state.finished_at)
        return end.started if end is not None and end.finished > earlier else 0

    def _written(self, live: Live) -> ExitRecord | None:
        path = self._bundles.files(live.record).exit
        try:
            return msgspec.json.decode(path.read_bytes(), type=ExitRecord)
        except (OSError, msgspec.DecodeError):
            return None

    def _exit_record(self, live: Live) -> ExitRecord:
        return self._written(live) or ExitRecord(
            id=live.id,
            code=137,
            finished=time.time_ns(),
            error="the container ended without an exit record (shim killed, or host restarted)",
        )

    async def _runtimes(self) -> list[str]:
        """Processes and cgroups of containers that no shim of ours holds."""
        held = {live.id for live in self._registry if live.shim is not None}
        done: list[str] = []
        for name in self._drivers.catalog.names(Kind.RUNTIME):
            try:
                driver = self._drivers.get(Kind.RUNTIME, name)
            except EngineError:
                continue
            assert isinstance(driver, RuntimeDriver)
            calls = self._calls(Kind.RUNTIME, name)
            done += await calls(driver.sweep, driver.context, self._cgroup_parent, held)
        return done

    async def _network(self) -> list[str]:
        running = []
        for live in self._registry:
            if live.record.state.running and live.shim is not None:
                running.append((live.record, live.record.published))
                await self._sandboxes.restore(live.record)
        done = await self._networks.restore(running)
        done += self._sandboxes.stray([record for record, _ in running], self._places.exec_root)
        for live in self._registry:
            if live.shim is None:
                await self._sandboxes.release(live.record)
        return done

    async def _storage(self) -> list[str]:
        done: list[str] = []
        await self._content.start()
        layers = self._layers()
        for name in {*layers, *(record.drivers["storage"] for record in self._registry.records())}:
            driver = self._drivers.get(Kind.STORAGE, name)
            assert isinstance(driver, StorageDriver)
            known = {}
            if name in layers:
                await layers[name].start()
                known = layers[name].known()
            for live in self._registry:
                record = live.record
                if record.drivers["storage"] == name and record.phase != "creating":
                    for layer in record.layers:
                        own = layer == record.layer
                        known[layer] = LayerRecord(
                            id=layer,
                            parent=None,
                            writable=True,
                            mounted=live.shim is not None,
                            options=(record.host_config.storage_opt or {}) if own else {},
                            volatile=own and record.host_config.auto_remove,
                            id_maps=record.id_maps,
                        )
            calls = self._calls(Kind.STORAGE, name)
            result = await calls.within(120, driver.reconcile, known)
            done += result.removed + result.restored + result.failed
            self._removals.background.run(calls.within(600, driver.sweep), "sweeping layers")
        collected = await self._content.collect()
        done += [f"content {blob.digest}" for blob in collected.removed]
        if collected.ingests:
            done.append(f"{collected.ingests} unfinished ingests")
        return done

    async def _volume(self) -> list[str]:
        users: dict[str, set[str]] = {}
        for live in self._registry:
            if live.shim is not None:
                for point in live.record.mounts:
                    if point.type == "volume":
                        users.setdefault(point.name, set()).add(live.id)
        done = list(await self._volumes.reconcile(users))
        for live in list(self._registry):
            if live.record.phase == "creating":
                await self._removals.remove(live, volumes=True)
        return done

    async def _directories(self) -> list[str]:
        """Directories and sockets of containers that are no more."""
        known = {live.id for live in self._registry} | set(self._removing)
        done = []
        for path in (self._places.data_root / "containers").glob("*"):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
                done.append(f"directory of container {path.name[:12]}")
        held = {live.id for live in self._registry if live.shim is not None}
        for path in (self._places.exec_root / "b").glob("*"):
            if path.name not in held:
                shutil.rmtree(path, ignore_errors=True)
                done.append(f"bundle of container {path.name[:12]}")
        short = {id[:12] for id in held}
        for path in (self._places.exec_root / "s").glob("*"):
            if len(path.name) == 12 and path.name not in short:
                path.unlink(missing_ok=True)
        return done

    async def _after(self, live: Live) -> None:
        """Bring a container that was between two states to rest, and apply its policy."""
        record = live.record
        if live.removed:
            return
        if record.phase == "still":
            # It stood still for a commit, which nobody will finish.
            if live.shim is not None and record.state.paused:
                await live.shim.resume()
                record.state.status = Status.RUNNING
            record.phase = ""
            await self._registry.save(live)
        if record.phase in ("starting", "ending"):
            if record.phase == "starting":
                # Whether its command ran nobody knows; whoever asked for it may have been told so.
                record.state.error = "the engine ended while it started this container"
                record.state.status = Status.EXITED
                record.state.exit_code = 137
                record.state.finished_at = timestamps.now()
            record.phase = ""
            await self._registry.save(live)
        if live.shim is not None or record.state.running:
            return
        if record.host_config.auto_remove and record.state.status is not Status.CREATED:
            await self._removals.remove(live, volumes=True)
            return
        policy = record.host_config.restart_policy.name
        wants = policy == "always" or (policy == "unless-stopped" and not record.manually_stopped)
        started = record.state.status not in (Status.CREATED, Status.RESTARTING)
        if record.state.status is Status.RESTARTING or (wants and started):
            record.state.status = Status.RESTARTING
            self._starts.append(self._lifecycle.schedule_restart(live))


def _may_live(live: Live) -> bool:
    """Nobody has to look for the shim of one that was at rest and did not run."""
    return live.record.state.running or bool(live.record.phase)
