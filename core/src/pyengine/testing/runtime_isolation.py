"""The part of the runtime kit about isolation: what a container sees, holds and can reach."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path

import pytest

from pyengine.errors import EngineError, InvalidParameter, StartError
from pyengine.testing.containers import DEFAULT_MASK, PATH, World, bind, deny_program, in_shim

_SYS_MKDIR = 83 if os.uname().machine == "x86_64" else 34


class IsolationPromises:
    """Base of ``RuntimeDriverSuite``."""

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
    def test_id_mapped_mounts(self, world: World) -> None:
        """What is root's on disk is root's inside, and the other way round."""
        os.system(f"chown -R 100000:100000 {world.image}")
        shared = world.base / "shared"
        shared.mkdir()
        (shared / "theirs").write_text("x")
        os.chown(shared / "theirs", 5, 6)
        spec = world.spec(
            "stat -c '%u:%g' /mapped /mapped/theirs /listed/theirs /plain/theirs; "
            "echo new > /mapped/new; chown 7:8 /mapped/theirs; "
            "echo x > /plain/new || echo refused; echo again > /dev/stdout"
        )
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping
        spec["linux"]["namespaces"].append({"type": "user"})
        listed = bind(shared, "/listed")
        listed["uidMappings"] = listed["gidMappings"] = mapping
        spec["mounts"] += [bind(shared, "/mapped", "idmap"), listed, bind(shared, "/plain")]
        lines = world.run(spec).output.splitlines()
        assert lines[:4] == ["0:0", "5:6", "5:6", "65534:65534"]
        assert "refused" in lines
        assert lines[-1] == "again", "a program may open its output again"
        found = os.stat(shared / "theirs")
        assert (found.st_uid, found.st_gid) == (7, 8)
        assert (shared / "new").stat().st_uid == 0
        spec["process"]["args"] = ["sleep", "1000"]
        with world.running(spec):
            assert "more" in world.exec("echo more > /dev/stdout; id").output

    @in_shim
    def test_id_mapped_mounts_that_cannot_be(self, world: World) -> None:
        spec = world.spec("true")
        spec["mounts"].append(bind(world.base, "/mapped", "idmap"))
        with pytest.raises(InvalidParameter, match="user namespace"):
            world.run(spec)
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["mounts"][-1]["source"] = "/proc"
        with pytest.raises(EngineError, match="map"):
            world.run(spec)

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
            bind(shared / "file", "/etc/one", "ro"),
            bind(shared, "/data", "rprivate"),
            bind(shared, "/ro", "rro", "nosuid", "nodev", recursive=True),
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
        spec["mounts"] += [bind(source, "/up/a"), bind(source, "/absolute/b")]
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
        spec["mounts"].append(bind(marker, "/marker"))
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
