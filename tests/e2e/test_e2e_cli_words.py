"""Our command has docker's words: the helps beside one another, and what the newest words do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyengine.cli import main

if TYPE_CHECKING:
    from .conftest import Docker, EngineProcess

PYENGINE = [sys.executable, "-m", "pyengine"]

SWARM = "a cluster is Kubernetes' business: the engine answers that it is no swarm manager"
BUILD = "building is a package of its own, not there yet"
PLUGINS = "managed plugins are not there yet"
WINDOWS = "for an engine on Windows: refused as docker does, which shows them without an engine"
CRIU = "experimental: checkpoints need CRIU"
OURS = "ours alone"

#: Commands that only docker has, and why.
NOT_OURS = {
    **dict.fromkeys(["config", "node", "secret", "service", "stack", "swarm"], SWARM),
    **dict.fromkeys(["build", "builder", "image build"], BUILD),
    "plugin": PLUGINS,
    "checkpoint": CRIU,
    "trust": "Notary, which the registries have given up",
}
#: Flags that one of them has: command, flags, and why. ``create`` and ``run`` stand for the words
#: of the group too.
MAKES = ("create", "run", "container create", "container run")
STARTS = ("start", "container start")
ONE_SIDED = {
    **{
        (word, flag): WINDOWS
        for word in MAKES
        for flag in ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops")
    },
    **{(word, flag): CRIU for word in STARTS for flag in ("checkpoint", "checkpoint-dir")},
    **{(word, flag): OURS for word in MAKES for flag in ("driver", "on-unhealthy")},
    **{(word, "trace"): OURS for word in MAKES if word.endswith("run")},
    ("", "driver"): OURS,
    ("events", "after"): OURS,
    ("system events", "after"): OURS,
}

Flags = dict[str, tuple[str, str]]


class Help:
    """A help text: the command's usage, its flags (short name and kind), and the words below."""

    def __init__(self, text: str) -> None:
        self.usage, self.flags, self.words = "", Flags(), list[str]()
        section = ""
        for line in text.splitlines():
            if line.startswith("Usage:"):
                self.usage = line.split(None, 2)[-1]
            elif line[:1].strip() and line.endswith(":"):
                section = line
            elif section.endswith("Options:"):
                if found := re.match(r"  (?:-(\w), |    )--([\w-]+)(?: (\S+))?(?:   |$)", line):
                    self.flags[found[2]] = found[1] or "", found[3] or ""
            elif section.endswith("Commands:") and (found := re.match(r"  ([\w-]+) ", line)):
                self.words.append(found[1])


def docker_help(docker: str, *path: str) -> Help:
    # Without an engine it shows all that it has, and without its plugins only its own.
    env = {
        "COLUMNS": "200",
        "DOCKER_HOST": "unix:///none",
        "DOCKER_CONFIG": "/none",
        "HOME": "/none",
    }
    done = subprocess.run(
        [docker, *path, "--help"], capture_output=True, text=True, env=env, check=True
    )
    return Help(done.stdout)


def our_help(*path: str) -> Help:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*path, "--help"]) == 0
    return Help(out.getvalue())


def both(docker: str, *path: str) -> Iterator[tuple[str, Help, Help]]:
    """A command and those below it that both have."""
    theirs, ours = docker_help(docker, *path), our_help(*path)
    yield " ".join(path), theirs, ours
    for word in theirs.words:
        if word in ours.words:
            yield from both(docker, *path, word)


def test_the_helps(docker_binary: str) -> None:
    missing, one_sided, different = set(), set(), []
    seen = 0
    for name, theirs, ours in both(docker_binary):
        seen += 1
        missing |= {f"{name} {word}".strip() for word in set(theirs.words) - set(ours.words)}
        one_sided |= {(name, flag) for flag in theirs.flags.keys() ^ ours.flags.keys()}
        different += [
            (name, flag, theirs.flags[flag], ours.flags[flag])
            for flag in theirs.flags.keys() & ours.flags.keys()
            if theirs.flags[flag] != ours.flags[flag]
        ]
        if name and theirs.usage.split() != ours.usage.split():
            different.append((name, "usage", ("", theirs.usage), ("", ours.usage)))
    # docker's own plugins may be installed or not.
    assert missing - {"buildx", "compose"} == set(NOT_OURS)
    assert one_sided == set(ONE_SIDED)
    assert different == []
    assert seen > 75


@pytest.fixture
def ours(engine: EngineProcess, tmp_path: Path) -> Command:
    return Command([*PYENGINE, "-H", f"unix://{engine.socket}"], tmp_path / "config")


@pytest.fixture
def theirs(engine: EngineProcess, docker_binary: str, tmp_path: Path) -> Command:
    return Command([docker_binary, "-H", f"unix://{engine.socket}"], tmp_path / "config")


class Command:
    """One of the two commands, with an engine and a configuration."""

    def __init__(self, words: list[str], config: Path) -> None:
        self.words, self.config = words, config

    def __call__(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        env = {**os.environ, "DOCKER_CONFIG": str(self.config), **environment}
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, env=env, check=False, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: str) -> str:
        code, out, err = self(*words)
        assert code == 0, (words, err)
        return out.strip()


