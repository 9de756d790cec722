"""ssh:// between docker's command and ours, in all directions; ``ssh`` runs the command here."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import EngineProcess

PYENGINE = [sys.executable, "-m", "pyengine"]
SSH = """#!/bin/sh
# Notes its arguments down, and runs the remote command where {remote}/docker is "docker".
printf '[%s]' "$@" >>{log}; echo >>{log}
while [ "$1" != -- ]; do shift; done
shift 2
export DOCKER_HOST=unix://{socket} PATH={remote}:$PATH
exec sh -c "$*"
"""


class Ssh:
    """A host that is reached by ssh and has one of both commands under docker's name."""

    def __init__(self, folder: Path, socket: Path, command: list[str]) -> None:
        self.log, self.folder = folder / "log", folder
        remote = folder / "remote"
        remote.mkdir(parents=True)
        self.program(remote / "docker", f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script = SSH.format(log=self.log, remote=remote, socket=socket)
        self.program(folder / "ssh", script)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def start(
        self, client: list[str], *words: str, url: str = "ssh://host"
    ) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
        env |= {"DOCKER_HOST": url, "PATH": f"{self.folder}:{env['PATH']}"}
        env["DOCKER_CONFIG"] = str(self.folder / "config")
        pipe = subprocess.PIPE
        return subprocess.Popen([*client, *words], stdin=pipe, stdout=pipe, stderr=pipe, env=env)

    def __call__(
        self, client: list[str], *words: str, input: bytes = b"", url: str = "ssh://host"
    ) -> tuple[int, bytes, bytes]:
        process = self.start(client, *words, url=url)
        out, err = process.communicate(input, timeout=60)
        return process.returncode, out, err


@pytest.fixture(params=["docker to ours", "ours to docker", "ours to ours"])
def pair(
    request: pytest.FixtureRequest, engine: EngineProcess, docker_binary: str, tmp_path: Path
) -> tuple[Ssh, list[str]]:
    """The host, and the client's command."""
    client, _, host = request.param.split()
    commands = {"docker": [docker_binary], "ours": PYENGINE}
    return Ssh(tmp_path / "host", engine.socket, commands[host]), commands[client]


RUN = ["run", "--rm", "--network", "none"]


def test_commands_and_exit_codes(pair: tuple[Ssh, list[str]], engine: EngineProcess) -> None:
    ssh, client = pair
    id = engine.out("create", "--label", "via=ssh", "busybox").strip()
    try:
        found = ssh(client, "ps", "-aq", "--no-trunc", "--filter", "label=via=ssh")
        assert found == (0, f"{id}\n".encode(), b"")
    finally:
        engine.docker("rm", id)
    assert ssh(client, *RUN, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7") == (
        *(7, b"out\n", b"err\n"),
    )


def test_input_and_output_at_once_and_to_the_end(pair: tuple[Ssh, list[str]]) -> None:
    """More than any buffer holds, in both directions; the end of the input ends no output."""
    ssh, client = pair
    data = os.urandom(6 << 20)
    code, out, err = ssh(client, *RUN, "-i", "busybox", "cat", input=data)
    assert (code, err) == (0, b"")
    assert out == data
    late = "cat >/dev/null; sleep 0.3; echo late"
    assert ssh(client, *RUN, "-i", "busybox", "sh", "-c", late, input=b"x")[:2] == (0, b"late\n")


def test_the_end_of_the_output_does_not_wait_for_the_input(pair: tuple[Ssh, list[str]]) -> None:
    ssh, client = pair
    process = ssh.start(client, *RUN, "-i", "busybox", "echo", "over")
    assert process.stdout is not None
    try:
        assert process.wait(30) == 0  # its input is still open
        assert process.stdout.read() == b"over\n"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://host", "ssh://me@host", "ssh://me@host:2222", "ssh://[::1]:22", "ssh://Host:22"),
        *("ssh://host/run/x.sock", "ssh://-oProxyCommand=x"),
    ],
)
def test_both_commands_call_ssh_alike(url: str, docker_binary: str, tmp_path: Path) -> None:
    said = []
    for name, client in (("docker", [docker_binary]), ("ours", PYENGINE)):
        ssh = Ssh(tmp_path / name, Path("/none"), ["false"])
        assert ssh(client, "ps", url=url)[0] == 1
        said.append(ssh.log.read_text().splitlines()[0])
    assert said[0] == said[1]


