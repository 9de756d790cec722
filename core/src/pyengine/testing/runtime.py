"""The conformance kit of runtime drivers.

In the test suite of a driver::

    class TestMyDriver(RuntimeDriverSuite):
        def factory(self, context):
            return MyDriver(context)

        opt_out = {"test_hooks": "this runtime leaves hooks to its caller"}

Each test has an image of busybox, a bundle, a cgroup parent and a run directory of its own, and
its body runs in a process like a shim. Afterwards no process, cgroup, mount or record may be left.
An opt-out needs a reason, and is reported when the test would pass. Needs root and the package
busybox-static.
"""

from __future__ import annotations

import collections
import functools
import os
import select
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest

from pyengine import faults
from pyengine.contracts.base import DriverContext
from pyengine.contracts.runtime import CreateRequest, RuntimeDriver, Stdio
from pyengine.errors import Conflict, EngineError, NotFound, StartError
from pyengine.linux import cgroups
from pyengine.testing.containers import (
    PATH,
    World,
    bind,
    in_shim,
    pipes,
    world,
)
from pyengine.testing.runtime_isolation import IsolationPromises


class RuntimeDriverSuite(IsolationPromises):
    """Subclass it and define :meth:`factory`."""

    #: Test name -> why this driver need not pass it.
    opt_out: ClassVar[dict[str, str]] = {}
    #: Seconds that a test's shim may take.
    time_limit: ClassVar[float] = 30.0

    def factory(self, context: DriverContext) -> RuntimeDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _opt_out(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.opt_out:
            reason = self.opt_out[name]
            assert reason.strip(), f"the opt-out of {name} gives no reason"
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    # Life

    @in_shim
    def test_create_and_start_are_two_steps(self, world: World) -> None:
        with pipes(b"") as (source, sink, reader):
            created = world.create(world.spec("echo ran"), sink, source)
            assert world.driver.state(world.id).status == "created"
            assert world.driver.state(world.id).pid == created.pid
            assert not select.select([reader], [], [], 0.1)[0], "it ran before start"
            world.driver.start(world.id)
            os.close(sink)
            assert world.wait(created.pid, reader) == (0, "ran\n")
        assert world.driver.state(world.id).status == "stopped"
        with pytest.raises(Conflict):
            world.driver.start(world.id)
        world.driver.delete(world.id)
        world.driver.delete(world.id)

    @in_shim
    def test_exit_status_and_signal(self, world: World) -> None:
        assert world.run("exit 42").code == 42
        spec = world.spec(["sleep", "1000"])
        with pipes(b"") as (source, sink, _):
            created = world.create(spec, sink, source)
        world.driver.start(world.id)
        assert world.driver.state(world.id).status == "running"
        world.driver.kill(world.id, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(created.pid, 0)[1]) == signal.SIGKILL
        with pytest.raises(Conflict):
            world.driver.kill(world.id, signal.SIGTERM)
        world.driver.kill(world.id, signal.SIGKILL, all=True)
        world.driver.delete(world.id)

    @in_shim
    def test_unknown_container(self, world: World) -> None:
        for verb in (world.driver.state, world.driver.start, world.driver.ps, world.driver.pause):
            with pytest.raises(NotFound):
                verb("nobody")
        world.driver.delete("nobody")

    @in_shim
    def test_standard_streams(self, world: World) -> None:
        assert world.run(world.spec(["cat"]), stdin=b"through\n") == (0, "through\n")

    @in_shim
    def test_terminal(self, world: World) -> None:
        spec = world.spec("tty; ls -l /dev/console; stty size 2>/dev/null; echo over")
        spec["process"].update(terminal=True, consoleSize={"height": 33, "width": 99})
        result = world.run(spec)
        assert result.code == 0
        assert "/dev/pts/0" in result.output
        assert "/dev/console" in result.output

    @in_shim
    def test_namespaces_ready_comes_before_create_returns(self, world: World) -> None:
        seen: list[str] = []

        def ready(pid: int) -> None:
            seen.append(os.readlink(f"/proc/{pid}/ns/net"))

        with pipes(b"") as (source, sink, _):
            created = world.driver.create(
                CreateRequest(
                    id=world.id,
                    bundle=world.bundle,
                    spec=world.spec(["true"]),
                    stdio=Stdio(source, sink, sink),
                    namespaces_ready=ready,
                )
            )
        assert seen == [os.readlink(f"/proc/{created.pid}/ns/net")]
        assert seen != [os.readlink("/proc/self/ns/net")]
        world.driver.delete(world.id)
        os.waitpid(created.pid, 0)

    # Commands that cannot be run

    @in_shim
    def test_command_errors(self, world: World) -> None:
        (world.image / "bin/notes").write_text("plain")
        for args, code, words in (
            (["foo"], 127, 'exec: "foo": executable file not found in $PATH'),
            (["/nope"], 127, "no such file or directory"),
            (["/bin/notes"], 126, "permission denied"),
            (["/etc"], 126, ""),
        ):
            with pytest.raises(StartError) as caught:
                world.create(world.spec(args), 1, 0)
            assert caught.value.exit_code == code, args
            assert words in caught.value.message()
            assert world.remains() == [], "a failed create leaves nothing"

    @in_shim
    def test_program_that_execve_refuses(self, world: World) -> None:
        script = world.image / "bin/script"
        script.write_text("#!/nowhere\n")
        script.chmod(0o755)
        created = world.create(world.spec(["/bin/script"]), 1, 0)
        with pytest.raises(StartError) as caught:
            world.driver.start(world.id)
        assert caught.value.exit_code == 127
        assert "no such file or directory" in caught.value.message()
        os.waitpid(created.pid, 0)
        world.driver.delete(world.id)

    @in_shim
    def test_failed_create_leaves_nothing(self, world: World) -> None:
        specs = [world.spec(["true"]) for _ in range(4)]
        specs[0]["mounts"].append(
            {"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]}
        )
        specs[1]["mounts"].append({"destination": "/x", "type": "nofs", "source": "x"})
        specs[2]["root"]["path"] = "/nowhere"
        specs[3]["linux"]["resources"]["cpu"] = {"cpus": "4000"}
        for spec in specs:
            with pytest.raises(EngineError):
                world.create(spec, 1, 0)
            assert world.remains() == []

    # Resources

    @in_shim
    def test_limits_are_in_the_cgroup_and_change(self, world: World) -> None:
        spec = world.spec("sleep 1000")
        spec["linux"]["resources"] |= {
            "memory": {"limit": 64 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000},
            "pids": {"limit": 50},
        }
        with world.running(spec) as created:
            cgroup = world.cgroup
            assert created.pid in cgroup.pids()
            assert f":{cgroup.path}\n" in Path(f"/proc/{created.pid}/cgroup").read_text()
            stats = world.driver.stats(world.id)
            assert (stats.memory_limit, stats.pids_limit, stats.pids) == (64 << 20, 50, 1)
            assert stats.cpu_total > 0
            assert stats.memory_usage > 0
            if not cgroup.layout.v2:
                assert cgroups.read(cgroup.file("cpu", "cpu.shares")) == "512\n"
                assert cgroups.read(cgroup.file("cpu", "cpu.cfs_quota_us")) == "50000\n"
            else:
                assert cgroups.read(cgroup.file("cpu", "cpu.max")) == "50000 100000\n"
            world.driver.update(world.id, {"memory": {"limit": 96 << 20}, "pids": {"limit": -1}})
            stats = world.driver.stats(world.id)
            assert (stats.memory_limit, stats.pids_limit) == (96 << 20, 0)

    @in_shim
    def test_out_of_memory(self, world: World) -> None:
        spec = world.spec("sleep 1000")
        spec["linux"]["resources"]["memory"] = {"limit": 16 << 20}
        with world.running(spec):
            event = world.driver.oom_descriptor(world.id)
            assert world.driver.oom_kills(world.id) == 0
            assert world.exec(["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]).code < 0
            assert select.select([event], [], [], 2)[0]
            assert world.driver.oom_kills(world.id) == 1
            os.close(event)

    @in_shim
    def test_pause_and_resume(self, world: World) -> None:
        with pipes(b"") as (source, sink, reader):
            created = world.create(
                world.spec("while true; do echo x; sleep 0.01; done"), sink, source
            )
            world.driver.start(world.id)
            os.read(reader, 1)
            world.driver.pause(world.id)
            assert world.driver.state(world.id).status == "paused"
            while select.select([reader], [], [], 0)[0]:
                os.read(reader, 65536)
            assert not select.select([reader], [], [], 0.1)[0], "it runs while it is paused"
            with pytest.raises(Conflict):
                world.exec("true")
            with pytest.raises(Conflict):
                world.driver.pause(world.id)
            world.driver.resume(world.id)
            assert select.select([reader], [], [], 2)[0]
            world.driver.pause(world.id)
            world.driver.kill(world.id, signal.SIGKILL, all=True)
            os.waitpid(created.pid, 0)
        world.driver.delete(world.id)

    @in_shim
    def test_kill_all_and_ps(self, world: World) -> None:
        """Processes that outlive init where they share the host's pid namespace."""
        spec = world.spec("sleep 1000 & sleep 1000 & wait")
        kinds = ("mount", "network", "uts", "ipc")
        spec["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
        with pipes(b"") as (source, sink, _):
            created = world.create(spec, sink, source)
            world.driver.start(world.id)
        deadline = time.monotonic() + 2
        while len(world.driver.ps(world.id)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        pids = world.driver.ps(world.id)
        assert created.pid in pids
        assert len(pids) == 3
        world.driver.kill(world.id, signal.SIGKILL)
        os.waitpid(created.pid, 0)
        assert len(world.driver.ps(world.id)) == 2
        world.driver.kill(world.id, signal.SIGKILL, all=True)
        assert world.driver.ps(world.id) == []
        for pid in set(pids) - {created.pid}:
            os.waitpid(pid, 0)
        world.driver.delete(world.id)

    # Exec

    @in_shim
    def test_exec(self, world: World) -> None:
        spec = world.spec("sleep 1000")
        spec["linux"]["namespaces"].append({"type": "cgroup"})
        with world.running(spec) as created:
            output = world.exec("ls -l /proc/self/ns; cat /proc/self/cgroup; echo $$").output
            for name in ("pid", "mnt", "net", "uts", "ipc", "cgroup"):
                assert os.readlink(f"/proc/{created.pid}/ns/{name}") in output, name
            assert world.prefix not in output
            result = world.exec(
                "id -u; pwd; echo $A; exit 3",
                user={"uid": 1000, "gid": 1000},
                cwd="/tmp",
                env=[PATH, "A=b"],
            )
            assert result == (3, "1000\n/tmp\nb\n")
            assert "/dev/pts/0" in world.exec("tty", terminal=True).output
            with pipes(b"") as (source, sink, _):
                executed = world.start_exec("sleep 1000", sink, source)
            assert executed.pid in world.cgroup.pids()
            for args, code in ((["foo"], 127), (["/etc/passwd"], 126)):
                with pytest.raises(StartError) as caught:
                    world.exec(args)
                assert caught.value.exit_code == code
            os.kill(executed.pid, signal.SIGKILL)
            os.waitpid(executed.pid, 0)

    # Hooks

    @in_shim
    def test_hooks(self, world: World) -> None:
        log = world.base / "log"
        log.touch()
        log.chmod(0o666)
        script = world.base / "hook"
        script.write_text(f'#!/bin/sh\nread -r state\necho "$1 $state" >> {log}\n')
        script.chmod(0o755)
        inside = world.image / "bin/hook"
        inside.write_text('#!/bin/sh\nread -r state\necho "$1 $state" >> /log\n')
        inside.chmod(0o755)
        spec = world.spec(["sh", "-c", "echo command >> /log"])
        spec["mounts"].append(bind(log, "/log"))
        order = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ]
        spec["hooks"] = {
            name: [
                {
                    "path": "/bin/hook" if name == "startContainer" else str(script),
                    "args": ["hook", name],
                    "env": [PATH],
                    "timeout": 5,
                }
            ]
            for name in order
        }
        world.run(spec)
        lines = log.read_text().splitlines()
        assert [line.split()[0] for line in lines if line != "command"].count("poststart") == 1
        seen = [line.split()[0] for line in lines]
        assert [name for name in seen if name not in ("command", "poststart")] == [
            name for name in order if name != "poststart"
        ]
        assert all(f'"id":"{world.id}"' in line for line in lines if line != "command")
        spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
        with pytest.raises(EngineError, match="createRuntime"):
            world.create(spec, 1, 0)

    # Restart

    @in_shim
    def test_second_instance(self, world: World) -> None:
        """What one instance made, another sees, signals and removes."""
        with pipes(b"") as (source, sink, _):
            created = world.create(world.spec("sleep 1000"), sink, source)
            world.second_instance().start(world.id)
        other = world.second_instance()
        assert other.state(world.id).status == "running"
        assert other.ps(world.id) == [created.pid]
        other.kill(world.id, signal.SIGKILL, all=True)
        os.waitpid(created.pid, 0)
        world.second_instance().delete(world.id)
        with pytest.raises(NotFound):
            world.driver.state(world.id)

    def test_sweep(self) -> None:
        with world(self.factory) as surroundings:
            parent = cgroups.Cgroup(surroundings.prefix + "/shims")
            parent.create()
            surroundings.in_shim(lambda: _start_and_leave(surroundings))
            surroundings.sweep({surroundings.id})
            assert surroundings.cgroup.pids()
            assert len(surroundings.sweep()) == 1
            assert surroundings.sweep() == []
            assert parent.exists(), "groups that are not containers stay"
            parent.remove()
            surroundings.assert_nothing_left()

    def test_killed_midway(self) -> None:
        """SIGKILL of each process involved, at every step of create, start and delete: sweep
        leaves nothing."""
        with world(self.factory) as surroundings:
            steps = surroundings.in_shim(lambda: _count_steps(surroundings))
            assert {"shim", "init"} <= set(steps), "the driver has no failpoints"
            for role, count in steps.items():
                for number in range(1, count + 1):
                    fatal = functools.partial(_die_at, surroundings, role, number)
                    surroundings.in_shim(fatal, die=True)
                    surroundings.sweep()
                    surroundings.assert_nothing_left()


def _start_and_leave(world: World) -> None:
    with pipes(b"") as (source, sink, _):
        world.create(world.spec("sleep 1000"), sink, source)
        world.driver.start(world.id)


def _whole_life(world: World) -> None:
    spec = world.spec("true")
    spec["linux"]["resources"]["pids"] = {"limit": 50}
    try:
        world.run(spec)
    except EngineError:
        # Init was killed: create must have taken everything back.
        world.driver.delete(world.id)


def _count_steps(world: World) -> collections.Counter[str]:
    directory = _arm(world, "nobody 0")
    faults.set_role("shim")
    _whole_life(world)
    lines = (directory / "trace").read_text().splitlines()
    return collections.Counter(line.split()[0] for line in lines)


def _die_at(world: World, role: str, number: int) -> None:
    _arm(world, f"{role} {number}")
    faults.set_role("shim")
    _whole_life(world)


def _arm(world: World, what: str) -> Path:
    directory = world.base / "faults"
    directory.mkdir(exist_ok=True)
    (directory / "trace").write_text("")
    (directory / "kill").write_text(what)
    # In this process only; what the environment says was read at import.
    faults._directory = str(directory)
    return directory
