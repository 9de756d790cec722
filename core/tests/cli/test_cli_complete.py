"""What may come next on a line, and the shells that ask for it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from pyengine.cli import clickgroup
from pyengine.cli.complete import split

Run = Callable[..., Any]


def _containers(request: Any) -> None:
    """web runs, idle is stopped, held is paused."""
    state = {"web": "running", "idle": "exited", "held": "paused"}
    wanted = [name for name in state if "all=1" in request.query or state[name] != "exited"]
    for status in ("exited", "paused"):
        if f"%22{status}%22" in request.query:
            wanted = [name for name in state if state[name] == status]
    request.send([{"Names": [f"/{name}"], "Image": "i", "Status": "Up"} for name in wanted])


@pytest.fixture
def live(engine: Any, tmp_path: Path) -> Any:
    """An engine with some of everything, and two registries that somebody is logged in to."""
    engine.routes["GET /containers/json"] = _containers
    images = [{"Id": "sha256:" + "a" * 64, "RepoTags": ["web:v1", "box:latest"]}]
    engine.on("GET /images/json", [*images, {"Id": "sha256:b", "RepoTags": None}])
    engine.on("GET /networks", [{"Name": name, "Driver": "bridge"} for name in ("bridge", "inner")])
    engine.on("GET /volumes", {"Volumes": [{"Name": "data", "Driver": "local"}]})
    plugins = {"Log": ["json-file", "none"], "Network": ["bridge", "macvlan"], "Volume": ["local"]}
    engine.on("GET /info", {"Plugins": plugins, "Runtimes": {"native": {}}})
    config = tmp_path / "config" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {"r1:5000": {}, "other": {}}}))
    return engine


def names(outcome: Any) -> list[str]:
    assert (outcome.code, outcome.err) == (0, "")
    return [line.partition("\t")[0] for line in outcome.out.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pyengine net", ["network"]),
        ("pyengine logi", ["login"]),
        ("pyengine manifest ins", ["inspect"]),
        ("pyengine system d", ["df"]),
        ("pyengine --con", ["--config", "--context"]),
        ("pyengine -c ", ["default"]),
        ("pyengine --log-level=w", ["--log-level=warn"]),
        (
            "pyengine run --memory-",
            ["--memory-reservation", "--memory-swap", "--memory-swappiness"],
        ),
        # by what the verb can work on
        ("pyengine stop ", ["held", "web"]),
        ("pyengine start ", ["idle"]),
        ("pyengine unpause ", ["held"]),
        ("pyengine logs ", ["held", "idle", "web"]),
        ("pyengine container logs w", ["web"]),
        ("pyengine rm ", ["idle"]),
        ("pyengine rm -f ", ["held", "idle", "web"]),
        ("pyengine exec -it ", ["held", "web"]),
        # names given already, and no more places
        ("pyengine logs web ", []),
        ("pyengine kill web ", ["held"]),
        ("pyengine rename web ", []),
        ("pyengine tag web:v1 ", ["box:latest"]),
        ("pyengine save we", ["web:v1"]),
        ("pyengine run --rm -it --name x we", ["web:v1"]),
        ("pyengine -D --host unix:///none images ", []),
        ("pyengine network connect ", ["bridge", "inner"]),
        ("pyengine network connect inner ", ["held", "idle", "web"]),
        ("pyengine network rm ", ["inner"]),
        ("pyengine volume rm ", ["data"]),
        ("pyengine volume create -d ", ["local"]),
        ("pyengine network create --driver m", ["macvlan"]),
        ("pyengine inspect --type volume d", ["data"]),
        ("pyengine inspect --type image w", ["web:v1"]),
        ("pyengine logout r", ["r1:5000"]),
        ("pyengine context use ", ["default"]),
        ("pyengine drivers stor", ["storage"]),
        ("pyengine completion ", ["bash", "fish", "zsh"]),
        # values of flags
        ("pyengine run --network ", ["bridge", "inner"]),
        ("pyengine run --network=in", ["--network=inner"]),
        ("pyengine run -itv ", ["data:"]),
        ("pyengine run --log-driver j", ["json-file"]),
        ("pyengine run --restart un", ["unless-stopped"]),
        ("pyengine run --on-unhealthy ", ["none", "restart", "stop"]),
        ("pyengine run --runtime ", ["native"]),
        ("pyengine kill -s SIGUSR", ["SIGUSR1", "SIGUSR2"]),
        ("pyengine cp ", ["held:", "idle:", "web:"]),
        # files
        ("pyengine run --env-file ", [":files"]),
        ("pyengine run -v ./", [":files"]),
        ("pyengine exec web ", [":files"]),
        ("pyengine run box:latest --ve", [":files"]),
        ("pyengine cp web:/etc", [":files"]),
        ("pyengine daemon --", [":files"]),
        # what is no command, and what has nothing to offer
        ("pyengine nonsense ", []),
        ("pyengine network nonsense ", []),
        ("pyengine version ", []),
        ("pyengine run --nonsense --name ", []),
        ("pyengine image inspect -- --", []),
    ],
)
def test_what_comes_next(live: Any, pyengine: Run, line: str, expected: list[str]) -> None:
    assert names(pyengine("__complete", "fish", line)) == expected


def test_flags_are_offered_once_unless_they_may_be_repeated(live: Any, pyengine: Run) -> None:
    found = names(pyengine("__complete", "fish", "pyengine run -d --name x -e a=b --"))
    assert not {"--detach", "--name"} & set(found)
    assert {"--env", "--help", "--memory"} <= set(found)
    assert "--dns-opt" not in found


def test_descriptions_are_for_shells_that_show_them(live: Any, pyengine: Run) -> None:
    assert pyengine("__complete", "zsh", "pyengine stop w").out == "web\ti Up\n"
    assert pyengine("__complete", "bash", "pyengine stop w").out == "web\n"
    assert pyengine("__complete", "fish", "pyengine save we").out == f"web:v1\t{'a' * 12}\n"
    line = pyengine("__complete", "fish", "pyengine rm --fo").out
    assert line.startswith("--force\tForce the removal")


def test_bash_begins_new_words_where_it_likes(live: Any, pyengine: Run) -> None:
    ask = ("__complete", "bash", "pyengine rmi web:")
    assert names(pyengine(*ask, " :=")) == ["v1"]
    assert names(pyengine(*ask, " ")) == ["web:v1"]
    assert names(pyengine("__complete", "bash", "pyengine run --network=", ":=")) == [
        *("bridge", "inner")
    ]


def test_no_engine_is_no_reason_to_complain_or_to_start_one(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///none")
    for words in ("stop ", "run ", "volume rm ", "run --runtime "):
        assert names(pyengine("__complete", "fish", f"pyengine {words}")) == []
    assert names(pyengine("__complete", "fish", "pyengine sta")) == ["start", "stats"]


def test_a_plugins_command_completes_itself(
    live: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    @click.option("--loud", is_flag=True)
    @click.argument("image", type=clickgroup.Names("images"))
    @click.argument("out", type=click.Path())
    def greet(loud: bool, image: str, out: str) -> None:
        raise AssertionError("it is not called")

    monkeypatch.setitem(sys.modules, "greeting_plugin", types.SimpleNamespace(greet=greet))
    point = EntryPoint("image.greet", "greeting_plugin:greet", "pyengine.cli")
    monkeypatch.setattr(clickgroup, "plugins", lambda: [point])
    for line, expected in (
        ("image gr", ["greet"]),
        ("image greet we", ["web:v1"]),
        ("image greet --l", ["--loud"]),
        ("image greet web:v1 ", [":files"]),
    ):
        assert names(pyengine("__complete", "fish", f"pyengine {line}")) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pyengine", ["pyengine"]),
        ("pyengine ", ["pyengine", ""]),
        ("pyengine  a b", ["pyengine", "a", "b"]),
        ("pyengine 'a b' c\\ d ", ["pyengine", "a b", "c d", ""]),
        ("pyengine 'a b", ["pyengine", "a b"]),
        ('pyengine x "', ["pyengine", "x", ""]),
        ("pyengine a # b", ["pyengine", "a", "#", "b"]),
    ],
)
def test_lines_are_split_as_shells_do(line: str, words: list[str]) -> None:
    assert split(line) == words


# -- shells ----------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with pyengine on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "pyengine"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyengine "$@"\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, words: list[str], path: str, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(PATH=path, TERM="dumb", PS1="$ ", COLUMNS="200")
            os.execvp(words[0], words)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> None:
        """Wait until it comes; what came before it is forgotten."""
        until = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < until, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(pyengine completion bash)\n"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit && compinit -u -D; source <(pyengine completion zsh)\n",
    ),
}


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_shell(live: Any, path: str, tmp_path: Path, name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"no {name}")
    words, source = STARTS[name]
    (tmp_path / "a-file").touch()
    shell = Shell(words, path, tmp_path)
    try:
        shell.type(source + "echo rea''dy\n")
        shell.expect("ready\r\n")
        # Each is completed by one tab, and echoed by the shell with its end.
        for typed, completed in (
            ("stop we\t", "web"),
            ("rmi web:\t", "web:v1"),
            ("run --network=in\t", "--network=inner"),
            ("run --env-file a-f\t", "a-file"),
            ("netw\t", "network"),
        ):
            shell.type(f": ; pyengine {typed}")
            shell.expect(completed)
            shell.type("\x15")
    finally:
        shell.close()


def test_fish(live: Any, path: str, tmp_path: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("no fish")
    (tmp_path / "a-file").touch()

    def asked(line: str) -> list[str]:
        script = f"pyengine completion fish | source; complete -C '{line}'"
        env = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    assert asked("pyengine stop we") == ["web\ti Up"]
    assert asked("pyengine rmi web:") == [f"web:v1\t{'a' * 12}"]
    assert asked("pyengine run --env-file a-f") == ["a-file"]


def test_an_unknown_shell(pyengine: Run) -> None:
    outcome = pyengine("completion", "tcsh")
    assert (outcome.code, outcome.err) == (
        1,
        'no completion for "tcsh": the shells are bash, zsh, fish\n',
    )
