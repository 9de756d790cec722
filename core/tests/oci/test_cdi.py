"""Files of the Container Device Interface, and what they do to a spec."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyengine.engine.model import DeviceRequest
from pyengine.errors import EngineError, InvalidParameter
from pyengine.oci import devicerequests
from pyengine.oci.cdi import Devices, parse

FUSE: dict[str, Any] = {
    "cdiVersion": "0.7.0",
    "kind": "vendor.com/device",
    "containerEdits": {"env": ["ALL=1"]},
    "devices": [
        {
            "name": "full",
            "containerEdits": {
                "env": ["ONE=1", "PATH=/new"],
                "deviceNodes": [{"path": "/dev/zero2", "hostPath": "/dev/zero"}],
                "mounts": [{"hostPath": "/etc", "containerPath": "/a", "options": ["ro", "bind"]}],
                "hooks": [{"hookName": "createRuntime", "path": "/bin/true", "timeout": 3}],
                "additionalGids": [44, 0, 10],
            },
        },
        {
            "name": "made-up",
            "containerEdits": {
                "deviceNodes": [
                    {"path": "/dev/x", "type": "c", "major": 511, "minor": 7, "permissions": "r",
                     "fileMode": 384, "uid": 5},
                ]
            },
        },
    ],
}  # fmt: skip
SPEC: dict[str, Any] = {
    "process": {"env": ["PATH=/bin"], "user": {"uid": 0, "gid": 9, "additionalGids": [10]}},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": []},
        {"destination": "/a", "type": "bind", "source": "/old", "options": []},
        {"destination": "/a/b", "type": "bind", "source": "/b", "options": []},
    ],
    "linux": {"devices": [{"path": "/dev/x", "type": "b"}], "resources": {"devices": []}},
}


def changed(**changes: Any) -> bytes:
    return json.dumps({**FUSE, **changes}).encode()


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fuse.json").write_bytes(changed())
    return tmp_path / "etc"


@pytest.fixture
def devices(etc: Path) -> Devices:
    return Devices([str(etc), str(etc.parent / "run")])


@pytest.fixture
def spec() -> dict[str, Any]:
    return copy.deepcopy(SPEC)


def test_every_edit_is_in_the_spec(devices: Devices, spec: dict[str, Any]) -> None:
    devices.inject(spec, ["vendor.com/device=full"])
    assert spec["process"]["env"] == ["ALL=1", "ONE=1", "PATH=/new"]
    assert spec["process"]["user"]["additionalGids"] == [10, 44]
    assert [m["destination"] for m in spec["mounts"]] == ["/proc", "/a", "/a/b"]
    assert spec["mounts"][1] == {
        "destination": "/a", "type": "bind", "source": "/etc", "options": ["ro", "bind"],
    }  # fmt: skip
    (device,) = [d for d in spec["linux"]["devices"] if d["path"] == "/dev/zero2"]
    assert (device["type"], device["major"], device["minor"], device["gid"]) == ("c", 1, 5, 9)
    assert device["fileMode"] == os.stat("/dev/zero").st_mode & 0o7777
    assert spec["linux"]["resources"]["devices"] == [
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}
    ]
    assert spec["hooks"] == {
        "createRuntime": [{"path": "/bin/true", "args": [], "env": [], "timeout": 3}]
    }


def test_a_device_that_is_fully_described_need_not_be_there(
    devices: Devices, spec: dict[str, Any]
) -> None:
    devices.inject(spec, ["vendor.com/device=made-up", "vendor.com/device=full"])
    (device,) = [d for d in spec["linux"]["devices"] if d["path"] == "/dev/x"]
    assert device == {
        "path": "/dev/x", "type": "c", "major": 511, "minor": 7, "fileMode": 384, "uid": 5,
        "gid": 9,
    }  # fmt: skip
    assert spec["linux"]["resources"]["devices"][0]["access"] == "r"
    assert spec["process"]["env"].count("ALL=1") == 1, "what all share is applied once"


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"path": "/dev/nonesuch"}, "failed to stat CDI host device"),
        ({"path": "/etc/passwd"}, "not a device node"),
        ({"path": "/dev/zero", "type": "b"}, "host type mismatch"),
    ],
)
def test_nodes_that_the_host_does_not_have(
    etc: Path, devices: Devices, spec: dict[str, Any], node: dict[str, Any], says: str
) -> None:
    device = {"name": "x", "containerEdits": {"deviceNodes": [node]}}
    (etc / "x.json").write_bytes(changed(kind="other.com/x", devices=[device]))
    with pytest.raises(EngineError, match=says):
        devices.inject(spec, ["other.com/x=x"])


def test_unresolvable_devices_are_named_with_what_is_wrong_with_files(
    etc: Path, devices: Devices, spec: dict[str, Any]
) -> None:
    (etc / "broken.json").write_text("{")
    with pytest.raises(EngineError) as raised:
        devices.inject(spec, ["vendor.com/device=full", "a.b/c=d", "a.b/c=e"])
    assert raised.value.brief == (
        "CDI device injection failed: unresolvable CDI devices a.b/c=d, a.b/c=e"
    )
    assert "broken.json" in raised.value.help
    assert spec == SPEC


def test_yaml(etc: Path, devices: Devices) -> None:
    pytest.importorskip("yaml")
    (etc / "x.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: vendor.com/yaml\ndevices:\n- name: a\n"
        "  containerEdits:\n    env: [X=1]\n"
    )
    (etc / "bad.yaml").write_text("a: [")
    found = devices.scan()
    assert "vendor.com/yaml=a" in found.devices
    assert list(found.problems) == [str(etc / "bad.yaml")]


def test_later_directories_count_and_equals_conflict(etc: Path, devices: Devices) -> None:
    run = etc.parent / "run"
    run.mkdir()
    device = {"name": "full", "containerEdits": {"env": ["FROM=run"]}}
    (run / "one.json").write_bytes(changed(devices=[device], containerEdits={}))
    _, found = devices.scan().devices["vendor.com/device=full"]
    assert found.container_edits.env == ["FROM=run"]
    assert "vendor.com/device=made-up" in devices.scan().devices
    (run / "two.json").write_bytes(changed(devices=[device]))
    scan = devices.scan()
    assert "vendor.com/device=full" not in scan.devices
    assert 'conflicting device "vendor.com/device=full"' in scan.problems[str(run / "two.json")][0]


def test_files_are_read_again_when_they_changed(etc: Path, devices: Devices) -> None:
    assert len(devices.scan().devices) == 2
    (etc / "fuse.json").write_bytes(changed(devices=FUSE["devices"][:1]))
    assert len(devices.scan().devices) == 1
    (etc / "fuse.json").unlink()
    assert not devices.scan().devices


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cdiVersion": "9.0"}, 'invalid version "9.0"'),
        ({"kind": "device"}, "invalid vendor"),
        ({"kind": "1.com/device"}, "invalid vendor"),
        ({"kind": "a.com/_"}, "invalid class"),
        ({"devices": []}, "no devices"),
        ({"devices": FUSE["devices"] * 2}, 'multiple device "full"'),
        ({"devices": [{"name": "-", "containerEdits": {"env": ["a=b"]}}]}, "invalid device name"),
        ({"devices": [{"name": "a", "containerEdits": {}}]}, "empty device edits"),
        ({"containerEdits": {"env": ["=x"]}}, "invalid environment variable"),
        ({"containerEdits": {"deviceNodes": [{"path": ""}]}}, "empty"),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "type": "x"}]}}, "invalid type"),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "permissions": "x"}]}}, "permissions"),
        ({"containerEdits": {"hooks": [{"hookName": "x", "path": "/x"}]}}, "invalid hook name"),
        ({"containerEdits": {"hooks": [{"hookName": "prestart", "path": ""}]}}, "empty path"),
        ({"containerEdits": {"mounts": [{"hostPath": "", "containerPath": "/"}]}}, "host path"),
        ({"containerEdits": {"mounts": [{"hostPath": "/", "containerPath": ""}]}}, "container"),
        ({"containerEdits": {"env": "x"}}, "Expected `array`"),
        ({"surprise": 1}, "unknown field"),
    ],
)
def test_files_that_are_wrong(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(changed(**changes))


def ask(driver: str = "", count: int = 0, *, ids: list[str] | None = None,
        capabilities: list[list[str]] | None = None, options: dict[str, str] | None = None,
        ) -> DeviceRequest:  # fmt: skip
    return DeviceRequest(driver=driver, count=count, device_ids=ids, options=options,
                         capabilities=capabilities)  # fmt: skip


GPU = [["gpu"]]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ask(capabilities=GPU), 'select device driver "" with capabilities: [[gpu]]'),
        (ask("nvidia", capabilities=GPU), 'select device driver "nvidia" with'),
        (ask("floppy", -1), 'select device driver "floppy" with capabilities: []'),
        (ask(capabilities=[["tpu"]]), 'select device driver "" with capabilities: [[tpu]]'),
        (ask("cdi", 1), "unexpected count in CDI device request"),
        (ask("cdi", options={"a": "b"}), "unexpected options in CDI device request"),
    ],
)
def test_requests_that_nobody_serves(devices: Devices, request_: DeviceRequest, says: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        devicerequests.check([request_], devices)
    assert says in raised.value.brief


def test_without_directories_there_is_no_cdi() -> None:
    with pytest.raises(InvalidParameter, match='select device driver "cdi"'):
        devicerequests.check([ask("cdi", ids=["a.b/c=d"])], Devices([]))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ask(count=-1, capabilities=GPU), ["GPU=all"]),
        (ask(count=2, capabilities=[["gpu", "utility"]]), ["GPU=0", "GPU=1"]),
        (ask("nvidia", ids=["1"]), ["GPU=1"]),
        (ask(ids=["nvidia.com/gpu=0"], capabilities=[["tpu"], ["gpu"]]), ["GPU=0"]),
        (ask("cdi", ids=["nvidia.com/gpu=0", "nvidia.com/gpu=1"]), ["GPU=0", "GPU=1"]),
        (ask("cdi"), []),
    ],
)
def test_graphics_cards_that_are_described(
    etc: Path, spec: dict[str, Any], request_: DeviceRequest, expected: list[str]
) -> None:
    cards = [
        {"name": name, "containerEdits": {"env": [f"{name}=GPU={name}"]}}
        for name in ("0", "1", "all")
    ]
    (etc / "gpu.json").write_bytes(changed(kind="nvidia.com/gpu", devices=cards, containerEdits={}))
    devices = Devices([str(etc)])
    devicerequests.check([request_], devices)
    devicerequests.inject(spec, [request_], devices)
    found = [entry.partition("=")[2] for entry in spec["process"]["env"] if "GPU" in entry]
    assert found == expected
    with pytest.raises(InvalidParameter, match="cannot set both Count and DeviceIDs"):
        devicerequests.check([ask("nvidia", 1, ids=["1"])], devices)