def test_a_socket_on_the_host(engine: EngineProcess, docker_binary: str, tmp_path: Path) -> None:
    spaced = tmp_path / "a b'c.sock"
    spaced.symlink_to(engine.socket)
    ssh = Ssh(tmp_path / "host", Path("/none"), PYENGINE)
    assert ssh([docker_binary], "ps", "-q", url=f"ssh://host{engine.socket}") == (0, b"", b"")
    assert ssh(PYENGINE, "ps", "-q", url=f"ssh://host{spaced}".replace(" ", "%20"))[::2] == (0, b"")


def test_what_ssh_says_is_told(tmp_path: Path) -> None:
    ssh = Ssh(tmp_path / "host", Path("/none.sock"), PYENGINE)
    code, _, err = ssh(PYENGINE, "ps")
    assert code == 1
    assert b"dial unix /none.sock: connect: no such file or directory" in err
    ssh.program(ssh.folder / "ssh", "#!/bin/sh\necho Permission denied >&2\nexit 255\n")
    code, _, err = ssh(PYENGINE, "ps")
    assert code == 1
    assert b"Permission denied" in err
    assert b"255" in err
    (ssh.folder / "ssh").unlink()
    (ssh.folder / "sh").symlink_to("/bin/sh")
    process = subprocess.run(
        [*PYENGINE, "-H", "ssh://host", "ps"],
        env={"PATH": str(ssh.folder)},
        capture_output=True,
        check=False,
    )
    assert (process.returncode, b"ssh: no such file or directory" in process.stderr) == (1, True)


@pytest.mark.parametrize(
    "url", ["ssh://u:p@h", "ssh://", "ssh://h?x=1", "ssh://h#f", "ssh://h:abc"]
)
def test_addresses_that_are_refused(url: str, docker_binary: str) -> None:
    said = [
        subprocess.run([*command, "-H", url, "ps"], capture_output=True, text=True, check=False)
        for command in ([docker_binary], PYENGINE)
    ]
    assert [done.returncode for done in said] == [1, 1]
    assert said[0].stderr == said[1].stderr


@pytest.mark.parametrize("command", ["docker", "ours"])
def test_dial_stdio_alone(command: str, engine: EngineProcess, docker_binary: str) -> None:
    """It waits for the answer when its input has ended, and ends with the engine when not."""
    words = {"docker": [docker_binary], "ours": PYENGINE}[command]
    words = [*words, "-H", f"unix://{engine.socket}", "system", "dial-stdio"]
    request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    done = subprocess.run(words, input=request, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0
    # docker's own sometimes complains of a connection that it has closed itself.
    assert command == "docker" or not done.stderr
    assert done.stdout.endswith(b"OK")
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        assert process.stdout.read().endswith(b"OK")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_dial_stdio_does_not_mix_up_the_directions(engine: EngineProcess) -> None:
    """A client that writes without reading is not held up before the engine is."""
    words = [*PYENGINE, "-H", f"unix://{engine.socket}", "system", "dial-stdio"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    request = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    many = 400
    try:
        os.set_blocking(process.stdin.fileno(), False)
        sent, until = 0, time.monotonic() + 20
        data = request * many
        while sent < len(data) and time.monotonic() < until:
            select.select([], [process.stdin], [], 1)
            try:
                sent += os.write(process.stdin.fileno(), data[sent:])
            except BlockingIOError:
                continue
        assert sent == len(data)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < many:
            answers += os.read(process.stdout.fileno(), 65536)
        process.stdin.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
