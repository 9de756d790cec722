"""Bodies, field by field as dockerd 26.1 gives them at API 1.45, and what other versions change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyengine import timestamps
from pyengine.contracts.ipam import Pool
from pyengine.contracts.volume import VolumeRecord
from pyengine.engine.images.records import Image
from pyengine.engine.model import (
    ContainerConfig,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    PortBinding,
    State,
    Status,
)
from pyengine.engine.networks.records import EndpointView, Network
from pyengine_api_docker import durations, objects, views

NOW = timestamps.parse("2026-11-23T12:00:00Z") / 1e9


def inspect(container: Any, version: int = 45) -> Any:
    return views.inspect(
        container,
        version,
        graph={"Name": "x", "Data": {}},
        exec_ids=[],
        links=None,
        ulimits=None,
        directory=Path("/c"),
        log_path="",
    )


def summary(container: Any, version: int = 45, **more: Any) -> Any:
    image_id = more.pop("image_id", lambda _: container.image)
    return views.summary(container, version, image_id=image_id, **more)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert durations.human(seconds) == words


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status.CREATED, "Created"),
        (Status.RUNNING, "Up 10 minutes"),
        (Status.PAUSED, "Up 10 minutes (Paused)"),
        (Status.RESTARTING, "Restarting (3) 5 minutes ago"),
        (Status.EXITED, "Exited (3) 5 minutes ago"),
        (Status.REMOVING, "Removal In Progress"),
        (Status.DEAD, "Dead"),
    ],
)
def test_status_text(status: Status, text: str) -> None:
    state = State(
        status=status,
        exit_code=3,
        started_at="2026-11-23T11:50:00Z",
        finished_at="2026-11-23T11:55:00Z",
    )
    assert views.status_text(state, NOW) == text


def test_a_container_that_never_ran_has_no_exit() -> None:
    assert views.status_text(State(status=Status.EXITED), NOW) == "Created"


def test_inspect_has_dockers_fields(make_container: Any) -> None:
    body = inspect(make_container())
    assert list(body) == [
        *("Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "HostnamePath"),
        *("HostsPath", "LogPath", "Name", "RestartCount", "Driver", "Platform", "MountLabel"),
        *("ProcessLabel", "AppArmorProfile", "ExecIDs", "HostConfig", "GraphDriver", "Mounts"),
        *("Config", "NetworkSettings"),
    ]
    assert body["Name"] == "/a1"
    assert body["HostsPath"] == "/c/hosts"
    assert body["ExecIDs"] is None
    assert body["State"] == {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 178,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "2026-11-23T20:34:38.2Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    assert set(body["Config"]) == {
        *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "Tty"),
        *("OpenStdin", "StdinOnce", "Env", "Cmd", "Image", "Volumes", "WorkingDir", "Entrypoint"),
        *("OnBuild", "Labels"),
    }
    host = body["HostConfig"]
    assert not {"Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"} & set(host)
    assert (host["Dns"], host["PortBindings"], host["LogConfig"]["Config"]) == ([], {}, {})
    network = body["NetworkSettings"]
    assert network["IPAddress"] == "172.17.0.2"
    assert network["Networks"]["bridge"]["MacAddress"] == network["MacAddress"]
    assert network["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
        "81/udp": None,
    }
    assert body["Mounts"] == [
        {
            "Type": "volume",
            "Name": "vol1",
            "Source": "/v/vol1/_data",
            "Destination": "/data",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        }
    ]


def test_optional_fields_appear_when_set(make_container: Any) -> None:
    body = inspect(
        make_container(
            config=ContainerConfig(
                stop_timeout=0,
                stop_signal="SIGINT",
                healthcheck=HealthConfig(test=["CMD", "true"]),
                exposed_ports={"80/tcp": {}},
            ),
            host_config=HostConfig(init=False, tmpfs={"/t": ""}, sysctls={"a": "b"}),
        )
    )
    assert body["Config"]["StopTimeout"] == 0
    assert body["Config"]["Healthcheck"] == {"Test": ["CMD", "true"]}
    assert body["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert body["HostConfig"]["Init"] is False
    assert body["HostConfig"]["Tmpfs"] == {"/t": ""}


def test_paths_appear_with_the_first_start(make_container: Any) -> None:
    assert inspect(make_container(state=State()))["HostsPath"] == ""


def test_aliases_had_ids_before_1_45(make_container: Any) -> None:
    container = make_container(
        networks={"n1": EndpointSettings(aliases=["foo"]), "bridge": EndpointSettings()}
    )
    old = inspect(container, 44)["NetworkSettings"]["Networks"]
    assert old["n1"]["Aliases"] == ["foo", container.id[:12]]
    assert old["bridge"]["Aliases"] is None
    assert inspect(container, 45)["NetworkSettings"]["Networks"]["n1"]["Aliases"] == ["foo"]


def test_gateway_priority_came_with_1_48(make_container: Any) -> None:
    for version in (47, 48):
        bridge = inspect(make_container(), version)["NetworkSettings"]["Networks"]["bridge"]
        assert ("GwPriority" in bridge) is (version == 48)


def test_list_entry(make_container: Any) -> None:
    body = summary(make_container())
    assert list(body) == [
        *("Id", "Names", "Image", "ImageID", "Command", "Created", "Ports", "Labels", "State"),
        *("Status", "HostConfig", "NetworkSettings", "Mounts"),
    ]
    assert body["Names"] == ["/a1"]
    assert body["Created"] == 1795466078
    assert body["HostConfig"] == {"NetworkMode": "bridge"}
    assert body["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "udp"},
    ]
    assert summary(make_container(), size=(0, 30))["SizeRootFs"] == 30
    assert "SizeRw" not in summary(make_container(), size=(0, 30))


def test_an_image_that_lost_its_name_is_shown_by_id(make_container: Any) -> None:
    assert summary(make_container())["Image"] == "bb:1"
    body = summary(make_container(), image_id=lambda _: "sha256:other")
    assert body["Image"] == body["ImageID"]


def test_annotations_came_with_1_46(make_container: Any) -> None:
    container = make_container(host_config=HostConfig(annotations={"a": "b"}))
    assert "Annotations" not in summary(container, 45)["HostConfig"]
    assert summary(container, 46)["HostConfig"]["Annotations"] == {"a": "b"}


def test_command_line_quotes_words_with_blanks() -> None:
    assert views.command_line("sh", ["-c", "echo out; exit 3"]) == "sh -c 'echo out; exit 3'"


def test_ports_are_in_order() -> None:
    rows = views.ports(
        {
            "9001/tcp": [
                PortBinding(host_ip="::", host_port="2"),
                PortBinding(host_ip="0.0.0.0", host_port="2"),
            ],
            "80/udp": None,
        }
    )
    assert [(r["PrivatePort"], r.get("IP")) for r in rows] == [
        (80, None),
        (9001, "0.0.0.0"),
        (9001, "::"),
    ]


def network(**fields: Any) -> Network:
    values = {"id": "n" * 64, "name": "n1", "driver": "bridge", "created": "c"} | fields
    return Network(**values)


def test_network() -> None:
    pool = Pool(id="p", subnet="10.0.0.0/24", gateway="10.0.0.1", auxiliary={"a": "10.0.0.9"})
    record = network(pools=[pool], ipam_options={})
    view = EndpointView(name="a5", endpoint_id="e", mac="m", ipv4="10.0.0.7/24", ipv6="")
    body = objects.network(record, 45, {"c" * 64: view})
    assert body["IPAM"] == {
        "Driver": "default",
        "Options": {},
        "Config": [
            {
                "Subnet": "10.0.0.0/24",
                "Gateway": "10.0.0.1",
                "AuxiliaryAddresses": {"a": "10.0.0.9"},
            }
        ],
    }
    assert body["Containers"]["c" * 64] == {
        "Name": "a5",
        "EndpointID": "e",
        "MacAddress": "m",
        "IPv4Address": "10.0.0.7/24",
        "IPv6Address": "",
    }
    assert "EnableIPv4" not in body
    assert objects.network(record, 48, {})["EnableIPv4"] is True
    bare = objects.network(network(name="host", predefined=True), 45, {})
    assert bare["IPAM"] == {"Driver": "default", "Options": None, "Config": None}


def test_volume() -> None:
    body = objects.volume(VolumeRecord("v", "local", created="c"), "/m")
    assert body == {
        "CreatedAt": "c",
        "Driver": "local",
        "Labels": None,
        "Mountpoint": "/m",
        "Name": "v",
        "Options": None,
        "Scope": "local",
    }


def image(**fields: Any) -> Image:
    values: dict[str, Any] = {
        "id": "sha256:" + "a" * 64,
        "config": ContainerConfig(cmd=["sh"]),
        "created": "2026-11-23T20:34:37.9Z",
        "size": 7,
        "diff_ids": ["sha256:d"],
        "chain": ["sha256:d"],
        "references": ["docker.io/library/bb:1"],
        "architecture": "amd64",
        "os": "linux",
    }
    return Image(**{**values, **fields})


def test_image_inspect_by_version() -> None:
    bodies = {v: objects.image(image(), v, {}) for v in (24, 43, 44, 45, 49, 50)}
    assert [v for v, b in bodies.items() if "VirtualSize" in b] == [24, 43]
    assert [v for v, b in bodies.items() if "ContainerConfig" in b] == [24, 43, 44]
    assert [v for v, b in bodies.items() if "Hostname" in b["Config"]] == [24, 43, 44, 45, 49]
    assert bodies[45]["RepoTags"] == ["bb:1"]
    assert bodies[45]["Config"]["Labels"] is None
    assert bodies[45]["RootFS"] == {"Type": "layers", "Layers": ["sha256:d"]}
    never = image(created=timestamps.NEVER)
    assert "Created" not in objects.image(never, 45, {})
    assert objects.image(never, 43, {})["Created"] == timestamps.NEVER


def test_image_list_by_version() -> None:
    nameless = image(references=[])
    assert objects.image_summary(nameless, 42, -1)["RepoTags"] == ["<none>:<none>"]
    body = objects.image_summary(nameless, 45, -1)
    assert (body["RepoTags"], body["RepoDigests"], body["Containers"]) == ([], [], -1)
    assert "VirtualSize" not in body
    assert objects.image_summary(image(), 43, 2)["VirtualSize"] == 7
