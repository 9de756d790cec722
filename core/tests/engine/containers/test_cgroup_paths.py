"""Where a container's cgroup is, with directories of our own and with systemd's scopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from pyengine.drivers import Places
from pyengine.engine.containers.bundle import Bundles, Settings
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import InvalidParameter
from pyengine.oci.spec import EngineOptions

OWN = ("/pe", "")
SYSTEMD = ("system.slice", "pe")


def bundles(parent: str, scopes: str) -> Bundles:
    settings = Settings(
        engine=EngineOptions(), cgroup_parent=parent, shim_cgroup="/x", scopes=scopes
    )
    nobody = cast(Any, None)
    places = Places(Path("/data"), Path("/run"), "id", "pe")
    return Bundles(places, settings, nobody, nobody, nobody, nobody, nobody, nobody)


@pytest.mark.parametrize(
    ("settings", "parent", "path"),
    [
        (OWN, "", "/pe/0a"),
        (OWN, "my/own", "/my/own/0a"),
        (OWN, "../../up", "/up/0a"),
        (OWN, "/a/../../up/", "/up/0a"),
        (OWN, "/..", "/0a"),
        (OWN, "my.slice", "/my.slice/0a"),
        (SYSTEMD, "", "/system.slice/pe-0a.scope"),
        (SYSTEMD, "my-sub.slice", "/my.slice/my-sub.slice/pe-0a.scope"),
        (SYSTEMD, "-.slice", "/pe-0a.scope"),
        # Made before cgroups were systemd's: it may still be running there.
        (SYSTEMD, "/my/own", "/my/own/0a"),
    ],
)
def test_the_path_of_a_cgroup(settings: tuple[str, str], parent: str, path: str) -> None:
    record = Container(
        id="0a", name="/x", created="", path="", args=[], config=ContainerConfig(),
        host_config=HostConfig(cgroup_parent=parent),
    )  # fmt: skip
    assert bundles(*settings).cgroup(record) == path


def test_a_new_container_has_a_slice_as_its_parent_with_systemd() -> None:
    for parent in ("", "my.slice"):
        bundles(*SYSTEMD).check_cgroup_parent(parent)
    bundles(*OWN).check_cgroup_parent("/any")
    with pytest.raises(InvalidParameter, match="is not the name of a slice"):
        bundles(*SYSTEMD).check_cgroup_parent("/any")
