"""Commands that concern the engine's process: autostart, daemon, drivers; and plugins' commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from pyengine.cli import autostart, clickgroup, session
from pyengine.cli.client import Client, CommandError
from pyengine.cli.http import Endpoint
from pyengine.contracts.base import Kind
from pyengine.errors import ConfigError

Run = Callable[..., Any]

FAKE_DAEMON = """
import os, socket, sys, time
path, record = sys.argv[1:3]
with open(record, "a") as file:
    file.write(f"{os.getpid()} {os.getsid(0)}\\n")
print("starting up", flush=True)
time.sleep(0.2)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    stream, _ = listener.accept()
    body = b'{"Name":"v"}' if stream.recv(65536).startswith(b"POST") else b"[]"
    head = b"HTTP/1.1 200 OK\\r\\nApi-Version: 1.45\\r\\nConnection: close\\r\\n"
    stream.sendall(head + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    stream.close()
"""


class Daemon:
    """A stand-in for the engine: the command that starts it, and what it noted down."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self.record = folder / "record"
        self.argv = [sys.executable, "-c", FAKE_DAEMON, str(self.socket), str(self.record)]

    def starts(self) -> list[list[int]]:
        if not self.record.exists():
            return []
        return [
            [int(word) for word in line.split()] for line in self.record.read_text().splitlines()
        ]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    fake = Daemon(tmp_path)
    for name in ("DOCKER_HOST", "PYENGINE_HOST", "PYENGINE_AUTOSTART", "DOCKER_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(session, "DEFAULT_HOST", f"unix://{fake.socket}")
    monkeypatch.setattr(autostart, "daemon_command", lambda: fake.argv)
    monkeypatch.setattr(autostart, "log_path", lambda: str(tmp_path / "log"))
    monkeypatch.setattr(autostart, "_lock_path", lambda: str(tmp_path / "lock"))
    yield fake
    for pid, _ in fake.starts():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        else:
            os.waitpid(pid, 0)
    _sweep()


def _sweep() -> None:
    for folder in autostart.session_cgroups():
        # An engine of somebody else's may be in there; then it stays.
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def test_a_creating_command_starts_an_engine(daemon: Daemon, pyengine: Run, tmp_path: Path) -> None:
    outcome = pyengine("volume", "create", "v")
    assert outcome.err == f"Starting the pyengine daemon (its log: {tmp_path / 'log'})\n"
    assert outcome.out == "v\n"
    ((pid, sid),) = daemon.starts()
    assert pid == sid
    if autostart.session_cgroups():
        assert "/pyengine-daemon\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert pyengine("ps", "-q").out == ""
    assert pyengine("ps", "-q").code == 0
    assert len(daemon.starts()) == 1


def test_other_commands_do_not(daemon: Daemon, pyengine: Run) -> None:
    outcome = pyengine("ps")
    assert outcome.code == 1
    assert outcome.err == (
        f"Cannot connect to the pyengine daemon at unix://{daemon.socket}. Is the engine running?\n"
    )
    assert daemon.starts() == []


@pytest.mark.parametrize("how", ["switch", "environment", "flag"])
def test_autostart_is_turned_off(
    daemon: Daemon, pyengine: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    words = ["volume", "create", "v"]
    if how == "switch":
        monkeypatch.setenv("PYENGINE_AUTOSTART", "0")
    elif how == "environment":
        monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon.socket}")
    else:
        words = ["-H", f"unix://{daemon.socket}", *words]
    outcome = pyengine(*words)
    assert outcome.code == 1
    assert "Is the engine running?" in outcome.err
    assert daemon.starts() == []


def test_two_commands_at_once_start_one(daemon: Daemon, tmp_path: Path) -> None:
    program = (
        "import sys; from pyengine.cli import autostart; from pyengine.cli.client import Client; "
        "from pyengine.cli.http import Endpoint; "
        "autostart.log_path = lambda: sys.argv[2]; autostart._lock_path = lambda: sys.argv[3]; "
        "autostart.start(Client(Endpoint.parse(sys.argv[1])), sys.argv[4:])"
    )
    url = f"unix://{daemon.socket}"
    argv = [sys.executable, "-c", program, url, str(tmp_path / "log"), str(tmp_path / "lock")]
    both = [subprocess.Popen([*argv, *daemon.argv], stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=20)[1] for process in both]
    try:
        assert [process.returncode for process in both] == [0, 0]
        assert len(daemon.starts()) == 1
        assert sorted(bool(text) for text in said) == [False, True]
    finally:
        for pid, _ in daemon.starts():
            os.kill(pid, signal.SIGKILL)
        daemon.record.unlink()
        _sweep()


def test_an_engine_that_ends_says_why(daemon: Daemon, tmp_path: Path) -> None:
    client = Client(Endpoint.parse(f"unix://{daemon.socket}"))
    (tmp_path / "log").write_text("an older line\n")
    argv = [sys.executable, "-c", "import sys; print('bad option: x'); sys.exit(3)"]
    with pytest.raises(CommandError) as caught:
        autostart.start(client, argv)
    assert str(caught.value) == (
        "Cannot start the pyengine daemon: the daemon ended with status 3\n  bad option: x\n"
        f"See {tmp_path / 'log'}"
    )


def test_an_engine_that_never_answers(daemon: Daemon, tmp_path: Path) -> None:
    client = Client(Endpoint.parse(f"unix://{daemon.socket}"))
    argv = [sys.executable, "-c", "import time; print('thinking', flush=True); time.sleep(60)"]
    with pytest.raises(CommandError, match=r"did not answer within 0\.5 seconds\n  thinking"):
        autostart.start(client, argv, deadline=0.5)


def test_an_engine_that_listens_and_never_answers(daemon: Daemon) -> None:
    client = Client(Endpoint.parse(f"unix://{daemon.socket}"))
    program = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
        "s.listen(); time.sleep(60)"
    )
    argv = [sys.executable, "-c", program, str(daemon.socket)]
    with pytest.raises(CommandError, match=r"did not answer within 1 seconds"):
        autostart.start(client, argv, deadline=1)
    assert daemon.socket.exists()


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["daemon", "--data-root", "/x", "--help"], ["--data-root", "/x", "--help"]),
        (["--driver", "storage=vfs", "daemon", "-D"], ["--driver", "storage=vfs", "-D"]),
        (["-H", "tcp://:1", "-D", "daemon"], ["--host", "tcp://:1", "--debug"]),
    ],
)
def test_daemon_gets_its_words(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], argv: list[str]
) -> None:
    given: list[list[str]] = []

    def main(words: list[str]) -> int:
        given.append(words)
        return 7

    monkeypatch.setitem(sys.modules, "pyengine.engine.main", types.SimpleNamespace(main=main))
    assert pyengine(*words).code == 7
    assert given == [argv]


