"""The page of metrics: what is read from where, and how it is served."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyengine.contracts.base import Kind
from pyengine.contracts.runtime import RuntimeStats
from pyengine.engine.timings import Histogram, Timings, timed
from pyengine.errors import ConfigError
from pyengine_api_metrics import collector
from pyengine_api_metrics.frontend import MetricsFrontend


def record(id: str, status: str) -> Any:
    return SimpleNamespace(
        id=id, name=f"/{id}-name", config=SimpleNamespace(image="img"),
        state=SimpleNamespace(status=status, pid=0),
    )  # fmt: skip


@pytest.fixture
def engine(unused_port: int) -> Any:
    records = [record("a", "running"), record("b", "exited"), record("c", "created")]
    calls = SimpleNamespace(
        driver=SimpleNamespace(kind=Kind.STORAGE, name="slow"), wedged_since=3.0, timings=Timings()
    )
    calls.timings["mount"].add(0.02)
    calls.timings["mount"].add(20, failed=True)
    services: list[Any] = []
    return SimpleNamespace(
        config=SimpleNamespace(metrics_addr=f"127.0.0.1:{unused_port}"),
        containers=SimpleNamespace(
            list=lambda all: records if all else records[:1],
            cgroups=lambda: [(records[0], "/x/a")],
            size=lambda id: (77, 99),
        ),
        driver_calls=lambda: [calls],
        hooks=SimpleNamespace(engine_metrics=lambda: {"answer": 42.0, "not a name": 1.0}),
        events=SimpleNamespace(inform=services.append),
        places=SimpleNamespace(engine_id="e-1"),
        services=services,
    )


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
async def frontend(engine: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    stats = RuntimeStats(
        cpu_total=2_500_000_000, memory_usage=1000, memory={"inactive_file": 300, "anon": 500},
        pids=4, blkio_bytes=[(8, 0, "Read", 10), (8, 16, "Read", 5), (8, 0, "Write", 7)],
    )  # fmt: skip
    monkeypatch.setattr(collector, "read_stats", lambda cgroup: stats)
    found = MetricsFrontend(engine)
    await found.start([])
    yield found
    await found.stop(1)


async def scrape(engine: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    url = f"http://{engine.config.metrics_addr}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_engine_and_containers(frontend: Any, engine: Any) -> None:
    for _ in range(3):
        engine.services[0](None)
    page = await scrape(engine)
    assert page["engine_daemon_events_total", ()] == 3
    for state, count in (("running", 1), ("paused", 0), ("stopped", 2)):
        assert page["engine_daemon_container_states_containers", (("state", state),)] == count
    labels = (("id", "a"), ("image", "img"), ("name", "a-name"))
    assert page["container_cpu_usage_seconds_total", labels] == 2.5
    assert page["container_memory_usage_bytes", labels] == 1000
    assert page["container_memory_working_set_bytes", labels] == 700
    assert page["container_memory_rss", labels] == 500
    assert page["container_fs_reads_bytes_total", labels] == 15
    assert page["container_fs_writes_bytes_total", labels] == 7
    assert page["container_fs_usage_bytes", labels] == 77
    # what this host does not count is not there
    assert ("container_cpu_user_seconds_total", labels) not in page


async def test_drivers_and_plugins(frontend: Any, engine: Any) -> None:
    page = await scrape(engine)
    labels = {"kind": "storage", "driver": "slow"}
    assert page["pyengine_driver_wedged", tuple(sorted(labels.items()))] == 1
    call = tuple(sorted({**labels, "call": "mount"}.items()))
    assert page["pyengine_driver_call_failures_total", call] == 1
    assert page["pyengine_driver_call_seconds_count", call] == 2
    bucket = tuple(sorted({**labels, "call": "mount", "le": "0.025"}.items()))
    assert page["pyengine_driver_call_seconds_bucket", bucket] == 1
    assert page["answer", ()] == 42


async def test_openmetrics_other_paths_and_methods(frontend: Any, engine: Any) -> None:
    base = f"http://{engine.config.metrics_addr}"
    async with aiohttp.ClientSession() as session:
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(f"{base}/metrics", headers=wanted) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await answer.text()).endswith("# EOF\n")
        async with session.get(f"{base}/other") as answer:
            assert answer.status == 404
        async with session.post(f"{base}/metrics") as answer:
            assert answer.status == 405


async def test_an_address_that_is_taken_is_said(frontend: Any, engine: Any) -> None:
    with pytest.raises(ConfigError, match=r"metrics-addr 127\.0"):
        await MetricsFrontend(engine).start([])


async def test_without_the_key_nothing_listens_or_is_counted(engine: Any) -> None:
    engine.config.metrics_addr = ""
    idle = MetricsFrontend(engine)
    await idle.start([])
    await idle.stop(1)
    assert engine.services == []


def test_buckets_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (0.001, 0.005, 0.006, 11):
        histogram.add(seconds)
    buckets = dict(histogram.buckets())
    assert (buckets["0.005"], buckets["0.01"], buckets["10.0"], buckets["+Inf"]) == (2, 3, 3, 4)


async def test_only_what_succeeds_is_timed() -> None:
    timings = Timings()

    @timed(timings, "act")
    async def act(fails: bool) -> int:
        if fails:
            raise ValueError
        return 5

    assert await act(False) == 5
    with pytest.raises(ValueError):  # noqa: PT011
        await act(True)
    assert sum(timings["act"].counts) == 1
