"""The drivers' own tests on the guest's kernel: all pass, and none finds a feature missing."""

from __future__ import annotations

import json

import pytest

from tests.vm.conftest import RunTests
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

NOT_SPEED = ("-k", "not _fast and not test_cost")
"""Bounds in microseconds are for real processors; an emulated one is about ten times slower."""

ON_DISK = "--basetemp=/var/tmp/tests"
"""On the guest's ext4: some tests are about its inodes, and /tmp is in memory."""
SKIPS = {"storage_overlay2": 1}
"""The kit has a test for drivers that cannot stage layers."""


@pytest.mark.parametrize(
    "plugin",
    [
        "firewall_nftables",
        "net_bridge",
        "net_ipvlan",
        "net_macvlan",
        "runtime_native",
        "security_apparmor",
        "security_seccomp",
        "storage_overlay2",
    ],
)
def test_a_drivers_tests_pass(run_tests: RunTests, plugin: str) -> None:
    skips = SKIPS.get(plugin, 0)
    run_tests(f"plugins/{plugin}", *NOT_SPEED, ON_DISK, skips=skips, timeout=800)


def test_vfs_limits_the_size_of_containers(run_tests: RunTests) -> None:
    run_tests("plugins/storage_vfs/tests/test_storage_vfs_quota.py")


def test_what_core_asks_of_the_kernel(run_tests: RunTests) -> None:
    run_tests("core/tests/linux", *NOT_SPEED, ON_DISK, timeout=800)


def test_every_driver_is_available(guest: Machine) -> None:
    found = json.loads(guest.check("pyengine drivers --format json"))
    missing = {d["name"]: d["reason"] for d in found if not d["available"]}
    assert missing == {}
    assert {"ipvlan", "apparmor"} <= {d["name"] for d in found}
