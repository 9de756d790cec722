"""Attached streams: half-close, ptys, detaching, many bytes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Docker, eventually


class Terminal:
    """A docker command under a real pty."""

    def __init__(self, docker: Docker, *words: str, size: tuple[int, int] = (33, 111)) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen(
            docker.engine.command(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str, within: float = 10) -> None:
        deadline = time.monotonic() + within
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    assert text in self.seen, self.seen
                    return

    def end(self) -> int:
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            os.close(self.master)


def test_half_close_over_unix_and_tcp(docker: Docker) -> None:
    script = "cat; sleep 1; echo late"
    words = ("run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", script)
    assert docker(*words, input="x\n").stdout == "x\nlate\n"
    over_tcp = docker.engine.in_namespace(
        "sh",
        "-c",
        f"echo x | {docker.engine.command()[0]} -H tcp://127.0.0.1:2375 "
        f"run --rm -i --network none busybox sh -c '{script}'",
    )
    assert over_tcp.stdout == "x\nlate\n", over_tcp.stderr


def test_half_close_of_an_exec(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    out = docker("exec", "-i", name, "sh", "-c", "cat; sleep 0.5; echo late", input="x\n")
    assert out.stdout == "x\nlate\n"


def test_streams_are_apart(docker: Docker) -> None:
    done = docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    only = docker("run", "--rm", "-a", "stderr", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (only.stdout, only.stderr) == ("", "err\n")


@pytest.mark.parametrize("words", [("run", "--rm", "-i", "busybox"), ("exec", "-i", "NAME")])
def test_many_bytes_in_both_directions(docker: Docker, words: tuple[str, ...]) -> None:
    name = docker.up("busybox", "sleep", "60")
    data = os.urandom(3 << 20)
    done = subprocess.run(
        docker.engine.command(*[name if word == "NAME" else word for word in words], "cat"),
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_command_that_reads_nothing_ends(docker: Docker) -> None:
    done = subprocess.run(
        docker.engine.command("run", "--rm", "-i", "busybox", "true"),
        input=bytes(1 << 20),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0


def test_run_under_a_pty(docker: Docker) -> None:
    name = docker.name()
    terminal = Terminal(docker, "run", "-it", "--name", name, "busybox", "sh")
    terminal.until("/ # ")
    terminal.type("stty size; tty; echo TERM=$TERM\n")
    terminal.until("33 111")
    terminal.until("/dev/pts/0")
    terminal.until("TERM=xterm")
    terminal.resize(20, 70)
    time.sleep(0.3)
    terminal.type("stty size\n")
    terminal.until("20 70")
    terminal.type("sleep 50\n")
    time.sleep(0.2)
    terminal.type("\x03")
    terminal.type("echo interrupted $?\n")
    terminal.until("interrupted 130")
    terminal.type("exit 12\n")
    assert terminal.end() == 12
    assert "interrupted 130\r\n" in docker("logs", name).stdout.replace("\n", "\r\n").replace(
        "\r\r", "\r"
    )


def test_detach_keys_and_attach_again(docker: Docker) -> None:
    name = docker.name()
    terminal = Terminal(docker, "run", "-it", "--name", name, "busybox", "sh")
    terminal.until("/ # ")
    terminal.type("\x10\x11")
    assert terminal.end() == 0
    assert docker.state(name) == "running"
    again = Terminal(docker, "attach", "--detach-keys", "ctrl-x,q", name)
    # A lone first key is the container's.
    again.type("echo a\x10b\n")
    again.until("a")
    again.type("\x18q")
    again.end()
    assert docker.state(name) == "running"
    last = Terminal(docker, "attach", name)
    last.type("exit 5\n")
    assert last.end() == 5


def test_exec_under_a_pty(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    terminal = Terminal(docker, "exec", "-it", name, "sh")
    terminal.until("/ # ")
    terminal.type("stty size; test -t 0 && echo is a tty\n")
    terminal.until("33 111")
    terminal.until("is a tty")
    terminal.type("exit 3\n")
    assert terminal.end() == 3


def test_attach_to_what_runs_follows_and_has_the_exit_code(docker: Docker) -> None:
    name = docker.up("-i", "busybox", "sh", "-c", "read line; echo got $line; exit 8")
    done = docker("attach", name, input="hello\n", check=False)
    assert done.stdout == "got hello\n"
    assert done.returncode == 8


def test_two_clients_see_the_same(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "while ! test -e /go; do sleep 0.05; done; echo both")
    clients = [
        subprocess.Popen(
            docker.engine.command("attach", "--no-stdin", name), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    time.sleep(0.4)
    docker.exec(name, "touch", "/go")
    assert [client.communicate(timeout=15)[0] for client in clients] == ["both\n"] * 2


def test_a_client_that_is_killed_takes_nothing_with_it(docker: Docker) -> None:
    name = docker.name()
    client = subprocess.Popen(
        docker.engine.command(
            "run", "--name", name, "busybox", "sh", "-c", "while :; do echo tick; sleep 0.02; done"
        ),
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    client.stdout.readline()
    client.kill()
    client.communicate()
    before = docker.out("logs", name)
    assert eventually(lambda: len(docker.out("logs", name)) > len(before))


def test_a_client_that_does_not_read_holds_up_nobody_for_ever(docker: Docker) -> None:
    name = docker.name()
    client = subprocess.Popen(
        docker.engine.command(
            "run", "--name", name, "busybox", "sh", "-c", "yes | head -c 6000000; echo end"
        ),
        stdout=subprocess.PIPE,
    )
    time.sleep(0.5)
    # Its output waits; its container is no less there for others.
    assert docker.exec(name, "echo", "still here") == "still here"
    out = client.communicate(timeout=30)[0]
    assert len(out) == 6000004
    assert out.endswith(b"end\n")


# -- logs ------------------------------------------------------------------------------------------


def test_logs_of_both_streams_in_order(docker: Docker) -> None:
    name = docker.name()
    docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3; do echo o$i; sleep 0.03; echo e$i >&2; sleep 0.03; done",
    )
    done = docker("logs", name)
    assert (done.stdout.split(), done.stderr.split()) == (["o1", "o2", "o3"], ["e1", "e2", "e3"])
    both = subprocess.run(
        docker.engine.command("logs", name),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert both.stdout.split() == ["o1", "e1", "o2", "e2", "o3", "e3"]


def test_logs_since_until_tail_and_timestamps(docker: Docker) -> None:
    name = docker.name()
    docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4; do echo line$i; sleep 0.15; done",
    )
    assert docker.out("logs", "--tail", "2", name).split() == ["line3", "line4"]
    assert docker.out("logs", "--tail", "0", name) == ""
    stamped = [line.split() for line in docker.out("logs", "-t", name).splitlines()]
    assert [word for _, word in stamped] == ["line1", "line2", "line3", "line4"]
    times = [stamp for stamp, _ in stamped]
    assert times == sorted(times)
    assert docker.out("logs", "--since", times[2], name).split() == ["line3", "line4"]
    assert docker.out("logs", "--until", times[1], name).split() == ["line1", "line2"]
    assert docker.out("logs", "--since", times[1], "--until", times[2], name).split() == [
        "line2",
        "line3",
    ]
    assert docker.out("logs", "--since", "1h", "--tail", "1", name) == "line4"
    docker.fails("logs", "--since", "yesterday", name, code=1, says="invalid value for")


def test_logs_follow_to_the_end(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert docker.out("logs", "-f", name).split() == ["1", "2", "3", "4", "5"]
    assert docker.out("logs", "-f", "--tail", "1", name) == "5", "of one that ended"


def test_a_line_longer_than_any_buffer(docker: Docker) -> None:
    name = docker.name()
    docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "head -c 300000 /dev/zero | tr '\\0' x; echo; printf 'no newline'",
    )
    assert docker("logs", name).stdout == "x" * 300000 + "\nno newline"


def test_odd_bytes(docker: Docker) -> None:
    name = docker.name()
    docker(
        "run", "--name", name, "busybox", "printf", r"a\tb\042c\\d \033[31mred\033[0m \303\244\n"
    )
    assert docker("logs", name).stdout == 'a\tb"c\\d \x1b[31mred\x1b[0m ä\n'


def test_log_driver_none(docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, "--log-driver", "none", "busybox", "echo", "x")
    docker.fails("logs", name, code=1, says="configured logging driver does not support reading")


def test_rotation(docker: Docker) -> None:
    name = docker.name()
    docker(
        "run",
        "--name",
        name,
        "--log-opt",
        "max-size=100k",
        "--log-opt",
        "max-file=2",
        "busybox",
        "sh",
        "-c",
        "seq 1 20000",
    )
    lines = docker.out("logs", name).split()
    assert lines[-1] == "20000"
    assert lines == [str(n) for n in range(int(lines[0]), 20001)], "no gap"
    assert len(lines) < 20000
    docker.fails(
        "run",
        "--rm",
        "--log-opt",
        "nonesuch=1",
        "busybox",
        code=125,
        says="unknown log opt 'nonesuch' for json-file log driver",
    )


# -- exec ------------------------------------------------------------------------------------------


def test_exec(docker: Docker) -> None:
    name = docker.up("-e", "A=1", "-w", "/tmp", "busybox", "sleep", "60")
    assert docker.out("exec", "-e", "B=2", name, "sh", "-c", "echo $A$B; pwd") == "12\n/tmp"
    assert docker.out("exec", "-w", "/etc", name, "pwd") == "/etc"
    assert docker.out("exec", "-u", "nobody", name, "id", "-un") == "nobody"
    assert docker.out("exec", "-u", "7:9", name, "sh", "-c", "id -u; id -g") == "7\n9"
    assert docker("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("NAME", "nonesuch"), 127, 'exec: "nonesuch": executable file not found in $PATH'),
        (("NAME", "/no/such"), 127, "stat /no/such: no such file or directory"),
        (("NAME", "/etc/passwd"), 126, 'exec: "/etc/passwd": permission denied'),
        (("NAME", "/etc"), 126, 'exec: "/etc": is a directory'),
        (("-u", "ghost", "NAME", "id"), 126, "unable to find user ghost"),
        (("-w", "/nonesuch", "NAME", "id"), 127, "/nonesuch"),
    ],
)
def test_an_exec_that_cannot_run(
    docker: Docker, words: tuple[str, ...], code: int, says: str
) -> None:
    name = docker.up("busybox", "sleep", "60")
    done = docker("exec", *(name if w == "NAME" else w for w in words), check=False)
    # dockerd's: what the runtime says comes in the stream.
    assert says in done.stdout + done.stderr
    assert done.returncode == code


def capabilities(of: Callable[..., str]) -> int:
    return int(of("sh", "-c", "grep CapEff /proc/self/status").split()[1], 16)


def test_privileged_exec(docker: Docker) -> None:
    name = docker.up("--cap-drop", "ALL", "busybox", "sleep", "60")
    assert capabilities(lambda *words: docker.exec(name, *words)) == 0
    assert capabilities(lambda *words: docker.out("exec", "--privileged", name, *words)) > 1 << 37


def test_detached_exec(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    assert docker.out("exec", "-d", name, "sh", "-c", "sleep 0.2; touch /done") == ""
    assert eventually(
        lambda: docker("exec", name, "test", "-e", "/done", check=False).returncode == 0
    )


def test_an_exec_is_inside_everything(docker: Docker) -> None:
    name = docker.up("--pids-limit", "30", "-h", "inside", "busybox", "sleep", "60")
    assert docker.exec(name, "hostname") == "inside"
    ours = docker.exec(name, "sh", "-c", "cat /proc/1/cgroup; echo; cat /proc/self/cgroup")
    first, second = ours.split("\n\n")
    assert first == second
    assert docker.exec(name, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_exec_needs_a_running_container(docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, "busybox", "true")
    docker.fails("exec", name, "true", code=1, says="is not running")
    docker.fails("exec", "nonesuch", "true", code=1, says="No such container: nonesuch")


def test_execs_end_with_their_container(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    client = subprocess.Popen(docker.engine.command("exec", name, "sleep", "60"))
    assert eventually(lambda: docker.out("top", name).count("sleep") == 2)
    docker("kill", name)
    assert client.wait(15) == 137


def test_exit_codes_of_many_execs_at_once(docker: Docker) -> None:
    """A client asks for the code as soon as its stream has ended: it is there by then."""
    name = docker.up("busybox", "sleep", "60")
    clients = [
        subprocess.Popen(docker.engine.command("exec", name, "sh", "-c", f"echo x; exit {number}"),
                         stdout=subprocess.DEVNULL)
        for number in range(1, 25)
    ]  # fmt: skip
    assert [client.wait(60) for client in clients] == list(range(1, 25))
