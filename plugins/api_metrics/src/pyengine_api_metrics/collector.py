"""What is told to Prometheus.

Names of the engine's metrics are dockerd's (its ``metrics-addr``), those of containers cAdvisor's
(docs/storage/prometheus.md of cAdvisor). What a host does not count is left out.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as Base

import pyengine
from pyengine.contracts.runtime import RuntimeStats
from pyengine.engine.timings import (
    CONTAINER_ACTIONS,
    HEALTH_CHECKS,
    IMAGE_ACTIONS,
    NETWORK_ACTIONS,
    Histogram,
    Timings,
)
from pyengine.linux.cgroup_stats import read_stats
from pyengine.linux.cgroups import Cgroup

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine
    from pyengine.engine.events import Event

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABELS = ("id", "name", "image")

#: Fields of /proc/PID/net/dev (proc(5)), by cAdvisor's names.
_NETWORK = {
    "receive_bytes": 0, "receive_packets": 1, "receive_errors": 2, "receive_packets_dropped": 3,
    "transmit_bytes": 8, "transmit_packets": 9, "transmit_errors": 10,
    "transmit_packets_dropped": 11,
}  # fmt: skip


class Seen(NamedTuple):
    """A running container: its labels, and where its counters are."""

    labels: Sequence[str]
    cgroup: str
    pid: int
    written: int


class Collector(Base):
    """``look`` is called on the daemon's event loop and gathers what lives there; ``collect`` reads
    the kernel's counters, on a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._events = 0
        self._states: Counter[str] = Counter()
        self._running: list[Seen] = []
        self._wedged: list[tuple[str, str, bool]] = []
        self._calls: list[tuple[str, str, str, Histogram]] = []
        self._plugins: dict[str, float] = {}
        engine.events.inform(self._heard)

    def _heard(self, event: Event) -> None:
        self._events += 1

    def look(self) -> None:
        containers = self._engine.containers
        self._states = Counter(
            str(record.state.status) if record.state.status in ("running", "paused") else "stopped"
            for record in containers.list(all=True)
        )
        self._running = [
            Seen(
                (record.id, record.name.removeprefix("/"), record.config.image),
                cgroup,
                record.state.pid,
                containers.size(record.id)[0],
            )
            for record, cgroup in containers.cgroups()
        ]
        self._wedged, self._calls = [], []
        for calls in self._engine.driver_calls():
            kind, name = calls.driver.kind.value, calls.driver.name
            self._wedged.append((kind, name, bool(calls.wedged_since)))
            self._calls += [(kind, name, call, took) for call, took in calls.timings.items()]
        self._plugins = self._engine.hooks.engine_metrics()

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_engine()
        yield from self._of_drivers()
        yield from self._of_containers()
        for name, value in self._plugins.items():
            if _NAME.fullmatch(name):
                yield GaugeMetricFamily(name, "Told by a plugin", value)
            else:
                log.warning("a plugin's metric has no name for Prometheus: %r", name)

    def _of_engine(self) -> Iterator[Metric]:
        host = os.uname()
        info = GaugeMetricFamily(
            "engine_daemon_engine_info",
            "The engine and the system that it runs on",
            labels=("version", "architecture", "kernel", "os_type", "daemon_id"),
        )
        info.add_metric(
            (pyengine.__version__, host.machine, host.release, "linux",
             self._engine.places.engine_id), 1,
        )  # fmt: skip
        yield info
        yield GaugeMetricFamily(
            "engine_daemon_engine_cpus_cpus", "Processors of the host", os.cpu_count() or 0
        )
        yield GaugeMetricFamily(
            "engine_daemon_engine_memory_bytes",
            "Memory of the host",
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        )
        yield CounterMetricFamily("engine_daemon_events", "Events of the engine", self._events)
        states = GaugeMetricFamily(
            "engine_daemon_container_states_containers", "Containers by state", labels=("state",)
        )
        for state in ("running", "paused", "stopped"):
            states.add_metric((state,), self._states[state])
        yield states
        yield _histogram("engine_daemon_container_actions_seconds", CONTAINER_ACTIONS)
        yield _histogram("engine_daemon_network_actions_seconds", NETWORK_ACTIONS)
        yield _histogram("engine_daemon_image_actions_seconds", IMAGE_ACTIONS)
        yield CounterMetricFamily(
            "engine_daemon_health_checks", "Health checks", sum(HEALTH_CHECKS.counts)
        )
        yield CounterMetricFamily(
            "engine_daemon_health_checks_failed",
            "Health checks that did not find it healthy",
            HEALTH_CHECKS.failures,
        )
        yield HistogramMetricFamily(
            "engine_daemon_health_check_start_duration_seconds",
            "How long health checks take to get going",
            HEALTH_CHECKS.buckets(),
            HEALTH_CHECKS.seconds,
        )

    def _of_drivers(self) -> Iterator[Metric]:
        labels = ("kind", "driver", "call")
        took = HistogramMetricFamily(
            "pyengine_driver_call_seconds", "How long calls of drivers take", labels=labels
        )
        failed = CounterMetricFamily(
            "pyengine_driver_call_failures", "Calls of drivers that raised", labels=labels
        )
        for kind, driver, call, figures in self._calls:
            took.add_metric((kind, driver, call), figures.buckets(), figures.seconds)
            failed.add_metric((kind, driver, call), figures.failures)
        yield took
        yield failed
        wedged = GaugeMetricFamily(
            "pyengine_driver_wedged", "1: the driver missed a deadline", labels=labels[:2]
        )
        for kind, driver, stuck in self._wedged:
            wedged.add_metric((kind, driver), stuck)
        yield wedged

    def _of_containers(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}

        def add(family: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str,
                value: float, labels: Sequence[str], more: tuple[tuple[str, str], ...] = (),
                ) -> None:  # fmt: skip
            metric = families.get(name)
            if metric is None:
                names = (*_LABELS, *(key for key, _ in more))
                metric = families[name] = family(name, _words(name), labels=names)
            assert isinstance(metric, GaugeMetricFamily | CounterMetricFamily)
            metric.add_metric((*labels, *(item for _, item in more)), value)

        for seen in self._running:
            try:
                stats = read_stats(Cgroup(seen.cgroup))
            except (OSError, ValueError) as error:
                log.debug("%s: %s", seen.cgroup, error)  # it ended meanwhile
                continue
            for name, value in _gauges(stats).items():
                add(GaugeMetricFamily, name, value, seen.labels)
            for name, value in _counters(stats).items():
                add(CounterMetricFamily, name, value, seen.labels)
            add(GaugeMetricFamily, "container_fs_usage_bytes", seen.written, seen.labels)
            for interface, fields in _interfaces(seen.pid):
                for name, place in _NETWORK.items():
                    add(CounterMetricFamily, f"container_network_{name}", fields[place],
                        seen.labels, (("interface", interface),))  # fmt: skip
        yield from families.values()


