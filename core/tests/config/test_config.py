"""daemon.json and flags: every mistake at once, where it is and what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.config import Config, Loaded, load, loading
from pyengine.contracts.base import Kind
from pyengine.drivers import Choice
from pyengine.errors import ConfigError

Load = Callable[..., Loaded]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


@pytest.fixture
def read(file: Path) -> Load:
    """Load flags with a file: its values, or its text."""

    def reading(values: Any, *flags: str) -> Loaded:
        file.write_text(values if isinstance(values, str) else json.dumps(values))
        return load(["--config-file", str(file), *flags])

    return reading


def problems(read: Load, values: Any, *flags: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(values, *flags)
    assert error.value.brief == "the configuration has errors"
    assert error.value.exit_code == 1
    return error.value.detail.strip().split("\n  ")


def test_an_empty_file_and_none_are_the_defaults(read: Load, monkeypatch: Any, file: Path) -> None:
    assert read("").config == read({}).config == Config()
    monkeypatch.setattr(loading, "DEFAULT_FILE", file.with_name("absent"))
    assert load([]).config == Config()


def test_every_mistake_is_said_at_once_with_file_and_line(read: Load, file: Path) -> None:
    text = (
        '{\n  "storage-drivr": "vfs",\n  "debug": "yes",\n  "selinux-enabled": true,\n'
        '  "mtu": 1400,\n  "dns": ["1.1.1.1", 2]\n}\n'
    )
    assert problems(read, text, "--log-levle", "info", "--mtu", "big") == [
        "unknown flag '--log-levle' (did you mean '--log-level'?)",
        "unknown flag 'info'",
        f"{file}:2: unknown key 'storage-drivr' (did you mean 'storage-driver'?)",
        f"{file}:3: 'debug': Expected `bool`, got `str`; found \"yes\"",
        f"{file}:4: 'selinux-enabled' is not supported by pyengine: labels are not in this "
        "version; found true",
        f"{file}:6: 'dns': Expected `str`, got `int` - at `$[1]`; found [\"1.1.1.1\", 2]",
        "--mtu: 'big' is no valid value (invalid literal for int() with base 10: 'big')",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n "debug": true,\n}', ":3: not JSON: "),
        ("[]", ":1: a JSON object is wanted, found list"),
        (
            '{"drivers": {"storge": "vfs"}}',
            "drivers: unknown kind 'storge' (did you mean 'storage'?)",
        ),
        ('{"storage-opts": ["size"]}', "'size' has no '='"),
        ('{"default-address-pools": [{"base": "10.0.0.0/8"}]}', "missing required field `size`"),
    ],
)
def test_files_that_are_wrong(read: Load, text: str, problem: str) -> None:
    assert any(problem in line for line in problems(read, text))


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: no such file"):
        load(["--config-file", str(tmp_path / "absent.json")])


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (
            ["--driver", "storage"],
            "--driver 'storage': wants KIND=NAME; kinds are storage, network",
        ),
        (["--driver", "colour=red"], "--driver 'colour=red': wants KIND=NAME"),
        (["--driver", "storage=vfs,x"], "--driver 'storage=vfs,x': 'x' has no '='"),
        (["--log-opt", "max-size"], "--log-opt: ['max-size'] is no valid value"),
        (["--debug=perhaps"], "--debug: 'perhaps' is no valid value"),
        (["--default-address-pool", "base=10.0.0.0/8"], "--default-address-pool: "),
        (["--default-ulimit", "nofile"], "--default-ulimit: "),
    ],
)
def test_flags_that_are_wrong(read: Load, flags: list[str], problem: str) -> None:
    assert any(line.startswith(problem) for line in problems(read, {}, *flags))


def test_a_flag_beats_the_file_and_a_note_says_so(read: Load, file: Path) -> None:
    loaded = read({"mtu": 1400, "debug": True, "dns": ["1.1.1.1"]}, "--mtu", "1300", "--debug")
    assert loaded.config.mtu == 1300
    assert loaded.config.debug
    assert loaded.config.dns == ["1.1.1.1"]
    assert loaded.notes == [f"mtu: the flag's 1300 is used, not 1400 from {file}"]


def test_flags_in_all_forms(read: Load) -> None:
    loaded = read(
        {}, "-H", "unix:///a", "-H", "tcp://127.0.0.1:1", "-D", "--iptables=false",
        "--label", "a=b", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", "-s", "vfs",
        "--dns-opt", "ndots:1",
        "--default-address-pool", "base=10.0.0.0/8,size=24", "--default-ulimit", "nofile=1:2",
        "--default-ulimit", "core=0", "-p", "/x.pid", "-l", "warn", "--live-restore",
    ).config  # fmt: skip
    assert loaded.hosts == ["unix:///a", "tcp://127.0.0.1:1"]
    assert (loaded.debug, loaded.iptables, loaded.live_restore) == (True, False, True)
    assert loaded.labels == ["a=b"]
    assert loaded.log_opts == {"max-size": "1m", "max-file": "2"}
    assert loaded.storage_driver == "vfs"
    assert loaded.dns_opts == ["ndots:1"]
    assert (loaded.default_address_pools[0].base, loaded.default_address_pools[0].size) == (
        "10.0.0.0/8", 24,
    )  # fmt: skip
    assert {k: (u.soft, u.hard) for k, u in loaded.default_ulimits.items()} == {
        "nofile": (1, 2), "core": (0, 0),
    }  # fmt: skip
    assert (loaded.pidfile, loaded.log_level) == ("/x.pid", "warn")


# -- drivers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind"),
    [("storage-driver", Kind.STORAGE), ("log-driver", Kind.LOGGING), ("default-runtime",
                                                                      Kind.RUNTIME)],
)  # fmt: skip
def test_dockers_key_ours_and_the_flags(read: Load, key: str, kind: Kind) -> None:
    def chosen(values: dict[str, Any], *flags: str) -> Choice:
        return read(values, *flags).config.choices()[kind]

    ours = {"drivers": {kind.value: "b"}}
    long = {"drivers": {kind.value: {"name": "b", "options": {"x": "y"}}}}
    assert chosen({key: "a"}) == Choice("a")
    assert chosen(ours) == Choice("b")
    assert chosen(long) == Choice("b", {"x": "y"})
    assert chosen({key: "b", **ours}) == Choice("b")
    assert problems(read, {key: "a", **ours}) == [
        f"{key} is 'a' but drivers.{kind.value} is 'b': keep one of them"
    ]
    assert problems(read, {key: "a", **long}) == [
        f"{key} is 'a' but drivers.{kind.value} is 'b': keep one of them"
    ]
    # A flag is no contradiction: it decides.
    assert chosen(ours, f"--{key}", "c") == Choice("c")
    assert read(ours, f"--{key}", "c").notes == [
        f"drivers.{kind.value}: the flag's 'c' is used, not 'b'"
    ]
    assert chosen({key: "a"}, "--driver", f"{kind.value}=c,o=1,p=2") == Choice(
        "c", {"o": "1", "p": "2"}
    )
    assert read({key: "a"}, "--driver", f"{kind.value}=c").notes == [
        f"{key}: the flag's 'c' is used, not 'a'"
    ]
    assert chosen(ours, "--driver", f"{kind.value}=c") == Choice("c")


def test_options_of_dockers_keys_go_to_their_drivers(read: Load) -> None:
    loaded = read({
        "storage-opts": ["size=10G"], "log-opts": {"max-size": "5m"}, "seccomp-profile": "p.json",
        "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
        "drivers": {"logging": {"name": "local", "options": {"max-file": "2"}}},
    }).config  # fmt: skip
    choices = loaded.choices()
    assert choices[Kind.STORAGE] == Choice("", {"size": "10G"})
    assert choices[Kind.LOGGING] == Choice("local", {"max-size": "5m", "max-file": "2"})
    assert json.loads(choices[Kind.IPAM].options["default-address-pools"]) == [
        {"base": "10.0.0.0/8", "size": 24}
    ]
    assert loaded.for_plugins() == {"seccomp-profile": "p.json"}


def test_security_and_allowed_drivers(read: Load) -> None:
    assert read({}).config.security() is None
    assert read({"drivers": {"security": ["seccomp"]}}).config.security() == ["seccomp"]
    flagged = read({}, "--driver", "security=a", "--driver", "security=b").config
    assert flagged.security() == ["a", "b"]
    network = {"drivers": {"network": {"default": "bridge", "allow": ["bridge", "none"]}}}
    assert read(network).config.allowed(Kind.NETWORK) == ["bridge", "none"]
    assert read(network).config.choices()[Kind.NETWORK].name == "bridge"
    assert read({}).config.allowed(Kind.NETWORK) is None


# -- as the operator sees it -----------------------------------------------------------------------


def pyengine(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyengine", "daemon", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_validate(file: Path) -> None:
    file.write_text('{"debug": false}')
    done = pyengine("--config-file", str(file), "--validate")
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    file.write_text('{\n"debg": true, "mtu": "x"}')
    done = pyengine("--config-file", str(file), "--validate")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "pyengine daemon: the configuration has errors: ",
        f"  {file}:2: unknown key 'debg' (did you mean 'debug'?)",
        f"  {file}:2: 'mtu': Expected `int`, got `str`; found \"x\" (nothing was started)",
    ]


def test_notes_are_on_stderr(file: Path) -> None:
    file.write_text('{"mtu": 1400}')
    done = pyengine("--config-file", str(file), "--validate", "--mtu", "1300")
    assert done.returncode == 0
    assert "configuration: mtu: the flag's 1300 is used, not 1400 from" in done.stderr
