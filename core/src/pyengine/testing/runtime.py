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
import contextlib
import errno
import functools
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pyengine import faults
from pyengine.contracts.base import DriverContext
from pyengine.contracts.runtime import CreateRequest, RuntimeDriver, Stdio
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound, StartError
from pyengine.linux import cgroups
from pyengine.testing.containers import (
    DEFAULT_MASK,
    PATH,
    World,
    deny_program,
    pipes,
    world,
)

Body = Callable[["RuntimeDriverSuite", World], None]
_SYS_MKDIR = 83 if os.uname().machine == "x86_64" else 34


def in_shim(body: Body) -> Callable[[RuntimeDriverSuite], None]:
    """The test's body runs in a shim of its own; afterwards nothing may be left."""

    def test(self: RuntimeDriverSuite) -> None:
        with world(self.factory) as surroundings:
            surroundings.in_shim(lambda: body(self, surroundings), limit=self.time_limit)
            surroundings.assert_nothing_left()

    test.__name__, test.__doc__, test.__qualname__ = body.__name__, body.__doc__, body.__qualname__
    return test


class RuntimeDriverSuite:
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

    # Isolation

    @in_shim
    def test_namespaces(self, world: World) -> None:
        spec = world.spec("ls -l /proc/self/ns; hostname; ps")
        spec["linux"]["namespaces"].append({"type": "cgroup"})
        output = world.run(spec).output
        for name in ("pid", "mnt", "net", "uts", "ipc", "cgroup"):
            assert os.readlink(f"/proc/self/ns/{name}") not in output, f"{name} is the host's"
        assert os.readlink("/proc/self/ns/user") in output
        assert "\nkit\n" in output
        assert len([line for line in output.splitlines() if " root " in line]) < 20
        spec["linux"]["namespaces"] = [{"type": "mount"}]
        del spec["hostname"]
        spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "mqueue"]
        output = world.run(spec).output
        for name in ("pid", "net", "uts", "ipc", "cgroup"):
            assert os.readlink(f"/proc/self/ns/{name}") in output, f"{name} is not the host's"

    @in_shim
    def test_namespaces_of_others(self, world: World) -> None:
        with world.running() as first:
            other, here = World.__new__(World), world.id
            other.__dict__.update(world.__dict__)
            other.id = "d" + here[1:]
            other.base = world.base / "other"
            other.base.mkdir()
            spec = other.spec("ls -l /proc/self/ns; ps")
            names = {"network": "net", "ipc": "ipc", "pid": "pid", "uts": "uts"}
            del spec["hostname"]
            spec["linux"]["namespaces"] = [{"type": "mount"}] + [
                {"type": kind, "path": f"/proc/{first.pid}/ns/{name}"}
                for kind, name in names.items()
            ]
            output = other.run(spec).output
            for name in names.values():
                assert os.readlink(f"/proc/{first.pid}/ns/{name}") in output
            assert "sleep 1000" in output

    @in_shim
    def test_user_namespace_comes_first(self, world: World) -> None:
        """Or sysfs cannot be mounted in it, and the host's root is the container's."""
        os.system(f"chown -R 100000:100000 {world.image}")
        spec = world.spec(
            "cat /proc/self/uid_map; id -u; ls /sys/class/net; touch /made; "
            "mount -t tmpfs x /tmp && echo mounted; grep CapEff /proc/self/status; "
            "echo x > /dev/null && echo null"
        )
        kinds = ("user", "pid", "mount", "network", "uts", "ipc", "cgroup")
        spec["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping
        granted = spec["process"]["capabilities"]
        for name in granted:
            granted[name] = [*granted[name], "CAP_SYS_ADMIN"]
        lines = world.run(spec).output.split("\n")
        assert lines[0].split() == ["0", "100000", "65536"]
        assert lines[1:4] == ["0", "lo", "mounted"]
        assert lines[5] == "null"
        assert (world.image / "made").stat().st_uid == 100000

    @in_shim
    def test_nothing_leaks_into_the_container(self, world: World) -> None:
        """Neither into init nor into an exec: descriptors, environment, signals, rights."""
        os.environ["SECRET"] = "secret"
        os.open("/etc/hostname", os.O_RDONLY)
        os.set_inheritable(os.open("/etc/hostname", os.O_RDONLY), True)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        os.umask(0o077)
        look = (
            "cat /proc/self/status; echo; ls /proc/self/fd | wc -l; tr '\\0' '\\n' "
            "< /proc/$$/environ; echo; umask; ls -ld /proc/self/cwd/."
        )
        with world.running():
            outputs = [world.exec(look).output]
        outputs.append(world.run(look).output)
        for output in outputs:
            status, rest = output.split("\n\n", 1)
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            for name in ("SigBlk", "SigIgn", "SigCgt", "CapInh", "CapAmb"):
                assert int(fields[name], 16) == 0, f"{name} is {fields[name]}"
            for name in ("CapPrm", "CapEff", "CapBnd"):
                assert fields[name] == DEFAULT_MASK, f"{name} is {fields[name]}"
            lines = rest.splitlines()
            assert int(lines[0]) == 4, "more than stdin, stdout, stderr and ls's own"
            assert sorted(lines[1 : lines.index("")]) == ["HOME=/root", PATH]
            assert lines[lines.index("") + 1] == "0022"

    @in_shim
    def test_identity(self, world: World) -> None:
        spec = world.spec(
            "id; pwd; umask; echo $HOME; grep -E 'Cap(Eff|Bnd|Amb)' /proc/self/status"
        )
        spec["process"].update(
            user={"uid": 1000, "gid": 1000, "additionalGids": [5, 7], "umask": 0o027},
            cwd="/made/for/us",
        )
        spec["process"]["capabilities"]["ambient"] = ["CAP_NET_BIND_SERVICE"]
        spec["process"]["capabilities"]["inheritable"] = ["CAP_NET_BIND_SERVICE"]
        lines = world.run(spec).output.splitlines()
        assert lines[0].startswith("uid=1000(user) gid=1000(user) groups=")
        assert "5" in lines[0]
        assert lines[1:4] == ["/made/for/us", "0027", "/home/user"]
        assert lines[4:] == [
            "CapEff:\t0000000000000400",
            f"CapBnd:\t{DEFAULT_MASK}",
            "CapAmb:\t0000000000000400",
        ]

    @in_shim
    def test_limits_and_privileges(self, world: World) -> None:
        spec = world.spec(
            "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status"
        )
        spec["process"].update(
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
            oomScoreAdj=300,
            noNewPrivileges=True,
        )
        assert world.run(spec).output.split() == ["100", "200", "300", "NoNewPrivs:", "1"]

    @in_shim
    def test_seccomp(self, world: World) -> None:
        """With and without no_new_privs, as root and as a user who holds nothing."""
        program = world.base / "filter"
        program.write_bytes(deny_program(_SYS_MKDIR, errno.EXDEV))
        for uid in (0, 1000):
            for quiet in (False, True):
                spec = world.spec("mkdir /tmp/new; grep -E 'Seccomp:|CapEff' /proc/self/status")
                spec["annotations"] = {"io.pyengine.seccomp.bpf": str(program)}
                spec["process"].update(noNewPrivileges=quiet, user={"uid": uid, "gid": uid})
                output = world.run(spec).output
                assert os.strerror(errno.EXDEV) in output, (uid, quiet)
                assert "Seccomp:\t2" in output
                assert f"CapEff:\t{0 if uid else int(DEFAULT_MASK, 16):016x}" in output

    @in_shim
    def test_working_directory_stays_inside(self, world: World) -> None:
        """CVE-2024-21626: a directory of the host, reached through a descriptor of ours."""
        for _ in range(3):
            os.set_inheritable(os.open(world.base, os.O_RDONLY | os.O_DIRECTORY), True)
        look = "ls . .."
        for number in range(3, 16):
            spec = world.spec(look)
            spec["process"]["cwd"] = f"/proc/self/fd/{number}"
            with contextlib.suppress(EngineError):
                assert "image" not in world.run(spec).output
        with world.running():
            for number in range(3, 16):
                with contextlib.suppress(EngineError):
                    assert "image" not in world.exec(look, cwd=f"/proc/self/fd/{number}").output

    # Files

    @in_shim
    def test_masked_and_read_only_paths(self, world: World) -> None:
        spec = world.spec(
            "wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /x; "
            "echo 1 > /proc/sys/vm/stat_interval"
        )
        spec["root"]["readonly"] = True
        output = world.run(spec).output
        assert output.split()[:2] == ["0", "0"]
        assert output.count("Read-only file system") == 2
        assert not (world.image / "x").exists()

    @in_shim
    def test_binds(self, world: World) -> None:
        shared = world.base / "shared"
        (shared / "below").mkdir(parents=True)
        (shared / "file").write_text("content")
        spec = world.spec(
            "cat /etc/one; echo changed > /etc/one; echo new > /data/new; touch /ro/x; "
            "grep -E '/data|/ro' /proc/self/mountinfo"
        )
        spec["mounts"] += [
            _bind(shared / "file", "/etc/one", "ro"),
            _bind(shared, "/data", "rprivate"),
            _bind(shared, "/ro", "rro", "nosuid", "nodev", recursive=True),
        ]
        output = world.run(spec).output
        assert output.startswith("content")
        assert output.count("Read-only file system") == 2
        assert (shared / "new").read_text() == "new\n"
        assert (shared / "file").read_text() == "content"
        row = next(line for line in output.splitlines() if " /ro " in line)
        assert {"ro", "nosuid", "nodev"} <= set(row.split()[5].split(","))

    @in_shim
    def test_tmpfs(self, world: World) -> None:
        (world.image / "etc/below").mkdir()
        (world.image / "etc/below/file").write_text("kept")
        spec = world.spec(
            "cat /etc/below/file; touch /etc/x; df -k /cache | tail -1; touch /cold/x"
        )
        spec["mounts"] += [
            {"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup"]},
            {"destination": "/cache", "type": "tmpfs", "options": ["size=128k", "mode=700"]},
            {"destination": "/cold", "type": "tmpfs", "options": ["ro"]},
        ]
        output = world.run(spec).output
        assert output.startswith("kept")
        assert " 128 " in output
        assert "Read-only file system" in output
        assert not (world.image / "etc/x").exists()

    @in_shim
    def test_mount_targets_stay_inside(self, world: World) -> None:
        """Links in the image lead where they lead inside, however they are written."""
        outside = world.base / "outside"
        outside.mkdir()
        source = world.base / "source"
        source.mkdir()
        up = "../" * 20
        (world.image / "up").symlink_to(up + str(outside)[1:])
        (world.image / "absolute").symlink_to(outside)
        spec = world.spec("true")
        spec["mounts"] += [_bind(source, "/up/a"), _bind(source, "/absolute/b")]
        assert world.run(spec).code == 0
        assert list(outside.iterdir()) == []
        assert (world.image / str(outside)[1:] / "a").is_dir()
        os.rmdir(world.image / "proc")
        (world.image / "proc").symlink_to("tmp")
        with pytest.raises(EngineError):
            world.create(world.spec("true"), 1, 0)

    @in_shim
    def test_masking_needs_the_null_device(self, world: World) -> None:
        """CVE-2025-31133: an image brings its own /dev/null."""
        spec = world.spec("cat /proc/keys")
        spec["mounts"] = [m for m in spec["mounts"] if not m["destination"].startswith("/dev")]
        (world.image / "dev/null").symlink_to("/etc/passwd")
        with pytest.raises(EngineError):
            world.create(spec, 1, 0)

    @in_shim
    def test_devices(self, world: World) -> None:
        spec = world.spec(
            "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; "
            "readlink /dev/fd; stat -c '%a %t %T %u' /dev/extra; head -c 1 /dev/extra; "
            "mknod /dev/mem c 1 1; head -c 1 /dev/mem"
        )
        spec["linux"]["devices"] = [
            {
                "path": "/dev/extra",
                "type": "c",
                "major": 1,
                "minor": 5,
                "fileMode": 0o640,
                "uid": 7,
                "gid": 0,
            }
        ]
        output = world.run(spec).output
        assert "no " not in output
        assert output.startswith("/proc/self/fd\n640 1 5 7\n\0")
        assert "Operation not permitted" in output

    @in_shim
    def test_sysctls(self, world: World) -> None:
        spec = world.spec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
        spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}
        assert world.run(spec).output == "77\n"
        spec["linux"]["sysctl"] = {"vm.swappiness": "1"}
        with pytest.raises(InvalidParameter):
            world.create(spec, 1, 0)

    @in_shim
    def test_hostile_image(self, world: World) -> None:
        """Nothing of the image runs but its command: no library, module, or helper program."""
        marker = world.base / "marker"
        marker.mkdir()
        _poison(world.image)
        spec = world.spec(["/bin/busybox", "sh", "-c", "echo fine"])
        spec["mounts"].append(_bind(marker, "/marker"))
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}
        assert world.run(spec) == (0, "fine\n")
        spec["process"]["args"] = ["/bin/busybox", "sleep", "1000"]
        with world.running(spec):
            result = world.exec(["/bin/busybox", "echo", "fine"])
            assert result == (0, "fine\n")
            with pytest.raises(StartError):
                world.exec(["nothing"])
            assert world.exec(["/bin/busybox", "tty"], terminal=True).code == 0
        assert list(marker.iterdir()) == []

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
        spec["mounts"].append(_bind(log, "/log"))
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


