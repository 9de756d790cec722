"""Limits, privileges and filters: what the kernel was told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pyengine.linux import projectquota
from pyengine.linux.mountinfo import filesystem_of
from tests.e2e.conftest import Docker, eventually, pid_of

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()

PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
}
#: CAP_ bits of Docker's default set.
DEFAULT_CAPABILITIES = "00000000a80425fb"


def cgroup(docker: Docker, name: str, controller: str, file: str) -> str:
    """A file of the container's cgroup, in the hierarchy of ``controller``."""
    for line in Path(f"/proc/{pid_of(name, docker)}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") or (UNIFIED and not names):
            for mount in Path("/proc/self/mountinfo").read_text().splitlines():
                fields, _, super_block = mount.partition(" - ")
                kind, _, options = super_block.split(" ", 2)
                if (kind == "cgroup" and controller in options.split(",")) or (
                    UNIFIED and kind == "cgroup2"
                ):
                    return Path(fields.split()[4] + path, file).read_text().strip()
    raise AssertionError(f"no cgroup with {controller}")


def test_limits_are_in_the_cgroup(docker: Docker) -> None:
    name = docker.up(
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "--cpuset-cpus",
        "0",
        "--memory-reservation",
        "32m",
        "--cpu-shares",
        "512",
        "busybox",
        "sleep",
        "60",
    )
    if UNIFIED:
        assert cgroup(docker, name, "memory", "memory.max") == str(64 << 20)
        assert cgroup(docker, name, "memory", "memory.swap.max") == str(64 << 20)
        assert cgroup(docker, name, "cpu", "cpu.max") == "50000 100000"
        assert cgroup(docker, name, "memory", "memory.low") == str(32 << 20)
    else:
        assert cgroup(docker, name, "memory", "memory.limit_in_bytes") == str(64 << 20)
        assert cgroup(docker, name, "memory", "memory.soft_limit_in_bytes") == str(32 << 20)
        assert cgroup(docker, name, "cpu", "cpu.cfs_quota_us") == "50000"
        assert cgroup(docker, name, "cpu", "cpu.cfs_period_us") == "100000"
        assert cgroup(docker, name, "cpu", "cpu.shares") == "512"
    assert cgroup(docker, name, "pids", "pids.max") == "50"
    assert cgroup(docker, name, "cpuset", "cpuset.cpus") == "0"
    docker("update", "--memory", "96m", "--memory-swap", "192m", "--pids-limit", "60", name)
    file = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    assert cgroup(docker, name, "memory", file) == str(96 << 20)
    assert cgroup(docker, name, "pids", "pids.max") == "60"
    assert docker.state(name, "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}") == (
        f"{96 << 20} 60"
    )


def test_out_of_memory_is_reported(docker: Docker) -> None:
    name = docker.name()
    done = docker(
        "run",
        "--name",
        name,
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "x=aaaaaaaa; while :; do x=$x$x; done",
        check=False,
    )
    assert done.returncode == 137
    assert docker.state(name, "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 137"
    events = docker.out(
        "events",
        "--since",
        "30s",
        "--until",
        f"{time.time() + 0.3}",
        "--filter",
        f"container={name}",
        "--format",
        "{{.Action}}",
    ).splitlines()
    assert "oom" in events
    assert events.index("oom") < events.index("die")
    docker("start", name)
    assert docker.state(name, "{{.State.OOMKilled}}") == "false" or eventually(
        lambda: docker.state(name) == "exited"
    )


def test_the_pids_limit_holds(docker: Docker) -> None:
    text = docker.fails(
        "run",
        "--rm",
        "--pids-limit",
        "5",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done",
        code=2,
        says="can't fork",
    )
    assert "Resource temporarily unavailable" in text


def status(docker: Docker, *flags: str) -> dict[str, str]:
    out = docker.sh("cat /proc/self/status", *flags)
    return {k: v.strip() for k, v in (line.split(":", 1) for line in out.splitlines())}


def test_capabilities(docker: Docker) -> None:
    assert status(docker)["CapEff"] == DEFAULT_CAPABILITIES
    assert int(status(docker, "--cap-drop", "ALL")["CapBnd"], 16) == 0
    only = status(docker, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "cap_chown")
    assert int(only["CapEff"], 16) == 1 << 12 | 1
    assert int(status(docker, "-u", "nobody")["CapEff"], 16) == 0
    host = Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0]
    assert status(docker, "--privileged")["CapEff"] == host
    docker.fails(
        "run",
        "--rm",
        "--cap-add",
        "NONESUCH",
        "busybox",
        code=125,
        says='invalid CapAdd: unknown capability: "CAP_NONESUCH"',
    )


