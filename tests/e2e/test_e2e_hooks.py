"""Hooks in a real engine: a plugin that is installed takes part, sees its arguments, may refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from pyengine.testing.distributions import distribution
from pyengine_log_fluentd.testing import Fluentd
from tests.e2e.conftest import eventually

#: Notes every hook with what is simple in its arguments; the file ``raise`` names one that fails,
#: ``refuse`` one that raises an error of the tree.
PLUGIN = """
import json, os
from pyengine.errors import Forbidden
from pyengine.hooks import engine, hookimpl, logging, network, runtime, security, storage

PLACE = os.environ["HOOK_PLACE"]

def shown(value):
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(k): shown(v) for k, v in value.items() if k not in ("mounts", "linux")}
    if isinstance(value, (list, tuple)):
        return [shown(v) for v in value]
    return getattr(value, "name", None) or getattr(value, "id", None) or type(value).__name__

def note(name, arguments):
    with open(f"{PLACE}/fired", "a") as file:
        file.write(json.dumps([name, {k: shown(v) for k, v in arguments.items()}]) + "\\n")
    for kind, error in (("raise", RuntimeError), ("refuse", Forbidden)):
        try:
            with open(f"{PLACE}/{kind}") as file:
                if file.read() == name:
                    raise error(f"{name} says no")
        except FileNotFoundError:
            pass

def implement(spec):
    names = spec.__code__.co_varnames[: spec.__code__.co_argcount]
    body = {"runtime_amend_spec": "spec['process']['env'].append('HOOKED=yes')",
            "runtime_exec": "process['env'].append('HOOKED=exec')",
            "logging_redact": "return data.replace(b'secret', b'******')",
            "security_parse_option": "return option.startswith('mine=')",
            "engine_health": "return 'WARNING: said by a hook'",
            "engine_metrics": "return {'answer': 42.0}"}.get(spec.__name__, "pass")
    source = f"def {spec.__name__}(self, {', '.join(names)}):\\n" + (
        f"    note({spec.__name__!r}, dict({', '.join(f'{n}={n}' for n in names)}))\\n    {body}")
    scope = {"note": note}
    exec(source, scope)
    return hookimpl(scope[spec.__name__])