def _gauges(stats: RuntimeStats) -> dict[str, float]:
    found: dict[str, float] = {}
    if stats.memory_usage >= 0:
        inactive = stats.memory.get("total_inactive_file", stats.memory.get("inactive_file", 0))
        found["container_memory_usage_bytes"] = stats.memory_usage
        found["container_memory_working_set_bytes"] = max(0, stats.memory_usage - inactive)
        found["container_spec_memory_limit_bytes"] = stats.memory_limit
        for ours, names in (
            ("container_memory_cache", ("total_cache", "cache", "file")),
            ("container_memory_rss", ("total_rss", "rss", "anon")),
        ):
            known = next((name for name in names if name in stats.memory), None)
            if known is not None:
                found[ours] = stats.memory[known]
    if stats.memory_max_usage > 0:
        found["container_memory_max_usage_bytes"] = stats.memory_max_usage
    if stats.pids >= 0:
        found["container_processes"] = stats.pids
    return found


def _counters(stats: RuntimeStats) -> dict[str, float]:
    found: dict[str, float] = {
        "container_oom_events": stats.oom_kills,
        "container_memory_failcnt": stats.memory_failcnt,
        "container_cpu_cfs_periods": stats.throttled_periods,
        "container_cpu_cfs_throttled_periods": stats.throttled_count,
        "container_cpu_cfs_throttled_seconds": stats.throttled_time / 1e9,
    }
    for name, value in (("usage", stats.cpu_total), ("user", stats.cpu_user),
                        ("system", stats.cpu_system)):  # fmt: skip
        if value >= 0:
            found[f"container_cpu_{name}_seconds"] = value / 1e9
    for name, rows in (("_bytes", stats.blkio_bytes), ("", stats.blkio_operations)):
        for ours, theirs in (("reads", "read"), ("writes", "write")):
            values = [value for _, _, word, value in rows if word.lower() == theirs]
            if values:
                found[f"container_fs_{ours}{name}"] = sum(values)
    return found


def _interfaces(pid: int) -> Iterator[tuple[str, list[int]]]:
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except OSError:
        return
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            yield name.strip(), list(map(int, rest.split()))


def _histogram(name: str, timings: Timings) -> Metric:
    family = HistogramMetricFamily(name, _words(name), labels=("action",))
    for action, figures in timings.items():
        family.add_metric((action,), figures.buckets(), figures.seconds)
    return family


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
