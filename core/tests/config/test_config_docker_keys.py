"""Docker's keys: those that change nothing, those that are not honoured, and the schema of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine.config import Config, load
from pyengine.config.keys import FIELDS, REFUSED, WITHOUT_EFFECT
from pyengine.config.schema import schema
from pyengine.contracts.base import Kind
from pyengine.drivers import Choice
from pyengine.errors import ConfigError
from pyengine.linux import systemd


def loaded(tmp_path: Path, values: Any, *flags: str) -> Any:
    file = tmp_path / "daemon.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return load(["--config-file", str(file), *flags])


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT))
def test_keys_that_change_nothing_are_noted(tmp_path: Path, key: str) -> None:
    found = loaded(tmp_path, {key: True})
    [note] = found.notes
    assert f"daemon.json:1: '{key}' changes nothing: " in note
    assert found.config == Config()


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_keys_that_are_refused_may_ask_for_nothing(tmp_path: Path, key: str) -> None:
    for nothing in REFUSED[key].nothing:
        assert loaded(tmp_path, {key: nothing}).config == Config()
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, {key: "something"})
    assert f"'{key}' is not supported by pyengine: {REFUSED[key].reason}" in error.value.detail


def test_flags_of_such_keys(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, {}, "--containerd", "/run/x.sock", "--raw-logs", "--userns-remap=",
        "--selinux-enabled=false", "--node-generic-resource", "a=b", "--mtu", "1400",
    )  # fmt: skip
    assert found.config == Config(mtu=1400)
    assert found.notes == [
        "--containerd changes nothing: no containerd is used",
        "--node-generic-resource changes nothing: there is no swarm",
        "--raw-logs changes nothing: the log has no colours",
    ]
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, {}, "--graph=/x", "--rootless")
    for line in (
        "--graph is not supported by pyengine: it is called data-root; found '/x'",
        "--rootless is not supported by pyengine: this version needs root; found 'true'",
    ):
        assert line in error.value.detail


def test_flags_that_add_to_the_file(tmp_path: Path) -> None:
    values = {"runtimes": {"mine": {"runtimeType": "native"}}, "features": {"cdi": False}}
    config = loaded(
        tmp_path, values, "--add-runtime", "crun=/usr/bin/crun", "--feature", "buildkit=false"
    ).config
    assert {name: entry.path for name, entry in config.runtimes.items()} == {
        "mine": "", "crun": "/usr/bin/crun",
    }  # fmt: skip
    assert config.features == {"cdi": False, "buildkit": False}
    assert loaded(tmp_path, {}, "--feature", "cdi").config.features == {"cdi": True}
    for flags in (("--add-runtime", "crun"), ("--feature", "cdi=perhaps")):
        with pytest.raises(ConfigError, match="is no valid value"):
            loaded(tmp_path, {}, *flags)


def test_no_key_is_in_two_places() -> None:
    places = [set(FIELDS), set(WITHOUT_EFFECT), set(REFUSED)]
    assert len(set.union(*places)) == sum(map(len, places))


def test_features_that_mean_nothing_are_noted(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"features": {"cdi": True, "teleport": True}})
    assert found.notes == ["features: 'teleport' changes nothing: there is no such feature here"]


def test_null_is_the_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"max-concurrent-uploads": None, "labels": None}).config == Config()


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, '{"debug": true,\n "mtu": 1400,\n "debug": false}')
    assert "'debug' is there more than once" in error.value.detail


def test_what_keys_say_to_drivers() -> None:
    assert Config().for_plugins() == {}
    assert Config(ip_forward=False, authorization_plugins=["a", "b"]).for_plugins() == {
        "ip-forward": "false",
        "authorization-plugins": "a,b",
    }
    assert Config(iptables=False).absent() == {Kind.FIREWALL}
    assert Config(ip6tables=False).for_plugins() == {"ip6tables": "false"}
    # Nobody makes rules, so nobody has to be there for what is said about them.
    assert Config(iptables=False, ip6tables=False).for_plugins() == {}
    assert Config(firewall_backend="nftables").choices() == {Kind.FIREWALL: Choice("nftables")}


def test_systemd_makes_cgroups_only_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"exec-opts": ["native.cgroupdriver=systemd"]}
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "none"))
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, asked)
    assert "native.cgroupdriver systemd cannot be: systemd is not process 1" in error.value.detail

    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd, "UNIFIED", str(HERE))
    assert loaded(tmp_path, asked).config.systemd_cgroups()
    assert loaded(tmp_path, asked | {"cgroup-parent": "my.slice"}).config.systemd_cgroups()
    both = {"exec-opts": [*asked["exec-opts"], "native.cgroupdriver=cgroupfs"]}
    assert not loaded(tmp_path, both).config.systemd_cgroups()
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, asked | {"cgroup-parent": "/docker"})
    assert "cgroup-parent: '/docker' is not the name of a slice" in error.value.detail


HERE = Path(__file__)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"exec-opts": ["native.cgroupdriver=other"]}, "'other' is none of cgroupfs, systemd"),
        ({"exec-opts": ["isolation=x"]}, "unknown option 'isolation'"),
        ({"host-gateway-ip": "nowhere"}, "'nowhere' is no IP address"),
        ({"fixed-cidr-v6": "10.0.0.0/8"}, "is no IPv6 subnet"),
        ({"log-level": "loud"}, "'loud' is none of trace, debug"),
        ({"log-format": "yaml"}, "'yaml' is none of text, json"),
        ({"default-ipc-mode": "host"}, "'host' is none of private, shareable"),
        ({"default-cgroupns-mode": "x"}, "'x' is none of"),
        ({"dns": ["1.1.1.1", "nowhere"]}, "'nowhere' is no IP address"),
        ({"ip": "here"}, "'here' is no IPv4 address"),
        ({"mtu": -3}, "invalid mtu: -3"),
        ({"shutdown-timeout": -1}, "invalid shutdown timeout: -1"),
        ({"drivers": {"storage": {"nmae": "vfs"}}}, "unknown field `nmae`"),
        ({"oom-score-adjust": 1001}, "invalid value 1001: -1000 to 1000"),
        ({"mtu": 67}, "invalid mtu: 67: 68 to 65535"),
        ({"max-concurrent-uploads": -1}, "invalid max concurrent uploads: -1"),
        ({"data-root": "here"}, "'here' is no absolute path"),
        ({"exec-root": "./run"}, "'./run' is no absolute path"),
        ({"pidfile": "x.pid"}, "'x.pid' is no absolute path"),
        ({"group": "no-such-group"}, "there is no group 'no-such-group'"),
        ({"tlscacert": "/no/such.pem"}, "/no/such.pem: no such file"),
        ({"tlscert": "/dev/null"}, "/dev/null: no such file"),
        ({"tlskey": "/no/such.pem"}, "/no/such.pem: no such file"),
        ({"init-path": "/no/such/init"}, "/no/such/init: no such program"),
        ({"hosts": ["/run/x.sock"]}, "'/run/x.sock' begins with none of unix://, tcp://, fd://"),
        ({"hosts": ["unx:///x"]}, "(did you mean 'unix'?)"),
        ({"hosts": ["unix://x"]}, "unix:// and an absolute path is wanted"),
        ({"hosts": ["tcp://127.0.0.1:99999"]}, "host:port is wanted"),
        ({"hosts": ["tcp://127.0.0.1:2375/x"]}, "host:port is wanted"),
        ({"hosts": ["fd://x"]}, "the number of a descriptor"),
        ({"bip": "10.0.0.0/24"}, "'10.0.0.0/24' is no IPv4 address of a host with the length"),
        ({"bip": "10.0.0.1"}, "is no IPv4 address of a host"),
        ({"bip": "10.0.0.255/24"}, "is no IPv4 address of a host"),
        ({"bip": "fd00::1/64"}, "is no IPv4 address of a host"),
        ({"fixed-cidr": "10.0.0.1"}, "'10.0.0.1' is no IPv4 subnet"),
        ({"fixed-cidr": "many"}, "'many' is no IPv4 subnet"),
        ({"fixed-cidr-v6": "ff00::/8"}, "'ff00::/8' is for multicast"),
        ({"dns-search": ["a b"]}, "'a b' is not a valid domain"),
        ({"default-shm-size": "much"}, "invalid size 'much': bytes, or as in 64m"),
        ({"default-shm-size": 0}, "invalid size 0"),
        ({"default-ulimits": {"nofiles": {"Soft": 1, "Hard": 1}}}, "invalid ulimit type: nofiles"),
        ({"default-ulimits": {"cpu": {"Name": "core"}}}, "cpu has the Name 'core'"),
        ({"default-ulimits": {"cpu": {"Soft": 2, "Hard": 1}}}, "soft limit 2 is above the hard"),
        ({"labels": ["a"]}, "bad attribute format: 'a': name=value is wanted"),
        ({"labels": ["a=b", "c=d", "a=e"]}, "conflict labels for a=e and a=b: keep one"),
        ({"labels": ["com.docker.x=1"]}, "name space that Docker keeps to itself"),
        ({"runtimes": {"x": {}}}, "x: either path (a program) or runtimeType (a driver)"),
        ({"runtimes": {"x": {"path": "/x", "runtimeType": "y"}}}, "x: either path"),
        ({"runtimes": {"x": {"runtimeType": "y", "runtimeArgs": ["z"]}}}, "runtimeArgs are for"),
        ({"bridge": "br7", "bip": "10.0.0.1/8"}, "bridge is 'br7' and bip is '10.0.0.1/8'"),
        ({"icc": False, "iptables": False}, "icc is false and iptables is false"),
        (
            {"bip": "10.0.0.1/24", "fixed-cidr": "10.0.1.0/24"},
            "fixed-cidr is '10.0.1.0/24', which is not within 10.0.0.0/24",
        ),
        ({"tlscert": str(HERE)}, "tlscert and tlskey belong together"),
        ({"bip6": "fd00::/64"}, "'fd00::/64' is no IPv6 address of a host"),
        ({"bridge": "br7", "bip6": "fd00::1/64"}, "bridge is 'br7' and bip6 is 'fd00::1/64'"),
        (
            {"bip6": "fd00::1/64", "fixed-cidr-v6": "fd00:0:0:1::/80"},
            "which is not within fd00::/64, the network of bip6 'fd00::1/64'",
        ),
        ({"icc": False, "ipv6": True, "ip6tables": False}, "icc is false and ip6tables is false"),
        ({"default-gateway": "fd00::1"}, "'fd00::1' is no IPv4 address"),
        ({"default-gateway-v6": "10.0.0.1"}, "'10.0.0.1' is no IPv6 address"),
        (
            {"bip": "10.0.0.1/24", "default-gateway": "10.0.1.9"},
            "default-gateway is '10.0.1.9', which is not within 10.0.0.0/24",
        ),
        ({"host-gateway-ips": ["10.0.0.1", "10.0.0.2"]}, "one of each family at the most"),
        ({"host-gateway-ips": ["here"]}, "'here' is no IP address"),
        (
            {"host-gateway-ips": ["10.0.0.1"], "host-gateway-ip": "10.0.0.1"},
            "host-gateway-ip and host-gateway-ips say the same",
        ),
        ({"cdi-spec-dirs": ["cdi"]}, "'cdi' is no absolute path"),
        ({"min-api-version": "1.23"}, "'1.23' is no API version between 1.24 and 1.51"),
        ({"min-api-version": "v1.30"}, "'v1.30' is no API version"),
        ({"default-stop-timeout": -1}, "invalid default stop timeout: -1"),
        ({"cpu-rt-period": -1}, "invalid cpu rt period: -1"),
        (
            {"cpu-rt-period": 100, "cpu-rt-runtime": 200},
            "cpu-rt-runtime is 200, which is more than the period of 100",
        ),
    ],
)
def test_values_that_are_wrong(tmp_path: Path, values: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, values)
    assert problem in error.value.detail


@pytest.mark.parametrize(
    "values",
    [
        {"bip": "10.0.0.1/24", "fixed-cidr": "10.0.0.128/25"},
        {"bip": "10.0.0.0/31"},
        {"fixed-cidr": "10.0.0.7/24"},
        {"hosts": ["unix:///x", "tcp://", "tcp://host", "tcp://[::1]:2375", "tcp://:1", "fd://"]},
        {"hosts": ["0.0.0.0:2375", "[::1]:2375", ":2375", "localhost"]},
        {"labels": ["a=b", "a=b", "c="]},
        {"default-ulimits": {"core": {"Soft": -1, "Hard": -1}, "cpu": {"Soft": 1, "Hard": -1}}},
        {"default-shm-size": "1g"},
        {"dns-search": [".", "a.example", "b."]},
        {"group": "0"},
        {"init-path": "my-init"},
        {"mtu": 9000},
    ],
)
def test_values_that_are_right(tmp_path: Path, values: Any) -> None:
    assert loaded(tmp_path, values).config != Config()


def test_network_options_as_flags(tmp_path: Path) -> None:
    found = loaded(tmp_path, {}, "--default-network-opt", "bridge=com.docker.x=1")
    assert found.config.default_network_opts == {"bridge": {"com.docker.x": "1"}}


PUBLISHED = Path(__file__).parents[3] / "docs" / "daemon.schema.json"


def test_the_schema_knows_every_key() -> None:
    keys = {*FIELDS, *WITHOUT_EFFECT, *REFUSED}
    assert set(schema()["properties"]) == keys
    assert schema()["additionalProperties"] is False


@pytest.mark.skipif(not PUBLISHED.exists(), reason="core is tested without its repository")
def test_the_published_schema_is_this_one() -> None:
    """``pyengine daemon --schema > docs/daemon.schema.json`` writes it."""
    assert msgspec.json.decode(PUBLISHED.read_bytes()) == schema()