Plugin = type("Plugin", (), {
    name: implement(spec)
    for area in (engine, logging, network, runtime, security, storage)
    for name, spec in vars(area).items()
    if hasattr(spec, "pyengine_spec")
})
"""


class Hooked:
    """An engine with the plugin."""

    def __init__(self, engine: EngineProcess, place: Path) -> None:
        self.engine = engine
        self.place = place

    def fired(self, name: str) -> list[dict[str, Any]]:
        """Arguments of each time that a hook fired so far."""
        lines = (self.place / "fired").read_text().splitlines()
        return [arguments for hook, arguments in map(json.loads, lines) if hook == name]

    def fires(self, name: str, /, **expected: object) -> bool:
        """True as soon as it fired with (at least) these arguments."""
        return eventually(
            lambda: any(expected.items() <= arguments.items() for arguments in self.fired(name))
        )

    def arm(self, kind: str, name: str) -> None:
        (self.place / kind).write_text(name)

    def disarm(self) -> None:
        for kind in ("raise", "refuse"):
            (self.place / kind).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def hooked_engine(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[Hooked]:
    place = tmp_path_factory.mktemp("hooks")
    site = distribution(
        place / "site", "e2e-hooks", {"pyengine.hooks": {"e2e": "e2e_hooks:Plugin"}},
        {"e2e_hooks": PLUGIN},
    )  # fmt: skip
    engine = EngineProcess(
        Path(tmp_path_factory.mktemp("hooked")), docker_binary,
        env={"PYTHONPATH": str(site), "HOOK_PLACE": str(place)},
    )  # fmt: skip
    engine.start()
    try:
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield Hooked(engine, place)
    finally:
        for kind in ("raise", "refuse"):
            (place / kind).unlink(missing_ok=True)
        engine.dispose()


@pytest.fixture
def hooked(hooked_engine: Hooked) -> Iterator[Hooked]:
    yield hooked_engine
    hooked_engine.disarm()
    hooked_engine.engine.docker("rm", "-f", "strict", "hooked", check=False)


def refused(hooked: Hooked, *words: str) -> str:
    done = hooked.engine.docker(*words, check=False)
    assert done.returncode != 0, (words, done.stdout)
    return done.stderr + done.stdout


def test_every_hook_fires_with_its_arguments(hooked: Hooked) -> None:
    engine = hooked.engine
    id = engine.out("run", "-d", "--name", "hooked", "-p", "127.0.0.1:20900:80", "--security-opt",
                    "mine=1", "busybox", "sh", "-c", "echo a secret $HOOKED; sleep 60")  # fmt: skip
    assert hooked.fires("security_validate", host_config="HostConfig")
    assert hooked.fires("security_parse_option", option="mine=1")
    assert hooked.fires("security_admit_image", name="busybox")
    assert hooked.fires("storage_layer_applied")
    assert hooked.fired("storage_layer_applied")[0]["size"] > 100_000
    assert hooked.fires("storage_snapshot_prepared", owner=id)
    assert hooked.fires("runtime_amend_spec", container="hooked")
    assert hooked.fires("security_contribute", container="hooked")
    assert hooked.fires("logging_opened", container="hooked", driver="json-file")
    assert hooked.fires("network_endpoint_joined", network="bridge")
    assert hooked.fires("network_ports_published")
    assert hooked.fires("runtime_state_changed", container="hooked", old="created", new="running")
    assert hooked.fires("engine_event")
    assert hooked.fires("security_authorize", method="GET", path="/info")
    assert eventually(lambda: engine.out("logs", "hooked") == "a ****** yes")
    assert hooked.fires("logging_redact", container="hooked")
    assert engine.out("exec", "hooked", "sh", "-c", "echo $HOOKED") == "exec"
    assert hooked.fires("runtime_exec", container="hooked")
    assert hooked.fires("security_exec", container="hooked", privileged=False)
    assert "WARNING: said by a hook" in engine.docker("info").stderr
    engine.docker("pause", "hooked")
    assert hooked.fires("runtime_state_changed", container="hooked", old="running", new="paused")
    engine.docker("unpause", "hooked")
    assert hooked.fires("runtime_state_changed", container="hooked", old="paused", new="running")
    engine.docker("kill", "hooked")
    assert hooked.fires("runtime_state_changed", container="hooked", old="running", new="exited")
    assert hooked.fires("network_endpoint_left", network="bridge")
    engine.docker("rm", "hooked")
    layer = next(a["layer"] for a in hooked.fired("storage_snapshot_prepared") if a["owner"] == id)
    assert hooked.fires("storage_snapshot_removed", layer=layer)
    actions = [a["event"]["Action"] for a in hooked.fired("engine_event")
               if a["event"]["Actor"]["ID"] == id]  # fmt: skip
    assert actions[:2] == ["create", "start"]
    assert actions[-1] == "destroy"


#: Hooks that are part of a step: an exception fails it. The command that goes through each.
STRICT = {
    "security_validate": ("create", "--name", "strict", "busybox"),
    "security_parse_option": ("create", "--name", "strict", "--security-opt", "mine=1", "busybox"),
    "security_admit_image": ("create", "--name", "strict", "busybox"),
    "storage_snapshot_prepared": ("create", "--name", "strict", "busybox"),
    "runtime_amend_spec": ("run", "--name", "strict", "busybox", "true"),
    "security_contribute": ("run", "--name", "strict", "busybox", "true"),
    "logging_opened": ("run", "--name", "strict", "busybox", "true"),
    "network_endpoint_joined": ("run", "--name", "strict", "busybox", "true"),
    "runtime_exec": ("exec", "hooked", "true"),
    "security_exec": ("exec", "hooked", "true"),
    "security_authorize": ("version",),
}


@pytest.mark.parametrize("kind", ["raise", "refuse"])
@pytest.mark.parametrize("name", STRICT)
def test_what_a_strict_hook_raises_fails_its_step(hooked: Hooked, name: str, kind: str) -> None:
    engine = hooked.engine
    words = STRICT[name]
    if words[0] == "exec":
        engine.docker("run", "-d", "--name", "hooked", "busybox", "sleep", "60")
    hooked.arm(kind, name)
    text = refused(hooked, *words)
    assert f"{name} says no" in text
    if kind == "raise":
        assert "a plugin failed in hook" in text
        assert name in text.split("says no")[0]
    hooked.disarm()
    # Nothing is half made, and it works again.
    state = engine.docker(
        "inspect", "-f", "{{.State.Status}}", "strict", check=False
    ).stdout.strip()
    assert state == ("created" if words[0] == "run" else "")
    engine.docker("rm", "-f", "strict", check=False)
    engine.docker(*words)


#: Hooks that only tell: an exception is a line in the daemon's log.
TELLING = ("storage_layer_applied", "network_ports_published", "runtime_state_changed",
           "engine_event", "network_endpoint_left", "storage_snapshot_removed",
           "engine_health")  # fmt: skip


@pytest.mark.parametrize("name", TELLING)
def test_what_a_telling_hook_raises_is_logged(hooked: Hooked, name: str, busybox: Path) -> None:
    engine = hooked.engine
    before = len(hooked.fired(name))
    hooked.arm("raise", name)
    if name == "storage_layer_applied":
        tar = hooked.place / "other.tar"
        subprocess.run(["tar", "-cf", str(tar), "-C", str(hooked.place), "site"], check=True)
        engine.docker("import", str(tar), "other")
        engine.docker("rmi", "other")
    assert engine.out("run", "--rm", "-p", "127.0.0.1:20901:80", "busybox", "echo", "x") == "x"
    engine.docker("info")
    assert eventually(lambda: len(hooked.fired(name)) > before)
    assert eventually(lambda: f"plugin e2e failed in hook {name}" in engine.log.read_text())


def test_what_leaves_the_host_is_redacted(hooked: Hooked, tmp_path: Path) -> None:
    with Fluentd(path=tmp_path / "s.sock") as server:
        address = f"fluentd-address=unix://{server.address}"
        hooked.engine.docker(
            "run", "--rm", "--name", "sent", "--log-driver", "fluentd", "--log-opt", address,
            "busybox", "sh", "-c", "echo a secret; echo none",
        )  # fmt: skip
        assert eventually(lambda: server.lines() == ["a ******", "none"])
    assert hooked.fires("logging_redact", container="sent")


def test_a_redaction_that_fails_shows_nothing(hooked: Hooked) -> None:
    engine = hooked.engine
    engine.docker("run", "--name", "strict", "busybox", "echo", "secret")
    hooked.arm("raise", "logging_redact")
    assert "secret" not in engine.docker("logs", "strict", check=False).stdout
    hooked.disarm()
    assert engine.out("logs", "strict") == "******"


def test_the_order_of_amendments(hooked: Hooked) -> None:
    """runtime_amend_spec fires before the security plugins look at the spec."""
    hooked.engine.docker("run", "--rm", "busybox", "true")
    lines = (hooked.place / "fired").read_text().splitlines()
    names = [json.loads(line)[0] for line in lines]
    assert names.index("runtime_amend_spec") < names.index("security_contribute")


def test_a_hook_plugin_that_cannot_be_imported_ends_the_daemon(tmp_path: Path) -> None:
    site = distribution(
        tmp_path / "site", "bad-hooks", {"pyengine.hooks": {"bad": "bad_hooks:Plugin"}},
        {"bad_hooks": "raise RuntimeError('boom')"},
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pyengine", "daemon", "--data-root", str(tmp_path / "d"),
         "--exec-root", str(tmp_path / "r"), "-H", f"unix://{tmp_path}/s", "--config-file",
         str(_empty(tmp_path))],
        env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "pyengine daemon: hook plugin 'bad' cannot be imported: package bad-hooks 1.0: "
        "RuntimeError: boom"
    )


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "daemon.json").write_text("{}")
    return tmp_path / "daemon.json"