def test_no_new_privileges_and_seccomp(docker: Docker) -> None:
    default = status(docker)
    assert (default["NoNewPrivs"], default["Seccomp"]) == ("0", "2")
    assert status(docker, "--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"
    assert status(docker, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"
    assert status(docker, "--privileged")["Seccomp"] == "0"


def test_a_profile_of_ones_own(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROFILE))
    flag = ("--security-opt", f"seccomp={tmp_path}/p.json")
    assert docker.sh("mkdir /x 2>&1; touch /y && echo fine", *flag).splitlines() == [
        "mkdir: can't create directory '/x': Operation not permitted",
        "fine",
    ]
    # An exec gets it as well.
    name = docker.up(*flag, "busybox", "sleep", "60")
    assert "not permitted" in docker.fails("exec", name, "mkdir", "/z", code=1, says="mkdir")


def test_a_profile_that_does_not_parse_says_where(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        '{\n  "defaultAction": "SCMP_ACT_ALLOW",\n  "syscalls": [{"names": ["mkdir"],\n'
        '    "action": "SCMP_ACT_EXPLODE"}]\n}\n'
    )
    text = docker.fails(
        "run",
        "--rm",
        "--security-opt",
        f"seccomp={tmp_path}/p.json",
        "busybox",
        code=125,
        says="SCMP_ACT_EXPLODE",
    )
    assert "line" in text
    (tmp_path / "p.json").write_text('{\n  "defaultAction": \n}\n')
    docker.fails(
        "run",
        "--rm",
        "--security-opt",
        f"seccomp={tmp_path}/p.json",
        "busybox",
        code=125,
        says="seccomp",
    )


def test_security_options_that_nobody_knows(docker: Docker) -> None:
    docker.fails(
        "run",
        "--rm",
        "--security-opt",
        "bogus=1",
        "busybox",
        code=125,
        says='invalid --security-opt 2: "bogus=1"',
    )
    if not Path("/sys/kernel/security/apparmor").exists():
        docker.fails(
            "run", "--rm", "--security-opt", "apparmor=mine", "busybox", code=125, says="AppArmor"
        )
    assert docker.sh("echo fine", "--security-opt", "apparmor=unconfined") == "fine"


def test_devices(docker: Docker) -> None:
    core = "core " if Path("/proc/kcore").exists() else ""
    assert docker.sh("ls /dev | tr '\\n' ' '") == (
        f"{core}fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    )
    out = docker.sh(
        "dd if=/dev/mine of=/dev/null bs=1 count=1 2>&1 | tail -1",
        "--device",
        "/dev/loop-control:/dev/mine:r",
    )
    assert "permission" not in out.lower() or "not permitted" not in out
    refused = docker.sh("mknod /tmp/m b 7 99 && dd if=/tmp/m count=1 2>&1 | head -1")
    assert "Operation not permitted" in refused
    docker.fails(
        "run", "--rm", "--device", "/dev/nonesuch", "busybox", code=127, says="/dev/nonesuch"
    )


def test_privileged(docker: Docker) -> None:
    out = docker.sh(
        "ls /dev | grep -c loop; mount -t tmpfs none /mnt 2>&1 || mkdir /mnt;"
        "mount -t tmpfs none /mnt && echo mounted; grep -c ' /sys sysfs rw' /proc/mounts",
        "--privileged",
    )
    lines = out.splitlines()
    assert int(lines[0]) >= 1
    assert "mounted" in lines
    assert lines[-1] == "1"


def test_masked_and_read_only_paths(docker: Docker) -> None:
    out = docker.sh(
        "cat /proc/kcore | wc -c; echo 1 >/proc/sysrq-trigger; ls /proc/scsi | wc -l;"
        "echo x >/proc/sys/kernel/hostname; touch /sys/x; true",
    )
    assert out.splitlines() == ["0", "0"]


@pytest.mark.parametrize("flag", ["--cpus=0.5", "--memory=64m"])
def test_stats(docker: Docker, flag: str) -> None:
    name = docker.up(flag, "busybox", "sleep", "60")
    out = docker.out("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", name)
    assert out.startswith(f"{name} 1 ")
    if "memory" in flag:
        assert out.endswith("/ 64MiB")


def test_info_and_its_warnings(docker: Docker) -> None:
    info = json.loads(docker.out("info", "--format", "{{json .}}"))
    assert info["CgroupVersion"] == ("2" if UNIFIED else "1")
    assert info["Driver"] == "overlay2"
    assert info["OSType"] == "linux"
    assert info["ContainersRunning"] == len(docker.out("ps", "-q").split())
    assert any("2375" in warning for warning in info["Warnings"] or [])
    assert "seccomp" in " ".join(info["SecurityOptions"])


def test_sizes_and_other_storage_options(docker: Docker) -> None:
    def run(option: str) -> tuple[str, ...]:
        return ("run", "--rm", "--network", "none", "--storage-opt", option, "busybox", "true")

    docker.fails(*run("nonsense=1"), code=125, says="Unknown option nonsense")
    place = Path(docker.out("info", "--format", "{{.DockerRootDir}}"))
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    limited = projectquota.enforced(fd)
    os.close(fd)
    if limited:  # and tests/vm/test_layer_sizes.py has the rest
        docker.fails(*run("size=much"), code=125, says="invalid size: 'much'")
    else:
        said = docker.fails(*run("size=16m"), code=125, says="--storage-opt size is supported only")
        assert f"on {filesystem_of(place)} without project quotas" in said


def test_a_device_anywhere(docker: Docker) -> None:
    flags = ("--device", "/dev/zero:/tmp/deep/zero:r")
    script = "head -c 3 /tmp/deep/zero | wc -c; stat -c '%F %t:%T' /tmp/deep/zero"
    assert docker.sh(script, *flags).split("\n") == ["3", "character special file 1:5"]
    name = docker.name()
    docker("run", "--name", name, *flags, "busybox", "true")
    docker("start", "-a", name)
    assert docker.state(name, "{{.State.ExitCode}}") == "0", "a node that is there already"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--net", "host", "--sysctl", "net.ipv4.ip_forward=1"),
         'sysctl "net.ipv4.ip_forward" not allowed in host network namespace'),
        (("--ipc", "host", "--sysctl", "kernel.shmmax=1"),
         'sysctl "kernel.shmmax" not allowed in the hosts ipc namespace'),
        (("--cpuset-cpus", "99999"), "value of out range, maximum is 8192"),
    ],
)  # fmt: skip
def test_what_would_change_the_host(docker: Docker, flags: tuple[str, ...], says: str) -> None:
    docker.fails("run", "--rm", *flags, "busybox", "true", code=125, says=says)


