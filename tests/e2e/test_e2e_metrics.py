"""``metrics-addr`` of a real engine, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import eventually

ADDRESS = "127.0.0.1:9323"


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    engine = EngineProcess(
        Path(tmp_path_factory.mktemp("metrics")), docker_binary, "--metrics-addr", ADDRESS
    )
    engine.start()
    try:
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield engine
    finally:
        engine.dispose()


def scrape(engine: EngineProcess) -> dict[tuple[str, str], float]:
    """Values by (name, value of the label that tells them apart)."""
    text = engine.in_namespace("busybox", "wget", "-qO-", f"http://{ADDRESS}/metrics").stdout
    return {
        (sample.name, next((sample.labels[key] for key in ("call", "action", "state", "name")
                            if key in sample.labels), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("le") in (None, "+Inf")
    }  # fmt: skip


def test_what_happens_is_counted(measured: EngineProcess) -> None:
    before = scrape(measured)
    measured.docker("run", "-d", "--name", "busy", "busybox", "sh", "-c",
                    "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 300")  # fmt: skip
    measured.docker("run", "--name", "over", "busybox", "true")
    page = scrape(measured)

    def grown(name: str, label: str = "") -> float:
        return page[name, label] - before.get((name, label), 0)

    assert grown("engine_daemon_container_states_containers", "running") == 1
    assert grown("engine_daemon_container_states_containers", "stopped") == 1
    assert grown("engine_daemon_container_actions_seconds_count", "create") == 2
    assert grown("engine_daemon_container_actions_seconds_count", "start") == 2
    assert grown("engine_daemon_network_actions_seconds_count", "allocate") == 2
    assert grown("engine_daemon_events_total") >= 4
    assert grown("pyengine_driver_call_seconds_count", "prepare") == 2
    assert page["container_cpu_usage_seconds_total", "busy"] > 0
    assert 0 < page["container_memory_working_set_bytes", "busy"] < 1 << 28
    assert page["container_processes", "busy"] >= 1
    assert ("container_memory_usage_bytes", "over") not in page
    measured.docker("rm", "-f", "busy", "over")
    page = scrape(measured)
    assert grown("engine_daemon_container_actions_seconds_count", "delete") == 2
    assert ("container_memory_usage_bytes", "busy") not in page


def test_images_and_health_checks_are_counted(measured: EngineProcess) -> None:
    before = scrape(measured)
    health = ("--health-cmd", "test ! -e /ill", "--health-interval", "200ms")
    measured.docker("run", "-d", "--name", "sound", *health, "busybox", "sleep", "300")
    measured.docker("tag", "busybox", "other")
    measured.docker("rmi", "other")
    page = scrape(measured)

    def grown(name: str, label: str = "") -> float:
        return page[name, label] - before.get((name, label), 0)

    assert grown("engine_daemon_image_actions_seconds_count", "delete") == 1

    def some(name: str, least: int) -> bool:
        nonlocal page
        page = scrape(measured)
        return grown(f"engine_daemon_{name}") >= least

    eventually(lambda: some("health_checks_total", 2))
    assert grown("engine_daemon_health_checks_failed_total") == 0
    assert some("health_check_start_duration_seconds_count", 2)
    measured.docker("exec", "sound", "touch", "/ill")
    eventually(lambda: some("health_checks_failed_total", 1))
    measured.docker("rm", "-f", "sound")