def _bind(source: Path, target: str, *options: str, recursive: bool = False) -> dict[str, Any]:
    kind = "rbind" if recursive else "bind"
    return {
        "destination": target,
        "type": "bind",
        "source": str(source),
        "options": [kind, *options],
    }


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


def _poison(image: Path) -> None:
    """Everything by which a careless process loads or runs an image's files."""
    touch = "#!/bin/busybox sh\n/bin/busybox touch /marker/ran-$$\n"
    for directory in ("sbin", "usr/sbin", "usr/bin", "usr/local/bin", "bin"):
        (image / directory).mkdir(parents=True, exist_ok=True)
        for name in ("ldconfig", "gcc", "ld", "objdump", "newuidmap", "nsenter", "mount"):
            path = image / directory / name
            path.unlink(missing_ok=True)
            path.write_text(touch)
            path.chmod(0o755)
    (image / "etc/nsswitch.conf").write_text("passwd: evil\ngroup: evil\nhosts: evil\n")
    (image / "etc/ld.so.preload").write_text("/lib/evil.so\n")
    module = "import os\nopen('/marker/module', 'w').close()\n"
    for directory in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu"):
        (image / directory).mkdir(parents=True, exist_ok=True)
        for name in ("libnss_evil.so.2", "libnss_files.so.2", "evil.so", "libgcc_s.so.1"):
            (image / directory / name).write_bytes(b"\x7fELF not a library")
    for base in {os.path.dirname(os.__file__), "/usr/lib/python3", "/"}:
        package = image / base.lstrip("/") / "encodings"
        package.mkdir(parents=True, exist_ok=True)
        for name in ("__init__.py", "idna.py", "punycode.py", "latin_1.py", "ascii.py"):
            (package / name).write_text(module)
        for name in ("traceback.py", "linecache.py", "pwd.py", "sitecustomize.py"):
            (package.parent / name).write_text(module)