def test_a_child_that_is_killed_for_memory(docker: Docker) -> None:
    """The first process goes on; what happened is told, and which limit it was."""
    began = time.time()
    name = docker.up("-m", "32m", "--network", "none", "busybox",
                     "sh", "-c", "tail /dev/zero; echo survived $?; sleep 100")  # fmt: skip
    assert eventually(lambda: docker.out("logs", name) == "survived 137")
    assert eventually(lambda: docker.state(name, "{{.State.OOMKilled}}") == "true")
    assert docker.state(name) == "running"
    told = docker.out(
        *("events", "--since", f"{began}", "--until", f"{time.time() + 0.3}"),
        *("--filter", f"container={name}", "--filter", "event=oom"),
        *("--format", "{{.Actor.Attributes.memoryLimit}}"),
    )
    assert told.split() == [str(32 << 20)]
    docker("restart", "-t", "0", name)
    assert docker.state(name, "{{.State.Status}} {{.State.OOMKilled}}").startswith("running")


@pytest.mark.parametrize(
    "flags", [("--hostname", "one.two.test"), ("--hostname", "one", "--domainname", "two.test")]
)
def test_a_name_with_dots_has_a_short_one(docker: Docker, flags: tuple[str, ...]) -> None:
    name = docker.up(*flags, "busybox", "sleep", "60")
    found = docker.exec(name, "sh", "-c", "tail -1 /etc/hosts; hostname -f; hostname -s")
    assert found.split()[1:] == ["one.two.test", "one", "one.two.test", "one"]