@pytest.mark.parametrize(
    "flags",
    [
        *(["--type", "block"], ["--group", "g"], ["--availability", "drain"]),
        *(["--limit-bytes", "9"], ["--scope", "multi"]),
    ],
)
def test_cluster_volumes_are_refused(ours: Command, theirs: Command, flags: list[str]) -> None:
    said = ours("volume", "create", *flags, "clustered")
    assert said == theirs("volume", "create", *flags, "clustered")
    assert said[0] == 1
    assert "not a swarm manager" in said[2]
    assert "clustered" not in ours.ok("volume", "ls", "-q")


def test_updating_and_listing_cluster_volumes(ours: Command, theirs: Command) -> None:
    ours.ok("volume", "create", "local-one")
    try:
        for words in (
            *(["update", "local-one"], ["update", "--availability", "drain", "local-one"]),
            *(["update", "no-such"], ["ls", "--cluster"]),
        ):
            assert ours("volume", *words) == theirs("volume", *words)
    finally:
        ours.ok("volume", "rm", "local-one")


def test_images_as_a_tree(ours: Command, theirs: Command) -> None:
    names = ["tree:one", "registry.example/a/longer/tree:name", "tree:2"]
    for name in names:
        ours.ok("tag", "busybox", name)
    try:
        for words in ([], ["tree"], ["no-such"], ["-a"], ["-f", "label=x"]):
            lines = ours.ok("images", "--tree", *words).splitlines()
            out = re.sub(r"\x1b\[[0-9;]*m", "", theirs.ok("images", "--tree", *words))
            expected = out.splitlines()
            # docker has a warning first, and names of the same length in any order.
            assert "experimental" in expected.pop(0)
            assert sorted(line.strip() for line in lines) == sorted(
                line.strip() for line in expected
            )
        for flag in ("-q", "--no-trunc", "--digests"):
            assert ours("images", "--tree", flag) == theirs("images", "--tree", flag)
    finally:
        for name in names:
            ours.ok("rmi", name)


def test_flags_of_windows_are_refused(ours: Command, theirs: Command) -> None:
    for flag in ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"):
        for word in ("create", "run"):
            said = ours(word, f"--{flag}", "5", "busybox")
            assert said == theirs(word, f"--{flag}", "5", "busybox")
            assert said[0] == 1


def test_several_values_in_one(ours: Command, docker: Docker) -> None:
    subnets = "10.201.1.0/24,fd00:201::/64"
    ours.ok("network", "create", "--ipv6", "--subnet", subnets, "several")
    name = docker.up("busybox", "sleep", "60")
    try:
        pools = json.loads(ours.ok("network", "inspect", "several"))[0]["IPAM"]["Config"]
        assert [pool["Subnet"] for pool in pools] == subnets.split(",")
        ours.ok("network", "connect", "--alias", "x,y", "several", name)
        networks = json.loads(docker.out("inspect", name))[0]["NetworkSettings"]["Networks"]
        assert networks["several"]["Aliases"][:2] == ["x", "y"]
    finally:
        docker("rm", "-f", name)
        ours.ok("network", "rm", "several")


def test_on_unhealthy(ours: Command, docker: Docker) -> None:
    name = docker.name()
    health = ["--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1"]
    words = ["run", "-d", "--name", name, *health, "--annotation", "a=b", "--on-unhealthy"]
    code, _, err = ours(*words, "explode", "busybox", "sleep", "60")
    assert (code, 'must be one of "none", "restart" or "stop"' in err) == (125, True)
    ours.ok(*words, "stop", "busybox", "sleep", "60")
    annotations = json.loads(docker.out("inspect", name))[0]["HostConfig"]["Annotations"]
    assert annotations == {"a": "b", "pyengine.on-unhealthy": "stop"}
    assert docker.out("wait", name).strip() in ("137", "143")


def test_a_container_that_may_use_the_engine(
    ours: Command, theirs: Command, docker: Docker, engine: EngineProcess
) -> None:
    ours.config.mkdir()
    auths = {"r.example": {"auth": "dTpw"}, "s.example": {"identitytoken": "t"}}
    (ours.config / "config.json").write_text(json.dumps({"auths": auths, "detachKeys": "ctrl-a"}))
    configs = []
    for command in (ours, theirs):
        name = docker.name()
        script = "test -S /var/run/docker.sock && cat $DOCKER_CONFIG/config.json"
        words = ["--name", name, "--use-api-socket", "busybox", "sh", "-c", script]
        assert json.loads(command.ok("run", *words)) == {"auths": auths}
        found = json.loads(docker.out("inspect", name))[0]
        configs.append((found["Config"]["Env"], found["HostConfig"]["Mounts"]))
        assert found["Mounts"][0]["Source"] == str(engine.socket)
    assert configs[0] == configs[1]
    name = docker.name()
    words = ["--name", name, "-e", "DOCKER_CONFIG=/mine", "--use-api-socket", "busybox", "env"]
    assert "DOCKER_CONFIG=/mine" in ours.ok("run", *words)
