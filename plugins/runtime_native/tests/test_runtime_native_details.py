"""What is particular to this runtime: how it joins, what it keeps shut, what it refuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.runtime import CreateRequest, Stdio
from pyengine.errors import EngineError, InvalidParameter, Unsupported
from pyengine.linux import cgroups
from pyengine.testing.containers import World, make_spec, pipes, world
from pyengine_runtime_native import NativeRuntime, seccomp
from pyengine_runtime_native.channel import describe, parse_error
from pyengine_runtime_native.plan import plan_init


def in_world(body: Callable[[World], Any]) -> None:
    with world(NativeRuntime) as surroundings:
        surroundings.in_shim(lambda: body(surroundings))
        surroundings.assert_nothing_left()


def test_init_is_shut_until_the_command_runs() -> None:
    """Not dumpable (CVE-2019-5736): its /proc files belong to the host's root, and only the
    command's own belong to the container's."""

    def body(world: World) -> None:
        spec = world.spec("sleep 1000")
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["namespaces"] += [{"type": "user"}]
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping
        spec["linux"]["maskedPaths"] = []
        os.system(f"chown -R 100000:100000 {world.image}")
        with pipes(b"") as (source, sink, _):
            created = world.create(spec, sink, source)
            environ = Path(f"/proc/{created.pid}/environ")
            assert environ.stat().st_uid == 0
            world.driver.start(world.id)
        assert environ.stat().st_uid == 100000
        world.driver.kill(world.id, signal.SIGKILL)
        os.waitpid(created.pid, 0)
        world.driver.delete(world.id)

    in_world(body)


def test_exec_where_the_container_made_groups_of_its_own() -> None:
    unified = cgroups.layout().unified
    if unified is None or not unified.controllers:
        pytest.skip("this kernel has no cgroup version 2 controller")

    def body(world: World) -> None:
        with world.running() as created:
            directory = unified.mount + world.cgroup.path
            os.mkdir(directory + "/init")
            cgroups.write(directory + "/init/cgroup.procs", str(created.pid))
            cgroups.enable_controllers(directory)
            result = world.exec("grep ^0:: /proc/self/cgroup")
            assert result == (0, f"0::{world.cgroup.path}/init\n")
            assert world.driver.ps(world.id) == [created.pid]

    in_world(body)


def test_refusal_of_namespaces_ready_takes_everything_back() -> None:
    def body(world: World) -> None:
        def refuse(pid: int) -> None:
            raise ZeroDivisionError

        request = CreateRequest(
            id=world.id,
            bundle=world.bundle,
            spec=world.spec("true"),
            stdio=Stdio(0, 1, 2),
            namespaces_ready=refuse,
        )
        with pytest.raises(ZeroDivisionError):
            world.driver.create(request)
        assert world.remains() == []
        with pytest.raises(ChildProcessError):
            os.wait()

    in_world(body)


def test_compiled_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """``linux.seccomp`` is compiled where pyseccomp is loaded, and refused elsewhere."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}
        ],
    }
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    with pytest.raises(Unsupported, match="seccomp"):
        seccomp.program({"linux": {"seccomp": profile}})
    import pyseccomp  # noqa: F401

    def body(world: World) -> None:
        spec = world.spec("mkdir /x")
        spec["linux"]["seccomp"] = profile
        assert os.strerror(18) in world.run(spec).output

    in_world(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["linux"].update(intelRdt={"closID": "x"}), "linux.intelRdt"),
        (lambda s: s["linux"].update(mountLabel="x"), "SELinux"),
        (lambda s: s["process"].update(selinuxLabel="x"), "SELinux"),
        (lambda s: s["process"].update(scheduler={"policy": "x"}), "process.scheduler"),
        (lambda s: s["linux"]["namespaces"].append({"type": "time"}), "time"),
        (lambda s: s["linux"]["namespaces"].append({"type": "pid"}), "twice"),
        (lambda s: s["linux"]["namespaces"].append({"type": "user"}), "uidMappings"),
        (lambda s: s["linux"].update(namespaces=[{"type": "pid"}]), "mount namespace"),
        (lambda s: s["process"].update(args=[]), "no command"),
        (lambda s: s["process"].update(cwd="x"), "not an absolute path"),
        (lambda s: s["process"].update(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
         "RLIMIT_X"),
        (lambda s: s["process"]["capabilities"].update(bounding=["CAP_FLY"]), "CAP_FLY"),
        (lambda s: s["mounts"].append({"destination": "/", "type": "tmpfs"}), "root"),
        (lambda s: s["mounts"].append({"destination": "/proc/self/x", "type": "tmpfs"}), "/proc"),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "bind"}), "no source"),
        (lambda s: s["linux"].update(devices=[{"path": "etc/x", "type": "c"}]), "not absolute"),
        (lambda s: s.update(root={}), "root.path"),
    ],
)  # fmt: skip
def test_refused_up_front(change: Callable[[dict[str, Any]], None], words: str) -> None:
    spec = make_spec(Path("/nowhere"), "/x/y", ["true"])
    change(spec)
    with pytest.raises((Unsupported, InvalidParameter), match=words):
        plan_init("x", spec, "/nowhere")


def test_errors_cross_the_border_as_numbers_and_short_text() -> None:
    packet = describe("mount /x", OSError(2, "ignored", "fsconfig"))
    error = parse_error(packet, "what")
    assert isinstance(error, EngineError)
    assert error.message() == "what: mount /x: no such file or directory: fsconfig"
    assert parse_error(describe("s", ValueError("secret")), "what").message() == (
        "what: s: ValueError"
    )
