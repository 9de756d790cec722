"""Further processes in running containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.lifecycle import attributes
from pyengine.engine.containers.links import linked
from pyengine.engine.containers.registry import Live
from pyengine.engine.containers.service import Containers
from pyengine.engine.events import Events
from pyengine.engine.model import Exec, ExecConfig
from pyengine.engine.names import new_id
from pyengine.errors import Conflict, InvalidParameter, NotFound, StartError
from pyengine.hooks.manager import Hooks
from pyengine.oci import users
from pyengine.oci.spec import process_for_exec

if TYPE_CHECKING:
    from pyengine.supervisor.client import Attachment

#: An exec that has ended can be inspected this long, in seconds (Docker keeps them five minutes).
KEEP = 300.0

#: The exit code of an exec that came to nothing before its command was looked for.
NOT_STARTED = 126


class Execs:
    """The execs service. Execs live in the daemon's memory; their exit codes in the shim too."""

    def __init__(
        self, containers: Containers, bundles: Bundles, events: Events, hooks: Hooks
    ) -> None:
        self._containers = containers
        self._bundles = bundles
        self._events = events
        self._hooks = hooks
        #: Which container has an exec; a removed one takes its execs along.
        self._owners: WeakValueDictionary[str, Live] = WeakValueDictionary()

    def restore(self, live: Live) -> None:
        """At start: the execs of an adopted container are known, those that ended meanwhile too."""
        for run in live.execs.values():
            self._owners[run.id] = live
            asyncio.get_running_loop().call_later(KEEP, self._forget, run.id)

    async def create(self, ref: str, config: ExecConfig) -> str:
        """The id of an exec to be started. ``Conflict`` unless the container runs."""
        live = self._containers.live(ref)
        self._check_running(live, ref)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        run = Exec(id=new_id(), container_id=live.id, config=config)
        self._owners[run.id] = live
        live.execs[run.id] = run
        self._events.emit(
            "container",
            f"exec_create: {' '.join(config.cmd)}",
            live.id,
            attributes(live.record) | {"execID": run.id},
        )
        return run.id

    def get(self, exec_id: str) -> Exec:
        return self._find(exec_id)[0]

    async def start(
        self,
        exec_id: str,
        *,
        detach: bool = False,
        tty: bool | None = None,
        console_size: Sequence[int] | None = None,
    ) -> Attachment | None:
        """Run it: the client's streams, or None when detached.

        A command that cannot be run raises ``StartError`` and leaves its exit code, as a shell
        would; whatever else keeps it from being run leaves ``NOT_STARTED``.
        """
        run, live = self._find(exec_id)
        if run.running or run.exit_code is not None:
            raise Conflict(f"exec {exec_id} has already run")
        self._check_running(live, live.id)
        shim = live.shim
        assert shim is not None
        config = run.config
        height, width = (console_size or config.console_size or [0, 0])[:2]
        run.running = True
        self._events.emit(
            "container",
            f"exec_start: {' '.join(config.cmd or [])}",
            live.id,
            attributes(live.record) | {"execID": run.id},
        )
        try:
            process = self._process(live, config, console_size)
            self._hooks.runtime_exec(live.record, process)
            self._hooks.security_exec(live.record, process, config.privileged)
            run.pid, attachment = await shim.exec(
                run.id,
                process,
                terminal=config.tty,
                stdin=config.attach_stdin and not detach,
                stdout=config.attach_stdout or config.tty,
                stderr=config.attach_stderr,
                attach=not detach,
                console_size=(width, height),
                about=_about(config),
            )
        except BaseException as error:
            run.running = False
            run.exit_code = error.exit_code if isinstance(error, StartError) else NOT_STARTED
            raise
        finally:
            asyncio.get_running_loop().call_later(KEEP, self._forget, run.id)
        return attachment

    def ended(self, exec_id: str) -> Awaitable[int]:
        """The exit code, once there is one."""
        run, live = self._find(exec_id)
        end = live.exec_ends.setdefault(exec_id, asyncio.get_running_loop().create_future())
        if run.exit_code is not None and not end.done():
            end.set_result(run.exit_code)
        return end

    async def resize(self, exec_id: str, width: int, height: int) -> None:
        run, live = self._find(exec_id)
        if live.shim is None or not run.running:
            raise Conflict(f"exec {exec_id} is not running")
        await live.shim.resize(width, height, run.id)

    def _process(
        self, live: Live, config: ExecConfig, console_size: Sequence[int] | None
    ) -> dict[str, Any]:
        record = live.record
        process = self._bundles.process(live)
        identity = None
        if config.user or record.host_config.group_add:
            root = os.open(f"/proc/{record.state.pid}/root", os.O_PATH | os.O_CLOEXEC)
            try:
                identity = users.resolve(
                    root, config.user or record.config.user, record.host_config.group_add or ()
                )
            finally:
                os.close(root)
        return process_for_exec(
            process,
            record,
            args=config.cmd or [],
            env=config.env or [],
            working_dir=config.working_dir,
            tty=config.tty,
            privileged=config.privileged,
            user=identity,
            console_size=console_size or config.console_size or [],
            links=linked(record, self._containers.get).environment,
        )

    def _check_running(self, live: Live, ref: str) -> None:
        live.running()
        if live.record.state.paused:
            raise Conflict(f"Container {ref} is paused, unpause the container before exec")

    def _find(self, exec_id: str) -> tuple[Exec, Live]:
        live = self._owners.get(exec_id)
        if live is None:
            matches = [id for id in list(self._owners) if exec_id and id.startswith(exec_id)]
            if len(matches) == 1:
                exec_id = matches[0]
                live = self._owners.get(exec_id)
        run = live.execs.get(exec_id) if live is not None and not live.removed else None
        if live is None or run is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return run, live

    def _forget(self, exec_id: str) -> None:
        live = self._owners.get(exec_id)
        if live is None or exec_id not in live.execs:
            return
        if live.execs[exec_id].running:
            asyncio.get_running_loop().call_later(KEEP, self._forget, exec_id)
        else:
            del self._owners[exec_id]
            del live.execs[exec_id]


def _about(config: ExecConfig) -> dict[str, Any]:
    """The configuration for the next daemon, without the environment: that may hold secrets."""
    about: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(config, env=None))
    return about
