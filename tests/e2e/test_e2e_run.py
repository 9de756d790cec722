"""docker run: what the command of a container finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Docker, eventually, namespace, pid_of


def test_environment(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=yes\n")
    out = docker.sh("env", "-e", "A=b c", "-e", "EMPTY=", "--env-file", str(tmp_path / "env"))
    found = dict(line.split("=", 1) for line in out.splitlines())
    assert found["A"] == "b c"
    assert found["EMPTY"] == ""
    assert found["FROM_FILE"] == "yes"
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert found["HOME"] == "/root"
    assert "HOME=/root" in docker.sh("env", "-e", "HOME=").splitlines()
    assert set(found) <= {"A", "EMPTY", "FROM_FILE", "PATH", "HOME", "HOSTNAME", "PWD", "SHLVL"}


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("", "uid=0(root) gid=0(root)"),
        ("nobody", "uid=65534(nobody) gid=65534(nogroup)"),
        ("nobody:tty", "uid=65534(nobody) gid=5(tty)"),
        ("1234", "uid=1234 gid=0(root)"),
        ("1234:4321", "uid=1234 gid=4321"),
    ],
)
def test_user(docker: Docker, user: str, shown: str) -> None:
    assert docker.sh("id", "-u", user).startswith(shown)


def test_unknown_user_and_more_groups(docker: Docker) -> None:
    docker.fails(
        "run",
        "--rm",
        "-u",
        "ghost",
        "busybox",
        "id",
        code=125,
        says="unable to find user ghost: no matching entries in passwd file",
    )
    assert docker.sh("id -G", "--group-add", "77", "--group-add", "tty") in ("0 5 77", "0 77 5")


def test_working_directory_is_made(docker: Docker) -> None:
    assert docker.sh("pwd; stat -c %a .", "-w", "/made/for/it") == "/made/for/it\n755"
    docker.fails(
        "run",
        "--rm",
        "-w",
        "not/absolute",
        "busybox",
        "true",
        code=125,
        says="the working directory 'not/absolute' is invalid",
    )


def test_entrypoint(docker: Docker) -> None:
    assert docker.out("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b"
    assert docker.out("run", "--rm", "--entrypoint", "", "busybox", "echo", "x") == "x"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("true",), 0, ""),
        (("sh", "-c", "exit 7"), 7, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("sh", "-c", "kill -TERM $$; sleep 5"), 143, ""),
        (("nonesuch",), 127, 'exec: "nonesuch": executable file not found in $PATH'),
        (("/nonesuch",), 127, 'exec: "/nonesuch": stat /nonesuch: no such file or directory'),
        (("/etc/passwd",), 126, 'exec: "/etc/passwd": permission denied'),
        (("/etc",), 126, 'exec: "/etc": is a directory'),
    ],
)
def test_exit_codes(docker: Docker, words: tuple[str, ...], code: int, says: str) -> None:
    # As init, a shell ignores signals that it has no handler for: --pid host gives it another pid.
    flags = ("--pid", "host") if "kill" in words[-1] else ()
    done = docker("run", "--rm", "--network", "none", *flags, "busybox", *words, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_a_command_that_cannot_run_leaves_a_container_that_says_so(docker: Docker) -> None:
    name = docker.name()
    docker.fails("run", "--name", name, "busybox", "nonesuch", code=127, says="nonesuch")
    assert docker.state(name, "{{.State.Status}} {{.State.ExitCode}}") == "created 127"
    assert "executable file not found" in docker.state(name, "{{.State.Error}}")
    says = 'exec: "/etc": is a directory: permission denied'
    docker.fails("run", "--rm", "busybox", "/etc", code=126, says=says)


def test_errors_of_the_request(docker: Docker) -> None:
    docker.fails(
        "run", "--rm", "--pull", "never", "nonesuch:1", code=125, says="No such image: nonesuch:1"
    )
    docker.fails(
        "run", "--rm", "--name", "/bad name", "busybox", code=125, says="Invalid container name"
    )
    docker.fails(
        "run", "--rm", "-m", "1m", "busybox", code=125, says="Minimum memory limit allowed is 6MB"
    )
    docker.fails(
        "run", "--rm", "--cpus", "1000", "busybox", code=125, says="ange of CPUs is from 0.01 to"
    )
    docker.fails("run", "--rm", "--runtime", "nonesuch", "busybox", code=125, says="nonesuch")
    docker.fails(
        "run",
        "--rm",
        "--log-driver",
        "nonesuch",
        "busybox",
        code=125,
        says="error looking up logging plugin nonesuch",
    )


def test_names_conflict(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    text = docker.fails("create", "--name", name, "busybox", code=1, says="Conflict")
    id = docker.state(name, "{{.Id}}")
    assert (
        f'The container name "/{name}" is already in use by container "{id}". You have to remove '
        "(or rename) that container to be able to reuse that name."
    ) in text


def test_hostname_hosts_and_resolv(docker: Docker) -> None:
    out = docker.sh(
        "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf",
        "-h",
        "box",
        "--domainname",
        "example.org",
        "--add-host",
        "peer:10.1.2.3",
        "--add-host",
        "six:2001:db8::1",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "example.com",
        "--dns-option",
        "ndots:2",
    )
    lines = out.splitlines()
    assert lines[:2] == ["box", "box"]
    assert "10.1.2.3\tpeer" in lines
    assert "2001:db8::1\tsix" in lines
    assert "127.0.0.1\tlocalhost" in lines
    assert lines[-3:] == ["nameserver 9.9.9.9", "search example.com", "options ndots:2"]


def test_host_gateway_and_own_name(docker: Docker) -> None:
    out = docker.out(
        "run",
        "--rm",
        "-h",
        "box",
        "--add-host",
        "up:host-gateway",
        "busybox",
        "sh",
        "-c",
        "cat /etc/hosts; ip -4 -o addr show eth0; ip route",
    )
    gateway = out.split("default via ")[1].split()[0]
    address = out.split("inet ")[1].split("/")[0]
    assert f"{gateway}\tup" in out
    assert f"{address}\tbox" in out
    docker.fails(
        "run",
        "--rm",
        "--add-host",
        "x:not-an-address",
        "busybox",
        code=125,
        says='invalid IP address in add-host: "not-an-address"',
    )


def test_ulimit_sysctl_shm_and_oom_score(docker: Docker) -> None:
    out = docker.sh(
        "ulimit -n; ulimit -Hn; cat /proc/sys/kernel/msgmax; cat /proc/self/oom_score_adj;"
        "df -k /dev/shm | tail -1",
        "--ulimit",
        "nofile=100:200",
        "--sysctl",
        "kernel.msgmax=4242",
        "--oom-score-adj",
        "300",
        "--shm-size",
        "8m",
    )
    lines = out.splitlines()
    assert lines[:4] == ["100", "200", "4242", "300"]
    assert lines[4].split()[1] == "8192"
    docker.fails("run", "--rm", "--sysctl", "kernel.panic=1", "busybox", code=125, says="sysctl")


def test_read_only_root(docker: Docker) -> None:
    out = docker.sh(
        "touch /x 2>&1; touch /tmp/y && echo tmpfs; touch /dev/shm/z && echo shm",
        "--read-only",
        "--tmpfs",
        "/tmp",
    )
    assert out.splitlines() == ["touch: /x: Read-only file system", "tmpfs", "shm"]


def test_init_needs_one_on_the_host(docker: Docker) -> None:
    found = next(
        (
            p
            for p in ("docker-init", "tini", "tini-static", "catatonit")
            if subprocess.run(["which", p], capture_output=True, check=False).returncode == 0
        ),
        "",
    )
    done = docker("run", "--rm", "--init", "busybox", "cat", "/proc/1/comm", check=False)
    if found:
        assert done.stdout.strip() == "docker-init"
    else:
        assert done.returncode == 127
        assert 'exec: "docker-init": executable file not found in $PATH' in done.stderr
        assert "tini" in done.stderr


def test_labels_and_cidfile(docker: Docker, tmp_path: Path) -> None:
    name = docker.name()
    docker("create", "--name", name, "--label", "a=b", "--cidfile", str(tmp_path / "id"), "busybox")
    assert docker.state(name, "{{.Id}}") == (tmp_path / "id").read_text()
    assert json.loads(docker.state(name, "{{json .Config.Labels}}")) == {"a": "b"}


# -- namespaces ------------------------------------------------------------------------------------

KINDS = ("mnt", "net", "pid", "ipc", "uts", "cgroup")


def test_everything_is_of_its_own_by_default(docker: Docker) -> None:
    pid = pid_of(docker.up("busybox", "sleep", "60"), docker)
    mine = {kind for kind in KINDS if namespace(pid, kind) != namespace("self", kind)}
    # Docker's default: a private cgroup namespace on cgroup v2, the host's on v1.
    private = {"cgroup"} if Path("/sys/fs/cgroup/cgroup.controllers").exists() else set()
    assert mine == {"mnt", "net", "pid", "ipc", "uts"} | private


def test_host_modes(docker: Docker) -> None:
    name = docker.up(
        "--network",
        "host",
        "--pid",
        "host",
        "--ipc",
        "host",
        "--uts",
        "host",
        "--cgroupns",
        "host",
        "busybox",
        "sleep",
        "60",
    )
    pid = pid_of(name, docker)
    for kind in ("pid", "ipc", "uts", "cgroup"):
        assert namespace(pid, kind) == namespace("self", kind), kind
    assert namespace(pid, "net") == namespace(docker.engine.pid, "net")
    assert docker.exec(name, "hostname") == os.uname().nodename


def test_private_cgroup_namespace(docker: Docker) -> None:
    name = docker.up("--cgroupns", "private", "busybox", "sleep", "60")
    assert namespace(pid_of(name, docker), "cgroup") != namespace("self", "cgroup")
    assert all(
        line.rpartition(":")[2].startswith("/") and len(line.rpartition(":")[2]) < 40
        for line in docker.exec(name, "cat", "/proc/1/cgroup").splitlines()
    )


def test_namespaces_of_another_container(docker: Docker) -> None:
    first = docker.up("--ipc", "shareable", "busybox", "sleep", "60")
    second = docker.up(
        "--network",
        f"container:{first}",
        "--pid",
        f"container:{first}",
        "--ipc",
        f"container:{first}",
        "busybox",
        "sleep",
        "61",
    )
    one, two = pid_of(first, docker), pid_of(second, docker)
    for kind in ("net", "pid", "ipc"):
        assert namespace(one, kind) == namespace(two, kind), kind
    for kind in ("mnt", "uts"):
        assert namespace(one, kind) != namespace(two, kind), kind
    assert "sleep 61" in docker.exec(first, "ps")
    docker.exec(first, "touch", "/dev/shm/both")
    assert docker.exec(second, "ls", "/dev/shm") == "both"
    private = docker.up("busybox", "sleep", "60")
    docker.fails(
        "run",
        "--rm",
        "--ipc",
        f"container:{private}",
        "busybox",
        code=125,
        says="non-shareable IPC",
    )


def test_another_container_that_does_not_run_or_exist(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--name", name, "busybox")
    docker.fails(
        "run",
        "--rm",
        "--network",
        f"container:{name}",
        "busybox",
        code=125,
        says="cannot join network of a non running container",
    )
    for kind in ("pid", "ipc"):
        docker.fails(
            *("run", "--rm", f"--{kind}", f"container:{name}", "busybox"),
            code=125,
            says=f"failed to join {kind.upper()} namespace: container ",
        )
        # At create, since only a start could tell otherwise.
        docker.fails(
            *("create", f"--{kind}", "container:nonesuch", "busybox"),
            code=1,
            says="No such container: nonesuch",
        )
    docker.fails(
        "run",
        "--rm",
        "--pid",
        "container:nonesuch",
        "busybox",
        code=125,
        says="No such container: nonesuch",
    )
    docker.fails(
        "run",
        "--rm",
        "--network",
        "nonesuch",
        "busybox",
        code=125,
        says="network nonesuch not found",
    )


# -- what the process is like ----------------------------------------------------------------------


def test_no_descriptor_mask_or_disposition_leaks(docker: Docker) -> None:
    out = docker.sh("ls /proc/self/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; umask")
    lines = out.splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # 3 is ls reading the directory
    assert lines[4:] == [
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "SigCgt:\t0000000000000000",
        "0022",
    ]


def test_zombies_and_background_processes_end_with_init(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "sleep 300 & sleep 301 & exec sleep 302")
    pids = [line.split()[1] for line in docker.out("top", name).splitlines()[1:]]
    assert len(pids) == 3
    docker("kill", name)
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_proxied_signals(docker: Docker) -> None:
    """docker run without a tty hands signals on to the container."""
    name = docker.name()
    process = subprocess.Popen(
        docker.engine.command(
            "run",
            "--name",
            name,
            "busybox",
            "sh",
            "-c",
            "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done",
        ),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=20)[0] == b"got\n"
    assert process.returncode == 9
