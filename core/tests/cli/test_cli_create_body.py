"""The flags of run and create, and the request they become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyengine.cli import containerconfig, mounts, reference
from pyengine.cli.flags import UsageError, parse
from pyengine.cli.runflags import RUN_FLAGS


def body(*words: str) -> dict[str, Any]:
    options, rest = parse(RUN_FLAGS, [*words, "img", "cmd", "-x"], interspersed=False)
    return containerconfig.build(options, rest[0], rest[1:])


def host(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = body(*words)["HostConfig"]
    return found


def test_defaults() -> None:
    made = body()
    assert made["Image"] == "img"
    assert made["Cmd"] == ["cmd", "-x"]
    assert (made["AttachStdin"], made["AttachStdout"], made["AttachStderr"]) == (False, True, True)
    assert made["Entrypoint"] is None
    assert "StopTimeout" not in made
    assert "Healthcheck" not in made
    assert made["NetworkingConfig"] == {"EndpointsConfig": {}}
    config = made["HostConfig"]
    assert config["NetworkMode"] == "default"
    assert config["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert config["MemorySwappiness"] == -1
    assert config["MaskedPaths"] is None
    assert "Init" not in config


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["-h", "web"], "Hostname", "web"),
        (["--entrypoint="], "Entrypoint", [""]),
        (["--entrypoint", "sh"], "Entrypoint", ["sh"]),
        (["-e", "A=1", "-e", "HERE"], "Env", ["A=1", "HERE=x y"]),
        (["-l", "a=b", "-l", "c"], "Labels", {"a": "b", "c": ""}),
        (["--stop-timeout", "0"], "StopTimeout", 0),
        (["-v", "/cache"], "Volumes", {"/cache": {}}),
        (["-a", "stderr"], "AttachStdout", False),
        (["-p", "80", "--expose", "90"], "ExposedPorts", {"80/tcp": {}, "90/tcp": {}}),
        (["--no-healthcheck"], "Healthcheck", {"Test": ["NONE"]}),
        (
            ["--health-cmd", "true", "--health-interval", "1m"],
            "Healthcheck",
            {"Test": ["CMD-SHELL", "true"], "Interval": 60 * 10**9},
        ),
    ],
)
def test_config(monkeypatch: pytest.MonkeyPatch, words: list[str], key: str, value: object) -> None:
    monkeypatch.setenv("HERE", "x y")
    assert body(*words)[key] == value


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["-m", "64m"], "Memory", 64 << 20),
        (["--memory-swap", "-1"], "MemorySwap", -1),
        (["--cpus", ".5"], "NanoCpus", 500_000_000),
        (["--pids-limit", "50"], "PidsLimit", 50),
        (["-v", "data:/d:ro", "-v", "/a:/b"], "Binds", ["data:/d:ro", "/a:/b"]),
        (["-v", "./x:/y"], "Binds", [f"{os.getcwd()}/x:/y"]),
        (["--tmpfs", "/t:size=1m", "--tmpfs", "/u"], "Tmpfs", {"/t": "size=1m", "/u": ""}),
        (
            ["--restart", "on-failure:3"],
            "RestartPolicy",
            {"Name": "on-failure", "MaximumRetryCount": 3},
        ),
        (["--init=false"], "Init", False),
        (["--driver", "storage=vfs"], "StorageOpt", {"driver": "vfs"}),
        (["--driver", "logging=local"], "LogConfig", {"Type": "local", "Config": {}}),
        (["--driver", "runtime=runc"], "Runtime", "runc"),
        (["--log-opt", "max-size=1m"], "LogConfig", {"Type": "", "Config": {"max-size": "1m"}}),
        (["--add-host", "a=[::1]"], "ExtraHosts", ["a:::1"]),
        (["--ulimit", "nofile=1:2"], "Ulimits", [{"Name": "nofile", "Hard": 2, "Soft": 1}]),
        (["--sysctl", "net.core.somaxconn=9"], "Sysctls", {"net.core.somaxconn": "9"}),
        (
            ["--device", "/dev/null:r"],
            "Devices",
            [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "r"}],
        ),
        (
            ["--device-read-bps", "/dev/sda:1m"],
            "BlkioDeviceReadBps",
            [{"Path": "/dev/sda", "Rate": 1 << 20}],
        ),
        (["--security-opt", "systempaths=unconfined"], "MaskedPaths", []),
        (["--security-opt", "no-new-privileges"], "SecurityOpt", ["no-new-privileges"]),
        (["--network", "host"], "NetworkMode", "host"),
        (
            ["--gpus", "all"],
            "DeviceRequests",
            [
                {
                    "Driver": "",
                    "Count": -1,
                    "DeviceIDs": None,
                    "Capabilities": [["gpu"]],
                    "Options": {},
                }
            ],
        ),
        (
            ["--device", "nvidia.com/gpu=0"],
            "DeviceRequests",
            [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}],
        ),
    ],
)
def test_host_config(words: list[str], key: str, value: object) -> None:
    assert host(*words)[key] == value


def test_seccomp_profile_is_sent_as_content(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{ "defaultAction" : "SCMP_ACT_ALLOW" }')
    assert host("--security-opt", f"seccomp={profile}")["SecurityOpt"] == [
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    ]
    profile.write_text("{")
    with pytest.raises(ValueError, match="compacting json for seccomp profile"):
        host("--security-opt", f"seccomp={profile}")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\n  B = no\nHERE\nGONE\n")
    with pytest.raises(ValueError, match="variable 'B ' contains whitespaces"):
        body("--env-file", str(file))
    file.write_text("# comment\nA=a b\nHERE\nGONE\n")
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("GONE", raising=False)
    assert body("--env-file", str(file), "-e", "C=3")["Env"] == ["A=a b", "HERE=1", "C=3"]
    assert body("--label-file", str(file))["Labels"] == {"A": "a b", "HERE": "", "GONE": ""}


def test_networks() -> None:
    made = body("--network", "net", "--network-alias", "db", "--ip", "10.0.0.5")
    assert made["HostConfig"]["NetworkMode"] == "net"
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "net": {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}
    }
    made = body("--network", "name=one,alias=a,driver-opt=k=v", "--network", "two")
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "one": {"Aliases": ["a"], "DriverOpts": {"k": "v"}},
        "two": {},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--restart", "always", "--rm"],
            "conflicting options: cannot specify both --restart and --rm",
        ),
        (["--restart", ":3"], "invalid restart policy format: no policy provided before colon"),
        (
            ["--restart", "on-failure:x"],
            "invalid restart policy format: maximum retry count must be an integer",
        ),
        (
            ["--network", "host", "--network", "n"],
            "cannot attach both user-defined and non-user-defined",
        ),
        (["--network", "n", "--network", "n"], 'network "n" is specified multiple times'),
        (
            ["--network-alias", "a"],
            "network-scoped aliases are only supported for user-defined networks",
        ),
        (["--pid", "foo"], "--pid: invalid PID mode"),
        (["--memory-swappiness", "101"], "Valid memory swappiness range is 0-100"),
        (["--security-opt", "foo"], 'Invalid --security-opt: "foo"'),
        (["--storage-opt", "foo"], "invalid storage option"),
        (["--device", "a:b:c"], "bad mode specified: c"),
        (["--device", "/dev/null:null"], "null is not an absolute path"),
        (["--mac-address", "foo"], "foo is not a valid mac address"),
        (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (["--health-interval=-1s"], "--health-interval cannot be negative"),
        (["--health-cmd", "x", "--no-healthcheck"], "--no-healthcheck conflicts with --health-"),
        (["--env-file", "/nonexistent"], "open /nonexistent: no such file or directory"),
    ],
)
def test_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        body(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--ulimit", "foo=1"],
        ["--ulimit", "nofile=5:2"],
        ["--add-host", "a"],
        ["--dns", "x"],
        ["-a", "foo"],
        ["-e", "=x"],
        ["-l", "=x"],
        ["--link", "a:b:c"],
        ["--blkio-weight", "70000"],
        ["--device-cgroup-rule", "foo"],
        ["--blkio-weight-device", "/dev/sda:5"],
        ["--driver", "network=x"],
        ["--trace=foo"],
        ["--mount", "type=bind"],
    ],
)
def test_refused_while_parsing(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r'^invalid argument ".*" for "'):
        body(*words)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/t", {"Type": "volume", "Target": "/t"}),
        (
            "type=bind,src=/a,dst=/b,ro,bind-propagation=rslave",
            {
                "Type": "bind",
                "Source": "/a",
                "Target": "/b",
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rslave"},
            },
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
            {
                "Type": "tmpfs",
                "Target": "/t",
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770},
            },
        ),
        (
            'src=v,target=/t,volume-driver=local,"volume-opt=o=a,b",volume-nocopy',
            {
                "Type": "volume",
                "Source": "v",
                "Target": "/t",
                "VolumeOptions": {
                    "DriverConfig": {"Name": "local", "Options": {"o": "a,b"}},
                    "NoCopy": True,
                },
            },
        ),
    ],
)
def test_mounts(text: str, mount: dict[str, Any]) -> None:
    assert mounts.parse(text) == mount


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type=bind", "target is required"),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("target=/x,foo=bar", "unexpected key 'foo' in 'foo=bar'"),
        (
            "type=tmpfs,target=/x,volume-nocopy",
            "cannot mix 'volume-\\*' options with mount type 'tmpfs'",
        ),
        ("target=/x,ro=maybe", "invalid value for ro: maybe"),
        ("type=tmpfs,target=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        ("type=bind,target=/x,bind-recursive=readonly", "requires 'readonly' to be specified"),
    ],
)
def test_mounts_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mounts.parse(text)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("BadImage", "repository name \\(library/BadImage\\) must be lowercase"),
        ("a b", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("-a", "invalid reference format"),
    ],
)
def test_bad_references(image: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reference.check(image)


@pytest.mark.parametrize(
    ("image", "split", "full", "short"),
    [
        ("busybox", ("busybox", ""), "docker.io/library/busybox", "busybox:latest"),
        ("a/b:v1", ("a/b", "v1"), "docker.io/a/b", "a/b:v1"),
        (
            "localhost:5000/x",
            ("localhost:5000/x", ""),
            "localhost:5000/x",
            "localhost:5000/x:latest",
        ),
    ],
)
def test_references(image: str, split: tuple[str, str], full: str, short: str) -> None:
    reference.check(image)
    assert reference.split(image) == split
    assert reference.normalize(split[0]) == full
    assert reference.familiar(image) == short
