"""The guest is what this tier is for: each fact here is one that a development machine may lack."""

from __future__ import annotations

import pytest

from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]


def test_a_command_reports_status_and_output(guest: Machine) -> None:
    done = guest.run("echo out; echo err >&2; exit 7")
    assert done.status == 7
    assert sorted(done.output.split()) == ["err", "out"]


def test_a_command_that_hangs_is_ended(guest: Machine) -> None:
    assert guest.run("sleep 100", timeout=1).status == 124
    assert guest.check("echo still here") == "still here\n"


def test_python_is_the_debian_one_in_a_virtual_environment(guest: Machine) -> None:
    said = guest.check(
        "python3 -c 'import sys; print(sys.prefix, sys.base_prefix, *sys.version_info[:2])'"
    )
    assert said.split() == ["/opt/venv", "/usr", "3", "13"]


def test_cgroups_are_version_2_alone_with_controllers_handed_down(guest: Machine) -> None:
    mounts = guest.check("grep cgroup /proc/self/mounts").splitlines()
    assert [line.split()[2] for line in mounts] == ["cgroup2"]
    enabled = guest.check("cat /sys/fs/cgroup/cgroup.subtree_control").split()
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(enabled)


def test_apparmor_is_enforcing_and_its_parser_works(guest: Machine) -> None:
    assert guest.check("cat /sys/module/apparmor/parameters/enabled") == "Y\n"
    profile = "profile pyengine-vm-probe flags=(attach_disconnected) { file, }"
    guest.check(f"echo '{profile}' | apparmor_parser --replace --skip-cache")
    assert "pyengine-vm-probe (enforce)" in guest.check(
        "cat /sys/kernel/security/apparmor/profiles"
    )
    guest.check(f"echo '{profile}' | apparmor_parser --remove")


@pytest.mark.parametrize("kind", ["ipvlan mode l2", "macvlan mode bridge"])
def test_links_that_share_a_parent_can_be_made(guest: Machine, kind: str) -> None:
    guest.check("ip link add vmparent type dummy && ip link set vmparent up")
    guest.check(f"ip link add vmchild link vmparent type {kind}")
    assert "vmchild@vmparent" in guest.check("ip -brief link show vmchild")
    guest.check("ip link del vmparent")
    assert guest.run("ip link show vmchild").status != 0


def test_overlay_mounts_on_the_guests_disk(guest: Machine) -> None:
    guest.check(
        "mkdir -p /var/o/l /var/o/u /var/o/w /var/o/m && echo hi >/var/o/l/f && "
        "mount -t overlay -o lowerdir=/var/o/l,upperdir=/var/o/u,workdir=/var/o/w o /var/o/m"
    )
    assert guest.check("cat /var/o/m/f") == "hi\n"
    guest.check("umount /var/o/m && rm -r /var/o")


def test_nftables_takes_a_map_of_published_ports(guest: Machine) -> None:
    rules = (
        "table ip vmprobe { map ports { type inet_service : ipv4_addr . inet_service; "
        "elements = { 8080 : 10.0.0.2 . 80 }; }; chain nat { type nat hook prerouting priority 0; "
        "dnat ip to tcp dport map @ports; }; }"
    )
    guest.check(f"nft '{rules}'")
    assert "8080 : 10.0.0.2 . 80" in guest.check("nft list table ip vmprobe")
    guest.check("nft delete table ip vmprobe")
