"""Limits, devices, volumes and mounts end to end, on cgroup v2."""

from __future__ import annotations

import pytest

from tests.vm.conftest import RunTests
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

ON_DISK = "--basetemp=/var/tmp/tests"


def test_every_field_of_host_config(run_tests: RunTests) -> None:
    run_tests("tests/e2e/test_e2e_host_config.py", ON_DISK, timeout=1500)


def test_limits_of_a_running_container_change(run_tests: RunTests) -> None:
    run_tests("tests/e2e/test_e2e_update.py", ON_DISK, timeout=600)


def test_devices_that_vendors_describe(run_tests: RunTests) -> None:
    run_tests("tests/e2e/test_e2e_devices.py", ON_DISK, timeout=600)


def test_volumes(guest: Machine, run_tests: RunTests) -> None:
    """btrfs needs a program that the guest has not."""
    guest.check("modprobe -a loop nfs nfsv4")
    run_tests("plugins/volume_local", "-k", "not btrfs", ON_DISK, timeout=600)
