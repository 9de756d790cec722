"""Whose ids the root of containers becomes, and what it cannot have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.storage import StorageCapability
from pyengine.engine import remap
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import ConfigError, Conflict, InvalidParameter, Unavailable
from pyengine.linux.idmaps import IdMapping, IdMaps

MAPS = IdMaps((IdMapping(0, 100000, 65536),), (IdMapping(0, 100000, 65536),))

Write = Callable[..., None]


@pytest.fixture
def ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(remap, "SUBUID", tmp_path / "subuid")
    monkeypatch.setattr(remap, "SUBGID", tmp_path / "subgid")

    def write(uids: str, gids: str = "") -> None:
        (tmp_path / "subuid").write_text(uids)
        (tmp_path / "subgid").write_text(gids or uids)

    return write


@pytest.mark.parametrize("value", ["daemon", "1", "daemon:daemon", "1:1", "daemon:1"])
def test_users_and_groups_by_name_and_number(ranges: Write, value: str) -> None:
    ranges("root:5:5\ndaemon:1000:10\n# a line\n1:5000:20\n", "daemon:7000:65536")
    assert remap.resolve(value, make=False) == IdMaps(
        (IdMapping(0, 1000, 10), IdMapping(10, 5000, 20)), (IdMapping(0, 7000, 65536),)
    )


def test_nobody_and_root_ask_for_no_map(ranges: Write) -> None:
    ranges("root:100000:65536\n")
    assert remap.resolve("", make=True) is None
    assert remap.resolve("root", make=True) is None
    assert remap.resolve("0:0", make=True) is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nosuchuser", "there is no user 'nosuchuser'"),
        ("4242424", "there is no user '4242424'"),
        ("daemon:nosuchgroup", "there is no group 'nosuchgroup'"),
        ("daemon:4242424", "there is no group '4242424'"),
        ("daemon:", "neither user nor user:group"),
        (":daemon", "neither user nor user:group"),
        ("daemon:daemon:daemon", "neither user nor user:group"),
        ("bin", "user 'bin' has no ids in .*subuid"),
    ],
)
def test_what_cannot_be_resolved(ranges: Write, value: str, says: str) -> None:
    ranges("daemon:100000:65536\nbin:5:0\nbin:x:1\n")
    with pytest.raises(ConfigError, match=says):
        remap.resolve(value, make=True)


def test_groups_need_ids_as_well(ranges: Write) -> None:
    ranges("daemon:100000:65536\n", "other:1:1\n")
    with pytest.raises(ConfigError, match="subgid"):
        remap.resolve("daemon", make=False)


def test_a_default_user_without_ids_gets_them_later(
    ranges: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remap, "DEFAULT_USER", "daemon")
    ranges("other:1:1\n")
    assert remap.resolve("default", make=False) is None
    ranges("daemon:7:1\n")
    assert remap.resolve("default", make=False) is not None


def test_the_default_user_that_cannot_be_made(
    ranges: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remap, "DEFAULT_USER", "nobody-makes-this")
    monkeypatch.setenv("PATH", "/nonexistent")
    ranges("")
    assert remap.resolve("default", make=False) is None
    with pytest.raises(ConfigError, match=r"cannot be made.*useradd"):
        remap.resolve("default", make=True)


@pytest.mark.parametrize(
    "values", [{"privileged": True}, {"network_mode": "host"}, {"pid_mode": "host"}]
)
def test_what_needs_the_hosts_own(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="user namespaces"):
        remap.check(HostConfig(**values), MAPS)
    remap.check(HostConfig(**values), None)
    remap.check(HostConfig(**values, userns_mode="host"), MAPS)


def container(maps: IdMaps | None) -> Container:
    return Container(
        id="0" * 64, name="one", created="", path="", args=[], config=ContainerConfig(),
        host_config=HostConfig(), id_maps=maps,
    )  # fmt: skip


def test_user_namespaces_are_lent() -> None:
    lender, plain = container(MAPS), container(None)
    assert remap.shared_with(container(MAPS), []) is None
    assert remap.shared_with(container(MAPS), [lender, container(MAPS)]) is lender
    assert remap.shared_with(plain, [lender]) is None
    with pytest.raises(Conflict, match="has no user namespace"):
        remap.shared_with(container(MAPS), [plain])


def test_the_host_has_to_be_able(tmp_path: Path) -> None:
    class Storage:
        name = "some"
        found = frozenset({StorageCapability.ID_MAPS})

        def capabilities(self) -> frozenset[StorageCapability]:
            return self.found

    storage: Any = Storage()
    remap.check_host(MAPS, tmp_path, storage)
    with pytest.raises(Unavailable, match="filesystem of /proc"):
        remap.check_host(MAPS, Path("/proc"), storage)
    storage.found = frozenset()
    with pytest.raises(Unavailable, match="storage driver some"):
        remap.check_host(MAPS, tmp_path, storage)
    assert os.listdir(tmp_path) == []