def test_drivers(pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyengine import drivers

    found = [
        drivers.DriverStatus(
            "storage", "overlay2", "pyengine-storage-overlay2", "0.1.0", True, True
        ),
        drivers.DriverStatus(
            "network",
            "ipvlan",
            "pyengine-net-ipvlan",
            "0.1.0",
            False,
            reason="the kernel has no ipvlan",
            help="modprobe ipvlan",
        ),
    ]
    asked: list[Any] = []

    def survey(kinds: Any, chosen: Any) -> list[drivers.DriverStatus]:
        asked.append((kinds, chosen))
        return [status for status in found if status.kind in kinds]

    monkeypatch.setattr(drivers, "survey", survey)
    lines = pyengine("--driver", "storage=overlay2", "drivers").out.splitlines()
    assert asked[0][1][Kind.STORAGE] == ["overlay2"]
    assert lines[0].split() == ["KIND", "NAME", "PACKAGE", "VERSION", "AVAILABLE"]
    package = "pyengine-storage-overlay2"
    assert lines[1].split() == ["storage", "overlay2", "*", package, "0.1.0", "yes"]
    assert lines[-2:] == ["network ipvlan: the kernel has no ipvlan", "  modprobe ipvlan"]
    shown = json.loads(pyengine("drivers", "--format", "json", "network").out)
    assert [status["name"] for status in shown] == ["ipvlan"]
    assert pyengine("drivers", "foo").err.startswith('no driver is of kind "foo"; the kinds are ')


def test_errors_of_the_engines_own_code_show_help(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyengine import config

    def load(_: list[str]) -> None:
        raise ConfigError("the configuration has errors", "line 3", "nothing was started")

    monkeypatch.setattr(config, "load", load)
    outcome = pyengine("drivers")
    assert outcome.code == 1
    assert outcome.err == (
        "pyengine: the configuration has errors: line 3\n  help: nothing was started\n"
    )


@click.command()
@click.argument("name")
@click.pass_obj
def greet(session: session.Session, name: str) -> int:
    """Says hello."""
    click.echo(f"hello {name} at {session.endpoint().url}")
    return 4


def _install(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(clickgroup, "plugins", lambda: list(points))
    monkeypatch.setitem(sys.modules, "greeting_plugin", types.SimpleNamespace(greet=greet, other=1))


def test_a_plugins_command(pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, EntryPoint("greet", "greeting_plugin:greet", "pyengine.cli"))
    outcome = pyengine("-H", "unix:///x", "greet", "you")
    assert (outcome.code, outcome.out) == (4, "hello you at unix:///x\n")
    outcome = pyengine("greet")
    assert outcome.code == 2
    assert "Missing argument 'NAME'" in outcome.err


def test_a_plugins_command_in_a_built_in_group(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(
        monkeypatch,
        EntryPoint("image.greet", "greeting_plugin:greet", "pyengine.cli"),
        EntryPoint("image.ls", "greeting_plugin:greet", "pyengine.cli"),
        EntryPoint("image.bad", "no_such_module:x", "pyengine.cli"),
    )
    outcome = pyengine("-H", "unix:///x", "image", "greet", "you")
    assert (outcome.code, outcome.out) == (4, "hello you at unix:///x\n")
    outcome = pyengine("image", "greet")
    assert (outcome.code, outcome.err.splitlines()[0]) == (
        2,
        "Usage: pyengine image greet [OPTIONS] NAME",
    )
    # A built-in word is the built-in command.
    assert "Cannot connect" in pyengine("-H", "unix:///x", "image", "ls").err
    lines = pyengine("image", "--help").out.splitlines()
    assert "  greet    Says hello." in lines
    assert "  ls       List images" in lines
    assert any(line.startswith("  bad      (the command image.bad of") for line in lines)
    assert not any("greet" in line for line in pyengine("--help").out.splitlines())
    assert pyengine("greet", "you").code == 1
    assert pyengine("__complete", "bash", "pyengine image gr").out == "greet\n"


def test_a_command_whose_package_is_missing(pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    outcome = pyengine("image", "explore", "busybox")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "pyengine: unknown command: pyengine image explore\n\n"
        "It comes with a package of its own: pip install pyengine-cli-explore\n"
    )


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([("greet", "greeting_plugin:nothing")], "cannot be loaded: AttributeError"),
        ([("greet", "greeting_plugin:other")], "is no click command"),
        ([("greet", "no_such_module:x")], "cannot be loaded: ModuleNotFoundError"),
        (
            [("greet", "greeting_plugin:greet"), ("greet", "other_plugin:greet")],
            "two packages offer the command greet",
        ),
    ],
)
def test_broken_plugins(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str]], words: str
) -> None:
    _install(monkeypatch, *(EntryPoint(*point, "pyengine.cli") for point in points))
    outcome = pyengine("greet", "you")
    assert outcome.code == 1
    assert words in outcome.err
