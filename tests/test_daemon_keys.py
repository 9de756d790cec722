"""Every key of daemon.json has a test that shows what it does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pyengine.config.flags import flag_of
from pyengine.config.keys import FIELDS

ROOT = Path(__file__).resolve().parents[1]

CONFIG = "tests/e2e/test_e2e_config.py"
KEYS = "tests/e2e/test_e2e_config_keys.py"
RELOAD = "tests/e2e/test_e2e_reload.py"
TLS = "tests/e2e/test_e2e_tls.py::test_who_has_no_certificate_is_not_served"
MIRRORS = "tests/e2e/test_e2e_registry_mirrors.py"
SHUTDOWN = "tests/surviving/test_shutdown.py"
PROXY = "core/tests/registry/test_registry_proxy.py"

#: Key -> the test that shows its effect, as pytest names it; or why there is none, in a sentence.
SHOWN_BY = {
    "allow-direct-routing": f"{KEYS}::test_direct_routing_and_marks",
    "bip6": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "bridge-accept-fwmark": f"{KEYS}::test_direct_routing_and_marks",
    "cpu-rt-period": f"{KEYS}::test_the_share_of_the_real_time_scheduler",
    "cpu-rt-runtime": f"{KEYS}::test_the_share_of_the_real_time_scheduler",
    "default-gateway": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "default-gateway-v6": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "default-stop-timeout": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "host-gateway-ips": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "ip6tables": f"{KEYS}::test_without_direct_routing_only_the_hosts_ports_answer",
    "min-api-version": f"{KEYS}::test_gateways_stop_timeout_and_api_version",
    "authorization-plugins": "tests/e2e/test_e2e_authz.py::"
    "test_a_refused_request_is_not_carried_out",
    "bip": f"{KEYS}::test_the_default_bridge",
    "bridge": "tests/e2e/test_e2e_default_bridge.py::test_a_bridge_of_the_operators",
    "cdi-spec-dirs": "tests/e2e/test_e2e_devices.py::test_a_device_of_a_vendor",
    "cgroup-parent": f"{CONFIG}::test_containers",
    "data-root": f"{KEYS}::test_the_daemon_itself",
    "debug": f"{RELOAD}::test_debug_is_switched",
    "default-address-pools": f"{CONFIG}::test_networks_and_names",
    "default-cgroupns-mode": f"{KEYS}::test_defaults_of_containers",
    "default-ipc-mode": f"{CONFIG}::test_containers",
    "default-network-opts": f"{CONFIG}::test_networks_and_names",
    "default-runtime": f"{KEYS}::test_defaults_of_containers",
    "default-shm-size": f"{CONFIG}::test_containers",
    "userns-remap": "tests/e2e/test_e2e_userns.py::test_root_inside_is_nobody_outside",
    "default-ulimits": f"{CONFIG}::test_containers",
    "dns": f"{CONFIG}::test_networks_and_names",
    "dns-opts": f"{CONFIG}::test_networks_and_names",
    "dns-search": f"{CONFIG}::test_networks_and_names",
    "drivers": f"{KEYS}::test_an_init_and_drivers_of_the_operators",
    "exec-opts": f"{CONFIG}::test_containers",
    "exec-root": f"{KEYS}::test_the_daemon_itself",
    "features": f"{KEYS}::test_the_daemon_itself",
    "firewall-backend": f"{KEYS}::test_the_default_bridge",
    "fixed-cidr": f"{KEYS}::test_the_default_bridge",
    "fixed-cidr-v6": f"{CONFIG}::test_networks_and_names",
    "group": f"{KEYS}::test_the_daemon_itself",
    "host-gateway-ip": f"{CONFIG}::test_networks_and_names",
    "hosts": f"{KEYS}::test_the_daemon_itself",
    "http-proxy": f"{PROXY}::test_requests_go_through_the_proxy",
    "https-proxy": f"{PROXY}::test_requests_go_through_the_proxy",
    "icc": f"{KEYS}::test_the_default_bridge",
    "init": f"{KEYS}::test_an_init_and_drivers_of_the_operators",
    "init-path": f"{KEYS}::test_an_init_and_drivers_of_the_operators",
    "insecure-registries": "core/tests/registry/test_registry_tls.py::"
    "test_insecure_means_unverified_too",
    "ip": f"{KEYS}::test_the_default_bridge",
    "ip-forward": f"{CONFIG}::test_without_firewall",
    "ip-masq": f"{KEYS}::test_the_default_bridge",
    "iptables": f"{CONFIG}::test_without_firewall",
    "ipv6": f"{CONFIG}::test_networks_and_names",
    "labels": f"{RELOAD}::test_info_and_event_tell_the_new_configuration",
    "live-restore": f"{SHUTDOWN}::test_live_restore_leaves_them_running",
    "log-driver": f"{KEYS}::test_an_init_and_drivers_of_the_operators",
    "log-format": f"{KEYS}::test_the_daemon_itself",
    "log-level": f"{KEYS}::test_the_daemon_itself",
    "log-opts": f"{KEYS}::test_defaults_of_containers",
    "max-concurrent-downloads": f"{RELOAD}::test_how_many_transfers_go_on_at_once",
    "max-concurrent-uploads": f"{RELOAD}::test_how_many_transfers_go_on_at_once",
    "max-download-attempts": "core/tests/registry/test_registry_download.py::"
    "test_tries_that_bring_nothing_are_counted",
    "metrics-addr": "tests/e2e/test_e2e_metrics.py::test_what_happens_is_counted",
    "mtu": f"{CONFIG}::test_networks_and_names",
    "no-new-privileges": f"{CONFIG}::test_containers",
    "no-proxy": f"{PROXY}::test_no_proxy",
    "oom-score-adjust": f"{CONFIG}::test_containers",
    "pidfile": f"{KEYS}::test_the_daemon_itself",
    "proxies": f"{PROXY}::test_where_proxies_come_from",
    "registries": f"{MIRRORS}::test_mirrors_of_any_registry",
    "registry-mirrors": f"{MIRRORS}::test_a_mirror_of_the_default_registry",
    "runtimes": "tests/e2e/test_e2e_runtimes.py::"
    "test_a_name_for_a_driver_and_a_program_that_nothing_runs",
    "seccomp-profile": f"{KEYS}::test_defaults_of_containers",
    "shutdown-timeout": f"{SHUTDOWN}::test_containers_end_in_their_own_way_or_are_killed",
    "storage-driver": f"{KEYS}::test_the_daemon_itself",
    "storage-opts": "tests/vm/test_layer_sizes.py::"
    "test_the_size_of_the_daemon_is_for_those_that_name_none",
    "tls": TLS,
    "tlscacert": TLS,
    "tlscert": TLS,
    "tlskey": TLS,
    "tlsverify": TLS,
    "userland-proxy": f"{CONFIG}::test_networks_and_names",
}


def test_no_key_is_left_out() -> None:
    assert sorted(SHOWN_BY) == sorted(FIELDS)


@pytest.mark.parametrize("key", SHOWN_BY)
def test_the_test_of_a_key_is_there_and_sets_it(key: str) -> None:
    """By its name in the file, as an argument, or as a flag; fixtures of the file may do that."""
    path, found, name = SHOWN_BY[key].partition("::")
    if not found:
        assert path.endswith("."), "a reason is a sentence"
        return
    source = (ROOT / path).read_text()
    functions = {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
    spellings = (f'"{key}"', f"{key.replace('-', '_')}=", f"{flag_of(key)} ", f'{flag_of(key)}"')
    assert any(spelling in source for spelling in spellings)
